"""Shared utilities: nested structures, names, error messages, registries. Imports only torch, NumPy and the stdlib."""
