import pytest
import torch

from torchfit import losses

PROBABILITIES = torch.tensor([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])


@pytest.mark.parametrize("labels", [[2, 0], [2.0, 0.0], [[2], [0]], torch.tensor([2, 0], dtype=torch.uint8)])
def test_class_numbers_of_any_kind(labels):
    loss = losses.SparseCategoricalCrossentropy()
    assert loss(labels, PROBABILITIES).item() == pytest.approx(0.2899, abs=1e-4)
    assert losses.SparseCategoricalCrossentropy(reduction="sum")(labels, PROBABILITIES).item() == pytest.approx(
        0.5798, abs=1e-4
    )


def test_probabilities_and_logits_agree():
    of_logits = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert of_logits([2, 0], PROBABILITIES.log()).item() == pytest.approx(0.2899, abs=1e-4)


def test_ignored_classes_do_not_count():
    loss = losses.SparseCategoricalCrossentropy(ignore_class=-1)
    assert loss([2, -1], PROBABILITIES).item() == pytest.approx(0.3567, abs=1e-4)
    assert loss([-1, -1], PROBABILITIES).item() == 0


def test_torchs_number_for_ignoring_is_an_ordinary_wrong_label():
    with pytest.raises(IndexError):
        losses.SparseCategoricalCrossentropy(from_logits=True)([2, -100], PROBABILITIES)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("name", ["BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"])
def test_nan_stays_nan(name, from_logits):
    y_true = torch.zeros(2, dtype=torch.long) if name.startswith("Sparse") else torch.zeros(2, 3)
    assert getattr(losses, name)(from_logits)(y_true, torch.full((2, 3), torch.nan)).isnan()


def test_one_hot_labels_for_the_sparse_loss():
    with pytest.raises(ValueError, match=r"y_true must be class indices .*one-hot, use categorical_crossentropy"):
        losses.SparseCategoricalCrossentropy()(torch.eye(3)[:2], PROBABILITIES)


def test_class_numbers_for_the_one_hot_loss():
    with pytest.raises(ValueError, match=r"class indices, use sparse_categorical_crossentropy"):
        losses.CategoricalCrossentropy()([2, 0], PROBABILITIES)


def test_a_column_goes_with_a_vector():
    loss = losses.BinaryCrossentropy()
    assert loss([0.0, 1.0], [[0.5], [0.5]]).item() == pytest.approx(0.6931, abs=1e-4)
    assert loss([[0.0], [1.0]], [0.5, 0.5]).item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("BinaryCrossentropy", {"label_smoothing": 2}, "`label_smoothing` must be a number from 0 to 1. Received: 2"),
        ("BinaryCrossentropy", {"from_logits": "sum"}, "`from_logits` must be True or False. Received: 'sum'"),
        ("CategoricalCrossentropy", {"axis": 1.5}, "`axis` must be an integer. Received: 1.5"),
        ("SparseCategoricalCrossentropy", {"ignore_class": 0.5}, "`ignore_class` must be an integer"),
        ("BinaryFocalCrossentropy", {"alpha": 2}, "`alpha` must be a number from 0 to 1"),
        ("CategoricalFocalCrossentropy", {"alpha": [0.1, -1]}, "`alpha` must be a number, at least 0"),
        ("CategoricalFocalCrossentropy", {"gamma": -1}, "`gamma` must be a number, at least 0"),
        ("CategoricalGeneralizedCrossEntropy", {"q": 1}, "`q` must be greater than 0 and less than 1. Received: 1"),
        ("Huber", {"delta": 0}, "`delta` must be greater than 0. Received: 0"),
        ("Huber", {"delta": "1"}, "`delta` must be a number. Received: '1'"),
        ("CosineSimilarity", {"axis": None}, "`axis` must be an integer. Received: None"),
        ("Dice", {"axis": "all"}, "`axis` must be an integer. Received: 'all'"),
        ("Tversky", {"alpha": -1}, "`alpha` must be a number, at least 0. Received: -1"),
        ("Circle", {"gamma": 0}, "`gamma` must be greater than 0"),
        ("Circle", {"margin": 2}, "`margin` must be a number from 0 to 1"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(**arguments)


def test_the_classes_of_targets_may_have_size_1_on_any_axis():
    labels, images = torch.randint(0, 3, (2, 4, 5)), torch.rand(2, 3, 4, 5)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, axis=1)
    expected = torch.nn.functional.cross_entropy(images, labels)
    for y_true in (labels, labels.unsqueeze(1), labels.unsqueeze(-1)):
        torch.testing.assert_close(loss(y_true, images), expected)
    first = losses.SparseCategoricalCrossentropy(from_logits=True, axis=0)
    torch.testing.assert_close(first(labels.unsqueeze(0), images.movedim(1, 0)), expected)


@pytest.mark.parametrize("from_logits", [False, True])
def test_labels_are_smoothed_over_the_classes_of_the_axis(from_logits):
    labels, outputs = torch.eye(3)[torch.tensor([[0, 2, 1, 0]])], torch.rand(1, 4, 3).softmax(-1)
    last = losses.CategoricalCrossentropy(from_logits, 0.1)(labels, outputs)
    first = losses.CategoricalCrossentropy(from_logits, 0.1, axis=1)(labels.mT, outputs.mT)
    torch.testing.assert_close(first, last)


def test_alpha_of_tversky_weighs_false_positives_and_beta_false_negatives():
    only_false_positives = [[1.0, 0.0]], [[1.0, 1.0]]
    assert losses.Tversky(alpha=1.0, beta=0.0)(*only_false_positives).item() == pytest.approx(0.5)
    assert losses.Tversky(alpha=0.0, beta=1.0)(*only_false_positives).item() == pytest.approx(0.0, abs=1e-6)
