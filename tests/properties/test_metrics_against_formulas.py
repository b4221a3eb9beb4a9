"""Every metric over any split of the data equals a formula in float64 over all data at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchfit import metrics

sklearn = pytest.importorskip("sklearn.metrics")

ROWS, CLASSES, STEPS = 23, 4, 3
seeds = st.integers(0, 2**16)
some = settings(max_examples=5, deadline=None)


def mean(values, weights):
    """The mean of values `(rows, …)`, each row counting as much as its weight."""
    values = values.reshape(len(values), -1).mean(1)
    return np.average(values, weights=weights) if weights.sum() else 0.0


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x, axis=-1):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def crossentropy(y, p):
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


# Formulas of targets, predictions and weights. The shapes are those of outputs (rows,), (rows, 1) and (rows, CLASSES).
NUMBERS = {
    "MeanSquaredError": lambda y, p, w: mean((y - p) ** 2, w),
    "MeanAbsoluteError": lambda y, p, w: mean(abs(y - p), w),
    "MeanAbsolutePercentageError": lambda y, p, w: mean(100 * abs((y - p) / y), w),
    "LogCoshError": lambda y, p, w: mean(np.log(np.cosh(p - y)), w),
    "RootMeanSquaredError": lambda y, p, w: np.sqrt(mean((y - p) ** 2, w)),
}
ONE_NUMBER = {
    "R2Score": lambda y, p, w: sklearn.r2_score(y, p, sample_weight=w),
    "PearsonCorrelation": lambda y, p, w: covariance(y, p, w) / np.sqrt(covariance(y, y, w) * covariance(p, p, w)),
    "ConcordanceCorrelation": lambda y, p, w: (
        2
        * covariance(y, p, w)
        / (covariance(y, y, w) + covariance(p, p, w) + (np.average(y, weights=w) - np.average(p, weights=w)) ** 2)
    ),
}
LOGITS = {
    "BinaryAccuracy": lambda y, p, w: mean(((p > 0) == y).astype(float), w),
    "BinaryCrossentropy": lambda y, p, w: mean(crossentropy(y, sigmoid(p)), w),
}
DECISIONS = {
    "Precision": lambda y, p, w: sklearn.precision_score(y, p > 0, sample_weight=w, zero_division=0),
    "Recall": lambda y, p, w: sklearn.recall_score(y, p > 0, sample_weight=w, zero_division=0),
    "TruePositives": lambda y, p, w: w[(p > 0) & (y > 0)].sum(),
    "FalsePositives": lambda y, p, w: w[(p > 0) & (y == 0)].sum(),
    "TrueNegatives": lambda y, p, w: w[(p <= 0) & (y == 0)].sum(),
    "FalseNegatives": lambda y, p, w: w[(p <= 0) & (y > 0)].sum(),
}


def covariance(a, b, weights):
    a, b = a - np.average(a, weights=weights), b - np.average(b, weights=weights)
    return np.average(a * b, weights=weights)


def split(draw, rows):
    """Cut rows into batches of any sizes."""
    cuts = np.sort(draw.choice(np.arange(1, rows), draw.integers(1, 6), replace=False))
    return np.split(np.arange(rows), cuts)


def over_batches(metric, y_true, y_pred, weights, draw, mask=None):
    for rows in split(draw, len(y_true)):
        prediction = torch.tensor(y_pred[rows])
        if mask is not None:
            prediction._keras_mask = torch.tensor(mask[rows])  # type: ignore[attr-defined]
        metric.update_state(torch.tensor(y_true[rows]), prediction, None if weights is None else weights[rows])
    return metric.result()


def weights_of(draw, kind):
    if "weighted" not in kind:
        return None
    weights = draw.integers(0, 3, ROWS).astype(float)
    weights[:2] = 1.0
    return weights


def check(make, formula, y_true, y_pred, draw, kind, tolerance=1e-4):
    """Compare a metric over batches with a formula over the rows that count."""
    weights = weights_of(draw, kind)
    mask = draw.random(ROWS) < 0.7 if "masked" in kind else None
    counted = np.ones(ROWS) if weights is None else weights
    if mask is not None:
        mask[:2] = True
        counted = counted * mask
        y_pred = y_pred.copy()
        y_pred[~mask] = np.nan
    found = over_batches(make(), y_true, y_pred, weights, draw, mask)
    rows = counted > 0
    expected = formula(y_true[rows].astype(float), y_pred[rows].astype(float), counted[rows])
    np.testing.assert_allclose(float(found), expected, rtol=tolerance, atol=tolerance)


kinds = pytest.mark.parametrize("kind", ["plain", "weighted", "masked", "weighted and masked"])
FLAT, COLUMN, TABLE = (ROWS,), (ROWS, 1), (ROWS, CLASSES)


@kinds
@pytest.mark.parametrize("shape", [FLAT, COLUMN, TABLE], ids=["flat", "column", "table"])
@pytest.mark.parametrize("name", NUMBERS)
@some
@given(seed=seeds)
def test_errors_of_numbers(name, shape, kind, seed):
    draw = np.random.default_rng(seed)
    y_true = draw.normal(3, 1, shape).astype("float32")
    y_pred = (y_true + draw.normal(0, 1, shape)).astype("float32")
    check(getattr(metrics, name), NUMBERS[name], y_true, y_pred, draw, kind)


@kinds
@pytest.mark.parametrize("offset", [0.0, 2000.0, 1e6])
@pytest.mark.parametrize("shape", [FLAT, COLUMN], ids=["flat", "column"])
@pytest.mark.parametrize("name", ONE_NUMBER)
@some
@given(seed=seeds)
def test_agreement_of_one_number(name, shape, offset, kind, seed):
    draw = np.random.default_rng(seed)
    y_true = draw.normal(offset, 5, shape)
    y_pred = y_true + draw.normal(0, 3, shape)

    def formula(y, p, w):
        return ONE_NUMBER[name](y.reshape(-1), p.reshape(-1), w)

    check(getattr(metrics, name), formula, y_true, y_pred, draw, kind)


@kinds
@pytest.mark.parametrize("shape", [FLAT, COLUMN, TABLE], ids=["flat", "column", "table"])
@pytest.mark.parametrize("name", LOGITS)
@some
@given(seed=seeds)
def test_means_of_logits(name, shape, kind, seed):
    draw = np.random.default_rng(seed)
    y_true, y_pred = draw.integers(0, 2, shape), draw.normal(0, 3, shape).astype("float32")
    check(lambda: getattr(metrics, name)(from_logits=True), LOGITS[name], y_true, y_pred, draw, kind)


@kinds
@pytest.mark.parametrize("shape", [FLAT, COLUMN], ids=["flat", "column"])
@pytest.mark.parametrize("name", DECISIONS)
@some
@given(seed=seeds)
def test_decisions_of_logits(name, shape, kind, seed):
    draw = np.random.default_rng(seed)
    y_true, y_pred = draw.integers(0, 2, shape), draw.normal(0, 3, shape).astype("float32")

    def formula(y, p, w):
        return DECISIONS[name](y.reshape(-1), p.reshape(-1), w)

    check(lambda: getattr(metrics, name)(from_logits=True), formula, y_true, y_pred, draw, kind)


@kinds
@pytest.mark.parametrize("shape", [FLAT, COLUMN], ids=["flat", "column"])
@some
@given(seed=seeds)
def test_area_under_the_curve(shape, kind, seed):
    draw = np.random.default_rng(seed)
    y_true, y_pred = draw.integers(0, 2, shape), draw.integers(0, 20, shape).astype("float32") / 20 + 0.025
    y_true.flat[:2] = 0, 1

    def formula(y, p, w):
        return sklearn.roc_auc_score(y.reshape(-1), p.reshape(-1), sample_weight=w)

    check(lambda: metrics.AUC(thresholds=[i / 20 for i in range(21)]), formula, y_true, y_pred, draw, kind)


@kinds
@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
@some
@given(seed=seeds)
def test_f_scores(average, kind, seed):
    draw = np.random.default_rng(seed)
    y_true, y_pred = draw.integers(0, 2, TABLE), draw.random(TABLE).astype("float32")

    def formula(y, p, w):
        return sklearn.fbeta_score(y, p > 0.5, beta=2.0, average=average, sample_weight=w, zero_division=0)

    check(lambda: metrics.FBetaScore(average, 2.0, 0.5), formula, y_true, y_pred, draw, kind)


def layouts(draw, axis):
    """Labels and logits of steps, with the classes along `axis`; a fifth of the labels is -1."""
    labels = draw.integers(0, CLASSES, (ROWS, STEPS))
    labels[draw.random(labels.shape) < 0.2] = -1
    labels[0] = 0
    return labels, np.moveaxis(draw.normal(0, 2, (ROWS, STEPS, CLASSES)).astype("float32"), -1, axis)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", ["SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy"])
@some
@given(seed=seeds)
def test_ignored_labels_do_not_count(name, axis, masked, seed):
    draw = np.random.default_rng(seed)
    labels, logits = layouts(draw, axis)
    mask = draw.random(labels.shape) < 0.7 if masked else None
    arguments = {"k": 2} if "TopK" in name else {}
    metric = getattr(metrics, name)(axis=axis, ignore_class=-1, **arguments)
    found = over_batches(metric, labels, logits, None, draw, mask)
    counted = (labels >= 0) & (True if mask is None else mask)
    scores, counted_labels = np.moveaxis(logits, axis, -1)[counted], labels[counted]
    better = (scores > np.take_along_axis(scores, counted_labels[:, None], 1)).sum(1)
    assert float(found) == pytest.approx((better < arguments.get("k", 1)).mean(), abs=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("name", ["precision", "recall", "auc", "f1_score", "crossentropy", "accuracy"])
@some
@given(seed=seeds)
def test_names_beside_a_loss_of_classes_read_logits_classes_and_ignored_labels(name, axis, seed):
    from torchfit import losses
    from torchfit.metrics.identifiers import resolve_metric

    draw = np.random.default_rng(seed)
    labels, logits = layouts(draw, axis)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, axis=axis)
    metric = resolve_metric(name, loss, labels.shape, logits.shape)
    found = over_batches(metric, labels, logits, None, draw)
    counted = labels >= 0
    scores, picked = softmax(np.moveaxis(logits, axis, -1)[counted].astype(float)), labels[counted]
    one_hot = np.eye(CLASSES)[picked]
    expected = {
        "precision": lambda: sklearn.precision_score(one_hot, scores > 0.5, average="micro", zero_division=0),
        "recall": lambda: sklearn.recall_score(one_hot, scores > 0.5, average="micro"),
        "auc": lambda: sklearn.roc_auc_score(one_hot.reshape(-1), scores.reshape(-1)),
        "f1_score": lambda: sklearn.f1_score(picked, scores.argmax(1), average=None, labels=range(CLASSES)),
        "crossentropy": lambda: -np.log(scores[np.arange(len(picked)), picked]).mean(),
        "accuracy": lambda: (scores.argmax(1) == picked).mean(),
    }[name]()
    np.testing.assert_allclose(np.asarray(found), expected, atol=2e-2 if name == "auc" else 1e-5)


@some
@given(seed=seeds)
def test_accuracy_of_labels_that_change_their_form_is_one_mean(seed):
    from torch import nn

    from torchfit.metrics.identifiers import resolve_metric

    draw = np.random.default_rng(seed)
    labels, logits = draw.integers(0, CLASSES, ROWS), draw.normal(0, 1, TABLE).astype("float32")
    soft = 0.8 * np.eye(CLASSES)[labels] + 0.2 / CLASSES
    metric = resolve_metric("accuracy", nn.CrossEntropyLoss(), (ROWS,), TABLE)
    for number, rows in enumerate(split(draw, ROWS)):
        metric.update_state(torch.tensor((soft if number % 2 else labels)[rows]), torch.tensor(logits[rows]))
    assert metric.result().item() == pytest.approx((logits.argmax(1) == labels).mean())
