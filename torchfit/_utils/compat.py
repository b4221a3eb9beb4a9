"""Private API of torch and NumPy, each with a fallback for versions that lack it.

The fused loss kernels: `torch.nn.functional.mse_loss` spends seven eighths of its 20 µs (CPU, batch of 64) on
broadcasting in Python; the underlying kernel takes 2.5 µs.
"""

import inspect
import keyword
import mmap
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from operator import attrgetter
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import _C, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

Kernel = Callable[..., Tensor]
Function = TypeVar("Function", bound=Callable[..., object])

NONE, MEAN, SUM = 0, 1, 2  # torch's codes for reductions
_REDUCTIONS = ("none", "mean", "sum")
_native: Any = getattr(_C, "_nn", None)


def _public_mse_loss(input: Tensor, target: Tensor, reduction: int) -> Tensor:
    return F.mse_loss(input, target, reduction=_REDUCTIONS[reduction])


def _public_l1_loss(input: Tensor, target: Tensor, reduction: int) -> Tensor:
    return F.l1_loss(input, target, reduction=_REDUCTIONS[reduction])


def _public_huber_loss(input: Tensor, target: Tensor, reduction: int, delta: float) -> Tensor:
    return F.huber_loss(input, target, reduction=_REDUCTIONS[reduction], delta=delta)


mse_loss: Kernel = getattr(_native, "mse_loss", _public_mse_loss)
l1_loss: Kernel = getattr(_native, "l1_loss", _public_l1_loss)
huber_loss: Kernel = getattr(_native, "huber_loss", _public_huber_loss)


_run_engine: Callable[..., object] | None = getattr(
    getattr(torch.autograd.Variable, "_execution_engine", None), "run_backward", None
)


def backward(loss: Tensor, unit: Tensor) -> None:
    """Do what `loss.backward()` does, without its checks in Python, which take a sixth of the step of a small network.

    Args:
        loss: A tensor without dimensions.
        unit: A tensor that holds 1. It is used as the gradient of the loss if it has the dtype and device of the loss.
    """
    is_like = type(loss) is Tensor and loss.dtype is unit.dtype and loss.shape == unit.shape
    if _run_engine is None or not is_like or loss.device != unit.device:
        loss.backward()  # type: ignore[no-untyped-call]
    else:
        _run_engine((loss,), (unit,), False, False, (), allow_unreachable=True, accumulate_grad=True)


_find_graph_task: Callable[[], int] = getattr(_C, "_current_graph_task_id", lambda: -1)


def is_in_backward() -> bool:
    """Return whether a backward pass calls this, as to compute checkpointed activations again.

    >>> is_in_backward()
    False
    """
    return not torch.compiler.is_compiling() and _find_graph_task() != -1


def shutdown_workers(loader: Any, iterator: object) -> None:
    """Stop the worker processes of a `DataLoader`'s iterator; torch does so only when both are garbage-collected."""
    shutdown = getattr(iterator, "_shutdown_workers", None)
    if shutdown is not None:
        shutdown()
    if getattr(loader, "_iterator", None) is iterator:
        loader._iterator = None


def mapping_of(memory_map: object) -> mmap.mmap | None:
    """Return the `mmap` of a `numpy.memmap`, or `None` if it is not available, as for a computed array."""
    mapping: mmap.mmap | None = getattr(memory_map, "_mmap", None)
    return mapping


MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
"""The attributes that all modules have."""


class ModuleTables:
    """The tables in which a module keeps its parameters, buffers and children.

    >>> list(ModuleTables(nn.Linear(2, 1)).parameters)
    ['weight', 'bias']
    """

    def __init__(self, module: nn.Module) -> None:
        self.parameters: dict[str, Tensor | None] = module._parameters  # type: ignore[assignment]
        self.buffers: dict[str, Tensor | None] = module._buffers
        is_script = isinstance(module, torch.jit.ScriptModule)  # Its tables are views of compiled code.
        self.children: dict[str, nn.Module | None] = dict(module._modules.items()) if is_script else module._modules
        self.non_persistent_buffers: set[str] = module._non_persistent_buffers_set


# Two of these tables alone, in less time.
parameter_table: Callable[[nn.Module], Mapping[str, Tensor | None]] = attrgetter("_parameters")
child_table: Callable[[nn.Module], Mapping[str, nn.Module | None]] = attrgetter("_modules")


def has_gradient_hooks(tensor: Tensor) -> bool:
    """Return whether something is called with the gradient of a leaf tensor in `backward`.

    >>> tensor = torch.ones(1, requires_grad=True)
    >>> before, _ = has_gradient_hooks(tensor), tensor.register_hook(print)
    >>> before, has_gradient_hooks(tensor)
    (False, True)
    """
    return bool(tensor._backward_hooks) or has_accumulation_hooks(tensor)


def has_accumulation_hooks(tensor: Tensor) -> bool:
    """Return whether something is called when `backward` has stored the gradient of a leaf tensor in it."""
    return bool(getattr(tensor, "_post_accumulate_grad_hooks", None))


_SEQUENCES = {"ListType": list, "TupleType": tuple}


def script_parameters(module: nn.Module) -> list[inspect.Parameter] | None:
    """Return the parameters of the `forward` of a TorchScript module, or `None` for other modules.

    >>> [parameter.name for parameter in script_parameters(torch.jit.script(nn.Linear(2, 1)))]
    ['input']
    """
    if not isinstance(module, torch.jit.ScriptModule):
        return None
    schema: _C.FunctionSchema | None = getattr(module.forward, "schema", None)
    return None if schema is None else [_script_parameter(argument) for argument in schema.arguments[1:]]


def _script_parameter(argument: _C.Argument) -> inspect.Parameter:
    """Return a parameter; names that Python cannot use, as tracing may give, are for positions only."""
    name, default = argument.name, inspect.Parameter.empty
    is_name = name.isidentifier() and not keyword.iskeyword(name)
    by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD if is_name else inspect.Parameter.POSITIONAL_ONLY
    return inspect.Parameter(
        name if is_name else re.sub(r"\W", "_", f"_{name}"),
        inspect.Parameter.KEYWORD_ONLY if argument.kwarg_only else by_position,
        default=argument.default_value if argument.has_default_value() else default,
        annotation=_SEQUENCES.get(argument.type.kind(), default),
    )


def is_extra_state(key: str) -> bool:
    """Return whether the value under a key of a `state_dict` comes from a module's `get_extra_state`.

    >>> is_extra_state("encoder._extra_state"), is_extra_state("encoder.weight")
    (True, False)
    """
    return key.rpartition(".")[2] == "_extra_state"


def module_versions(state: object) -> object:
    """Return the module versions that torch stores on a `state_dict`, or `None`."""
    return getattr(state, "_metadata", None)


rebuild_tensor_v2: Callable[..., Tensor] = torch._utils._rebuild_tensor_v2
rebuild_tensor_v3: Callable[..., Tensor] = torch._utils._rebuild_tensor_v3


def storage_id(storage: torch.UntypedStorage) -> int:
    """Return a number that identifies a storage while it is alive."""
    return int(storage._cdata)


TorchLossModule: type[nn.Module] = nn.MSELoss.__bases__[0]
"""The base class of torch's loss modules."""


def nll_loss(
    log_probs: Tensor, labels: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Return the loss of `torch.nn.functional.nll_loss`, and the divisor of its mean, which torch does not return.

    The divisor is the number of labels that are not ignored, or the sum of their weights. If all labels are ignored,
    the mean is NaN and its gradients are 0; if all weights are 0, the gradients are NaN as well.

    Args:
        log_probs: `(batch, classes, …)`, or `(classes,)`.
        labels: Class indices `(batch, …)`, or a 0-dimensional tensor.
        weight: A weight for each class, `(classes,)`, or `None`.
        reduction: `MEAN` or `SUM`.
        ignore_index: The label that does not count.
    """
    if log_probs.dim() <= 2:
        loss, count = _nll_loss(log_probs, labels, weight, reduction, ignore_index)
    else:
        log_probs_2d = log_probs if log_probs.dim() == 4 else log_probs.flatten(2).unsqueeze(2)
        labels_2d = labels if log_probs.dim() == 4 else labels.flatten(1).unsqueeze(1)
        loss, count = _nll_loss_2d(log_probs_2d, labels_2d, weight, reduction, ignore_index)
    return loss, count


def _public_nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    counted = (target != ignore_index).to(input.dtype)
    if weight is not None:
        counted = counted * weight[target * counted.long()]
    loss = F.nll_loss(input, target, weight, ignore_index=ignore_index, reduction=_REDUCTIONS[reduction])
    return loss, counted.sum()


_aten: Any = torch.ops.aten
_nll_loss: Callable[..., tuple[Tensor, Tensor]] = getattr(
    getattr(_aten, "nll_loss_forward", None), "default", _public_nll_loss
)
_nll_loss_2d: Callable[..., tuple[Tensor, Tensor]] = getattr(
    getattr(_aten, "nll_loss2d_forward", None), "default", _public_nll_loss
)


def dynamo_config() -> ModuleType:
    """Return the configuration of `torch.compile`'s tracer."""
    import torch._dynamo.config

    return torch._dynamo.config


@cache
def load_tracer() -> None:
    """Load the tracer of `torch.compile`, which looks up torch's functions by name the first time that it traces."""
    torch.compile(lambda tensor: tensor + 1, backend="eager")(torch.ones(()))


def is_compiler_error(error: Exception) -> bool:
    """Return whether the C++ compiler has rejected code."""
    from torch._inductor.exc import CppCompileError

    return isinstance(getattr(error, "inner_exception", error), CppCompileError)


def tracer_errors() -> ModuleType:
    """Return the module with the exceptions of the tracer: `RecompileError`, `RestartAnalysis`."""
    import torch._dynamo.exc

    return torch._dynamo.exc


def lookup_compiler_backend(name: str) -> Callable[..., Any]:
    """Return a backend of `torch.compile` by name."""
    import torch._dynamo

    backend: Callable[..., Any] = torch._dynamo.lookup_backend(name)
    return backend


def inductor() -> ModuleType | None:
    """Return the module with `compile_fx` and `compile_fx_inner`, or `None` if one of them is missing."""
    try:
        from torch._inductor import compile_fx as module
    except ImportError:
        return None
    return module if hasattr(module, "compile_fx") and hasattr(module, "compile_fx_inner") else None


def without_instruction_probes() -> dict[str, bool]:
    """Return compiler options that rely on torch's own detection of the CPU's vector instructions.

    By default the compiler compiles a program for each set of vector instructions and loads it in a separate process.
    That takes as long as compiling a small network, and a second in every later run.
    """
    import torch._inductor.config

    is_unknown = getattr(getattr(torch._inductor.config, "cpp", None), "vec_isa_ok", True) is None
    return {"cpp.vec_isa_ok": True} if is_unknown else {}


def without_precompiled_header() -> dict[str, bool]:
    """Return compiler options against precompiling the C++ header of compiled code, unless the environment decides.

    By default the header is compiled once per machine (5 s; afterwards a graph takes 1 s less), and preprocessed in
    every run to find out whether it has changed (0.1 s), even if the code of all graphs is on disk.
    """
    import torch._inductor.config

    is_known = hasattr(torch._inductor.config, "cpp_cache_precompile_headers")
    is_decided = "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS" in os.environ
    return {"cpp_cache_precompile_headers": False} if is_known and not is_decided else {}


def trust_instructions() -> None:
    """Let the compiler list the vector instructions without compiling programs, also for extensions (bf16, VNNI, AMX).

    The option of `without_instruction_probes` only concerns the sets that they extend.
    """
    try:
        from torch._inductor import config, cpu_vec_isa
    except ImportError:
        return
    kind, list_instructions = getattr(cpu_vec_isa, "VecISA", None), getattr(cpu_vec_isa, "valid_vec_isa_list", None)
    if list_instructions is None or not hasattr(kind, "check_build"):
        return
    with _replaced(kind, "check_build", lambda instructions, code: True), config.patch({"cpp.vec_isa_ok": True}):
        list_instructions()  # The compiler keeps the list.


def forget_instructions() -> None:
    """Make the compiler detect the vector instructions again."""
    try:
        from torch._inductor import cpu_vec_isa as module
    except ImportError:
        return
    kinds = {type(known) for known in getattr(module, "supported_vec_isa_list", ())}
    for answers in (getattr(module, "valid_vec_isa_list", None), *[kind.__bool__ for kind in kinds]):
        clear = getattr(answers, "cache_clear", None)
        if clear is not None:
            clear()


class NotCachedError(Exception):
    """The compiler has no code for a graph on disk."""


_replacing = threading.RLock()


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute of the compiler meanwhile."""
    with _replacing:
        original = getattr(owner, name)
        setattr(owner, name, value)
        try:
            yield
        finally:
            setattr(owner, name, original)


@contextmanager
def cached_code_only() -> Iterator[None]:
    """Let the compiler load code from disk, and raise `NotCachedError` for what it would have to compile here.

    Graphs that other threads compile meanwhile are compiled as always.
    """
    module = inductor()
    thread, is_refused = threading.get_ident(), False
    compile_graph: Callable[..., object] | None = getattr(module, "fx_codegen_and_compile", None)
    if compile_graph is None:
        raise NotCachedError

    def refuse(*arguments: object, **options: object) -> object:
        nonlocal is_refused
        if threading.get_ident() != thread:
            return compile_graph(*arguments, **options)
        is_refused = True
        raise NotCachedError

    with _replaced(module, "fx_codegen_and_compile", refuse):
        try:
            yield
        except Exception as error:
            if not is_refused:
                raise
            raise NotCachedError from error


@contextmanager
def without_attention_patterns() -> Iterator[None]:
    """Compile a graph that contains no attention without loading the patterns that the compiler finds it by (0.2 s).

    They are loaded for the next graph that is compiled without this.
    """
    try:
        from torch._inductor.fx_passes import fuse_attention, joint_graph
    except ImportError:
        yield
        return
    forget = getattr(getattr(joint_graph, "lazy_init", None), "cache_clear", None)
    if forget is None or not hasattr(fuse_attention, "_sfdp_init"):
        yield
        return
    try:
        with _replaced(fuse_attention, "_sfdp_init", lambda input_device=None: None):
            yield
    finally:
        forget()


def tracing_context() -> Any:
    """Return what the tracer knows of the graph that is being compiled."""
    from torch._guards import TracingContext

    return TracingContext.try_get()


def new_tracing_context() -> Any:
    """Return the same for a graph that another process has traced."""
    from torch._guards import TracingContext
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    return TracingContext(FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True))


def compiler_settings() -> dict[str, Any]:
    """Return the settings of the compiler that its code depends on."""
    import torch._inductor.config

    settings: dict[str, Any] = torch._inductor.config.save_config_portable()
    return settings


@contextmanager
def compiling(settings: Mapping[str, Any], context: Any) -> Iterator[None]:
    """Compile a graph later, with the settings and the context of the time when it was traced."""
    import torch._inductor.config
    from torch._guards import tracing

    with torch._inductor.config.patch(dict(settings)), tracing(context):
        yield


def dump_graph(value: object) -> bytes:
    """Pickle a graph and what belongs to it, without the paths to the user's code; raise what pickling raises."""
    from torch.fx._graph_pickler import GraphPickler, Options

    return GraphPickler.dumps(value, Options(ops_filter=None))


def load_graph(data: bytes, context: Any) -> Any:
    """Read what `dump_graph` wrote."""
    from torch.fx._graph_pickler import GraphPickler

    return GraphPickler.loads(data, context.fake_mode)


def without_gradient_cache() -> AbstractContextManager[object]:
    """Compile without the cache of traced gradients, which only keeps what inductor itself returned."""
    import torch._functorch.config

    config: ModuleType = torch._functorch.config
    if not hasattr(config, "enable_autograd_cache"):
        return nullcontext()
    context: AbstractContextManager[object] = config.patch(enable_autograd_cache=False)
    return context


def without_operator_checks() -> AbstractContextManager[object]:
    """Run compiled code without the check in its first call, which rejects subclasses of tensors.

    The check looks for custom operators that return their arguments. The state of metrics is a tensor subclass
    (`metrics.Variable`), so that the check would fail after the code has changed other state.
    """
    import torch._functorch.config

    config: ModuleType = torch._functorch.config
    if not hasattr(config, "check_custom_op_aliasing"):
        return nullcontext()
    context: AbstractContextManager[object] = config.patch(check_custom_op_aliasing=False)
    return context


def takes_arguments_as_list(function: Function) -> Function:
    """Mark a function that takes its tensors as one list, which it may empty, as compiled code does."""
    function._boxed_call = True  # type: ignore[attr-defined]
    return function


def default_store() -> Any:
    """Return the key-value store through which the processes of the default group were connected."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def abort_process_group() -> None:
    """Abort the communication of the default process group; operations in progress raise an error."""
    from torch.distributed import destroy_process_group, distributed_c10d

    getattr(distributed_c10d, "_abort_process_group", destroy_process_group)()


def version_of(tensor: Tensor) -> int:
    """Return the version counter of a tensor: how often it, or a view of its memory, was written to in place."""
    return tensor._version
