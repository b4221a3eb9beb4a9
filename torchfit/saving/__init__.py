"""Saving and loading of models and weights. Files are written atomically, and loading never runs code from a file."""

from torchfit._saving.weights import load_weights, save_weights
from torchfit._utils.registry import (
    custom_object_scope,
    get_registered_name,
    get_registered_object,
    register_serializable,
)
from torchfit.saving.models import load_model, save_model

__all__ = [
    "custom_object_scope",
    "get_registered_name",
    "get_registered_object",
    "load_model",
    "load_weights",
    "register_serializable",
    "save_model",
    "save_weights",
]
