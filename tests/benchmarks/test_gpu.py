"""The benchmarks of a GPU, rehearsed on the CPU, and the tables they write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report as whole_report
from benchmarks.gpu import report
from benchmarks.gpu.cases import CASES, Gpt

ROOT = Path(__file__).parents[2]


def measured(step, peak=100.0):
    return {"step": step, "fastest step": step, "host": step, "launches": 3.0, "peak": peak, "warm-up": 1.0}


RESULT = {
    "machine": {"device": "Some GPU"},
    "cases": {
        "tiny": {
            "tuned loop": measured(100.0),
            "loop of the tutorials": measured(200.0),
            "tuned loop, CUDA graph": measured(20.0),
            "torchfit, jit_compile": measured(20.5, peak=103.0),
        },
        "gpt": {"tuned loop": measured(1000.0), "torchfit, jit_compile": measured(1100.0)},
    },
    "growth": {"mnist": {"torchfit": {"64": 10.0, "256": 11.0}}},
    "left out": {"tiny, batch 32: Lightning": "No module named 'lightning'"},
}


def test_the_goals_are_compared_with_what_was_measured():
    assert report.goals(RESULT) == [
        ["tiny: tutorial loop over torchfit", "9.76", "≥ 5.00", "yes"],
        ["tiny: torchfit over the CUDA graph by hand", "1.02", "≤ 1.05", "yes"],
        ["tiny: memory of torchfit, jit_compile over the loop by hand", "1.03", "≤ 1.02", "**no**"],
        ["gpt: torchfit over the best loop by hand", "1.10", "≤ 1.02", "**no**"],
    ]


def test_the_report_has_what_was_measured_and_what_was_not(tmp_path):
    (tmp_path / "results-gpu.json").write_text(json.dumps(RESULT), encoding="utf-8")
    whole_report.write(tmp_path)
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "## Training on a GPU\n\n- device: Some GPU" in text
    assert "| tuned loop, CUDA graph |  0.20 |      20.0 |" in text
    assert "- tiny, batch 32: Lightning: No module named 'lightning'" in text
    assert "| Some GPU " in report.short_table(RESULT)


def test_the_language_model_has_25_million_parameters():
    assert sum(parameter.numel() for parameter in Gpt().parameters()) == pytest.approx(25e6, rel=0.01)
    assert CASES["gpt"].shape == (512,)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tiny", "gpt"])
def test_the_rehearsal_runs_every_trainer_that_compiles_nothing(case, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--cases", case, "--output", str(tmp_path), "--no-growth"]
    command += ["--only", "tuned loop", "tutorials", "reduce-overhead", "Keras on torch"]
    ran = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TORCHFIT_GPU_REHEARSAL": "1"}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    loops = {"tuned loop", "loop of the tutorials", "tuned loop, CUDA graph", "loop, torch.compile reduce-overhead"}
    assert loops <= result["cases"][case].keys()
    assert all(of["step"] > 0 for of in result["cases"][case].values())
