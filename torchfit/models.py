"""Models: the class, and its way to files and back."""

from torchfit.model import Model
from torchfit.saving import load_model, save_model

__all__ = ["Model", "load_model", "save_model"]
