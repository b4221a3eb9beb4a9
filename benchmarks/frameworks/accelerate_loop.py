"""Accelerate: a loop written by hand around what the `Accelerator` prepared."""

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import Case
from benchmarks.frameworks import Runs
from benchmarks.frameworks.pytorch_loop import totals


def loop(case: Case) -> Runs:
    """Train, evaluate and predict, reading loss and accuracy once at the end."""
    accelerator = Accelerator(cpu=case.device == "cpu")
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
    dataset = TensorDataset(*case.data)
    network, optimizer, shuffled, in_order = accelerator.prepare(
        network,
        optimizer,
        DataLoader(dataset, batch_size=case.batch, shuffle=True),
        DataLoader(dataset, batch_size=case.batch),
    )

    def train() -> tuple[float, float]:
        network.train()
        loss_sum, correct = totals(accelerator.device)
        for inputs, labels in shuffled:
            optimizer.zero_grad()
            logits = network(inputs)
            loss = F.cross_entropy(logits, labels)
            accelerator.backward(loss)
            optimizer.step()
            loss_sum += loss.detach() * len(labels)
            correct += (logits.argmax(1) == labels).sum()
        return loss_sum.item() / len(dataset), correct.item() / len(dataset)

    @torch.inference_mode()
    def evaluate() -> tuple[float, float]:
        network.eval()
        loss_sum, correct = totals(accelerator.device)
        for inputs, labels in in_order:
            logits, labels = accelerator.gather_for_metrics((network(inputs), labels))
            loss_sum += F.cross_entropy(logits, labels) * len(labels)
            correct += (logits.argmax(1) == labels).sum()
        return loss_sum.item() / len(dataset), correct.item() / len(dataset)

    @torch.inference_mode()
    def predict() -> np.ndarray:
        network.eval()
        outputs = [accelerator.gather_for_metrics(network(inputs)).cpu() for inputs, _ in in_order]
        return torch.cat(outputs).numpy()

    return {"train": train, "evaluate": evaluate, "predict": predict}


FRAMEWORKS = {"accelerate": loop}
