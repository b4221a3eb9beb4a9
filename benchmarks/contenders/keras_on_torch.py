"""Keras on its PyTorch backend."""

from benchmarks.contenders.keras_model import check_backend, fit

check_backend("torch")

CONTENDERS = {"Keras on torch": fit}
