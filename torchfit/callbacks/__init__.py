"""Callbacks: objects that are told what happens in a loop, and may step in."""

from torchfit.callbacks.base import Callback
from torchfit.callbacks.callback_list import CallbackList
from torchfit.callbacks.early_stopping import EarlyStopping
from torchfit.callbacks.history import History
from torchfit.callbacks.progress import ProgbarLogger

__all__ = [
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "ProgbarLogger",
]
