"""torchfit: `fit`, `evaluate` and `predict` as a user calls them."""

from collections.abc import Callable
from typing import Any

import torchfit
from benchmarks.cases import Case
from benchmarks.frameworks import Runs
from benchmarks.terminal import unseen_terminal


def compiled(case: Case, **options: Any) -> torchfit.Model:
    """Return the case's network, compiled with loss and accuracy."""
    model = torchfit.Model(case.fresh_network(), device=case.device)
    model.compile(
        torchfit.optimizers.RMSprop(),
        torchfit.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **options,
    )
    return model


def silent(**options: Any) -> Callable[[Case], Runs]:
    """Return a framework without progress; `options` go to `compile`."""

    def framework(case: Case) -> Runs:
        model = compiled(case, **options)
        x, y = case.data
        return {
            "train": lambda: model.fit(x, y, batch_size=case.batch, verbose=0),
            "evaluate": lambda: model.evaluate(x, y, batch_size=case.batch, verbose=0),
            "predict": lambda: model.predict(x, batch_size=case.batch, verbose=0),
        }

    return framework


def with_bar(case: Case) -> Runs:
    """Train with a progress bar that really draws."""
    model = compiled(case)
    x, y = case.data

    def train() -> None:
        with unseen_terminal():
            model.fit(x, y, batch_size=case.batch, verbose=1)

    return {"train": train}


FRAMEWORKS = {
    "torchfit": silent(),
    "torchfit, verbose=1": with_bar,
    "torchfit, jit_compile": silent(jit_compile=True),
    'torchfit, jit_compile, memory_format="auto"': silent(jit_compile=True, memory_format="auto"),
    "torchfit, jit_compile, 8 steps a call": silent(jit_compile=True, steps_per_execution=8),
}
