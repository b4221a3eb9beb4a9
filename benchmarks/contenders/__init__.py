"""Who takes part: one small file for each, listed here.

A contender turns a case into three runs, each one pass over the data: `train`, `evaluate`, `predict`.
A run that it does not have is left out. What cannot be imported does not take part.
"""

import importlib
from collections.abc import Callable

from benchmarks.cases import Case

Runs = dict[str, Callable[[], object]]
Contender = Callable[[Case], Runs]

REFERENCE = "loop tuned by hand"
TASKS = ["train", "evaluate", "predict"]

# The file that each is in, the reference first.
FILES = {
    REFERENCE: "by_hand",
    "loop of the tutorials": "by_hand",
    "loop with torch.compile": "compiled_by_hand",
    "torchfit": "torchfit_fit",
    "torchfit, verbose=1": "torchfit_fit",
    "torchfit, jit_compile": "torchfit_fit",
    "torchfit, jit_compile, 8 steps a call": "torchfit_fit",
    "Keras on torch": "keras_on_torch",
    "Keras on JAX": "keras_on_jax",
    "Poutyne": "poutyne_model",
    "skorch": "skorch_net",
    "Lightning": "lightning_trainer",
    "ignite": "ignite_engines",
    "accelerate": "accelerate_loop",
}

# What has to be said before anything is imported.
ENVIRONMENTS = {
    "keras_on_jax": {
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
}


def load(name: str) -> Contender:
    """Return a contender.

    Raises:
        ImportError: If what it needs is not installed.
    """
    found: Contender = importlib.import_module(f"{__name__}.{FILES[name]}").CONTENDERS[name]
    return found


def named(words: list[str]) -> list[str]:
    """Return the names that have one of the words in them, and the reference."""
    return [name for name in FILES if name == REFERENCE or any(word.lower() in name.lower() for word in words)]
