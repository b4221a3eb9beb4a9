"""SwapEMAWeights: evaluate with averaged weights."""

from collections.abc import Mapping
from typing import Any

import torch

from torchfit.callbacks.base import Callback


class SwapEMAWeights(Callback):
    """Evaluate and predict with the optimizer's averaged weights, and train on with the others.

    The optimizer must keep them: `use_ema=True`. While the averages are in the model, the weights of the
    training are kept in a copy, as large as the parameters, on their device. They come back also if the
    evaluation breaks off.

    Args:
        swap_on_epoch: leave the averages in the model between epochs as well, so that callbacks that come later
            in the list, such as `ModelCheckpoint`, save them.

    Raises:
        ValueError: before the first epoch, if the optimizer keeps no averages.
    """

    _is_builtin = True
    _kept: Any = None

    def __init__(self, swap_on_epoch: bool = False) -> None:
        self.swap_on_epoch = swap_on_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        """Refuse an optimizer without averages."""
        self._optimizer()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Train with the training's weights."""
        self._swap_out()

    def on_test_begin(self, logs: Any = None) -> None:
        """Evaluate with the averages."""
        self._swap_in()

    def on_test_end(self, logs: Any = None) -> None:
        """Go back to the training's weights."""
        self._swap_out()

    def on_predict_begin(self, logs: Any = None) -> None:
        """Predict with the averages."""
        self._swap_in()

    def on_predict_end(self, logs: Any = None) -> None:
        """Go back to the training's weights."""
        self._swap_out()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Show the averages to the callbacks that come later."""
        if self.swap_on_epoch:
            self._swap_in()

    def on_train_end(self, logs: Any = None) -> None:
        """Leave the averages in the model: training with averages ends with them."""
        self._kept = None

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the training, while the averages are in the model."""
        return {"kept": self._kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep the weights of the training."""
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

    def _release(self) -> None:
        self._swap_out()
