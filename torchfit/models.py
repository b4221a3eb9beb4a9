"""`Model`, and the functions that save and load models."""

from torchfit.model import Model
from torchfit.saving import load_model, save_model

__all__ = ["Model", "load_model", "save_model"]
