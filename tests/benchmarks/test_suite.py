"""The suite, in processes of its own, on a handful of samples; and the report it writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report

ROOT = Path(__file__).parents[2]
RESULT = {
    "device": "cpu",
    "machine": {"processor": "one"},
    "left out": {"skorch": "ImportError: No module named 'skorch'"},
    "start": {"loop tuned by hand": {"import": 1.0, "first step": 2.0}},
    "rounds": {"tiny": 2},
    "steps": {"tiny": 1000},
    "times": {"tiny": {"loop tuned by hand": {"train": [100.0, 300.0]}}},
    "warm-up": {"tiny": {"loop tuned by hand": {"train": 1.2}}},
    "memory": {"tiny": {"loop tuned by hand": {"peak": 200.0, "above start": 20.0}}},
    "budgets": [{"what": "an update", "value": 50.0, "at_most": 40.0, "unit": "µs"}],
}


def run_suite(folder, *options):
    command = [sys.executable, "-m", "benchmarks.suite", "--cases", "tiny", "--samples", "64", "--rounds", "1"]
    command += ["--output", str(folder), "--budgets", *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads((folder / "results-cpu.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_suite_measures_and_writes(tmp_path):
    result = run_suite(tmp_path, "--device", "cpu", "--only", "tutorials")
    assert result["times"]["tiny"].keys() == {"loop tuned by hand", "loop of the tutorials"}
    assert "| loop of the tutorials " in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_keras_on_jax_has_its_own_process(tmp_path):
    pytest.importorskip("jax")
    result = run_suite(tmp_path, "--device", "cpu", "--only", "JAX")
    assert result["times"]["tiny"]["Keras on JAX"].keys() == {"train", "evaluate", "predict"}


def test_the_report_says_what_was_measured_and_what_was_not(tmp_path):
    report.save(RESULT, tmp_path)
    report.write(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "|         1.00 |           200 |        100 |" in text
    assert "- skorch: ImportError" in text
    assert "| an update |    50 µs |   40 µs | **no** |" in text
    assert "## GPU\n\nNot measured" in text


def test_the_report_has_a_section_for_several_processes(tmp_path):
    times = {"alone": [10.0, 12.0], report.DDP: [20.0, 30.0]}
    machine = {"processor": "one", "versions": "torch 2"}
    report.save(RESULT, tmp_path)
    report.save({"device": "processes", "machine": machine, "times": {"9 k": times}}, tmp_path)
    report.write(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| 9 k        | 10 (0.45) |   20 (1.00) |" in text
    assert text.index("## CPU") < text.index("## Several processes") < text.index("## GPU")


def test_the_machine_is_described_by_what_it_is():
    described = report.machine("cpu", -1)
    assert described["threads"].endswith("not pinned")
    assert "torch " in described["versions"]
