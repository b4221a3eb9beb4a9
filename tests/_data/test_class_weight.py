import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.class_weight import ClassWeights, as_class_weights
from torchfit._data.convert import BatchSpec


def weights(rules, targets, sample_weight=None, names=None):
    return ClassWeights(as_class_weights(rules), names, torch.float32).weights(targets, sample_weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("keys", [(0, 2), ("0", "2"), (0.0, 2.0), (np.int64(0), np.float32(2))])
def test_classes_are_known_however_they_are_written(keys):
    assert weights(dict(zip(keys, (3, 0.5))), torch.tensor([0, 1, 2])).tolist() == [3, 1, 0.5]


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([1, 0, 2]),
        torch.tensor([[1], [0], [2]]),
        torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
        torch.tensor([1.0, 0.0, 2.0]),
        torch.tensor([1, 0, 2], dtype=torch.uint8),
    ],
)
def test_sparse_and_one_hot_targets(targets):
    assert weights({0: 5, 1: 2}, targets).tolist() == [2, 5, 1]


@pytest.mark.parametrize(
    "targets",
    [
        torch.tensor([0.95, 0.05, 2.1]),
        torch.tensor([[0.9999999], [1e-7], [2.0]]),
        torch.tensor([[0.05, 0.9, 0.05], [0.9, 0.05, 0.05], [0.1, 0.1, 0.8]]),
        torch.tensor([[False, True, False], [True, False, False], [False, False, True]]),
        torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float16),
    ],
    ids=["soft labels", "a column", "soft rows", "bools", "half precision"],
)
def test_labels_belong_to_the_nearest_class(targets):
    assert weights({0: 5, 1: 2}, targets).tolist() == [2, 5, 1]


def test_bools_are_the_classes_0_and_1():
    assert weights({False: 2, True: 3}, torch.tensor([True, False])).tolist() == [3, 2]


def test_labels_that_are_missing_or_infinite_weigh_one():
    assert weights({0: 5}, torch.tensor([float("nan"), float("inf"), 0])).tolist() == [1, 1, 5]


def test_class_indices_of_steps_weigh_each_step():
    tokens = torch.tensor([[0, 1, 2], [3, -100, 0]])
    assert weights({0: 5, 3: 2}, tokens).tolist() == [[5, 1, 1], [2, 1, 5]]
    assert weights({0: 5, 3: 2}, tokens, torch.tensor([1.0, 10])).tolist() == [[5, 1, 1], [20, 10, 50]]
    assert weights({0: 5, 3: 2}, tokens.float()).tolist() == [[5, 1, 1], [2, 1, 5]]


def test_rows_without_a_column_for_a_named_class_are_class_indices():
    assert weights({0: 2, 5: 3}, torch.tensor([[0, 1], [1, 0]])).tolist() == [[2, 1], [1, 2]]


def test_the_loss_may_say_what_rows_are():
    rows = torch.tensor([[0, 1, 0], [1, 0, 0]])
    for is_index, expected in ((True, [[1, 4, 1], [4, 1, 1]]), (False, [4, 1]), (None, [4, 1])):
        found = ClassWeights({None: {1: 4.0}}, None, torch.float32, {None: is_index}).weights(rows, None)
        assert found.tolist() == expected


def test_several_labels_in_a_row_are_refused_with_the_way_out():
    for rows in ([[1, 1, 0]], [[0, 0, 0]], [[0.9, 0.9, 0.1]]):
        with pytest.raises(ValueError, match=r"no or several labels.*Pass `sample_weight` instead"):
            weights({1: 2}, torch.tensor(rows))


def test_one_row_for_all_samples_is_ambiguous(batch_spec):
    with pytest.raises(ValueError, match=r"one row for all samples.*`sample_weight`"):
        get_data_adapter(np.zeros(4), np.eye(3, dtype=int)[[1] * 4], None, batch_spec).with_class_weight({1: 2})


def test_rows_are_of_one_kind_in_all_batches():
    by_class = ClassWeights(as_class_weights({1: 2}), None, torch.float32)  # type: ignore[arg-type]
    assert by_class.weights(torch.tensor([[0, 1], [1, 0]]), None).tolist() == [2, 1]
    with pytest.raises(ValueError, match="of another kind than the batches before"):
        by_class.weights(torch.tensor([[0, 2], [1, 0]]), None)
    by_class = ClassWeights(as_class_weights({1: 2}), None, torch.float32)  # type: ignore[arg-type]
    assert by_class.weights(torch.tensor([[0, 2]]), None).tolist() == [[1, 1]]
    assert by_class.weights(torch.tensor([[0, 1]]), None).tolist() == [[1, 2]]


def test_a_table_is_as_long_as_the_classes_that_are_named():
    assert weights({0: 2, 2_000_000_000: 3}, torch.tensor([0, 2_000_000_000, 7])).tolist() == [2, 3, 1]


def test_labels_beyond_the_named_classes_weigh_one():
    assert weights({0: 5}, torch.tensor([-1, 0, 1, 99])).tolist() == [1, 5, 1, 1]


def test_both_weights_multiply():
    assert weights({1: 2}, torch.tensor([0, 1]), torch.tensor([3.0, 3])).tolist() == [3, 6]
    temporal = weights({1: 2}, torch.tensor([0, 1]), torch.ones(2, 3))
    assert temporal.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert weights({1: 2}, torch.tensor([0, 1]), torch.tensor([[3.0], [3]])).tolist() == [[3], [6]]


def test_weights_by_output():
    found = weights({"b": {1: 2}}, {"a": torch.tensor([1, 1]), "b": torch.tensor([0, 1])})
    assert found["a"] is None
    assert found["b"].tolist() == [1, 2]


def test_a_weight_for_all_outputs_is_multiplied_where_classes_are_named():
    targets = {"a": torch.tensor([1, 1]), "b": torch.tensor([0, 1])}
    found = weights({"b": {1: 2}}, targets, torch.tensor([3.0, 3]))
    assert {name: weight.tolist() for name, weight in found.items()} == {"a": [3, 3], "b": [3, 6]}


def test_outputs_by_position_have_the_names_of_the_model():
    targets = (torch.tensor([1]), torch.tensor([1]))
    assert weights({"second": {1: 2}}, targets, names=["first", "second"])[1].tolist() == [2]
    assert weights({"output_1": {1: 2}}, targets)[0].tolist() == [2]


@pytest.mark.parametrize(
    ("rules", "targets", "message"),
    [
        ({0: 1}, {"a": torch.zeros(1), "b": torch.zeros(1)}, "does not say which of the 2 outputs"),
        ({"digt": {0: 1}}, {"digit": torch.zeros(1), "b": torch.zeros(1)}, "Did you mean 'digit'"),
        ({"a": {0: 1}, "b": {0: 1}}, torch.zeros(1), "`y` is a tensor of shape .1,. .* for one output"),
        ({0: 1}, torch.zeros(1, 2, 2), "one class for each sample"),
        ({0: 1}, "text", "`y` is 'text'"),
        ({0: 1}, None, "pass them as `y`"),
    ],
)
def test_what_cannot_be_matched_is_refused(rules, targets, message):
    with pytest.raises(ValueError, match=message):
        weights(rules, targets)


@pytest.mark.parametrize(
    "rules",
    ["balance", 3, [1, 2], {-1: 1}, {1e30: 1}, {0.5: 1}, {"cat": 1}, {0: "a"}, {0: None}, {0: -1}, {0: float("nan")}],
)
def test_what_is_no_class_weight_is_refused(rules):
    with pytest.raises(ValueError, match="`class_weight`"):
        as_class_weights(rules)


@pytest.mark.parametrize("class_weight", [None, {}, {"a": {}}])
def test_no_rule_changes_nothing(class_weight, batch_spec):
    adapter = get_data_adapter(np.zeros(2), {"a": np.zeros(2)}, None, batch_spec).with_class_weight(class_weight)
    assert next(adapter.batches().epoch(0)).sample_weight is None


def test_balanced_counts_tokens_and_leaves_out_ignored_ones(batch_spec):
    tokens = np.array([[0, 0, 2], [0, -100, -100]])
    adapter = get_data_adapter(np.zeros(2), tokens, None, batch_spec).with_class_weight("balanced")
    expected = [[2 / 3, 2 / 3, 2], [2 / 3, 1, 1]]
    torch.testing.assert_close(next(adapter.batches().epoch(0)).sample_weight, torch.tensor(expected))


def test_balanced_takes_the_nearest_class(batch_spec):
    adapter = get_data_adapter(np.zeros(4), np.array([0.1, 0.1, 0.1, 0.9]), None, batch_spec)
    assert next(adapter.with_class_weight("balanced").batches().epoch(0)).sample_weight[3] == 2


def test_balanced_refuses_labels_of_minus_one_and_one(batch_spec):
    with pytest.raises(ValueError, match=r"labels \[-1, 1\]. Renumber"):
        get_data_adapter(np.zeros(2), np.array([-1, 1]), None, batch_spec).with_class_weight("balanced")


def test_balanced_of_outputs_that_the_model_names():
    batch_spec = BatchSpec(torch.device("cpu"), output_names=["a", "b"])
    y = [np.zeros(2), np.array([0, 1])]
    adapter = get_data_adapter(np.zeros(2), y, None, batch_spec).with_class_weight({"b": "balanced"})
    assert next(adapter.batches().epoch(0)).sample_weight[1].tolist() == [1, 1]


def test_balanced_gives_every_class_the_same_sum(batch_spec):
    adapter = get_data_adapter(np.zeros(4), np.array([0, 0, 0, 2]), None, batch_spec).with_class_weight("balanced")
    assert next(adapter.batches().epoch(0)).sample_weight.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_balanced_agrees_with_scikit_learn(batch_spec):
    learn = pytest.importorskip("sklearn.utils.class_weight")
    labels = np.random.randint(0, 5, 100)
    adapter = get_data_adapter(np.zeros(100), labels, None, batch_spec).with_class_weight("balanced")
    found = next(adapter.batches(100).epoch(0)).sample_weight
    np.testing.assert_allclose(found, learn.compute_sample_weight("balanced", labels), rtol=1e-6)


def test_balanced_by_output(batch_spec):
    y = {"a": np.zeros(2), "b": np.array([0, 1])}
    adapter = get_data_adapter(np.zeros(2), y, None, batch_spec).with_class_weight({"b": "balanced"})
    assert next(adapter.batches().epoch(0)).sample_weight["b"].tolist() == [1, 1]


def test_balanced_is_refused_where_labels_cannot_be_counted(batch_spec):
    loader = DataLoader(TensorDataset(torch.zeros(4), torch.zeros(4)))
    with pytest.raises(ValueError, match=r"`class_weight='balanced'` needs the labels .* a DataLoader"):
        get_data_adapter(loader, None, None, batch_spec).with_class_weight("balanced")


def test_streams_are_weighted_batch_by_batch(batch_spec):
    stream = iter([(np.zeros(2), np.array([0, 1]), np.array([1.0, 3.0]))])
    adapter = get_data_adapter(stream, None, None, batch_spec).with_class_weight({1: 2})
    assert next(adapter.batches().epoch(0)).sample_weight.tolist() == [1, 6]


def test_weights_are_float64_where_the_module_is():
    batch_spec = BatchSpec(torch.device("cpu"), torch.float64)
    adapter = get_data_adapter(np.zeros(1), np.array([0]), None, batch_spec).with_class_weight({0: 0.1})
    assert next(adapter.batches().epoch(0)).sample_weight.tolist() == [0.1]
