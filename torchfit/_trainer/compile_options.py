"""`CompileOptions`: the arguments of `compile`, as they are kept."""

from dataclasses import dataclass
from typing import Any

from torchfit._execution.compiled import choose_execution
from torchfit._execution.eager import EagerExecution


@dataclass(frozen=True)
class CompileOptions:
    """How `compile` was called, but for the optimizer."""

    loss: Any = None
    metrics: Any = None
    loss_weights: Any = None
    weighted_metrics: Any = None
    run_eagerly: bool | None = None
    steps_per_execution: int | None = None
    jit_compile: bool | str | None = None
    auto_scale_loss: bool = True
    microbatch: int | str | None = None
    memory_format: str | None = None

    def choose_execution(self) -> EagerExecution:
        """Return the execution that these options ask for."""
        return choose_execution(self.run_eagerly, self.jit_compile, self.steps_per_execution, self.memory_format)
