"""How several processes share a training: what the user may choose."""

from dataclasses import dataclass

import torch

from torchfit._utils.errors import describe
from torchfit._utils.names import suggest_constructor_keywords
from torchfit._utils.tensors import as_dtype

SCOPES = ("global", "local")


@suggest_constructor_keywords
@dataclass(frozen=True)
class DataParallel:
    """Train on several processes at once: each has the whole model, and takes a part of the rows of every batch.

    This is what happens by itself in a script that `torchrun` started. Pass an object of this class to
    `set_distribution`, before the first model is made, to choose otherwise.

    Args:
        auto_shard_dataset: Whether all processes pass the same data, of which each takes its rows. Else each passes
            data of its own: a batch is made of one from each process, `batch_size` is that of one process, and
            `predict` returns the outputs for the own data. A process whose data end takes part without rows.
        batch_norm: "global": BatchNorm normalizes by the statistics of the whole batch, as one process does. "local":
            by those of the rows of each process, which saves an exchange for each layer.
        randomness: "global": dropout draws for the whole batch, so that the numbers are those of one process. "local":
            each process draws for its rows alone.
        reduce_dtype: The dtype in which gradients are exchanged, such as "bfloat16", which halves the data. None: that
            of the parameters, and at least float32. Losses and metrics are exchanged as without it, and so are complex
            gradients.
        timeout: How many seconds to wait for another process, such as one that compiles or reads data.

    Raises:
        ValueError: If an argument is not one of its values.
    """

    auto_shard_dataset: bool = True
    batch_norm: str = "global"
    randomness: str = "global"
    reduce_dtype: str | torch.dtype | None = None
    timeout: float = 600.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.auto_shard_dataset, bool):
            raise ValueError(f"`auto_shard_dataset` must be a bool. Received: {describe(self.auto_shard_dataset)}.")
        for name in ("batch_norm", "randomness"):
            if getattr(self, name) not in SCOPES:
                raise ValueError(f"`{name}` must be 'global' or 'local'. Received: {describe(getattr(self, name))}.")
        if self.reduce_dtype is not None:
            object.__setattr__(self, "reduce_dtype", _reduce_dtype(self.reduce_dtype))
        if not isinstance(self.timeout, (int, float)) or self.timeout <= 0:
            raise ValueError(f"`timeout` must be a number of seconds above 0. Received: {describe(self.timeout)}.")


def _reduce_dtype(value: str | torch.dtype) -> torch.dtype:
    dtype = as_dtype(value, "reduce_dtype")
    if not dtype.is_floating_point or dtype.itemsize < 2:
        raise ValueError(f"`reduce_dtype` must be a floating-point dtype of at least 16 bits. Received: {dtype}.")
    return dtype
