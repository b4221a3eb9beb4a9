"""Every metric gives Keras' numbers. A new member is covered by one line in `tests/metrics/members.py`."""

import inspect
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from torchfit import metrics
from torchfit.metrics.identifiers import resolve_metric

keras = pytest.importorskip("keras")

cases = runpy.run_path(str(Path(__file__).parents[1] / "metrics" / "members.py"))
MEMBERS, ROWS = cases["MEMBERS"], cases["ROWS"]
pytestmark = pytest.mark.filterwarnings(
    "ignore:More independent predictors", "ignore:You are passing weight", "ignore:.*holds fractions"
)
every_member = pytest.mark.parametrize("member", MEMBERS, ids=str)


def pair(member):
    ours = getattr(metrics, member.name)(**member.arguments)
    return ours, getattr(keras.metrics, member.name)(**member.arguments)


def value(metric):
    return np.asarray(torch.as_tensor(metric.result()).detach())


def state(metric):
    return [np.asarray(getattr(variable, "value", variable).detach()) for variable in metric.variables]


def compare(ours, theirs, rtol=1e-5, atol=1e-6):
    expected = "float64" if type(ours).__name__ in COUNTED else value(theirs).dtype
    assert value(ours).dtype == expected
    assert value(ours).shape == value(theirs).shape
    np.testing.assert_allclose(value(ours), value(theirs), rtol, atol)


COUNTED = {"Sum", "TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives"}  # exact beyond float32


def compare_state(ours, theirs):
    """The state is in float64 here; a mean counts values, not rows, and R2 measures from the first batch's mean."""
    if isinstance(ours, (metrics.Mean, metrics.R2Score)):
        return
    for mine, other in zip(state(ours), state(theirs), strict=True):
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, 1e-5, 1e-5)


@every_member
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_three_batches_give_the_same(member, weighted):
    ours, theirs = pair(member)
    for seed in range(3):
        y_true, y_pred = member.data(seed)
        weights = _weights(member, y_true, seed) if weighted else None
        ours.update_state(y_true, y_pred, weights)
        theirs.update_state(y_true, y_pred, weights)
        compare(ours, theirs)
    compare_state(ours, theirs)


def _weights(member, y_true, seed):
    random = np.random.default_rng(seed + 10)
    # Keras takes weights of these only in the full shape.
    shape = y_true.shape if member.name in ("MeanIoU", "IoU") else (ROWS,)
    return random.integers(0, 4, shape).astype("float32") if "IoU" in member.name else random.random(shape, "float32")


@every_member
def test_weights_of_zero_give_the_same(member):
    ours, theirs = pair(member)
    y_true, y_pred = member.data(0)
    weights = np.zeros(y_true.shape if member.name in ("MeanIoU", "IoU") else ROWS, "float32")
    ours.update_state(y_true, y_pred, weights)
    theirs.update_state(y_true, y_pred, weights)
    compare(ours, theirs)


def zeros(y_true, y_pred):
    return y_true * 0, y_pred * 0


def no_positives(y_true, y_pred):
    return y_true * 0, y_pred


def ones(y_true, y_pred):
    return y_true * 0 + 1, y_pred


def huge(y_true, y_pred):
    return y_true, y_pred * 1000


SCORED = {"columns", "sparse", "steps"}


@every_member
@pytest.mark.parametrize("edge", [zeros, no_positives, ones, huge])
def test_edges_give_the_same(member, edge):
    ours, theirs = pair(member)
    if member.name == "PearsonCorrelation" and edge is not huge:
        pytest.skip("rounding decides whether values that do not vary give NaN or noise")
    y_true, y_pred = member.data(0)
    if edge is ones and member.data.__name__ == "one_hot":
        edge = no_positives
    arrays = edge(y_true, y_pred)
    if "IoU" in member.name and y_pred.dtype.kind == "i":
        arrays = (arrays[0], y_pred)
    ours.update_state(*arrays)
    theirs.update_state(*arrays)
    compare(ours, theirs, rtol=1e-5, atol=1e-5 if edge is huge else 1e-6)


@every_member
def test_perfect_predictions_give_the_same(member):
    ours, theirs = pair(member)
    y_true, y_pred = member.data(0)
    perfect = (
        np.eye(y_pred.shape[-1], dtype="float32")[y_true.squeeze(-1) if y_true.ndim == y_pred.ndim else y_true]
        if member.data.__name__ in SCORED
        else y_true.reshape(y_pred.shape)
    )
    ours.update_state(y_true, perfect)
    theirs.update_state(y_true, perfect)
    compare(ours, theirs)


AVERAGED = [member for member in MEMBERS if issubclass(getattr(metrics, member.name), metrics.Mean)]


@pytest.mark.parametrize("member", [m for m in AVERAGED if m.data(0)[1].dtype.kind == "f"], ids=str)
def test_nan_spreads_as_in_keras(member):
    ours, theirs = pair(member)
    if member.name == "BinaryCrossentropy" and not member.arguments:
        pytest.skip("Keras on torch raises an error for probabilities that are NaN")
    y_true, y_pred = member.data(0)
    y_pred.flat[0] = np.nan
    ours.update_state(y_true, y_pred)
    theirs.update_state(y_true, y_pred)
    compare(ours, theirs)


def plain(value):
    array = np.asarray(value)
    return array.astype("float32").round(6).tolist() if array.dtype.kind == "f" else array.tolist()


@every_member
def test_names_and_configs_are_the_same(member):
    keras.utils.clear_session()
    ours, theirs = pair(member)
    config = theirs.get_config()
    assert (ours.name, ours.dtype) == (theirs.name, theirs.dtype)
    assert {key: plain(ours.get_config()[key]) for key in config} == {key: plain(config[key]) for key in config}
    names = [variable.name for variable in theirs.variables]
    assert [variable.name for variable in ours.variables][: len(names)] == names


@pytest.mark.parametrize("name", sorted({member.name for member in MEMBERS} | {"Mean", "Sum"}))
def test_signatures_are_the_same(name):
    def parameters(package):
        signature = inspect.signature(getattr(package, name)).parameters.values()
        return [(parameter.name, parameter.default) for parameter in signature]

    expected = parameters(keras.metrics)
    assert parameters(metrics)[: len(expected)] == expected


@pytest.mark.parametrize("name", sorted({member.name for member in MEMBERS} | {"Mean", "Sum"}))
def test_modes_agree_where_keras_has_one(name):
    member = next((member for member in MEMBERS if member.name == name), None)
    arguments = member.arguments if member else {}
    expected = {"up": "max", "down": "min"}.get(getattr(getattr(keras.metrics, name)(**arguments), "_direction", None))  # type: ignore[arg-type]
    assert expected in (None, getattr(metrics, name)(**arguments).mode)


def test_every_name_of_keras_is_here():
    assert {name for name in dir(keras.metrics) if name[0] != "_"} - set(metrics.__all__) == set()


VALUES = np.arange(24.0, dtype="float32").reshape(2, 3, 4)


@pytest.mark.parametrize("name", ["Mean", "Sum"])
@pytest.mark.parametrize(
    ("values", "weights"),
    [
        (3.0, None),
        (3.0, 2.0),
        (3.0, 2),
        ([1.0, 2.0], 3.0),
        ([1.0, 2.0], [3.0]),
        ([1.0, 2.0], [[1.0], [2.0]]),
        ([1.0, 2.0], [0.0, 0.0]),
        ([1.0, 2.0], [-1.0, 1.0]),
        ([True, False], None),
        ([1, 2], [1, 2]),
        (np.zeros(0, "float32"), None),
        (VALUES, None),
        (VALUES, 2.0),
        (VALUES, [1, 2]),
        (VALUES, [[1], [2]]),
        (VALUES, [[1, 2, 3], [4, 5, 6]]),
        (VALUES, np.arange(6.0).reshape(2, 3, 1)),
        (VALUES, VALUES),
        (VALUES[:, :, 0], [[1, 2, 3]]),
        (VALUES[:, :1, 0], [3.0, 4.0]),
    ],
)
def test_running_values_weigh_as_in_keras(name, values, weights):
    ours, theirs = getattr(metrics, name)(), getattr(keras.metrics, name)()
    for _ in range(2):
        ours.update_state(values, weights)
        theirs.update_state(values, weights)
    compare(ours, theirs)
    compare_state(ours, theirs)


def _masked(values, mask):
    tensor = torch.tensor(values)
    tensor._keras_mask = torch.tensor(mask)  # type: ignore[attr-defined]
    return tensor


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0, 4.0]])
@pytest.mark.parametrize("name", ["BinaryAccuracy", "MeanSquaredError"])
def test_masks_are_seen_where_keras_sees_them(name, weights):
    y_true = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    y_pred = _masked([[0.1], [0.9], [0.8], [0.2]], [True, True, False, False])
    ours, theirs = getattr(metrics, name)(), getattr(keras.metrics, name)()
    ours.update_state(y_true, y_pred, weights)
    theirs.update_state(y_true, y_pred, weights)
    compare(ours, theirs)


def test_masks_of_steps_are_seen():
    mask = [[True, True, False], [True, False, False]]
    y_pred = _masked(np.random.default_rng(0).random((2, 3, 4), "float32"), mask)
    y_true = torch.tensor([[0, 1, 2], [3, 0, 1]])
    ours, theirs = metrics.SparseCategoricalAccuracy(), keras.metrics.SparseCategoricalAccuracy()
    ours.update_state(y_true, y_pred)
    theirs.update_state(y_true, y_pred)
    compare(ours, theirs)


@pytest.mark.parametrize("name", ["Mean", "BinaryAccuracy", "Precision", "AUC"])
def test_half_precision_is_kept_where_keras_keeps_it(name):
    ours, theirs = getattr(metrics, name)(dtype="float16"), getattr(keras.metrics, name)(dtype="float16")
    arguments = ([1.0, 2.0],) if name == "Mean" else ([1.0, 0.0], [0.75, 0.25])
    ours.update_state(*arguments)
    theirs.update_state(*arguments)
    compare(ours, theirs, rtol=1e-3)


FUNCTIONS = {
    "binary_accuracy": [((5, 3), (5, 3)), ((5,), (5, 1)), ((5, 1), (5,))],
    "categorical_accuracy": [((5, 3), (5, 3)), ((5, 2, 3), (5, 2, 3))],
    "top_k_categorical_accuracy": [((5, 7), (5, 7)), ((5, 2, 7), (5, 2, 7))],
    "sparse_categorical_accuracy": [((5,), (5, 3)), ((5, 1), (5, 3)), ((5, 2), (5, 2, 3)), ((5, 1), (5, 1, 3))],
    "sparse_top_k_categorical_accuracy": [((5,), (5, 7)), ((5, 1), (5, 7)), ((5, 2), (5, 2, 7))],
    "pearson_correlation": [((5, 3), (5, 3)), ((5, 2, 3), (5, 2, 3))],
    "concordance_correlation": [((5, 3), (5, 3)), ((5, 2, 3), (5, 2, 3))],
}


@pytest.mark.parametrize(("name", "shapes"), [(name, shape) for name, shapes in FUNCTIONS.items() for shape in shapes])
def test_functions_give_the_same(name, shapes):
    random = np.random.default_rng(0)
    real = "correlation" in name
    y_true = random.random(shapes[0], "float32") if real else random.integers(0, 2, shapes[0])
    y_pred = random.random(shapes[1], "float32")
    ours = getattr(metrics, name)(torch.from_numpy(y_true), torch.from_numpy(y_pred))
    theirs = getattr(keras.metrics, name)(y_true, y_pred)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), 1e-5, 1e-6)


def test_ties_among_the_best_are_counted_as_in_keras():
    y_true, y_pred = np.array([0, 1, 2]), np.ones((3, 3), "float32")
    ours = metrics.sparse_top_k_categorical_accuracy(torch.from_numpy(y_true), torch.from_numpy(y_pred), k=2)
    assert ours.tolist() == keras.metrics.sparse_top_k_categorical_accuracy(y_true, y_pred, k=2).tolist()


@pytest.mark.parametrize(
    ("target", "output"),
    [((4, 1), (4, 1)), ((4,), (4, 1)), ((4, 5), (4, 5)), ((4,), (4, 5)), ((4, 1), (4, 5)), ((4, 3), (4, 3, 5))],
)
@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_means_the_same(name, target, output):
    model = keras.Sequential([keras.layers.Activation("linear")])
    model.compile(loss="mse", metrics=[name])
    model.evaluate(
        np.ones(output, "float32"), np.ones(target if len(target) == len(output) else output, "float32"), verbose=0
    )
    theirs = keras.src.trainers.compile_utils.get_metric(name, np.ones(target), np.ones(output))
    ours = resolve_metric(name, None, target, output)
    assert (type(ours).__name__, ours.name) == (type(theirs).__name__, theirs.name)
