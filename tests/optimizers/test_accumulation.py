"""Several gradients make the update of all their batches together, whatever their losses were divided by."""

import copy

import pytest
import torch
from torch import nn

from torchfit.optimizers import SGD, Adam, LossScaleOptimizer, MultiOptimizer

TOTALS = [torch.tensor([1.0, 2.0]), torch.tensor([6.0, 0.0]), torch.tensor([-3.0, 5.0])]
COUNTS = [1.0, 4.0, 5.0]  # the mean gradient is [0.4, 0.7]


def bound(optimizer, values=(0.0, 0.0)):
    parameter = nn.Parameter(torch.tensor(values))
    optimizer.build([("w", parameter)])
    return optimizer, parameter


@pytest.mark.parametrize("as_tensor", [float, torch.tensor, lambda n: torch.tensor([n], dtype=torch.float16)])
def test_the_update_is_the_sum_of_totals_over_the_sum_of_denominators(as_tensor):
    optimizer, w = bound(SGD(1.0, gradient_accumulation_steps=3))
    for total, count in zip(TOTALS, COUNTS):
        optimizer.apply([total / count], num_samples=as_tensor(count))
    assert w.tolist() == pytest.approx([-0.4, -0.7])
    assert optimizer.iterations == 1


@pytest.mark.parametrize("zero", [0, 0.0, torch.tensor(0.0)])
def test_a_batch_of_which_nothing_counts_changes_nothing_whatever_its_gradient(zero):
    optimizer, w = bound(SGD(1.0, gradient_accumulation_steps=2))
    optimizer.apply([torch.tensor([float("nan"), float("inf")])], num_samples=zero)
    optimizer.apply([torch.tensor([1.0, 2.0])], num_samples=5)
    assert w.tolist() == [-1.0, -2.0]
    for _ in range(2):
        optimizer.apply([torch.tensor([float("nan"), 1.0])], num_samples=zero)
    assert w.tolist() == [-1.0, -2.0]


def test_gradients_of_sums_are_summed():
    optimizer, w = bound(SGD(1.0, gradient_accumulation_steps=3))
    for total in TOTALS:
        optimizer.apply([total], num_samples=None)
    assert w.tolist() == [-4.0, -7.0]


def test_losses_with_denominators_of_their_own_are_groups():
    optimizer, w = bound(SGD(1.0, gradient_accumulation_steps=2))
    for first, second, counts in (([1.0, 0.0], [0.0, 8.0], (1, 4)), ([4.0, 0.0], [0.0, 2.0], (4, 1))):
        optimizer.accumulate([torch.tensor(first) / counts[0]], counts[0], group=0)
        optimizer.accumulate([torch.tensor(second) / counts[1]], torch.tensor(float(counts[1])), group=1)
        optimizer.end_accumulation_step()
    assert w.tolist() == [-1.0, -2.0]
    assert optimizer.iterations == 1


def test_groups_in_the_middle_of_an_accumulation_are_resumed():
    whole, w = bound(SGD(1.0, gradient_accumulation_steps=2))
    for step in range(2):
        if step:
            state, start = copy.deepcopy(whole.state_dict()), w.detach().clone()
        for group in (0, 1):
            whole.accumulate([torch.tensor([1.0 + step, 2.0])], 3.0 + step + group, group=group)
        whole.end_accumulation_step()
    for is_built in (True, False):
        again = SGD(1.0, gradient_accumulation_steps=2)
        parameter = nn.Parameter(start.clone())
        again.build([("w", parameter)]) if is_built else None
        again.load_state_dict(copy.deepcopy(state))
        again.build([("w", parameter)])
        for group in (0, 1):
            again.accumulate([torch.tensor([2.0, 2.0])], 4.0 + group, group=group)
        again.end_accumulation_step()
        assert torch.equal(parameter, w)


def test_a_state_from_before_a_group_was_there_begins_it_afresh():
    optimizer, w = bound(SGD(1.0, gradient_accumulation_steps=2))
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.accumulate([torch.tensor([8.0, 8.0])], 4.0, group=1)
    optimizer.load_state_dict(state)
    optimizer.accumulate([torch.tensor([1.0, 2.0])], 4.0, group=1)
    optimizer.update_accumulated(1.0, 1)
    assert w.tolist() == [-1.0, -2.0]


def test_states_of_earlier_versions_are_resumed():
    optimizer, w = bound(SGD(1.0, gradient_accumulation_steps=2))
    optimizer.load_state_dict(
        {
            "iterations": 4,
            "calls": 9,
            "learning_rate": 1.0,
            "window": {"count": 1, "weight": 3.0, "received": [True]},
            "parameters": {"w": {"gradient_sum": torch.tensor([3.0, 6.0])}},
            "shared": {},
        }
    )
    optimizer.apply([torch.tensor([5.0, 0.0])], num_samples=1)
    assert w.tolist() == [-2.0, -1.5]
    assert optimizer.iterations == 5


@pytest.mark.parametrize("steps", [None, 4])
def test_a_state_is_restored_into_an_optimizer_that_accumulates_otherwise(steps):
    optimizer, _ = bound(Adam(gradient_accumulation_steps=3))
    for total in [*TOTALS, *TOTALS[:2]]:
        optimizer.apply([total])
    again, w = bound(Adam(gradient_accumulation_steps=steps))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.iterations == 1
    again.flush()
    for _ in range(4):
        again.apply([TOTALS[0]])
    assert w.isfinite().all()


def test_parameters_that_get_no_gradient_in_a_graph_stay_as_they_are():
    """Weight decay and momentum leave them alone, as they do without a graph."""
    used, unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = SGD(0.1, weight_decay=0.5, gradient_accumulation_steps=2)
    optimizer.build([("used", used), ("unused", unused.requires_grad_(True))])
    optimizer.apply([torch.ones(1), None])  # the first steps are eager
    with pytest.warns(UserWarning, match="no gradient for"):
        optimizer.apply([torch.ones(1), None])
    for is_due in (False, True):
        numbers = optimizer.begin_accumulation_step()
        optimizer.accumulate([torch.ones(1), None], 1.0)
        if is_due:
            optimizer.update_accumulated(*numbers)
            optimizer.zero_accumulated()
    assert unused.item() == 1.0
    assert used.item() < 0.8


MAKERS = {
    "SGD": lambda: SGD(0.5, momentum=0.9, gradient_accumulation_steps=2),
    "LossScaleOptimizer": lambda: LossScaleOptimizer(Adam(0.1, gradient_accumulation_steps=2), initial_scale=2.0),
    "MultiOptimizer": lambda: MultiOptimizer({"w": SGD(0.5)}, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_steps_with_denominators_are_one_graph(make):
    def step(optimizer, gradient, denominator, numbers, is_due):
        optimizer.accumulate([gradient / denominator], denominator)
        optimizer.accumulate([gradient], 2 * denominator, group=1)
        if is_due:
            optimizer.update_accumulated(*numbers)
            optimizer.zero_accumulated()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    results = []
    for run in (step, compiled):
        optimizer, w = bound(make())
        optimizer.require_accumulation_group(1)
        for number, (total, count) in enumerate(zip(TOTALS + TOTALS[:1], [*COUNTS, 2.0])):
            (is_due,) = optimizer.update_schedule(1)
            assert is_due == bool(number % 2)
            numbers = [torch.tensor(float(each)) for each in optimizer.begin_accumulation_step()]
            run(optimizer, total, torch.tensor(count), numbers, is_due)
        results.append((w.tolist(), optimizer.iterations))
    assert results[0] == results[1]
    assert results[0][1] == 2


def test_counts_are_taken_back_in_the_middle_of_an_accumulation():
    optimizer, _ = bound(SGD(lambda step: 1.0 / (step + 1), gradient_accumulation_steps=2))
    counts = optimizer.counter_state()
    optimizer.begin_accumulation_step()
    optimizer.begin_accumulation_step()
    assert optimizer.iterations == 1
    optimizer.set_counter_state(counts)
    assert (optimizer.iterations, optimizer.learning_rate, optimizer.update_schedule(3)) == (
        0,
        1.0,
        (False, True, False),
    )
