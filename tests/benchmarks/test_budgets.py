"""The benchmarks with a limit, in their smallest form."""

import pytest

from benchmarks import checkpoints, import_time, loaders, memmap, metrics
from benchmarks.budget import Finding
from benchmarks.cases import CASES


def test_a_finding_says_whether_its_limit_holds():
    assert Finding("x", 2.0, 3.0, "µs").cells() == ["x", "2 µs", "3 µs", "yes"]
    assert Finding("x", 4.0, 3.0).verdict == "**no**"


def test_metrics_are_updated():
    for update in metrics.updates().values():
        update()


def test_checkpoints_are_compared_with_none():
    findings = checkpoints.of_checkpoints(CASES["tiny"].of(32 * 250), 1)
    assert all(finding.value > 0 for finding in findings)


def test_a_callback_that_hears_of_epochs_only_adds_no_call_to_a_step():
    case = CASES["tiny"].of(32 * 60)
    assert checkpoints.of_callback(case).value == 1.0


@pytest.mark.slow
def test_loaders_are_compared_with_a_loop():
    assert loaders.findings(CASES["tiny"].of(64), 1)[0].value > 0


def test_a_memory_map_is_fitted():
    assert memmap.findings(2**24)[0].value < 1024


@pytest.mark.slow
def test_imports_are_timed():
    assert import_time.findings(1)[0].value > 0
