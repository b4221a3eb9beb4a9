"""Seeding, and releasing the resources of earlier runs."""

import gc
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from torchfit._utils.errors import describe
from torchfit._utils.names import suggest_keywords


@suggest_keywords
def set_random_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python's, NumPy's and torch's random numbers, on all devices, so that a run can be repeated.

    Args:
        seed: An integer from 0 to 2**32 - 1.
        deterministic: Whether torch uses deterministic algorithms only, also where they are slower, and raises an
            error where it has none. Without it, runs on a GPU may differ in the last digits.

    Raises:
        ValueError: If `seed` is out of range.

    >>> set_random_seed(7)
    >>> first = torch.rand(2)
    >>> set_random_seed(7)
    >>> bool((torch.rand(2) == first).all())
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be an integer from 0 to 2**32 - 1, but it is {describe(seed)}.")
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the states of all random number generators on exit."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@suggest_keywords
def clear_session(free_memory: bool = True) -> None:
    """Release compiled graphs and the memory that training runs left behind, for example between the runs of a search.

    Models are named by their class and metrics within their model, so that no counters of names need to be reset.
    Models that are still in use keep working; their steps are compiled again.

    Args:
        free_memory: Whether to collect garbage and to return cached memory to the accelerator as well.

    >>> clear_session()
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if not free_memory:
        return
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
