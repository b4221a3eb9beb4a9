"""TerminateOnNaN: stop when the loss is NaN or infinite."""

import math

from torchfit._types import Logs
from torchfit._utils import console
from torchfit.callbacks.base import Callback


class TerminateOnNaN(Callback):
    """Stop training at the batch after which the loss is NaN or infinite.

    The loss in the logs is the mean over the epoch so far, which stays NaN once a batch was.

    Every step reads the loss, and with it the other metrics of the step, in one transfer. On the CPU that costs a
    few microseconds; on an accelerator the host waits for each step to finish and cannot prepare the next one
    meanwhile. To check less often, do it in `on_epoch_end` of a custom callback.

    Args:
        raise_error: raise `RuntimeError` instead of stopping.

    Raises:
        RuntimeError: with `raise_error`, naming the batch.
    """

    written_logs = ()
    reads_logs_synchronously = True

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Check the loss."""
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(f"The loss is {loss} at batch {batch}, counted from 0. Training ends.")
        console.write_line(f"Batch {batch}: Invalid loss, terminating training")
        self.model.stop_training = True
