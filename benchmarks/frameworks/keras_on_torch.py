"""Keras on its PyTorch backend."""

from benchmarks.frameworks.keras_model import check_backend, fit

check_backend("torch")

FRAMEWORKS = {"Keras on torch": fit}
