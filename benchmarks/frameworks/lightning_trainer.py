"""Lightning: a `LightningModule` that logs loss and accuracy over the epoch."""

import logging
import warnings

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.cases import Case
from benchmarks.frameworks import Runs

# Advice about the number of workers and about metrics that nobody logs elsewhere.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")


class Classifier(lightning.LightningModule):
    """A network with its loss, its optimizer and its metrics."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        inputs, labels = batch
        logits = self.network(inputs)
        loss = F.cross_entropy(logits, labels)
        self.train_accuracy(logits, labels)
        self.log("loss", loss, on_step=False, on_epoch=True)
        self.log("accuracy", self.train_accuracy, on_step=False, on_epoch=True)
        return loss

    def test_step(self, batch: list[Tensor], index: int) -> None:
        inputs, labels = batch
        logits = self.network(inputs)
        self.test_accuracy(logits, labels)
        self.log("test_loss", F.cross_entropy(logits, labels))
        self.log("test_accuracy", self.test_accuracy)

    def predict_step(self, batch: list[Tensor], index: int) -> Tensor:
        logits: Tensor = self.network(batch[0])
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(self.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)


def fit(case: Case) -> Runs:
    """Train, evaluate and predict with a `Trainer` without progress, checkpoints and log files."""
    trainer = lightning.Trainer(
        max_epochs=0,
        accelerator="gpu" if case.device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Classifier(case.fresh_network(), case.classes)
    dataset = TensorDataset(*case.data)
    shuffled = DataLoader(dataset, batch_size=case.batch, shuffle=True)
    in_order = DataLoader(dataset, batch_size=case.batch)

    def train() -> None:
        trainer.fit_loop.max_epochs += 1  # Each call trains one more epoch.
        trainer.fit(model, shuffled)

    def predict() -> np.ndarray:
        return torch.cat(trainer.predict(model, in_order)).cpu().numpy()

    return {"train": train, "evaluate": lambda: trainer.test(model, in_order, verbose=False), "predict": predict}


FRAMEWORKS = {"Lightning": fit}
