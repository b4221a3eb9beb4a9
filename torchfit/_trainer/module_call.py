"""Calls a module with inputs of any structure. How to pass them is decided once per structure."""

import inspect
import threading
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from torchfit._data.batch_converter import are_texts, is_list_of_samples
from torchfit._data.convert import SampleLists
from torchfit._trainer.hints import check_batch_axis
from torchfit._types import Nested, StateDict
from torchfit._utils import tree
from torchfit._utils.compat import script_parameters
from torchfit._utils.errors import describe
from torchfit._utils.modules import ModuleWrapper, class_name, device_of, floating_dtype_of
from torchfit._utils.names import near_names
from torchfit._utils.tensors import is_plain

Call = Callable[[nn.Module, Nested], Nested]
"""Calls a module with one batch of inputs."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PASSES_THROUGH = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


class Signature:
    """The parameters of a module's `forward`.

    Args:
        module: The module.
        input_names: Names of its inputs in the order of the parameters, for dictionaries of inputs.
        label_names: Keys of targets, which may be among the inputs of a module that computes its own loss.
    """

    def __init__(
        self, module: nn.Module, input_names: Sequence[str] | None = None, label_names: Collection[str] = ()
    ) -> None:
        module = _without_pass_through(module)
        parameters = _parameters_of(module)
        kinds = {parameter.kind for parameter in parameters}
        self._named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        positional = [parameter for parameter in self._named if parameter.kind in _POSITIONAL]
        required = [parameter for parameter in self._named if parameter.default is parameter.empty]
        self.required_names = {parameter.name for parameter in required}
        self.required_keywords = [p.name for p in required if p.kind is p.KEYWORD_ONLY]
        self.module_name = class_name(module)
        self.given_names, self.label_names = input_names, label_names
        self.keywords = [parameter.name for parameter in self._named]
        self.takes_any_keyword = inspect.Parameter.VAR_KEYWORD in kinds
        self.num_required = len(required) - len(self.required_keywords)
        takes_any = inspect.Parameter.VAR_POSITIONAL in kinds
        self.max_positional = float("inf") if takes_any else len(positional)
        self.has_positional_only = any(parameter.kind is parameter.POSITIONAL_ONLY for parameter in positional)
        self.takes_one_list = _names_one(input_names) or _is_annotated_as_sequence(module, positional[:1])

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs that `forward` accepts."""
        return list(self.given_names or self.keywords)

    def takes(self, name: str, *, if_optional: bool) -> bool:
        """Return whether `forward` requires an input of this name or, with `if_optional`, accepts one."""
        is_known = name in self.keywords or self.takes_any_keyword
        return name in self.required_names or (if_optional and is_known)

    def keyword_at(self, position: int, name: str) -> str | None:
        """Return the keyword of the input `name` at a position, or `None` if it can only be passed by position."""
        if position < len(self._named):
            parameter = self._named[position]
            return None if parameter.kind is parameter.POSITIONAL_ONLY else parameter.name
        return name if self.takes_any_keyword and self.max_positional < float("inf") else None


class _LoopState(threading.local):
    """The state of the loop that a thread runs.

    Attributes:
        bound: The functions that call the module, by the structure of the inputs.
        checks_batch_axis: Whether the first axis of the inputs must be the batch axis, as for arrays.
        sample_lists: Whether lists in the data have an entry for each sample.
        has_list_of_inputs: Whether a list was passed as one argument for each entry.
    """

    def __init__(self) -> None:
        self.bound: dict[object, Call] = {}
        self.checks_batch_axis = False
        self.sample_lists = SampleLists()
        self.has_list_of_inputs = False

    def __reduce__(self) -> tuple[type["_LoopState"], tuple[()]]:
        """Return an empty state for copies."""
        return _LoopState, ()


class ModuleCaller:
    """Calls a module with batches of inputs. The first batch of each structure decides how inputs are passed.

    The first list also decides for lists of other lengths: those of one loop are all arguments, or all one argument.
    Once a module has worked with a list as one argument, it gets every list so, also in other loops.

    It holds no reference to the module, which is an argument of every call.

    Args:
        input_names: The names of the inputs as the user gave them, or `None` for the parameters of `forward`.
        label_names: The keys of targets in data that are one dictionary.

    Attributes:
        example: A template of the last inputs, or `None` before the first call.
        loop: The state of the loop of this thread.
    """

    def __init__(self, input_names: Sequence[str] | None, label_names: Collection[str] = ()) -> None:
        self._input_names, self._label_names = input_names, label_names
        self._wrap: Callable[[Callable[..., Nested]], Callable[..., Nested]] = _identity
        self._cache: dict[object, tuple[Call, bool]] = {}  # With whether the inputs are one argument.
        self._takes_one_list = False
        self._fitting: set[object] = set()  # The structures whose batch axis needs no check.
        self.loop = _LoopState()
        self.example: Nested = None

    def __getstate__(self) -> StateDict:
        """Omit the bound functions: copies bind their own."""
        return {**self.__dict__, "_cache": {}, "_fitting": set()}

    def __call__(self, module: nn.Module, inputs: Nested) -> Nested:
        """Call the module with one batch of inputs."""
        call = self.loop.bound.get(type(inputs)) or self._bind(module, inputs)
        return call(module, inputs)

    def bound_for(self, module: nn.Module, inputs: Nested) -> Call:
        """Return the function that calls the module with inputs of the same structure, which binds once at the most."""
        return self.loop.bound.get(type(inputs)) or (self._bind(module, inputs) if tree.is_leaf(inputs) else self)

    def signature(self, module: nn.Module) -> Signature:
        """Return the signature of the module's `forward`, with what earlier calls have shown."""
        signature = Signature(module, self._input_names, self._label_names)
        signature.takes_one_list = signature.takes_one_list or self._takes_one_list
        return signature

    def start_loop(self) -> None:
        """Discard the bound functions, because the structure of the inputs may change from one loop to the next."""
        self.loop.bound.clear()
        self.loop.has_list_of_inputs = False

    def set_wrapper(self, wrap: Callable[[Callable[..., Nested]], Callable[..., Nested]]) -> None:
        """From now on, wrap the functions that call the module with `wrap`."""
        self._wrap = wrap
        self._cache.clear()
        self.loop.bound.clear()

    def wrapped(self, run: Callable[..., Nested]) -> Callable[..., Nested]:
        """Return a function that calls a module or model, wrapped as those for the batches are."""
        return self._wrap(run)

    def _bind(self, module: nn.Module, inputs: Nested) -> Call:
        structure = tree.treedef(inputs)
        bound = self.loop.bound
        if structure in bound:
            return bound[structure]
        is_list = isinstance(inputs, (list, tuple))
        holds_samples = is_list and self._holds_samples(inputs)
        if (structure, holds_samples) not in self._cache:
            call = make_module_call(self.signature(module), inputs, holds_samples=holds_samples)
            self._cache[structure, holds_samples] = self._wrap(call), call is call_with_one
        call, is_one = self._cache[structure, holds_samples]
        if not _is_template_of(self.example, inputs):
            self.example = _as_template(inputs)
        if is_list:
            self._check_list(inputs, is_one)
        bound[type(inputs) if tree.is_leaf(inputs) else structure] = call
        if torch.compiler.is_compiling():
            return call
        if self.loop.checks_batch_axis and structure not in self._fitting:
            checked = check_batch_axis(call, module, inputs)
            if checked is call:
                self._fitting.add(structure)
            call = checked
        return partial(self._call_with_first_list, call) if is_list and is_one and not self._takes_one_list else call

    def unbound_call(self, module: nn.Module, inputs: Nested) -> Call:
        """Return the function that calls the module with these inputs in the usual precision, outside of steps."""
        holds_samples = isinstance(inputs, (list, tuple)) and self._holds_samples(inputs)
        return make_module_call(self.signature(module), inputs, holds_samples=holds_samples)

    def _holds_samples(self, inputs: Sequence[Nested]) -> bool:
        """Return whether a list has an entry for each sample, as far as the data show it, or lists before."""
        loop = self.loop
        if self._takes_one_list or loop.has_list_of_inputs:
            return self._takes_one_list
        found = loop.sample_lists.found
        return is_list_of_samples(inputs) if found is None else found

    def _check_list(self, inputs: Sequence[Nested], is_one: bool) -> None:
        """Check that a list is passed like the lists before."""
        if not is_one:
            self.loop.has_list_of_inputs = True
        elif self.loop.has_list_of_inputs:
            raise ValueError(
                f"`x` is {describe(inputs)}, more entries than `forward` has parameters, though earlier lists were "
                "passed as one argument for each entry. If a list has an entry for each sample, and is one input, "
                "annotate the parameter of `forward`, such as `images: list`, or name it: "
                "Model(module, input_names=['images'])."
            )

    def _call_with_first_list(self, call: Call, module: nn.Module, inputs: Nested) -> Nested:
        """Call a module with a list as one argument, and remember that it works."""
        outputs = call(module, inputs)
        self._takes_one_list = True
        return outputs


def call_model(
    model: ModuleWrapper,
    caller: ModuleCaller,
    run: Callable[..., Nested],
    args: tuple[Nested, ...],
    kwargs: dict[str, Nested],
) -> Nested:
    """Call a model with `run`; a single array, list, tuple or dictionary is passed to its module as in `fit`."""
    if len(args) == 1 and not kwargs and isinstance(args[0], (list, tuple, Mapping, np.ndarray)):
        args = (tree.map(partial(_as_tensor, model.module), args[0]),)
        call = caller.unbound_call(model.module, args[0])
        if model.module is not model or call is not call_with_one:
            return caller.wrapped(call)(model.module, args[0])
    return caller.wrapped(run)(*args, **kwargs)


def _as_tensor(module: nn.Module, leaf: object) -> object:
    """Convert an array of numbers to a tensor on the device of a module, with its floating dtype."""
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "biuf":
        return leaf
    tensor = torch.as_tensor(leaf, device=device_of(module))
    return tensor.to(floating_dtype_of(module)) if tensor.is_floating_point() else tensor


def make_module_call(signature: Signature, inputs: Nested, *, holds_samples: bool | None = None) -> Call:
    """Return a function that calls a module with inputs structured like `inputs`.

    A tensor is the single positional argument, a list or tuple holds the positional arguments, and a dictionary is
    passed by name. If `forward` takes a single argument, a list or dictionary is passed to it as a whole, and so is a
    list with an entry for each sample if `forward` requires no more than one. A single input that `forward` requires by
    keyword is passed so.

    Args:
        signature: The parameters of `forward`.
        inputs: The inputs.
        holds_samples: Whether a list has an entry for each sample; by default, the list alone decides.
    """
    if holds_samples is None:
        holds_samples = is_list_of_samples(inputs)
    if isinstance(inputs, Mapping):
        return _call_by_name(signature, inputs)
    if signature.required_keywords or not (signature.max_positional or signature.takes_one_list):
        return _call_with_keyword(signature, inputs, holds_samples)
    if not isinstance(inputs, (list, tuple)) or are_texts(inputs):
        _check_takes_one(signature, inputs)
        return call_with_one
    takes_one = signature.num_required <= 1 <= signature.max_positional
    if signature.takes_one_list or (holds_samples and takes_one):
        return call_with_one
    if signature.num_required <= len(inputs) <= signature.max_positional:
        return _call_with_all
    if takes_one:
        return call_with_one
    raise ValueError(
        f"`x` has {len(inputs)} parts, but `{signature.module_name}.forward` takes {signature.num_required} inputs: "
        f"{signature.input_names}. Pass one array for each, or a dictionary with these names; or, if the list is one "
        "input, name it: Model(module, input_names=['…'])."
    )


def _check_takes_one(signature: Signature, inputs: Nested) -> None:
    if signature.num_required > 1:
        raise ValueError(
            f"`x` is {describe(inputs)}, but `{signature.module_name}.forward` takes {signature.num_required} inputs: "
            f"{signature.input_names}. Pass one array for each, as a list or a dictionary with these names."
        )


def _call_with_keyword(signature: Signature, inputs: Nested, holds_samples: bool) -> Call:
    """Return a function that passes an array, or a list of one, by the only keyword that `forward` requires."""
    if signature.num_required or len(signature.required_keywords) != 1:
        raise ValueError(
            f"`x` is {describe(inputs)}, but `{signature.module_name}.forward` takes its inputs by name: pass a "
            f"dictionary with the names {signature.keywords or 'of the inputs'}."
        )
    keyword = signature.required_keywords[0]
    if isinstance(inputs, (list, tuple)) and len(inputs) == 1 and not holds_samples:
        return lambda module, parts: module(**{keyword: parts[0]})
    return lambda module, array: module(**{keyword: array})


def _call_by_name(signature: Signature, inputs: Mapping[str, Nested]) -> Call:
    given_names = signature.given_names
    if given_names is not None and any(name in inputs for name in given_names):
        return _call_in_order(signature, given_names, inputs)
    unknown = [] if signature.takes_any_keyword else [name for name in inputs if name not in signature.keywords]
    has_required = signature.required_names <= set(inputs)
    if has_required and not unknown:
        by_position = signature.has_positional_only
        return _call_in_order(signature, signature.keywords, inputs) if by_position else _call_with_keywords
    if has_required and len(signature.keywords) > 1 and len(unknown) < len(inputs):
        raise ValueError(_unknown_keys(signature, unknown))
    if signature.num_required <= 1 <= signature.max_positional and not signature.required_keywords:
        return call_with_one
    raise ValueError(
        f"`x` is {describe(inputs)}, but `{signature.module_name}.forward` takes the inputs "
        f"{signature.input_names}. Rename the keys, or name the inputs: Model(module, input_names=[…])."
    )


def _unknown_keys(signature: Signature, unknown: Sequence[str]) -> str:
    near = dict.fromkeys(near for name in unknown for near in near_names(name, signature.keywords))
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    targets = f"If they are targets, name them: Model(module, label_names={list(unknown)})."
    return (
        f"`x` has the keys {unknown}, which `{signature.module_name}.forward` does not take: its inputs are "
        f"{signature.keywords}.{hint} Leave out what is no input, or name the inputs that count, and the others are "
        f"ignored: Model(module, input_names={signature.keywords}). {targets}"
    )


def _call_in_order(signature: Signature, names: Sequence[str], inputs: Mapping[str, Nested]) -> Call:
    """Return a function that passes the inputs with these names, which are those of the parameters in their order.

    What follows a missing one is passed by keyword. Targets that `forward` takes are passed as well; other keys are
    ignored.
    """
    in_order: list[str] = []
    by_keyword = {key: key for key in inputs if _is_label(signature, names, key)}
    for position, name in enumerate(names):
        if name in inputs and position == len(in_order) < signature.max_positional:
            in_order.append(name)
        elif name in inputs:
            by_keyword[_keyword_at(signature, names, position)] = name
    required = [key for key in signature.keywords[len(in_order) :] if key in signature.required_names]
    missing = [key for key in required if key not in by_keyword]
    if missing:
        raise ValueError(_missing_keys(signature, names, inputs, missing))
    if not by_keyword:
        return lambda module, parts: module(*[parts[name] for name in in_order])
    keywords = list(by_keyword.items())
    return lambda module, parts: module(
        *[parts[name] for name in in_order], **{keyword: parts[name] for keyword, name in keywords}
    )


def _is_label(signature: Signature, names: Sequence[str], key: str) -> bool:
    return key in signature.label_names and key not in names and signature.takes(key, if_optional=True)


def _keyword_at(signature: Signature, names: Sequence[str], position: int) -> str:
    keyword = signature.keyword_at(position, names[position])
    if keyword is None:
        raise ValueError(
            f"`{signature.module_name}.forward` cannot take {names[position]!r} as input {position + 1} of "
            f"{list(names)}: it takes the inputs {signature.keywords} by name, and others only in order, without gaps."
        )
    return keyword


def _missing_keys(
    signature: Signature, names: Sequence[str], inputs: Mapping[str, Nested], missing: Sequence[str]
) -> str:
    """Return the message for parameters without an input, by the names that the user gave them."""
    as_named = dict(zip(signature.keywords, names))
    return (
        f"`x` is {describe(inputs)}, without {[as_named.get(key, key) for key in missing]}, but "
        f"`{signature.module_name}.forward` takes the inputs {list(names)}."
    )


def _without_pass_through(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers whose `forward(*args, **kwargs)` passes all arguments through."""
    while {parameter.kind for parameter in _parameters_of(module)} == _PASSES_THROUGH:
        inner = list(filter(_has_forward, module.children()))
        if len(inner) != 1:
            break
        module = inner[0]
    return module


def _has_forward(module: nn.Module) -> bool:
    """Return whether a module can be called, as containers cannot; TorchScript has `forward` in the instance only."""
    return getattr(type(module), "forward", None) is not nn.Module.forward


def _parameters_of(module: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of `forward`, which TorchScript has in a schema."""
    parameters = script_parameters(module)
    return list(inspect.signature(module.forward).parameters.values()) if parameters is None else parameters


def _names_one(input_names: Sequence[str] | None) -> bool:
    return input_names is not None and len(input_names) == 1


def _is_annotated_as_sequence(module: nn.Module, first: Sequence[inspect.Parameter]) -> bool:
    """Return whether the first parameter of `forward` is annotated as a list, tuple or sequence of tensors."""
    if not first or first[0].annotation is inspect.Parameter.empty:
        return False
    try:
        annotation = typing.get_type_hints(module.forward).get(first[0].name, first[0].annotation)
    except Exception:  # Names may exist only for type checkers.
        annotation = first[0].annotation
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, (Tensor, Mapping, str))


def call_with_one(module: nn.Module, inputs: Nested) -> Nested:
    """Call a module with the inputs as its single argument."""
    return module(inputs)


def _call_with_all(module: nn.Module, inputs: Sequence[Nested]) -> Nested:
    return module(*inputs)


def _call_with_keywords(module: nn.Module, inputs: Mapping[str, Nested]) -> Nested:
    return module(**inputs)


def _is_template_of(example: Nested, inputs: Nested) -> bool:
    """Return whether an example is, as can be seen quickly, a sample of zeros like those of a batch of inputs."""
    is_tensor = type(example) is Tensor and type(inputs) is Tensor and not inputs.is_nested
    return is_tensor and example.dtype is inputs.dtype and example.shape[1:] == inputs.shape[1:]


def _as_template(inputs: Nested) -> Nested:
    """Return a sample of zeros like those of a batch of inputs, on the CPU."""
    return tree.map(_template_leaf, inputs)


def _template_leaf(leaf: object) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.zeros(1, *leaf.shape[1:], dtype=leaf.dtype) if is_plain(leaf) and leaf.ndim else None


def _identity(call: Callable[..., Nested]) -> Callable[..., Nested]:
    return call
