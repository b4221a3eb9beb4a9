import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.class_weight import ClassWeights, as_class_weights
from torchfit._data.convert import BatchSpec


def weights(rules, targets, sample_weight=None, names=None):
    return ClassWeights(as_class_weights(rules), names, torch.float32).weights(targets, sample_weight)


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


def test_labels_beyond_the_named_classes_weigh_one():
    assert weights({0: 5}, torch.tensor([-1, 0, 1, 99])).tolist() == [1, 5, 1, 1]


def test_both_weights_multiply():
    assert weights({1: 2}, torch.tensor([0, 1]), torch.tensor([3.0, 3])).tolist() == [3, 6]
    temporal = weights({1: 2}, torch.tensor([0, 1]), torch.ones(2, 3))
    assert temporal.tolist() == [[1, 1, 1], [2, 2, 2]]


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
        ({0: 1}, None, "pass them as `y`"),
    ],
)
def test_what_cannot_be_matched_is_refused(rules, targets, message):
    with pytest.raises(ValueError, match=message):
        weights(rules, targets)


@pytest.mark.parametrize(
    "rules", ["balance", 3, [1, 2], {}, {-1: 1}, {0.5: 1}, {"cat": 1}, {0: "a"}, {0: None}, {0: -1}, {0: float("nan")}]
)
def test_what_is_no_class_weight_is_refused(rules):
    with pytest.raises(ValueError, match="`class_weight`"):
        as_class_weights(rules)


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
