"""torchfit, Lightning and Keras, each as its users call it. What is not installed is imported, and refused, on use."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from benchmarks.gpu.cases import GpuCase
from benchmarks.gpu.clock import Clock

Trainer = Callable[[GpuCase, torch.device, Clock], None]


class Passes(torchfit.callbacks.Callback):
    """Tells a clock of the epochs; it has no hooks for batches, which would cost something."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._clock.start()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._clock.stop()


def with_torchfit(**options: Any) -> Trainer:
    """Return a trainer; `options` go to `compile`."""

    def train(case: GpuCase, device: torch.device, clock: Clock) -> None:
        policy = "mixed_bfloat16" if case.autocast else None
        model = torchfit.Model(case.fresh_network(device), device=device, dtype_policy=policy)
        loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, ["accuracy"], **options)
        x, y = (part.to(device) for part in case.data)
        model.fit(x, y, batch_size=case.batch, epochs=clock.passes, verbose=0, callbacks=[Passes(clock)])

    return train


def with_lightning(case: GpuCase, device: torch.device, clock: Clock) -> None:
    """Train with a `Trainer` without progress, checkpoints and log files."""
    import logging
    import warnings

    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = case.fresh_network(device)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            inputs, labels = batch
            logits = self.network(inputs)
            loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
            accuracy = (logits.argmax(-1) == labels).float().mean()
            self.log_dict({"loss": loss, "accuracy": accuracy}, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-3)

    class Epochs(lightning.Callback):
        def on_train_epoch_start(self, *arguments: Any) -> None:
            clock.start()

        def on_train_epoch_end(self, *arguments: Any) -> None:
            clock.stop()

    trainer = lightning.Trainer(
        max_epochs=clock.passes,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed" if case.autocast else "32-true",
        callbacks=[Epochs()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(TensorDataset(*case.data), case.batch, shuffle=True))


def with_keras(backend: str) -> Trainer:
    """Return a trainer; which backend Keras has is decided before it is imported, by `KERAS_BACKEND`."""

    def train(case: GpuCase, device: torch.device, clock: Clock) -> None:
        import keras

        from benchmarks.frameworks import keras_model

        keras_model.check_backend(backend)
        if case.name not in keras_model.NETWORKS:
            raise ImportError(f"{case.name} is not written in layers of Keras")
        x, y = (part.numpy() for part in case.data)
        shape = case.shape
        if len(shape) == 3:
            layout = "channels_first" if backend == "torch" else "channels_last"
            keras.config.set_image_data_format(layout)
            if layout == "channels_last":
                x, shape = x.transpose(0, 2, 3, 1).copy(), (*shape[1:], shape[0])

        class Epochs(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                clock.start()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                clock.stop()

        model = keras.Sequential([keras.Input(shape), *keras_model.NETWORKS[case.name]()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        model.fit(x, y, batch_size=case.batch, epochs=clock.passes, verbose=0, callbacks=[Epochs()])

    return train
