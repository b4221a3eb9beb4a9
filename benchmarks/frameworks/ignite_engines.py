"""Ignite: the supervised trainer and evaluator, with loss and accuracy attached."""

import numpy as np
import torch
from ignite.engine import create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import EpochOutputStore
from ignite.metrics import Accuracy, Average, Loss
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import Case
from benchmarks.frameworks import Runs


def fit(case: Case) -> Runs:
    """Train, evaluate and predict with engines."""
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
    loss = nn.CrossEntropyLoss()
    trainer = create_supervised_trainer(
        network, optimizer, loss, device=case.device, output_transform=lambda x, y, y_pred, value: (y_pred, y, value)
    )
    Accuracy(output_transform=lambda output: output[:2]).attach(trainer, "accuracy")
    Average(output_transform=lambda output: output[2].detach()).attach(trainer, "loss")
    evaluator = create_supervised_evaluator(network, {"accuracy": Accuracy(), "loss": Loss(loss)}, device=case.device)
    predictor = create_supervised_evaluator(network, device=case.device)
    outputs = EpochOutputStore(output_transform=lambda output: output[0].cpu())
    outputs.attach(predictor, "predictions")
    dataset = TensorDataset(*case.data)
    shuffled = DataLoader(dataset, batch_size=case.batch, shuffle=True)
    in_order = DataLoader(dataset, batch_size=case.batch)

    def predict() -> np.ndarray:
        return torch.cat(predictor.run(in_order).predictions).numpy()

    return {
        "train": lambda: trainer.run(shuffled, max_epochs=1),
        "evaluate": lambda: evaluator.run(in_order),
        "predict": predict,
    }


FRAMEWORKS = {"ignite": fit}
