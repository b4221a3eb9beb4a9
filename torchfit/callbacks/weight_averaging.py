"""Callbacks that average weights: `SwapEMAWeights` and `StochasticWeightAveraging`."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchfit._types import Logs, StateDict, UserData
from torchfit._utils import console
from torchfit._utils.errors import describe
from torchfit._utils.modules import has_running_stats, stays_in_eval
from torchfit.callbacks.base import Callback
from torchfit.callbacks.learning_rate import learning_rates_of, require_settable_rate, set_learning_rates


class SwapEMAWeights(Callback):
    """Evaluates and predicts with the averaged weights of the optimizer, and trains with the raw ones.

    The optimizer must keep averages: `use_ema=True`. While they are in the model, the raw weights are kept in a copy
    as large as the parameters, on their device. They are restored even if the evaluation is interrupted.

    Args:
        swap_on_epoch: Whether to keep the averages in the model between epochs as well, so that later callbacks in the
            list, such as `ModelCheckpoint`, save them.

    Raises:
        ValueError: Before the first epoch, if the optimizer keeps no averages.
    """

    written_logs = ()
    _kept: list[Tensor] | None = None

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


class StochasticWeightAveraging(Callback):
    """Averages the weights at the end of every epoch from `start_epoch` on, and loads the mean when training ends.

    See Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018,
    https://arxiv.org/abs/1803.05407. Until training ends, the model is trained, validated and saved with its raw
    weights. The averages are as large as the parameters and floating-point buffers, on their device, in at least
    float32.

    The running statistics of batch normalization are not valid for averaged weights. Pass `batch_norm_data` to
    recompute them at the end; otherwise they are averaged like the weights.

    Args:
        start_epoch: The first epoch to average, from 0; a float is a fraction of all epochs.
        learning_rate: The constant learning rate from `start_epoch` on. With several parameter groups, that of the
            first one whose rate is not 0; the others keep their ratio to it. None leaves the rates alone.
        anneal_epochs: The number of epochs over which the rate is annealed to `learning_rate`, by a cosine.
        batch_norm_data: Inputs as for `predict`, usually those of the training data.
        batch_size: The batch size for `batch_norm_data`; 32 by default.
        verbose: 1 prints when averaging starts, and how many epochs were averaged.

    Attributes:
        num_averaged: The number of averaged epochs.

    Raises:
        ValueError: If an argument is invalid; before the first epoch, if there is none from `start_epoch` on.
        TypeError: Before the first epoch, if `learning_rate` is given and the optimizer has a learning-rate schedule.

    >>> averaging = StochasticWeightAveraging(start_epoch=0.75, learning_rate=0.01)
    """

    written_logs = ()

    num_averaged: int
    _averages: dict[str, Tensor]
    _rates: list[float]
    _first: int

    def __init__(
        self,
        start_epoch: int | float = 0.8,
        learning_rate: float | None = None,
        anneal_epochs: int = 0,
        batch_norm_data: UserData = None,
        batch_size: int | None = None,
        verbose: int = 0,
    ) -> None:
        is_fraction = isinstance(start_epoch, float) and 0 <= start_epoch < 1
        if not is_fraction and (not isinstance(start_epoch, int) or isinstance(start_epoch, bool) or start_epoch < 0):
            raise ValueError(
                "start_epoch: expected an epoch, from 0, or a fraction of the epochs in [0, 1). "
                f"Received: {describe(start_epoch)}"
            )
        self.start_epoch = start_epoch
        self.learning_rate = learning_rate
        self.anneal_epochs = anneal_epochs
        self.batch_norm_data = batch_norm_data
        self.batch_size = batch_size
        self.verbose = verbose
        self._reset()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Reset, and raise ValueError if no epoch would be averaged."""
        self._reset()
        epochs = self.params.get("epochs")
        if isinstance(self.start_epoch, float):
            self._first = int(self.start_epoch * (epochs or 1))
        if epochs is not None and self._first >= epochs:
            raise ValueError(
                f"StochasticWeightAveraging: start_epoch is {self._first}, but training ends after {epochs} epochs."
            )
        if self.learning_rate is not None:
            require_settable_rate(type(self).__name__, self.model)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the learning rate."""
        if epoch < self._first or self.learning_rate is None:
            return
        if not self._rates:
            self._rates = learning_rates_of(self.model)
        reference = next(filter(None, self._rates), 0.0)
        progress = min(1.0, (epoch - self._first + 1) / (self.anneal_epochs + 1))
        weight = (1 - math.cos(math.pi * progress)) / 2
        rate = reference + weight * (self.learning_rate - reference)
        ratios = [each / reference if reference else 1.0 for each in self._rates]
        set_learning_rates(self.model, [ratio * rate for ratio in ratios])

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the weights to the averages."""
        if epoch < self._first:
            return
        if self.num_averaged == 0 and self.verbose > 0:
            console.write_line(f"\nEpoch {epoch + 1:05d}: StochasticWeightAveraging starts.")
        self.num_averaged += 1
        weights = _weights(self.model.module)
        if not self._averages:
            self._averages = {name: _accumulator(value) for name, value in weights.items()}
        with torch.no_grad():
            for name, value in weights.items():
                self._averages[name].lerp_(value.detach().to(self._averages[name]), 1 / self.num_averaged)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Put the averages into the model."""
        if self.num_averaged == 0:
            return
        with torch.no_grad():
            for name, value in _weights(self.model.module).items():
                value.copy_(self._averages[name])
        self._averages = {}
        if self.batch_norm_data is not None:
            self._update_batch_norm()
        if self.verbose > 0:
            console.write_line(f"StochasticWeightAveraging: the weights are the mean of {self.num_averaged} epochs.")

    def state_dict(self) -> StateDict:
        """Return the averages, their number, and the learning rates before averaging started."""
        return {"num_averaged": self.num_averaged, "averages": dict(self._averages), "rates": list(self._rates)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from the averages of a state."""
        weights = _weights(self.model.module)
        self.num_averaged, self._rates = state["num_averaged"], list(state["rates"])
        self._averages = {
            name: torch.as_tensor(value).to(_accumulator(weights[name])) for name, value in state["averages"].items()
        }

    def _reset(self) -> None:
        self.num_averaged = 0
        self._averages = {}
        self._rates = []
        self._first = int(self.start_epoch)

    def _update_batch_norm(self) -> None:
        with _computing_running_stats(self.model.module):
            for _ in self.model.predict_iter(self.batch_norm_data, self.batch_size):
                pass


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and floating-point buffers by name."""
    buffers = {name: buffer for name, buffer in module.named_buffers() if buffer.is_floating_point()}
    return {**dict(module.named_parameters()), **buffers}


def _accumulator(value: Tensor) -> Tensor:
    """Return zeros to accumulate a mean in, in at least float32."""
    return torch.zeros_like(value, dtype=torch.promote_types(value.dtype, torch.float32), requires_grad=False)


def _train(layer: nn.Module, _: object) -> None:
    layer.train()


@contextmanager
def _computing_running_stats(module: nn.Module) -> Iterator[None]:
    """Reset the running statistics of all layers, and compute their mean over the batches run inside the context."""
    layers = [each for each in module.modules() if has_running_stats(each) and not stays_in_eval(each)]
    momenta = [layer.momentum for layer in layers]
    handles = [layer.register_forward_pre_hook(_train) for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()  # type: ignore[operator]
            layer.momentum = None  # type: ignore[assignment]
        yield
    finally:
        for handle, layer, momentum in zip(handles, layers, momenta):
            handle.remove()
            layer.momentum = momentum
