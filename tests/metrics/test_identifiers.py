import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchfit import losses, metrics
from torchfit.metrics.identifiers import as_metric, follows_loss, resolve_metric


def squared(y_true, y_pred):
    return (y_true - y_pred) ** 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mse", metrics.MeanSquaredError),
        ("MSE", metrics.MeanSquaredError),
        ("mean_squared_error", metrics.MeanSquaredError),
        ("MeanSquaredError", metrics.MeanSquaredError),
        ("meansquarederror", metrics.MeanSquaredError),
        ("acc", metrics.Accuracy),
        ("AUC", metrics.AUC),
        ("bce", metrics.BinaryCrossentropy),
        ("kld", metrics.KLDivergence),
        ("KLDivergence", metrics.KLDivergence),
        ("logcosh", metrics.LogCoshError),
        ("hinge", metrics.Hinge),
        ("r2_score", metrics.R2Score),
        ("f1_score", metrics.F1Score),
    ],
)
def test_names(name, kind):
    assert type(metrics.get(name)) is kind
    assert as_metric(name).name == name


def test_get_leaves_objects_and_functions_alone():
    mean = metrics.Mean()
    assert metrics.get(mean) is mean
    assert metrics.get(squared) is squared
    assert metrics.get(None) is None
    assert metrics.get(metrics.Mean).name == "mean"


def test_functions_without_a_class_are_wrapped():
    metric = as_metric("huber")
    assert metric.name == "huber"
    assert metric([[0.0]], [[1.0]]).item() == 0.5


def test_a_function_gives_its_name():
    metric = as_metric(squared)
    assert metric.name == "squared"
    assert metric([[0.0, 1.0]], [[1.0, 3.0]]).item() == 2.5


def test_a_torch_loss_gets_the_predictions_first():
    y_true, y_pred = torch.tensor([0, 1]), torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    expected = torch.nn.functional.cross_entropy(y_pred, y_true).item()
    assert as_metric(torch.nn.CrossEntropyLoss())(y_true, y_pred).item() == pytest.approx(expected)
    metric = as_metric(torch.nn.functional.cross_entropy)
    assert metric.name == "cross_entropy"
    assert metric(y_true, y_pred).item() == pytest.approx(expected)


def test_unknown_names_come_with_near_ones():
    with pytest.raises(ValueError, match=r"Unknown metric: 'acuracy'. Did you mean .*ccuracy"):
        as_metric("acuracy")
    with pytest.raises(ValueError, match=r"A metric must be a name.*Received: 3"):
        as_metric(3)
    with pytest.raises(ValueError, match=r"IoU needs the argument.*num_classes, target_class_ids"):
        metrics.get("io_u")


@pytest.mark.parametrize(
    ("target", "output", "kind"),
    [
        ((8, 1), (8, 1), metrics.BinaryAccuracy),
        ((8,), (8,), metrics.BinaryAccuracy),
        ((8,), (8, 1), metrics.BinaryAccuracy),
        ((8, 3), (8, 3), metrics.CategoricalAccuracy),
        ((8,), (8, 3), metrics.SparseCategoricalAccuracy),
        ((8, 1), (8, 3), metrics.SparseCategoricalAccuracy),
        ((8, 2), (8, 2, 3), metrics.SparseCategoricalAccuracy),
        ((8, 1, 4, 5), (8, 1, 4, 5), metrics.BinaryAccuracy),
    ],
)
def test_accuracy_by_shape(target, output, kind):
    metric = resolve_metric("acc", "mean_squared_error", target, output)
    assert (type(metric), metric.name) == (kind, "acc")


@pytest.mark.parametrize(
    ("loss", "target", "output", "kind"),
    [
        (None, (8, 1), (8, 1), metrics.BinaryCrossentropy),
        ("binary_crossentropy", (8, 3), (8, 3), metrics.BinaryCrossentropy),
        (None, (8, 3), (8, 3), metrics.CategoricalCrossentropy),
        (None, (8,), (8, 3), metrics.SparseCategoricalCrossentropy),
    ],
)
def test_crossentropy_by_shape_and_loss(loss, target, output, kind):
    metric = resolve_metric("ce", loss, target, output)
    assert (type(metric), metric.name) == (kind, "ce")


@pytest.mark.parametrize(
    ("name", "loss", "target", "output", "printed"),
    [
        ("accuracy", nn.CrossEntropyLoss(), (8,), (8, 3), "SparseCategoricalAccuracy(axis=1, ignore_class=-100)"),
        ("accuracy", F.cross_entropy, (8, 3), (8, 3), "CategoricalAccuracy(axis=1, ignore_class=-100)"),
        (
            "accuracy",
            nn.NLLLoss(ignore_index=0),
            (8, 5),
            (8, 3, 5),
            "SparseCategoricalAccuracy(axis=1, ignore_class=0)",
        ),
        ("accuracy", nn.BCEWithLogitsLoss(), (8, 6), (8, 6), "BinaryAccuracy(from_logits=True)"),
        ("accuracy", nn.BCELoss(), (8, 1, 4, 4), (8, 1, 4, 4), "BinaryAccuracy()"),
        ("accuracy", "hinge", (8, 1), (8, 1), "BinaryAccuracy(from_logits=True)"),
        (
            "accuracy",
            losses.SparseCategoricalCrossentropy(axis=1),
            (8, 5),
            (8, 3, 5),
            "SparseCategoricalAccuracy(axis=1)",
        ),
        ("accuracy", lambda y, p: F.cross_entropy(p, y), (8, 5), (8, 3, 5), "SparseCategoricalAccuracy(axis=1)"),
        ("crossentropy", nn.BCEWithLogitsLoss(), (8, 1), (8, 1), "BinaryCrossentropy(from_logits=True)"),
        (
            "ce",
            losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=9),
            (8,),
            (8, 3),
            "SparseCategoricalCrossentropy(from_logits=True, ignore_class=9)",
        ),
        ("auc", nn.BCEWithLogitsLoss(), (8, 1), (8, 1), "AUC(from_logits=True)"),
        ("Precision", nn.BCELoss(), (8, 1), (8, 1), "Precision()"),
        ("recall", nn.CrossEntropyLoss(), (8,), (8, 3), "Recall(axis=1, from_logits=True, ignore_class=-100)"),
        ("binary_accuracy", nn.BCEWithLogitsLoss(), (8, 1), (8, 1), "BinaryAccuracy(from_logits=True)"),
        (
            "top_k_categorical_accuracy",
            nn.CrossEntropyLoss(),
            (8,),
            (8, 9),
            "TopKCategoricalAccuracy(axis=1, ignore_class=-100)",
        ),
    ],
)
def test_a_name_is_read_as_the_loss_beside_it(name, loss, target, output, printed):
    shown = repr(resolve_metric(name, loss, target, output))
    assert shown.replace(f"name={name}, ", "").replace(f"name={name}", "") == printed


def test_which_names_follow_the_loss():
    followed = ("accuracy", "CE", "AUC", "f1_score", "binary_accuracy", "binary_crossentropy", "true_positives")
    assert all(map(follows_loss, followed))
    assert not any(map(follows_loss, ("mse", "huber", "r2_score", "mean_iou", "precision_at_recall", metrics.AUC())))
    with pytest.raises(ValueError, match="Unknown metric: 'acuracy'"):
        follows_loss("acuracy")


def test_own_metrics_are_read_back_with_custom_objects():
    class Doubled(metrics.Sum):
        def result(self):
            return super().result() * 2

    config = metrics.serialize(Doubled(name="twice"))
    again = metrics.deserialize(config, custom_objects={"Doubled": Doubled})
    assert (type(again), again.name) == (Doubled, "twice")
    with pytest.raises(ValueError, match="Unknown metric: 'Doubled'"):
        metrics.deserialize(config)


def test_wrapped_functions_are_written_down_by_name():
    metric = metrics.MeanMetricWrapper(metrics.binary_accuracy, name="share", threshold=0.2)
    again = metrics.deserialize(metrics.serialize(metric))
    assert again.name == "share"
    assert again([[1.0]], [[0.3]]).item() == 1.0
