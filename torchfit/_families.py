"""What the engine takes from the families of losses and metrics, which it does not know itself."""

from typing import Any

from torch import Tensor

from torchfit import metrics
from torchfit._trainer.objective import Family
from torchfit.losses import checks, identifiers
from torchfit.metrics.identifiers import as_metric, resolve_metric


def _resolve_metric(name: str, loss: Any, target: Tensor, output: Tensor) -> Any:
    from_logits = getattr(loss, "from_logits", False)
    return resolve_metric(name, getattr(loss, "name", None), target.shape, output.shape, from_logits)


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
)
