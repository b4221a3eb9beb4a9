"""What a user writes, checked by `mypy --strict` in `make lint` and run by the tests."""

import numpy as np
import torch
from torch import Tensor, nn

import torchfit
from torchfit import callbacks, losses, metrics, optimizers, utils


class Distance(losses.Loss):
    """A loss of the user's."""

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        distance: Tensor = (y_true - y_pred).abs().mean(dim=-1)
        return distance


class Largest(metrics.Metric):
    """A metric of the user's."""

    def __init__(self, name: str = "largest") -> None:
        super().__init__(name=name)
        self.largest = self.add_weight(name="largest")
        self.batches = self.add_weight(name="batches")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        self.largest.assign(torch.maximum(self.largest, y_pred.max()))
        self.batches += 1

    def result(self) -> Tensor:
        return self.largest


class Epochs(callbacks.Callback):
    """A callback of the user's."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.seen.append(epoch)


def main() -> torchfit.Model:
    """Train, evaluate and predict."""
    utils.set_random_seed(0)
    x = np.random.default_rng(0).random((64, 4), dtype="float32")
    y = x.sum(axis=1, keepdims=True)
    model = torchfit.Model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), name="typed")
    schedule = optimizers.schedules.ExponentialDecay(0.01, decay_steps=10, decay_rate=0.9)
    model.compile(optimizer=optimizers.Adam(learning_rate=schedule), loss=Distance(), metrics=[Largest(), "mse"])
    epochs = Epochs()
    stopping = callbacks.EarlyStopping(monitor="val_loss", patience=2, restore_best_weights=True)
    history: callbacks.History = model.fit(
        x, y, batch_size=16, epochs=3, validation_split=0.25, callbacks=[epochs, stopping], verbose=0
    )
    loss: float = history.history["loss"][-1]
    results: dict[str, float] = model.evaluate(x, y, return_dict=True, verbose=0)
    predictions = model.predict(x)
    assert predictions.shape == (64, 1)
    assert loss > 0
    assert list(results) == ["loss", "largest", "mse"]
    assert epochs.seen == history.epoch
    return model


if __name__ == "__main__":
    main().summary()
