"""A function of tensors as one compiled graph, replayed without asking Python anything.

`torch.compile` checks at every call whether anything that the graph depends on has changed, which costs more than a
small network's whole step. A `Graph` makes these checks at the calls that may follow a change (`check=True`), and
otherwise calls the compiled code with the tensors that it was recorded with, putting in only those that vary.

This is the one place that touches private parts of torch's compiler. Where they are missing, `check` is always on.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor

Function = Callable[[Sequence[Tensor]], list[Tensor]]
_OPTIONS = {
    "fallback_random": True,  # Dropout draws what it would draw without a compiler.
    "size_asserts": False,  # The shapes are those of the recording: a Graph is made for one set of shapes.
}


def traces_gradients() -> bool:
    """Tell whether this torch can put `torch.autograd.grad` into a graph (2.11 and later can)."""
    return hasattr(_dynamo_config(), "trace_autograd_ops")


class Graph:
    """One graph of `function`, which takes tensors of fixed shapes and returns a list of tensors.

    Besides its arguments the function may read and change, in place, any tensor it can reach.
    """

    def __init__(self, function: Function) -> None:
        """Compile at the first call."""
        # The compiler keeps what it made with the code object, and gives up on one with too many versions.
        function.__code__ = function.__code__.replace()
        self._guarded = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend)
        self._compiled: Callable[..., Any] | None = None
        self._recorded: Sequence[Tensor] = ()
        self._produced: Sequence[Any] = ()
        self._varying: list[tuple[int, int]] = []
        self._returned: list[int] | None = None

    def __call__(self, tensors: Sequence[Tensor], check: bool = True) -> list[Tensor]:
        """Run the graph; with `check`, find out first whether it must be made anew."""
        if check or self._returned is None or self._compiled is None:
            return self._checked(tensors)
        arguments = list(self._recorded)
        for position, index in self._varying:
            arguments[position] = tensors[index]
        produced = self._compiled(*arguments)
        return [produced[position] for position in self._returned]

    def release(self) -> None:
        """Let go of the tensors of the recording; the next call checks."""
        self._recorded, self._returned = (), None

    def _checked(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        with _tracing_gradients():
            results: list[Tensor] = self._guarded(tensors)
        self._returned = self._positions(results)
        where = {id(tensor): index for index, tensor in enumerate(tensors)}
        recorded = enumerate(self._recorded)
        self._varying = [(position, where[id(tensor)]) for position, tensor in recorded if id(tensor) in where]
        self._produced = ()
        return results

    def _positions(self, results: list[Tensor]) -> list[int] | None:
        """Find what the function returned among what the graph produced; `None` where Python had a hand in it."""
        where = {id(tensor): position for position, tensor in enumerate(self._produced)}
        found = [where.get(id(result)) for result in results]
        return (
            None
            if None in found or self._compiled is None
            else [position for position in found if position is not None]
        )

    def _backend(self, module: Any, examples: Any) -> Callable[..., Any]:
        compiled = _inductor(module, examples)
        if compiled is None:
            return _lookup("inductor")(module, examples)  # type: ignore[no-any-return]

        def run(*arguments: Tensor) -> Any:
            self._compiled, self._recorded = compiled, arguments
            self._produced = compiled(*arguments)
            return self._produced

        return run


def _inductor(module: Any, examples: Any) -> Callable[..., Any] | None:
    try:
        from torch._inductor.compile_fx import compile_fx
    except ImportError:
        return None
    return cast(Callable[..., Any], compile_fx(module, examples, config_patches=_OPTIONS))


def _lookup(name: str) -> Callable[..., Any]:
    import torch._dynamo

    return torch._dynamo.lookup_backend(name)


def _dynamo_config() -> Any:
    import torch._dynamo.config

    return torch._dynamo.config


def _tracing_gradients() -> AbstractContextManager[Any]:
    if not traces_gradients():
        return nullcontext()
    context: AbstractContextManager[Any] = _dynamo_config().patch(trace_autograd_ops=True)
    return context
