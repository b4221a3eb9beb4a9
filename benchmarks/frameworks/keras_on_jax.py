"""Keras on its JAX backend: every step compiled by XLA."""

from benchmarks.frameworks.keras_model import check_backend, fit

check_backend("jax")

FRAMEWORKS = {"Keras on JAX": fit}
