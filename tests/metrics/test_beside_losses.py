"""Metrics given by name count as the loss beside them does: its layout, its logits, its ignored labels."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from tests.support import Echo, Masked
from torchfit import losses, metrics, optimizers


def evaluate(loss, chosen, x, y, net=Echo, **options):
    model = torchfit.Model(net(), device="cpu")
    model.compile(optimizers.SGD(0.0), loss, **{"metrics": chosen, **options.pop("compile", {})})
    return model.evaluate(x, y, verbose=0, return_dict=True, **options)


@pytest.mark.parametrize("shape", [(5,), (3,), (2, 5), (3, 3)], ids=str)
@pytest.mark.parametrize("name", ["accuracy", "sparse_categorical_accuracy"])
def test_accuracy_beside_cross_entropy_has_the_classes_where_torch_has_them(name, shape):
    x, y = torch.randn(8, 3, *shape), torch.randint(0, 3, (8, *shape))
    logs = evaluate(nn.CrossEntropyLoss(), [name], x, y)
    assert logs[name] == pytest.approx((x.argmax(1) == y).float().mean().item())


def test_crossentropy_beside_cross_entropy_is_the_loss():
    x, y = torch.randn(8, 3, 5), torch.randint(0, 3, (8, 5))
    y[:, 3] = -100
    logs = evaluate(nn.CrossEntropyLoss(), ["crossentropy"], x, y, batch_size=3)
    assert logs["crossentropy"] == pytest.approx(logs["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [nn.BCEWithLogitsLoss(), losses.BinaryCrossentropy(from_logits=True), "hinge"],
    ids=["torch", "ours", "hinge"],
)
def test_accuracy_of_scores_has_its_threshold_at_zero(loss):
    x, y = np.array([[-1.0], [0.3], [2.0], [-2.0]]), np.array([[0], [1], [1], [1]])
    assert evaluate(loss, ["accuracy"], x, y)["accuracy"] == pytest.approx(0.75)


def test_accuracy_beside_hinge_takes_labels_of_minus_one_and_one():
    x, y = np.array([[-1.0], [0.3], [2.0], [-2.0]]), np.array([[-1], [1], [1], [1]])
    assert evaluate("hinge", ["accuracy"], x, y)["accuracy"] == pytest.approx(0.75)


@pytest.mark.parametrize(("name", "right"), [("recall", 2 / 3), ("auc", 2 / 3), ("precision", 1.0), ("f1_score", 0.8)])
def test_metrics_of_probabilities_read_logits(name, right):
    x, y = np.array([[-1.0], [0.3], [2.0], [-2.0]]), np.array([[0], [1], [1], [1]])
    assert evaluate(nn.BCEWithLogitsLoss(), [name], x, y)[name] == pytest.approx(right, abs=1e-3)


@pytest.mark.parametrize(("name", "right"), [("accuracy", 0.75), ("recall", 2 / 3), ("f1_score", 0.8)])
def test_flat_outputs_are_single_scores(name, right):
    x, y = np.array([-1.0, 0.3, 2.0, -2.0]), np.array([0, 1, 1, 1])
    assert evaluate(nn.BCEWithLogitsLoss(), [name], x, y.astype("float32"))[name] == pytest.approx(right)


def test_accuracy_of_a_binary_segmentation_counts_pixels():
    x, y = torch.randn(2, 1, 4, 5), torch.randint(0, 2, (2, 1, 4, 5)).float()
    right = ((x > 0) == (y > 0)).float().mean().item()
    assert evaluate(nn.BCEWithLogitsLoss(), ["accuracy"], x, y)["accuracy"] == pytest.approx(right)
    assert evaluate(losses.Dice(), ["accuracy"], (x > 0).float(), y)["accuracy"] == pytest.approx(right)


def test_accuracy_of_several_labels_beside_a_binary_loss_counts_labels():
    x, y = np.array([[0.9, 0.2, 0.8], [0.1, 0.7, 0.4]]), np.array([[1, 0, 0], [0, 1, 1]])
    assert evaluate("binary_crossentropy", ["accuracy"], x, y)["accuracy"] == pytest.approx(4 / 6)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_accuracy_leaves_out_what_the_loss_ignores(size):
    x, y = 2 * torch.eye(4) - 1, np.array([0, 1, 0, -100])  # right, right, wrong, ignored
    assert evaluate(nn.CrossEntropyLoss(), ["accuracy"], x, y, batch_size=size)["accuracy"] == pytest.approx(2 / 3)


def test_weighted_accuracy_leaves_out_what_the_loss_ignores():
    x, y, weights = 2 * torch.eye(4) - 1, np.array([0, 1, 0, -100]), np.array([1.0, 2.0, 1.0, 9.0])
    logs = evaluate(
        nn.CrossEntropyLoss(), None, x, y, sample_weight=weights, compile={"weighted_metrics": ["accuracy"]}
    )
    assert logs["accuracy"] == pytest.approx(3 / 4)


@pytest.mark.parametrize("first", ["soft", "hard"])
@pytest.mark.parametrize("name", ["accuracy", "top_k_categorical_accuracy", "crossentropy"])
def test_labels_may_be_blended_in_training_and_indices_in_validation(name, first):
    x, soft = 2 * torch.eye(3) - 1, torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0, 0, 1.0]])  # right, wrong, right
    hard = torch.tensor([0, 1, 0])  # right, right, wrong
    model = torchfit.Model(Echo(), device="cpu")
    model.compile(optimizers.SGD(0.0), nn.CrossEntropyLoss(), [name])
    training, validation = DataLoader(TensorDataset(x, soft), batch_size=3), (x, hard)
    if first == "hard":
        model.evaluate(*validation, verbose=0)
    history = model.fit(training, validation_data=validation, verbose=0).history
    if name == "accuracy":
        assert [history["accuracy"], history["val_accuracy"]] == [[pytest.approx(2 / 3)], [pytest.approx(2 / 3)]]
    elif name == "crossentropy":
        assert history["val_crossentropy"] == pytest.approx(history["val_loss"], rel=1e-5)


def test_boolean_one_hot_labels_are_labels():
    x, y = np.eye(3)[[0, 1, 1]], np.eye(3)[[0, 1, 2]].astype(bool)
    logs = evaluate("categorical_crossentropy", ["accuracy", "top_k_categorical_accuracy"], x, y)
    assert logs["accuracy"] == pytest.approx(2 / 3)
    assert metrics.OneHotMeanIoU(3)(y, x).item() == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_metrics_of_flat_outputs_are_means_over_all_samples():
    x, y = np.array([1.0, 2.0, 3.0, 10.0]), np.zeros(4)
    logs = evaluate("mse", ["mse", "mae", nn.MSELoss()], x, y, batch_size=3)
    assert logs == {key: pytest.approx(4.0 if key == "mae" else 28.5) for key in ("loss", "mse", "mae", "mse_loss")}


def test_weighted_metrics_of_flat_outputs_see_the_weights():
    x, y, weights = np.array([1.0, 2.0, 3.0, 10.0]), np.zeros(4), np.array([1.0, 2.0, 1.0, 0.0])
    logs = evaluate("mse", None, x, y, sample_weight=weights, compile={"weighted_metrics": ["mae"]})
    assert logs["mae"] == pytest.approx(2.0)  # (1 + 2·2 + 3) / 4


def mean_error(y_true, y_pred):
    return (y_true - y_pred).abs().mean()


def test_a_function_of_users_that_returns_one_number_counts_by_samples():
    logs = evaluate("mse", [mean_error], np.array([[1.0], [2.0], [3.0], [10.0]]), np.zeros((4, 1)), batch_size=3)
    assert logs["mean_error"] == pytest.approx(4.0)


def test_a_function_of_users_that_returns_one_number_takes_no_weights():
    with pytest.raises(ValueError, match="`sample_weight` cannot be used with the metric mean_error, whose function"):
        metrics.MeanMetricWrapper(mean_error).update_state([1.0], [2.0], [1.0])


def forgets_to_return(y_true, y_pred):
    (y_true - y_pred).square().mean()


def test_a_metric_that_returns_nothing_is_named():
    with pytest.raises(TypeError, match="The metric forgets_to_return returned None"):
        evaluate("mse", [forgets_to_return], np.zeros((4, 2)), np.zeros((4, 2)))


def test_a_metric_whose_result_is_nothing_is_named():
    class Forgetful(metrics.Metric):
        def update_state(self, *arguments, **options):
            pass

        def result(self):
            pass

    with pytest.raises(TypeError, match="The metric forgetful returned None"):
        evaluate("mse", [Forgetful()], np.zeros((4, 2)), np.zeros((4, 2)))


def test_a_metric_that_returns_no_number_is_named():
    with pytest.raises(TypeError, match=r"The function of the metric words must return one value per sample.*'right'"):
        metrics.MeanMetricWrapper(lambda y_true, y_pred: "right", name="words").update_state([1.0], [1.0])  # type: ignore[arg-type, return-value]


def test_every_metric_leaves_out_what_the_mask_of_the_outputs_leaves_out():
    x = np.array([[[0.9], [0.4], [0.0]], [[0.8], [0.0], [0.0]]])  # zeros are masked
    y = np.array([[[1.0], [1.0], [1.0]], [[0.0], [1.0], [1.0]]])
    chosen = [
        "rmse",
        metrics.Precision(name="precision"),
        metrics.Recall(name="recall"),
        metrics.TruePositives(name="tp"),
    ]
    logs = evaluate("mse", chosen, x, y, Masked)
    assert logs["rmse"] == pytest.approx(np.sqrt((0.1**2 + 0.6**2 + 0.8**2) / 3))
    assert (logs["precision"], logs["recall"], logs["tp"]) == (pytest.approx(0.5), pytest.approx(0.5), 1)


@pytest.mark.parametrize("options", [{}, {"microbatch": 2}, {"steps_per_execution": 2}], ids=str)
def test_masks_reach_the_metrics_of_training(options):
    x, y = np.array([[[1.0], [0.0]], [[2.0], [3.0]], [[4.0], [0.0]]]), np.ones((3, 2, 1))
    model = torchfit.Model(Masked(), device="cpu")
    model.compile(optimizers.SGD(0.0), "mse", ["mse", "rmse"], **options)
    history = model.fit(x, y, verbose=0).history
    assert history["mse"] == [pytest.approx((0 + 1 + 4 + 9) / 4)]
    assert history["rmse"] == [pytest.approx((14 / 4) ** 0.5)]


def test_a_mask_may_leave_out_single_elements():
    y_pred = torch.tensor([[1.0, float("nan"), 3.0], [5.0, 0.0, 0.0]])
    y_pred._keras_mask = torch.tensor([[True, False, True], [True, False, False]])  # type: ignore[attr-defined]
    for name, right in (("mse", 35 / 3), ("mae", 3.0), ("rmse", (35 / 3) ** 0.5)):
        assert metrics.get(name)(torch.zeros(2, 3), y_pred).item() == pytest.approx(right)


def test_a_mask_of_samples_goes_with_weights_of_steps():
    y_true, y_pred = torch.zeros(2, 2, 1), torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    y_pred._keras_mask = torch.tensor([True, False])  # type: ignore[attr-defined]
    metric = metrics.MeanSquaredError()
    metric.update_state(y_true, y_pred, torch.tensor([[1.0, 3.0], [1.0, 1.0]]))
    assert metric.result().item() == pytest.approx(13 / 4)  # (1·1 + 3·4) / 4


@pytest.mark.parametrize("name", ["AUC", "Precision", "Recall", "BinaryAccuracy", "BinaryIoU"])
@pytest.mark.parametrize("labels", [[-1.0, 1.0, 1.0, -1.0], [0.05, 0.95, 0.95, 0.05]], ids=["signs", "smoothed"])
def test_labels_nearer_to_one_are_positive(name, labels):
    assert getattr(metrics, name)()(np.array(labels), np.array([0.1, 0.8, 0.6, 0.3])).item() == pytest.approx(1.0)


def test_the_correlation_of_a_single_output_is_that_over_the_samples():
    y, p = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]])
    logs = evaluate("mse", ["pearson_correlation"], p, y, batch_size=2)
    assert logs["pearson_correlation"] == pytest.approx(np.corrcoef(y[:, 0], p[:, 0])[0, 1], abs=1e-6)
