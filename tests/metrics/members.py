"""Every metric with the data it takes. A new member, or a new option, is one line in `MEMBERS`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ROWS, CLASSES = 12, 4
Pair = tuple[np.ndarray, np.ndarray]


class Member(NamedTuple):
    name: str
    arguments: dict[str, Any]
    data: Callable[[int], Pair]

    def __str__(self):
        return "-".join([self.name, self.data.__name__, *(f"{key}={value}" for key, value in self.arguments.items())])


def _generator(seed):
    return np.random.default_rng(seed)


def _softmax(scores):
    powers = np.exp(scores)
    return powers / powers.sum(-1, keepdims=True)


def numbers(seed):
    draw = _generator(seed).standard_normal
    return draw((ROWS, CLASSES)).astype("float32"), draw((ROWS, CLASSES)).astype("float32")


def sequences(seed):
    draw = _generator(seed).standard_normal
    return draw((ROWS, 3, CLASSES)).astype("float32"), draw((ROWS, 3, CLASSES)).astype("float32")


def vectors(seed):
    draw = _generator(seed).standard_normal
    return draw(ROWS).astype("float32"), draw((ROWS, 1)).astype("float32")


def related(seed):
    y_true, noise = numbers(seed)
    return y_true, y_true + noise / 3


def column(seed):
    y_true, y_pred = related(seed)
    return y_true[:, :1], y_pred[:, :1]


def flat(seed):
    y_true, y_pred = related(seed)
    return y_true[:, 0], y_pred[:, 0]


def counts(seed):
    random = _generator(seed)
    return random.poisson(2, (ROWS, CLASSES)).astype("float32"), random.random((ROWS, CLASSES)).astype("float32") * 4


def classes(seed):
    random = _generator(seed)
    return random.integers(0, CLASSES, ROWS), random.integers(0, CLASSES, ROWS)


def scores(seed):
    random = _generator(seed)
    return random.integers(0, 2, ROWS), random.random((ROWS, 1)).astype("float32")


def tables(seed):
    random = _generator(seed)
    labels = random.integers(0, 2, (ROWS, CLASSES)).astype("float32")
    return labels, random.random((ROWS, CLASSES)).astype("float32")


def logits(seed):
    labels, shares = tables(seed)
    return labels, shares * 8 - 4


def flat_logits(seed):
    labels, scores = logits(seed)
    return labels[:, 0], scores[:, 0]


def one_hot(seed):
    random = _generator(seed)
    chosen = random.integers(0, CLASSES, ROWS)
    return np.eye(CLASSES, dtype="float32")[chosen], _softmax(random.standard_normal((ROWS, CLASSES))).astype("float32")


def sparse(seed):
    labels, shares = one_hot(seed)
    return labels.argmax(-1), shares


def columns(seed):
    labels, shares = sparse(seed)
    return labels[:, None], shares


def steps(seed):
    random = _generator(seed)
    shares = _softmax(random.standard_normal((ROWS, 3, CLASSES))).astype("float32")
    return random.integers(0, CLASSES, (ROWS, 3)), shares


def planes(seed):
    labels, shares = steps(seed)
    return labels, shares.swapaxes(1, 2)


def layers(seed):
    labels, shares = planes(seed)
    return np.eye(CLASSES, dtype="float32")[labels].swapaxes(1, 2), shares


def images(seed):
    random = _generator(seed)
    return random.integers(0, CLASSES, (ROWS, 5, 5)), random.integers(0, CLASSES, (ROWS, 5, 5))


def _member(name, data, **arguments):
    return Member(name, arguments, data)


_RATES = {
    "PrecisionAtRecall": "recall",
    "RecallAtPrecision": "precision",
    "SensitivityAtSpecificity": "specificity",
    "SpecificityAtSensitivity": "sensitivity",
}

MEMBERS = [
    _member("Accuracy", classes),
    _member("BinaryAccuracy", scores),
    _member("BinaryAccuracy", tables, threshold=0.3),
    _member("CategoricalAccuracy", one_hot),
    _member("SparseCategoricalAccuracy", sparse),
    _member("SparseCategoricalAccuracy", columns),
    _member("SparseCategoricalAccuracy", steps),
    _member("TopKCategoricalAccuracy", one_hot, k=2),
    _member("SparseTopKCategoricalAccuracy", sparse, k=2),
    _member("SparseTopKCategoricalAccuracy", steps, k=3),
    *[
        _member("AUC", tables, num_thresholds=number, curve=curve, summation_method=method)
        for curve in ("ROC", "PR", "PRGAIN")
        for number, method in ((200, "interpolation"), (7, "majoring"), (7, "minoring"))
    ],
    *[
        _member("AUC", tables, multi_label=True, curve=curve, summation_method=method)
        for curve, method in (("ROC", "interpolation"), ("PR", "interpolation"), ("PRGAIN", "minoring"))
    ],
    _member("AUC", tables, multi_label=True, num_labels=CLASSES, label_weights=[0.1, 0.2, 0.3, 0.4]),
    _member("AUC", tables, multi_label=True, num_labels=CLASSES, label_weights=[0.1, 0.2, 0.3, 0.4], curve="PR"),
    _member("AUC", tables, label_weights=[0.1, 0.2, 0.3, 0.4]),
    _member("AUC", tables, thresholds=[0.7, 0.2, 0.4]),
    _member("AUC", tables, thresholds=[0.25, 0.5, 0.75]),
    _member("AUC", logits, from_logits=True),
    _member("AUC", scores),
    *[
        _member(name, data, **arguments)
        for name in ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives")
        for data, arguments in ((scores, {}), (tables, {"thresholds": [0.2, 0.5, 0.8]}))
    ],
    *[
        _member(name, tables, **arguments)
        for name in ("Precision", "Recall")
        for arguments in (
            {},
            {"thresholds": 0.3},
            {"thresholds": [0.1, 0.6]},
            {"top_k": 2},
            {"top_k": 2, "thresholds": 0.6},
            {"class_id": 1},
            {"top_k": 2, "class_id": 1},
        )
    ],
    *[
        _member(name, tables, **{rate: value}, **arguments)
        for name, rate in _RATES.items()
        for value, arguments in ((0.5, {"class_id": 2}), (0.3, {"num_thresholds": 5}), (0.4, {"num_thresholds": 1}))
    ],
    *[
        _member("F1Score", tables, average=average, threshold=threshold)
        for average in (None, "micro", "macro", "weighted")
        for threshold in (None, 0.4)
    ],
    _member("FBetaScore", tables, beta=2.0, average="macro"),
    _member("R2Score", related),
    _member("R2Score", related, class_aggregation=None),
    _member("R2Score", related, class_aggregation="variance_weighted_average"),
    _member("R2Score", column, num_regressors=2),
    _member("R2Score", column, num_regressors=500),
    _member("IoU", images, num_classes=CLASSES, target_class_ids=[0, 2]),
    _member("BinaryIoU", scores, threshold=0.3, dtype="float32"),
    _member("MeanIoU", images, num_classes=CLASSES, dtype="float32"),
    _member("MeanIoU", images, num_classes=CLASSES + 2, ignore_class=1, dtype="float32"),
    _member("MeanIoU", images, num_classes=2, ignore_class=-1),
    _member("OneHotIoU", one_hot, num_classes=CLASSES, target_class_ids=[1], dtype="float32"),
    _member("OneHotMeanIoU", one_hot, num_classes=CLASSES, dtype="float32"),
    _member("Hinge", logits),
    _member("SquaredHinge", logits),
    _member("CategoricalHinge", one_hot),
    _member("KLDivergence", one_hot),
    _member("Poisson", counts),
    _member("BinaryCrossentropy", tables),
    _member("BinaryCrossentropy", logits, from_logits=True, label_smoothing=0.2),
    _member("CategoricalCrossentropy", one_hot),
    _member("CategoricalCrossentropy", one_hot, from_logits=True, label_smoothing=0.2),
    _member("SparseCategoricalCrossentropy", sparse),
    _member("SparseCategoricalCrossentropy", steps, from_logits=True),
    _member("SparseCategoricalCrossentropy", sparse, ignore_class=1),
    _member("CosineSimilarity", numbers),
    _member("CosineSimilarity", sequences, axis=1),
    _member("LogCoshError", numbers),
    _member("MeanAbsoluteError", vectors),
    _member("MeanAbsolutePercentageError", related),
    _member("MeanSquaredError", sequences),
    _member("MeanSquaredLogarithmicError", counts),
    _member("RootMeanSquaredError", numbers),
    _member("RootMeanSquaredError", vectors),
    _member("PearsonCorrelation", related),
    _member("PearsonCorrelation", sequences, axis=1),
    _member("ConcordanceCorrelation", related),
    _member("ConcordanceCorrelation", sequences, axis=1),
]


# What Keras does not have.
EXTENDED = [
    _member("BinaryAccuracy", logits, from_logits=True),
    _member("BinaryAccuracy", tables, ignore_class=1),
    _member("CategoricalAccuracy", layers, axis=1),
    _member("SparseCategoricalAccuracy", sparse, ignore_class=1),
    _member("SparseCategoricalAccuracy", planes, axis=1, ignore_class=0),
    _member("SparseTopKCategoricalAccuracy", planes, axis=1, k=2),
    _member("TopKCategoricalAccuracy", layers, axis=1, k=2),
    *[_member(name, logits, from_logits=True) for name in ("Precision", "Recall", "TruePositives", "BinaryIoU")],
    _member("F1Score", logits, from_logits=True, threshold=0.4, average="macro"),
    _member("RecallAtPrecision", logits, precision=0.5, from_logits=True),
    *[
        _member(name, data)
        for name in (
            "MeanSquaredError",
            "RootMeanSquaredError",
            "R2Score",
            "PearsonCorrelation",
            "ConcordanceCorrelation",
        )
        for data in (flat, column)
    ],
    _member("BinaryCrossentropy", flat_logits, from_logits=True),
    _member("F1Score", flat_logits, from_logits=True, threshold=0.5),
]
