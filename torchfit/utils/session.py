"""Releasing what is kept between training runs."""

import gc
import sys

import torch


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
