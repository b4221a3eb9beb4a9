"""Time a training step of two processes: torchfit, DistributedDataParallel by hand, accelerate and Lightning.

`python -m benchmarks.distributed [folder]` starts two processes on this machine, connected by gloo, stores the times in
`results-processes.json`, and rewrites the report. All train the same network with the same batches of 128 rows, of
which each process has half, and RMSprop, and track loss and accuracy. They take turns, pass by pass. "Alone" is a
process that trains on its half of the rows by itself, and "all-reduce" the sum of as many numbers as there are
gradients: together what a step costs at least.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import torchfit
from benchmarks import report
from benchmarks.measure import interleaved
from torchfit import distribution

ROWS, ROUNDS = 128, 11
# The width of the network, and the steps of a pass, by the number of parameters.
CASES = {"9 k": (64, 400), "85 k": (256, 200), "1.1 M": (1024, 40)}
Run = Callable[[], object]


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def data(rows: int, steps: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows * steps, 64), torch.randint(0, 10, (rows * steps,))


def own_batches(count: int) -> list[Tensor]:
    """Return the rows of this process in the batches of a shuffled pass."""
    rank, size = dist.get_rank(), dist.get_world_size()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return [batch[rank * ROWS // size : (rank + 1) * ROWS // size] for batch in order.split(ROWS)]


def rmsprop(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(module.parameters(), foreach=True)


def with_torchfit(width: int, steps: int, rows: int, jit_compile: bool) -> Run:
    model = torchfit.Model(network(width), device="cpu")
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("rmsprop", loss, ["accuracy"], jit_compile=jit_compile)
    x, y = data(rows, steps)
    return lambda: model.fit(x, y, batch_size=rows, verbose=0)


def with_all_reduce(width: int, steps: int) -> Run:
    numbers = torch.zeros(sum(parameter.numel() for parameter in network(width).parameters()))

    def run() -> None:
        for _ in range(steps):
            dist.all_reduce(numbers)

    return run


def by_hand(
    steps: int, module: nn.Module, optimizer: torch.optim.Optimizer, backward: Callable[[Tensor], object]
) -> object:
    """Train for an epoch, and return the means of the losses and of the right answers of all processes."""
    x, y = data(ROWS, steps)
    totals, correct = torch.zeros(()), torch.zeros(())
    for own in own_batches(len(x)):
        scores, labels = module(x[own]), y[own]
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        totals += loss.detach() * len(own)
        correct += (scores.argmax(1) == labels).sum()
    dist.all_reduce(both := torch.stack([totals, correct]))
    return both / len(x)


def with_ddp(width: int, steps: int) -> Run:
    module = nn.parallel.DistributedDataParallel(network(width))
    return functools.partial(by_hand, steps, module, rmsprop(module), Tensor.backward)


def with_accelerate(width: int, steps: int) -> Run:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    plain = network(width)
    module, optimizer = accelerator.prepare(plain, rmsprop(plain))
    return functools.partial(by_hand, steps, module, optimizer, accelerator.backward)


def with_lightning(width: int, steps: int) -> Run:
    import lightning
    from lightning.pytorch.strategies import DDPStrategy
    from torch.utils.data import DataLoader, TensorDataset

    os.environ["TORCHELASTIC_RUN_ID"] = "benchmark"  # It looks for processes that torchrun started.

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network(width)

        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            inputs, labels = batch
            scores = self.network(inputs)
            loss = F.cross_entropy(scores, labels)
            accuracy = (scores.argmax(1) == labels).float().mean()
            self.log_dict({"loss": loss, "accuracy": accuracy}, on_step=False, on_epoch=True, sync_dist=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return rmsprop(self)

    trainer = lightning.Trainer(
        max_epochs=0,
        accelerator="cpu",
        devices=dist.get_world_size(),
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model, dataset = Classifier(), TensorDataset(*data(ROWS, steps))

    def run() -> None:
        trainer.fit_loop.max_epochs += 1  # Each call trains one more epoch.
        batches = [batch.tolist() for batch in own_batches(len(dataset))]
        trainer.fit(model, DataLoader(dataset, batch_sampler=batches))

    return run


def contenders(width: int, steps: int) -> dict[str, Run]:
    """Return what takes turns, by name."""
    chosen = distribution.distribution()
    distribution.set_distribution(None)
    alone = {
        f"alone{name}": with_torchfit(width, steps, ROWS // 2, jit) for name, jit in (("", False), (", compiled", True))
    }
    distribution.set_distribution(chosen)
    found = {
        **alone,
        "all-reduce": with_all_reduce(width, steps),
        "torchfit": with_torchfit(width, steps, ROWS, False),
        "torchfit, compiled": with_torchfit(width, steps, ROWS, True),
        report.DDP: with_ddp(width, steps),
    }
    others = {"accelerate": with_accelerate, "lightning": with_lightning}
    return found | {name: make(width, steps) for name, make in others.items() if importlib.util.find_spec(name)}


def measure(width: int, steps: int) -> dict[str, list[float]]:
    """Return, for each contender, the time of a step in µs in every round."""
    distribution.initialize()
    together = {name: functools.partial(_together, run) for name, run in contenders(width, steps).items()}
    times = interleaved(together, ROUNDS)
    return {name: [seconds / steps * 1e6 for seconds in found] for name, found in times.items()}


def _together(run: Run) -> None:
    dist.barrier()
    run()


def main() -> None:
    """Measure all networks, and write the report."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    times = {}
    for parameters, case in CASES.items():
        times[parameters] = distribution.launch(functools.partial(measure, *case), 2)
        print(f"{parameters}: {', '.join(times[parameters])}", flush=True)
    report.save({"device": "processes", "machine": report.machine("cpu", -1), "times": times}, folder)
    report.write(folder)


if __name__ == "__main__":
    main()
