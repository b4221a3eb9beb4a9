import pytest
import torch

from torchfit import metrics


def count_torch_calls(metric, *arguments):
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            calls.append(function._schema.name)
            return function(*args, **(kwargs or {}))

    with Recorder():
        metric.update_state(*arguments)
    return calls


SPARSE, SCORES = torch.randint(0, 10, (64,)), torch.rand(64, 10)


@pytest.mark.parametrize(
    ("metric", "labels", "comparison"),
    [
        (metrics.SparseCategoricalAccuracy(), SPARSE, ["aten::argmax", "aten::eq"]),
        (metrics.CategoricalAccuracy(), SCORES, ["aten::argmax", "aten::argmax", "aten::eq"]),
    ],
)
def test_an_update_is_the_comparison_and_three_calls(metric, labels, comparison):
    assert count_torch_calls(metric, labels, SCORES) == [*comparison, "aten::count_nonzero", "aten::add_", "aten::add_"]


def test_an_update_of_scores_in_a_column_is_the_comparison_and_three_calls():
    calls = count_torch_calls(metrics.BinaryAccuracy(), torch.ones(64, 1), torch.rand(64, 1))
    assert calls == ["aten::gt", "aten::gt", "aten::eq", "aten::count_nonzero", "aten::add_", "aten::add_"]


def test_the_mean_loss_of_a_batch_is_tracked_in_two_calls():
    metric = metrics.Mean()
    calls = count_torch_calls(metric, torch.tensor(2.0), 64)
    assert [call for call in calls if call != "aten::detach"] == ["aten::add_", "aten::add_"]
    assert (metric.total.item(), metric.count.item()) == (128.0, 64.0)


def test_classes_out_of_range_are_never_among_the_best():
    metric = metrics.SparseTopKCategoricalAccuracy(k=9)
    assert metric(torch.tensor([-1, 0, 7]), torch.ones(3, 3)).item() == pytest.approx(1 / 3)


def test_an_update_of_a_table_is_the_comparison_and_three_calls():
    calls = count_torch_calls(metrics.BinaryAccuracy(), torch.ones(64, 10), torch.rand(64, 10))
    assert calls == ["aten::gt", "aten::gt", "aten::eq", "aten::count_nonzero", "aten::add_", "aten::add_"]
