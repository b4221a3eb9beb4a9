"""SwapEMAWeights: evaluate with the averaged weights."""

from typing import Any

import torch

from torchfit._types import Logs, StateDict
from torchfit.callbacks.base import Callback


class SwapEMAWeights(Callback):
    """Evaluate and predict with the averaged weights of the optimizer, and train with the raw ones.

    The optimizer must keep averages: `use_ema=True`. While they are in the model, the raw weights are kept in a copy
    as large as the parameters, on their device. They are restored even if the evaluation is interrupted.

    Args:
        swap_on_epoch: keep the averages in the model between epochs as well, so that later callbacks in the list,
            such as `ModelCheckpoint`, save them.

    Raises:
        ValueError: before the first epoch, if the optimizer keeps no averages.
    """

    written_logs = ()
    _kept: Any = None

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = swap_on_epoch

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Raise ValueError if the optimizer keeps no averages."""
        self._optimizer()

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Train with the raw weights."""
        self._swap_out()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Evaluate with the averages."""
        self._swap_in()

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Restore the raw weights."""
        self._swap_out()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Predict with the averages."""
        self._swap_in()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """Restore the raw weights."""
        self._swap_out()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Put the averages into the model for later callbacks, with `swap_on_epoch`."""
        if self.swap_on_epoch:
            self._swap_in()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Keep the averages, which `fit` leaves in the model when training ends."""
        self._kept = None

    def state_dict(self) -> StateDict:
        """Return the raw weights, while the averages are in the model."""
        return {"kept": self._kept}

    def load_state_dict(self, state: StateDict) -> None:
        """Restore the copy of the raw weights."""
        kept = state["kept"]
        if kept is not None:
            kept = [value.to(parameter) for value, parameter in zip(kept, self._optimizer().parameters)]
        self._kept = kept

    def _swap_in(self) -> None:
        optimizer = self._optimizer()
        if self._kept is None:
            self._kept = [parameter.detach().clone() for parameter in optimizer.parameters]
            optimizer.finalize_variable_values()

    def _swap_out(self) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            with torch.no_grad():
                for parameter, value in zip(self._optimizer().parameters, kept):
                    parameter.copy_(value)

    def _optimizer(self) -> Any:
        optimizer = self.model.optimizer
        if not getattr(optimizer, "use_ema", False):
            raise ValueError(
                "SwapEMAWeights: the optimizer keeps no averaged weights. "
                "Compile with one that does, such as Adam(use_ema=True)."
            )
        return optimizer

    def release_resources(self) -> None:
        """Restore the raw weights if an evaluation was interrupted."""
        self._swap_out()
