"""torchfit: Keras' compile, fit, evaluate and predict for any `torch.nn.Module`."""

from typing import TYPE_CHECKING, Any

from torchfit._version import __version__

__all__ = [
    "Layer",
    "Model",
    "__version__",
    "add_loss",
    "add_metric",
    "callbacks",
    "config",
    "distribution",
    "functional",
    "losses",
    "metrics",
    "mixed_precision",
    "models",
    "optimizers",
    "saving",
    "utils",
]

if TYPE_CHECKING:
    from torchfit import (
        callbacks,
        config,
        distribution,
        functional,
        losses,
        metrics,
        mixed_precision,
        models,
        optimizers,
        saving,
        utils,
    )
    from torchfit._utils.collector import Layer, add_loss, add_metric
    from torchfit.model import Model
else:
    _HOMES = {
        "Layer": "torchfit._utils.collector",
        "Model": "torchfit.model",
        "add_loss": "torchfit._utils.collector",
        "add_metric": "torchfit._utils.collector",
    }

    def __getattr__(name: str) -> Any:
        """Import a public name on first use, so that `import torchfit` itself is cheap."""
        from importlib import import_module

        if name in _HOMES:
            value = globals()[name] = getattr(import_module(_HOMES[name]), name)
            return value
        if name in __all__ or name == "sklearn":  # not listed in `__all__`: it needs scikit-learn
            return import_module(f"torchfit.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_way_out(name)}")

    def _way_out(name: str) -> str:
        """Return a hint for a name of Keras' or a misspelt name."""
        from torchfit._utils.names import near_names

        if name in ("layers", "Sequential", "Input", "activations", "initializers"):
            return ": build networks from PyTorch's modules (torch.nn) and wrap them: torchfit.Model(module)"
        near = [] if name.startswith("_") else near_names(name, __all__)
        return f". Did you mean {' or '.join(map(repr, near))}?" if near else ""

    def __dir__() -> list[str]:
        """List the public names, including those not imported yet."""
        from importlib.util import find_spec

        return sorted({*globals(), *__all__, *(["sklearn"] if find_spec("sklearn") else [])})
