import pytest
import torch
from torch import nn

from torchfit import Model, losses, metrics

X = torch.arange(12.0).reshape(6, 2) / 10
ONE, TWO = torch.zeros(6, 1), torch.ones(6, 1)


class Heads(nn.Module):
    """Gives two outputs in the form that a test asks for."""

    def __init__(self, form=tuple):
        super().__init__()
        self.left, self.right, self.form = nn.Linear(2, 1), nn.Linear(2, 1), form

    def forward(self, x):
        return self.form((self.left(x), self.right(x)))


def named(parts):
    return dict(zip(("left", "right"), parts))


def fitted(module, y, *arguments, sample_weight=None, **options):
    model = Model(module, device="cpu")
    model.compile("sgd", *arguments, **options)
    history = model.fit(X, y, epochs=2, verbose=0, sample_weight=sample_weight)
    return model, history.history


def names_of(*arguments, **options):
    return list(fitted(*arguments, **options)[1])


def test_one_output_has_no_prefix():
    assert names_of(nn.Linear(2, 1), ONE, "mse", ["mae", "MSE", metrics.MeanSquaredError()]) == [
        "loss",
        "mae",
        "MSE",
        "mean_squared_error",
    ]


def test_several_outputs_are_named_as_in_keras_2():
    assert names_of(Heads(named), [ONE, TWO], "mse", ["mae"], weighted_metrics=["mse"]) == [
        "loss",
        "left_loss",
        "right_loss",
        "left_mae",
        "left_mse",
        "right_mae",
        "right_mse",
    ]


def test_positions_are_numbered_from_one():
    assert names_of(Heads(), [ONE, TWO], ["mse", "mae"]) == ["loss", "output_1_loss", "output_2_loss"]


def test_output_names_are_given():
    model = Model(Heads(), output_names=["a", "b"], device="cpu")
    model.compile("sgd", {"a": "mse", "b": "mae"}, metrics={"b": ["mse"]})
    assert list(model.fit(X, {"a": ONE, "b": TWO}, verbose=0).history) == ["loss", "a_loss", "b_loss", "b_mse"]


def test_losses_are_weighted_and_summed():
    _, history = fitted(Heads(named), [ONE, TWO], "mse", loss_weights={"left": 2.0, "right": 0.5})
    for loss, left, right in zip(history["loss"], history["left_loss"], history["right_loss"]):
        assert loss == pytest.approx(2 * left + right / 2)


@pytest.mark.filterwarnings("ignore:There is no gradient")
def test_an_output_without_loss_needs_no_target():
    _, history = fitted(Heads(named), ONE, ["mse", None])
    assert list(history) == ["loss", "left_loss"]


@pytest.mark.filterwarnings("ignore:There is no gradient")
def test_a_list_with_none_for_the_others_takes_one_target():
    class Three(Heads):
        def forward(self, x):
            return [self.left(x), self.right(x), x]

    assert names_of(Three(), ONE, ["mse", None, None]) == ["loss", "output_1_loss"]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (["mae"], ["left_mae", "right_mae"]),
        ([["mae"], ["mse"]], ["left_mae", "right_mse"]),
        ([["mae"], None], ["left_mae"]),
        ({"right": "mae"}, ["right_mae"]),
        ({"right": ["mae", "mse"], "left": []}, ["right_mae", "right_mse"]),
    ],
)
def test_metrics_per_output(spec, found):
    assert names_of(Heads(named), [ONE, TWO], "mse", spec)[3:] == found


def test_outputs_do_not_share_the_state_of_one_metric():
    _, history = fitted(Heads(named), [ONE, 100 * TWO], "mse", [metrics.MeanAbsoluteError()])
    assert history["left_mean_absolute_error"] != history["right_mean_absolute_error"]


def test_a_metric_of_one_output_stays_the_object_that_was_passed():
    mine = metrics.MeanAbsoluteError()
    model, history = fitted(nn.Linear(2, 1), ONE, "mse", [mine])
    assert model.metrics[1] is mine
    assert mine.result().item() == history["mean_absolute_error"][-1]


@pytest.mark.parametrize(
    ("units", "y", "kind"),
    [
        (1, ONE, metrics.BinaryAccuracy),
        (3, torch.zeros(6, dtype=torch.int64), metrics.SparseCategoricalAccuracy),
        (3, torch.eye(3).repeat(2, 1), metrics.CategoricalAccuracy),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_is_chosen_by_shapes(units, y, kind, name):
    loss = losses.SparseCategoricalCrossentropy(from_logits=True) if y.dtype == torch.int64 else "mse"
    model, history = fitted(nn.Linear(2, units), y, loss, [name])
    assert type(model.metrics[1]) is kind
    assert list(history) == ["loss", name]


def test_names_that_occur_again_are_numbered_alike_in_every_fit():
    model, history = fitted(nn.Linear(2, 1), ONE, "mse", ["mae", "mae"], weighted_metrics=["mae"])
    expected = ["loss", "mae", "mae_1", "weighted_mae"]
    assert list(history) == expected
    assert list(model.fit(X, ONE, verbose=0).history) == expected
    assert list(model.evaluate(X, ONE, verbose=0, return_dict=True)) == expected


def test_names_stay_with_metrics_that_are_compiled_again():
    mine = metrics.MeanAbsoluteError()
    model, _ = fitted(nn.Linear(2, 1), ONE, "mse", ["mean_absolute_error", mine])
    model.compile("sgd", "mse", metrics=[mine])
    assert list(model.fit(X, ONE, verbose=0).history) == ["loss", "mean_absolute_error"]


def test_the_structure_of_targets_may_change_from_fit_to_fit():
    model, _ = fitted(Heads(named), [ONE, TWO], "mse")
    by_name = model.evaluate(X, {"right": TWO, "left": ONE}, verbose=0)
    assert by_name == pytest.approx(model.evaluate(X, (ONE, TWO), verbose=0))


def test_weights_are_one_for_all_or_one_for_each_output():
    half = torch.tensor([1.0, 1, 1, 0, 0, 0])
    model, _ = fitted(Heads(named), [ONE, TWO], "mse")
    for_all = model.evaluate(X, [ONE, TWO], sample_weight=half, verbose=0)
    for_each = model.evaluate(X, [ONE, TWO], sample_weight={"left": half, "right": half}, verbose=0)
    for_one = model.evaluate(X, [ONE, TWO], sample_weight={"left": half}, verbose=0)
    assert for_all == pytest.approx(for_each)
    assert for_one[1] == pytest.approx(for_all[1])
    assert for_one[2] > for_all[2]


def test_only_weighted_metrics_see_weights():
    model, _ = fitted(nn.Linear(2, 1), ONE, "mse", ["mae"], weighted_metrics=["mse"])
    none = model.evaluate(X, ONE, sample_weight=torch.zeros(6), verbose=0, return_dict=True)
    assert none["loss"] == none["mse"] == 0
    assert none["mae"] > 0


def test_metrics_without_a_loss_are_evaluated_by_hand():
    model = Model(nn.Linear(2, 1), device="cpu")
    model.compile("sgd", metrics=["mae"])
    with pytest.raises(ValueError, match="no loss to compute"):
        model.fit(X, ONE, verbose=0)


class SeesShapes(metrics.Metric):
    def __init__(self):
        super().__init__()
        self.shapes = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        parts = (y_true, y_pred, *(() if sample_weight is None else (sample_weight,)))
        self.shapes.append([tuple(part.shape) for part in parts])

    def result(self):
        return 0.0


@pytest.mark.parametrize("units", [1, 3])
def test_metrics_of_users_get_targets_as_they_are(units):
    plain, weighted = SeesShapes(), SeesShapes()
    loss = "mse" if units == 1 else losses.SparseCategoricalCrossentropy(from_logits=True)
    fitted(nn.Linear(2, units), torch.zeros(6), loss, [plain], weighted_metrics=[weighted], sample_weight=torch.ones(6))
    assert plain.shapes[0] == [(6,), (6, units)]
    assert weighted.shapes[0] == [(6,), (6, units), (6,)]


class TruePositives(SeesShapes):
    """Compares targets with a column of classes, as in Keras' guide."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        if y_pred.shape[-1] > 1:
            y_pred = y_pred.argmax(-1).reshape(-1, 1)
        found = (y_true == y_pred).float()
        super().update_state(y_true, found * (1 if sample_weight is None else sample_weight), sample_weight)


@pytest.mark.parametrize("units", [1, 3])
def test_metrics_of_users_get_a_column_if_they_would_broadcast(units):
    plain, weighted = TruePositives(), TruePositives()
    loss = "mse" if units == 1 else losses.SparseCategoricalCrossentropy(from_logits=True)
    fitted(nn.Linear(2, units), torch.zeros(6), loss, [plain], weighted_metrics=[weighted], sample_weight=torch.ones(6))
    assert plain.shapes[-1] == [(6, 1), (6, 1)]
    assert weighted.shapes[-1] == [(6, 1), (6, 1), (6, 1)]


@pytest.mark.parametrize("distance", [lambda y, p: (y - p).abs().mean(-1), nn.L1Loss(), nn.functional.l1_loss])
def test_functions_of_users_are_not_broadcast(distance):
    y = torch.arange(6.0)
    model, _ = fitted(nn.Linear(2, 1), y, "mse", [distance, "mae"])
    _, found, expected = model.evaluate(X, y, verbose=0)
    assert found == pytest.approx(expected)
