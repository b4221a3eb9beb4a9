"""Cost of `fit` relative to a PyTorch loop around the same DataLoader with workers.

python -m benchmarks.loaders
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.budget import BudgetResult, report_results
from benchmarks.cases import CASES, Case
from benchmarks.frameworks.pytorch_loop import totals
from benchmarks.frameworks.torchfit_fit import compiled
from benchmarks.measure import interleaved, ratio

LIMIT = 1.03
CASE = CASES["mnist"].of(200 * 64)
ROUNDS, WORKERS = 11, 2


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Samples that take a worker some time: bytes converted to floats, with a random brightness."""

    def __init__(self, case: Case) -> None:
        inputs, self._labels = case.data
        self._bytes = (inputs * 255).to(torch.uint8)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self._bytes[index].float().div_(255)
        return image.mul_(0.9 + 0.2 * torch.rand(())).clamp_(0, 1), self._labels[index]


def results(case: Case = CASE, rounds: int = ROUNDS) -> list[BudgetResult]:
    """Return the ratio of both runs."""
    loader = DataLoader(Images(case), batch_size=case.batch, shuffle=True, num_workers=WORKERS, persistent_workers=True)
    model = compiled(case)
    runs = {"loop": pytorch_loop(case, loader), "torchfit": lambda: model.fit(loader, verbose=0)}
    times = interleaved(runs, rounds)
    what = f"`fit` from a DataLoader with {WORKERS} workers, over a loop by hand"
    return [BudgetResult(what, ratio(times["torchfit"], times["loop"]), LIMIT)]


def pytorch_loop(case: Case, loader: DataLoader[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    """Return one pass of training over the loader, with nothing read back before its end."""
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7, foreach=True)

    def train() -> tuple[float, float]:
        network.train()
        loss_sum, correct = totals(torch.device("cpu"))
        for inputs, labels in loader:
            logits = network(inputs)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss_sum.add_(loss.detach(), alpha=len(labels))
            correct.add_((logits.detach().argmax(1) == labels).sum())
        return loss_sum.item() / case.samples, correct.item() / case.samples

    return train


if __name__ == "__main__":
    sys.exit(report_results(results()))
