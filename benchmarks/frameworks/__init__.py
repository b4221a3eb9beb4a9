"""The frameworks, one small file for each, listed here.

A framework turns a case into three runs, each one pass over the data: `train`, `evaluate`, `predict`.
A run that it does not support is left out. Frameworks that cannot be imported are left out.
"""

import importlib
from collections.abc import Callable

from benchmarks.cases import Case

Runs = dict[str, Callable[[], object]]
Framework = Callable[[Case], Runs]

REFERENCE = "loop tuned by hand"
TASKS = ["train", "evaluate", "predict"]

# The module of each, the reference first.
MODULES = {
    REFERENCE: "pytorch_loop",
    "loop of the tutorials": "pytorch_loop",
    "loop with torch.compile": "compiled_pytorch_loop",
    "torchfit": "torchfit_fit",
    "torchfit, verbose=1": "torchfit_fit",
    "torchfit, jit_compile": "torchfit_fit",
    'torchfit, jit_compile, memory_format="auto"': "torchfit_fit",
    "torchfit, jit_compile, 8 steps a call": "torchfit_fit",
    "Keras on torch": "keras_on_torch",
    "Keras on JAX": "keras_on_jax",
    "Poutyne": "poutyne_model",
    "skorch": "skorch_net",
    "Lightning": "lightning_trainer",
    "ignite": "ignite_engines",
    "accelerate": "accelerate_loop",
}

# Environment variables that must be set before anything is imported.
ENVIRONMENTS = {
    "keras_on_jax": {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
}


def load(name: str) -> Framework:
    """Return a framework.

    Raises:
        ImportError: If what it needs is not installed.
    """
    found: Framework = importlib.import_module(f"{__name__}.{MODULES[name]}").FRAMEWORKS[name]
    return found


def matching_names(words: list[str]) -> list[str]:
    """Return the names that have one of the words in them, and the reference."""
    return [name for name in MODULES if name == REFERENCE or any(word.lower() in name.lower() for word in words)]
