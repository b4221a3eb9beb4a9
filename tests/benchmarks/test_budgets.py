"""The benchmarks with a limit, in their smallest form."""

import numpy as np
import pytest

from benchmarks import checkpoints, import_time, loaders, memmap, metrics, small_calls
from benchmarks.budget import BudgetResult
from benchmarks.cases import CASES


def test_a_result_says_whether_its_limit_holds():
    assert BudgetResult("x", 2.0, 3.0, "µs").cells() == ["x", "2 µs", "3 µs", "yes"]
    assert BudgetResult("x", 4.0, 3.0).verdict == "**no**"


def test_metrics_are_updated():
    for update in metrics.updates().values():
        update()


def test_calls_with_one_batch_do_what_the_loop_by_hand_does():
    case = CASES["tiny"].of(64)
    hand, model = small_calls.by_hand(case), small_calls.ours(case)
    assert hand.keys() == model.keys() == small_calls.LIMITS.keys()
    assert hand["evaluate"]() == pytest.approx(model["test_on_batch"]())
    assert hand["train_on_batch"]() == pytest.approx(model["train_on_batch"]())
    np.testing.assert_array_equal(hand["predict"](), model["predict"]())


def test_checkpoints_are_compared_with_none():
    results = checkpoints.of_checkpoints(CASES["tiny"].of(32 * 250), 1)
    assert all(result.value > 0 for result in results)


def test_a_callback_without_batch_hooks_adds_no_call_to_a_step():
    case = CASES["tiny"].of(32 * 60)
    assert checkpoints.of_callback(case).value == 1.0


@pytest.mark.slow
def test_loaders_are_compared_with_a_loop():
    assert loaders.results(CASES["tiny"].of(64), 1)[0].value > 0


def test_a_memory_map_is_fitted():
    assert memmap.results(2**24)[0].value < 1024


@pytest.mark.slow
def test_imports_are_timed():
    assert import_time.results(1)[0].value > 0
