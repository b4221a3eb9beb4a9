"""What the engine takes from the families of losses and metrics, which it does not know itself."""

from typing import Any

from torch import Tensor

from torchfit import metrics
from torchfit._trainer.objective import Family
from torchfit.losses import checks, identifiers
from torchfit.metrics.checks import metric_problem
from torchfit.metrics.identifiers import as_metric, follows_loss, resolve_metric


def _resolve_metric(name: str, loss: Any, target: Tensor, output: Tensor) -> Any:
    return resolve_metric(name, loss, target.shape, output.shape)


def aggregate(aggregation: str, name: str) -> Any:
    """Return the metric that gathers values added under `name`."""
    return metrics.Sum(name) if aggregation == "sum" else metrics.Mean(name)


FAMILY = Family(
    identifiers.resolve_loss,
    checks.find_probability_problem,
    as_metric,
    _resolve_metric,
    metrics.Mean,
    checks.check_targets,
    follows_loss,
    metric_problem,
)
