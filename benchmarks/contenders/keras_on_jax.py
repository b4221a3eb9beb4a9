"""Keras on its JAX backend: every step compiled by XLA."""

from benchmarks.contenders.keras_model import check_backend, fit

check_backend("jax")

CONTENDERS = {"Keras on JAX": fit}
