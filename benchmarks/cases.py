"""The benchmarked networks, with random data of a fixed seed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network with its data: inputs (samples, *shape) float32, labels (samples,) int64."""

    name: str
    what: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batch: int
    samples: int
    device: str = "cpu"

    @property
    def steps(self) -> int:
        """Steps of one pass over the data."""
        return -(-self.samples // self.batch)

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels in memory, the same for every framework."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.samples, *self.shape, generator=generator)
        return x, torch.randint(0, self.classes, (self.samples,), generator=generator)

    def fresh_network(self) -> nn.Module:
        """Return the network on its device, with the same first weights for every framework."""
        torch.manual_seed(0)
        return self.network().to(self.device)

    def of(self, samples: int) -> "Case":
        """Return the same case with less data."""
        return replace(self, samples=samples)

    def on(self, device: str) -> "Case":
        """Return the same case on another device."""
        return replace(self, device=device)


def mnist() -> nn.Module:
    """Return the network of the Keras guide to training."""
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def tiny() -> nn.Module:
    """Return a network so small that the overhead of the loop dominates."""
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 2))


def convnet() -> nn.Module:
    """Return a small convolutional network for images of 28 by 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 10),
    )


CASES = {
    case.name: case
    for case in [
        Case("mnist", "784-64-64-10, batch 64", mnist, (784,), 10, 64, 60_000),
        Case("tiny", "20-16-2, batch 32", tiny, (20,), 2, 32, 32_000),
        Case("convnet", "two convolutions on 28×28, batch 64", convnet, (1, 28, 28), 10, 64, 6_400),
    ]
}
