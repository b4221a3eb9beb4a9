"""What is held on to between trainings, and how to let go of it."""

import gc
import sys

import torch


def clear_session(free_memory: bool = True) -> None:
    """Let go of compiled graphs and of memory that trainings left behind, say between the runs of a search.

    Models are named by their class and metrics within their model, so that no counters of names need to be reset.
    Models that are still in use go on working; what they had compiled is compiled anew.

    Args:
        free_memory: Whether to collect garbage and to hand cached memory back to the accelerator as well.

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
