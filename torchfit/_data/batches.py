"""What every form of data is turned into."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from torchfit._utils.batch import Batch

Gather = Callable[[Tensor], Batch]


class Batches:
    """A source of batches that the loops draw from, on the device and of the right dtype.

    Attributes:
        steps: The number of batches in an epoch, `None` while unknown.
        samples: The number of samples in an epoch, `None` while unknown.
        seed: Decides, together with the index of an epoch, the order of that epoch. It may be set, so that a
            training that goes on elsewhere sees the same orders.
        replayable: Whether an epoch can be gone through again as it was, and entered anywhere: it is a function of
            its index and of what `state_dict` returns.
        repeats: Whether the data may be gone through again and again, as arrays are, when `steps_per_epoch` cuts
            the epochs anew; else the data are gone through once.
        may_run_out: Whether an epoch may turn out to have no batch at all.
        lasting: Whether a batch costs no memory and stays as it is when the next one is drawn, as views of arrays do.
    """

    steps: int | None = None
    samples: int | None = None
    seed: int = 0
    replayable: bool = False
    repeats: bool = False
    may_run_out: bool = False
    lasting: bool = False

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Give the batches of the epoch with this index from batch `start` on."""
        raise NotImplementedError(f"{type(self).__name__} gives no batches: define `epoch`.")

    def defer(self) -> Gather | None:
        """Give the numbers of rows in place of batches from now on, and return the function that gathers them.

        `None` where batches are not rows of tensors on the device: they stay batches.
        """
        return None

    def end_epoch(self) -> None:
        """Hear that an epoch is over."""

    def example(self) -> Batch | None:
        """Give a batch like the first one, where taking it changes nothing; else `None`."""
        return None

    def state_dict(self, is_inside: bool = False) -> dict[str, Any]:
        """Return what the batches to come depend on, inside of an epoch or between two."""
        return {"seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give, from now on, the batches that were to come when `state_dict` returned this."""
        self.seed = state["seed"]


def draw_seed() -> int:
    """Draw a seed from torch's global generator, so that `torch.manual_seed` decides the order of everything."""
    return int(torch.empty((), dtype=torch.int64).random_(2**48).item())
