"""The networks that are trained on a GPU, from one that only launches kernels to one that only computes."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cases import convnet, mnist, tiny


@dataclass(frozen=True)
class GpuCase:
    """A network with its data: inputs (samples, *shape), labels (samples, …) int64.

    Attributes:
        name: What it is called in tables.
        what: A line on it.
        network: Makes it.
        shape: The shape of a sample: of tokens where there is a `vocabulary`, else of float32.
        classes: The number of classes.
        batch: The samples of a batch.
        steps: The steps of one pass over the data.
        autocast: Whether it computes in bfloat16 where torch's autocast does.
        channels_last: Whether its weights and images are laid out with channels last.
        vocabulary: The number of tokens, 0 for networks of other inputs.
    """

    name: str
    what: str
    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batch: int
    steps: int
    autocast: bool = False
    channels_last: bool = False
    vocabulary: int = 0

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels in host memory, the same for every trainer."""
        generator = torch.Generator().manual_seed(0)
        samples = self.batch * self.steps
        if self.vocabulary:
            tokens = torch.randint(0, self.vocabulary, (samples, self.shape[0] + 1), generator=generator)
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        x = torch.rand(samples, *self.shape, generator=generator)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return x.contiguous(memory_format=layout), torch.randint(0, self.classes, (samples,), generator=generator)

    def fresh_network(self, device: torch.device) -> nn.Module:
        """Return the network on a device, with the same first weights for every trainer."""
        torch.manual_seed(0)
        network = self.network().to(device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network  # type: ignore[call-overload]

    def with_batch(self, batch: int, steps: int) -> "GpuCase":
        """Return the same network with other batches."""
        return replace(self, batch=batch, steps=steps)


class ResidualBlock(nn.Module):
    """Two convolutions around which the input goes as well."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


def resnet18(width: int = 64, classes: int = 100) -> nn.Module:
    """Return ResNet-18 as it is used for images of 32 × 32: the first convolution is small, nothing is pooled early."""
    blocks: list[nn.Module] = []
    inputs = width
    for stage in range(4):
        outputs = width * 2**stage
        blocks += [ResidualBlock(inputs, outputs, 1 if stage == 0 else 2), ResidualBlock(outputs, outputs, 1)]
        inputs = outputs
    stem = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.project_in(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.project_out(mixed.transpose(1, 2).reshape(batch, length, width))


class TransformerBlock(nn.Module):
    """Attention and two linear layers, each with normalisation before it and a way around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.second = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.layers(self.second(x))


class Gpt(nn.Module):
    """A language model whose output layer shares the weights of the embedding: 25 million parameters by default."""

    def __init__(self, vocabulary: int = 32_000, length: int = 512, width: int = 384, depth: int = 7) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(TransformerBlock(width, max(1, width // 64)) for _ in range(depth)))
        self.normalize = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores (batch, length, vocabulary) of the next tokens of (batch, length)."""
        hidden = self.tokens(x) + self.positions.weight[: x.shape[1]]
        return F.linear(self.normalize(self.blocks(hidden)), self.tokens.weight)


CASES = {
    case.name: case
    for case in [
        GpuCase("mnist", "784-64-64-10, batch 64", mnist, (784,), 10, 64, 800),
        GpuCase("tiny", "20-16-2, batch 32", tiny, (20,), 2, 32, 800),
        GpuCase("convnet", "two convolutions on 28×28, batch 64", convnet, (1, 28, 28), 10, 64, 400),
        GpuCase(
            "resnet18",
            "ResNet-18 on 32×32, bfloat16, channels last, batch 256",
            resnet18,
            (3, 32, 32),
            100,
            256,
            40,
            autocast=True,
            channels_last=True,
        ),
        GpuCase(
            "gpt",
            "GPT of 25 million parameters on 512 tokens, bfloat16, batch 16",
            Gpt,
            (512,),
            32_000,
            16,
            24,
            autocast=True,
            vocabulary=32_000,
        ),
    ]
}

# The same cases on small sizes, to rehearse on a CPU.
REHEARSAL = {
    "mnist": CASES["mnist"].with_batch(8, 4),
    "tiny": CASES["tiny"].with_batch(8, 12),
    "convnet": CASES["convnet"].with_batch(4, 4),
    "resnet18": replace(CASES["resnet18"], network=lambda: resnet18(4, 5), classes=5, batch=2, steps=3),
    "gpt": replace(
        CASES["gpt"],
        network=lambda: Gpt(50, 8, 16, 1),
        shape=(8,),
        classes=50,
        vocabulary=50,
        batch=2,
        steps=3,
    ),
}
