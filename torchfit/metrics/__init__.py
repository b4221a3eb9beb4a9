"""Metrics: what a model is judged by, accumulated over batches, with Keras' names and numbers."""

from torchfit.metrics.accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from torchfit.metrics.base import Metric
from torchfit.metrics.identifiers import as_metric, depends_on_output, deserialize, get, resolve, serialize
from torchfit.metrics.reductions import Mean, MeanMetricWrapper, Sum
from torchfit.metrics.regression import MeanAbsoluteError, MeanSquaredError
from torchfit.metrics.torchmetrics_adapter import TorchMetric
from torchfit.metrics.variable import Variable

__all__ = [
    "Accuracy",
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "Mean",
    "MeanAbsoluteError",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "Metric",
    "SparseCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
    "Sum",
    "TopKCategoricalAccuracy",
    "TorchMetric",
    "Variable",
    "as_metric",
    "depends_on_output",
    "deserialize",
    "get",
    "resolve",
    "serialize",
]
