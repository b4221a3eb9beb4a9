"""The order of an epoch: a function of a seed and the epoch's index, and of nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor

from torchfit._utils.errors import describe
from torchfit._utils.validation import is_bool, is_integer

OrderFn = Callable[[int, int, int], Tensor]


def make_order(shuffle: object) -> OrderFn | None:
    """Return the function (samples, batch size, seed) → permutation for `shuffle`, `None` to keep the order.

    Raises:
        ValueError: If `shuffle` is not a bool or "batch".
    """
    if isinstance(shuffle, str) and shuffle == "batch":
        return shuffled_batches
    if shuffle is None or is_bool(shuffle) or (is_integer(shuffle) and shuffle in (0, 1)):
        return shuffled_rows if shuffle else None
    raise ValueError(f"`shuffle` must be True, False or 'batch'. Received: {describe(shuffle)}.")


def shuffled_rows(samples: int, batch_size: int, seed: int) -> Tensor:
    """Return the row indices in random order."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(seed))


def shuffled_batches(samples: int, batch_size: int, seed: int) -> Tensor:
    """Return the row indices in batches of neighbours, in random order of batches; a smaller last batch stays last.

    >>> sorted(shuffled_batches(5, 2, seed=0).tolist()[:4]), shuffled_batches(5, 2, seed=0)[4].item()
    ([0, 1, 2, 3], 4)
    """
    whole = samples - samples % batch_size
    chunks = torch.arange(whole).view(-1, batch_size)
    shuffled = chunks[shuffled_rows(len(chunks), 1, seed)].reshape(-1)
    return torch.cat([shuffled, torch.arange(whole, samples)])
