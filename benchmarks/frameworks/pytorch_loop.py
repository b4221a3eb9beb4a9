"""Plain PyTorch loops: tuned for speed, and as in the tutorials."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import Case
from benchmarks.frameworks import Runs


def tuned(case: Case) -> Runs:
    """Everything known to help: whole batches indexed, foreach updates, one read at the epoch's end."""
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)
    x, y = (part.to(case.device) for part in case.data)

    def train() -> tuple[float, float]:
        network.train()
        loss_sum, correct = totals(x.device)
        for indices in torch.randperm(len(x), device=x.device).split(case.batch):
            inputs, labels = x.index_select(0, indices), y.index_select(0, indices)
            logits = network(inputs)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss_sum.add_(loss.detach(), alpha=len(labels))
            correct.add_((logits.detach().argmax(1) == labels).sum())
        return loss_sum.item() / len(x), correct.item() / len(x)

    def evaluate() -> tuple[float, float]:
        return evaluated(network, x, y, case.batch)

    def predict() -> np.ndarray:
        return predicted(network, x, case.batch)

    return {"train": train, "evaluate": evaluate, "predict": predict}


def totals(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return zeros for the sum of the losses and the number of right answers."""
    return torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)


@torch.inference_mode()
def evaluated(network: nn.Module, x: Tensor, y: Tensor, batch: int) -> tuple[float, float]:
    """Return loss and accuracy, both read once at the end."""
    network.eval()
    loss_sum, correct = totals(x.device)
    for inputs, labels in zip(x.split(batch), y.split(batch)):
        logits = network(inputs)
        loss_sum.add_(F.cross_entropy(logits, labels), alpha=len(labels))
        correct.add_((logits.argmax(1) == labels).sum())
    return loss_sum.item() / len(x), correct.item() / len(x)


@torch.inference_mode()
def predicted(network: Any, x: Tensor, batch: int) -> np.ndarray:
    """Return the outputs (samples, classes), written into one array."""
    network.eval()
    first = network(x[:batch])
    outputs = torch.empty(len(x), *first.shape[1:], device=x.device)
    for inputs, place in zip(x.split(batch), outputs.split(batch)):
        place.copy_(network(inputs))
    return outputs.cpu().numpy()


def tutorial(case: Case) -> Runs:
    """As in tutorials: a DataLoader over a TensorDataset, and `.item()` at every step."""
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
    loss_function = nn.CrossEntropyLoss()
    dataset = TensorDataset(*case.data)
    shuffled = DataLoader(dataset, batch_size=case.batch, shuffle=True)
    in_order = DataLoader(dataset, batch_size=case.batch)

    def train() -> tuple[float, float]:
        network.train()
        running_loss, correct = 0.0, 0
        for inputs, labels in shuffled:
            inputs, labels = inputs.to(case.device), labels.to(case.device)
            optimizer.zero_grad()
            logits = network(inputs)
            loss = loss_function(logits, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
        return running_loss / len(dataset), correct / len(dataset)

    @torch.no_grad()
    def evaluate() -> tuple[float, float]:
        network.eval()
        running_loss, correct = 0.0, 0
        for inputs, labels in in_order:
            inputs, labels = inputs.to(case.device), labels.to(case.device)
            logits = network(inputs)
            running_loss += loss_function(logits, labels).item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
        return running_loss / len(dataset), correct / len(dataset)

    @torch.no_grad()
    def predict() -> np.ndarray:
        network.eval()
        return torch.cat([network(inputs.to(case.device)).cpu() for inputs, _ in in_order]).numpy()

    return {"train": train, "evaluate": evaluate, "predict": predict}


FRAMEWORKS = {"loop tuned by hand": tuned, "loop of the tutorials": tutorial}
