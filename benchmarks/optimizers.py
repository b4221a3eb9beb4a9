"""Cost of one update: torchfit's optimizers against torch.optim's, on the 784-64-64-10 network, on one thread.

    python -m benchmarks.optimizers

Prints microseconds per `step()` (the best of interleaved rounds), for torch the faster one of `foreach=True` and
`fused=True`, and the ratio.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import best_of_turns
from torchfit import optimizers

ROUNDS, STEPS = 15, 40
Options = dict[str, Any]
Step = Callable[[], object]
PAIRS: list[tuple[str, Options, str | None, Options]] = [
    ("SGD", {}, "SGD", {}),
    ("SGD", {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", {}, "RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}, "RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adam", {}, "Adam", {}),
    ("Adam", {"amsgrad": True}, "Adam", {"amsgrad": True}),
    ("AdamW", {}, "AdamW", {}),
    ("Adagrad", {}, "Adagrad", {}),
    ("Adadelta", {}, "Adadelta", {}),
    ("Adamax", {}, "Adamax", {}),
    ("Nadam", {}, "NAdam", {}),
    ("Adafactor", {}, "Adafactor", {}),
    ("Muon", {}, None, {}),
    ("Ftrl", {}, None, {}),
    ("Lion", {}, None, {}),
    ("Lamb", {}, None, {}),
    ("ScheduleFreeAdamW", {}, None, {}),
]


def network() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    shapes = [(64, 784), (64,), (64, 64), (64,), (10, 64), (10,)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    return parameters


def ours(name: str, options: Options) -> Step:
    optimizer: Any = getattr(optimizers, name)(1e-3, **options)
    optimizer.build(network())
    step: Step = optimizer.step
    return step


def torchs(name: str, options: Options) -> list[Step]:
    """Return the step of each implementation that torch has of this optimizer."""
    steps: list[Step] = []
    for implementation in ({"foreach": True}, {"fused": True}):
        try:
            optimizer = getattr(torch.optim, name)(network(), lr=1e-3, **options, **implementation)
            optimizer.step()
        except (TypeError, RuntimeError):
            continue  # torch has no such implementation here
        steps.append(optimizer.step)
    return steps


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU, 1 thread, 55k parameters in 6 tensors, µs per step")
    print(f"{'':44}{'torchfit':>10}{'torch':>10}{'ratio':>8}")
    for name, options, torch_name, torch_options in PAIRS:
        mine, *others = best_of_turns(
            [ours(name, options), *(torchs(torch_name, torch_options) if torch_name else [])], ROUNDS, STEPS
        )
        label = f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})"
        theirs = f"{min(others):10.1f}{mine / min(others):8.2f}" if others else f"{'-':>10}{'-':>8}"
        print(f"{label:44}{mine:10.1f}{theirs}", flush=True)


if __name__ == "__main__":
    main()
