"""Time a training step with two processes: torchfit, and DistributedDataParallel by hand.

`python -m benchmarks.distributed` starts two processes on this machine, connected by gloo, and prints a table. All
train the same network with the same rows and RMSprop, and track loss and accuracy; the processes share a batch of 128.
"One process" has all rows, "half of the rows" what one of two has to compute.
"""

import functools
import statistics
from collections.abc import Callable
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import torchfit
from torchfit.distribution import launch

ROWS, STEPS, ROUNDS = 128, 40, 5
WIDTHS = {"9 k": 64, "85 k": 256, "1.1 M": 1024}


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def data(rows: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows * STEPS, 64), torch.randint(0, 10, (rows * STEPS,))


def median_of(run: Callable[[], object]) -> float:
    """Return the median time of a step in ms, over several epochs after one to warm up."""
    run()
    times = []
    for _ in range(ROUNDS):
        started = perf_counter()
        run()
        times.append((perf_counter() - started) / STEPS * 1000)
    return statistics.median(times)


def with_torchfit(width: int, rows: int) -> float:
    model = torchfit.Model(network(width), device="cpu")
    model.compile("rmsprop", torchfit.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    x, y = data(rows)
    return median_of(lambda: model.fit(x, y, batch_size=rows, verbose=0))


def with_ddp(width: int, rows: int) -> float:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    module = nn.parallel.DistributedDataParallel(network(width))
    optimizer = torch.optim.RMSprop(module.parameters(), foreach=True)
    x, y = data(rows)

    def epoch() -> Tensor:
        totals, correct = torch.zeros(()), torch.zeros(())
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        for batch in order.split(rows):
            own = batch[rank * rows // size : (rank + 1) * rows // size]
            scores, labels = module(x[own]), y[own]
            loss = F.cross_entropy(scores, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            totals += loss.detach() * len(own)
            correct += (scores.argmax(1) == labels).sum()
        dist.all_reduce(both := torch.stack([totals, correct]))
        return both / len(x)

    return median_of(epoch)


def main() -> None:
    print("| parameters | one process | half of the rows | torchfit, 2 processes | DDP by hand, 2 processes |")
    print("|---|---:|---:|---:|---:|")
    for name, width in WIDTHS.items():
        found = [
            *(launch(functools.partial(with_torchfit, width, rows), 1) for rows in (ROWS, ROWS // 2)),
            *(launch(functools.partial(step, width, ROWS), 2) for step in (with_torchfit, with_ddp)),
        ]
        print(f"| {name} | {' | '.join(f'{milliseconds:.2f} ms' for milliseconds in found)} |", flush=True)


if __name__ == "__main__":
    main()
