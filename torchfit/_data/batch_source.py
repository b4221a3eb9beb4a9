"""`BatchSource`, the interface of everything that yields batches, and the copy of batches to the device."""

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from torchfit._types import StateDict
from torchfit._utils.tree import Batch

BatchIndexer = Callable[[Tensor], Batch]


class TakesRows(Protocol):
    """Determines which rows of a batch one of several processes takes."""

    rank: int

    def slice(self, total: int) -> slice:
        """Return the rows to read from a batch of `total` rows."""
        ...

    def mark(self, batch: Batch, total: int) -> Batch:
        """Return the rows that were read, with their position in the batch."""
        ...

    def move(self, batch: Batch, part: Batch) -> Batch:
        """Return a batch with the position of `part`, which `mark` returned."""
        ...


class BatchSource:
    """The batches of one pass over the data, on the device and of the right dtype.

    Attributes:
        steps: The number of batches in an epoch, or `None` while unknown.
        samples: The number of samples in an epoch, or `None` while unknown.
        seed: Determines the order of an epoch, together with the epoch's index. A run that is resumed elsewhere sets
            it to see the same orders.
        is_resumable: Whether an epoch can be repeated and entered anywhere: its batches are a function of its index
            and of what `state_dict` returns.
        is_indexed: Whether an epoch can be entered anywhere without reading the batches before.
        may_be_exhausted: Whether an epoch may turn out to have no batch at all.
        has_exact_length: Whether an epoch that yields fewer than `steps` batches has ended too early.
        yields_views: Whether batches take no memory of their own and stay valid after the next one is drawn.
    """

    steps: int | None = None
    samples: int | None = None
    seed: int = 0
    is_resumable: bool = False
    is_indexed: bool = False
    may_be_exhausted: bool = False
    has_exact_length: bool = False
    yields_views: bool = False

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of the epoch with this index, from batch `start` on."""
        raise NotImplementedError(f"{type(self).__name__} has no batches: define `epoch`.")

    def defer_indexing(self) -> BatchIndexer | None:
        """From now on yield row indices, and return the function that turns them into a batch.

        Return `None` if batches are not rows of tensors on the device; the source then continues to yield batches.
        """
        return None

    def take_part(self, rows: "TakesRows") -> "BatchSource | None":
        """From now on read and yield the part of each batch that one of several processes takes.

        Return `None` if batches can only be read as a whole.
        """
        return None

    def on_epoch_end(self) -> None:
        """Called at the end of an epoch."""

    def peek(self) -> Batch | None:
        """Return a batch like the first one, or `None` if that would have side effects."""
        return None

    def reread(self, index: int) -> Iterator[Batch] | None:
        """Return the batches of an epoch once more, or `None` if drawing them would have side effects."""
        return None

    def state_dict(self, is_mid_epoch: bool = False) -> StateDict:
        """Return the state that the remaining batches depend on, within an epoch or between two."""
        return {"seed": self.seed}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue with the batches that remained when `state_dict` returned this state."""
        self.seed = state["seed"]


def draw_seed() -> int:
    """Draw a seed from torch's global generator, so that `torch.manual_seed` determines all orders."""
    return int(torch.empty((), dtype=torch.int64).random_(2**48).item())


# The rest is left for the model, its gradients and activations.
_SHARE_OF_FREE_MEMORY = 0.5


def fits_on(device: torch.device, tensors: Iterable[Tensor]) -> bool:
    """Return whether tensors take at most half of the free memory of a device, not counting those already there.

    If the free memory is unknown, as on the CPU, everything fits.
    """
    if device.type != "cuda":
        return True
    missing = sum(tensor.nbytes for tensor in tensors if tensor.device.type != device.type)
    free, _ = torch.cuda.mem_get_info(device)
    return bool(missing <= free * _SHARE_OF_FREE_MEMORY)


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor in host memory to a device; to a CUDA device asynchronously, on a separate stream.

    The copy overlaps with the running step, and the next step waits for it. Only the copy is on that stream: what the
    user's code computes on the device stays in order with the steps.
    """
    if device.type != "cuda" or tensor.layout != torch.strided:
        return tensor.to(device)
    copies, compute = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copies):
        placed = tensor.pin_memory().to(device, non_blocking=True)
    compute.wait_stream(copies)
    placed.record_stream(compute)  # Its memory must not be reused before the step has finished.
    return placed


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
