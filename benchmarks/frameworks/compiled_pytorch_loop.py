"""The loop tuned by hand, with forward and loss compiled: one line more, as most people use `torch.compile`."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases import Case
from benchmarks.frameworks import Runs
from benchmarks.frameworks.pytorch_loop import predicted, totals


def compiled(case: Case) -> Runs:
    """Compile forward and loss; gradients are compiled with them, the optimizer runs as it is."""
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)
    x, y = (part.to(case.device) for part in case.data)
    compiled_network = torch.compile(network)

    @torch.compile
    def forward_loss(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = network(inputs)
        return F.cross_entropy(logits, labels), (logits.detach().argmax(1) == labels).sum()

    def train() -> tuple[float, float]:
        network.train()
        loss_sum, correct = totals(x.device)
        for indices in torch.randperm(len(x), device=x.device).split(case.batch):
            inputs, labels = x.index_select(0, indices), y.index_select(0, indices)
            loss, right = forward_loss(inputs, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss_sum.add_(loss.detach(), alpha=len(labels))
            correct.add_(right)
        return loss_sum.item() / len(x), correct.item() / len(x)

    @torch.inference_mode()
    def evaluate() -> tuple[float, float]:
        network.eval()
        loss_sum, correct = totals(x.device)
        for inputs, labels in zip(x.split(case.batch), y.split(case.batch)):
            loss, right = forward_loss(inputs, labels)
            loss_sum.add_(loss, alpha=len(labels))
            correct.add_(right)
        return loss_sum.item() / len(x), correct.item() / len(x)

    def predict() -> np.ndarray:
        return predicted(compiled_network, x, case.batch)

    return {"train": train, "evaluate": evaluate, "predict": predict}


FRAMEWORKS = {"loop with torch.compile": compiled}
