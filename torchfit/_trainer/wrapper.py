"""What a model is before it is trained: a module, its weights, and how it is called."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchfit._trainer.module_call import Call, Signature, bind_call, rows_of
from torchfit._trainer.predictions import host_ready
from torchfit._trainer.summary import Summary, blank, summarize, zeros_of
from torchfit._utils import tree, wrapping
from torchfit._utils.console import write_line
from torchfit._utils.errors import describe
from torchfit._utils.modules import device_of, floating_dtype_of, training_mode, weight_tensors
from torchfit._utils.names import snake_case

Array = np.ndarray[Any, Any]


class ModuleWrapper(wrapping.ModuleWrapper):
    """Holds any module (or is one itself, when subclassed) and calls it with inputs of any structure."""

    def __init__(
        self,
        module: nn.Module | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        """Keep the module, untouched.

        Raises:
            TypeError: If `module` is not a module.
        """
        super().__init__()
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(f"`module` must be a torch.nn.Module, but it is {describe(module)}.")
        if module is not None:
            self._modules["module"] = module
        self.name = name or snake_case(type(module or self).__name__)
        self._given_names = (input_names, output_names)
        self._calls: dict[type, tuple[Call, Callable[[Any], int]]] = {}
        self._known_calls: dict[Any, tuple[Call, Callable[[Any], int]]] = {}
        self._prepare_call: Callable[[Call], Call] = _as_it_is
        self._example: Any = None

    @property
    def module(self) -> nn.Module:
        """The wrapped module; the model itself where it was subclassed."""
        return self._modules.get("module") or self

    @property
    def input_names(self) -> list[str]:
        """The names of the inputs: as given, else the parameters of the module's `forward`."""
        return self._signature().input_names

    def _signature(self) -> Signature:
        return Signature(self.module, self._given_names[0])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapped module; subclasses define their own."""
        if self.module is self:
            raise NotImplementedError(f"{type(self).__name__} wraps no module: define its `forward`.")
        return self.module(*args, **kwargs)

    def __call__(self, *args: Any, training: bool | None = None, **kwargs: Any) -> Any:
        """Run the module on one batch.

        A single list, tuple or dictionary goes to the module as in `fit`. `training` puts the model into
        train (`True`) or evaluation mode (`False`) for this call; by default the mode stays as it is.
        """
        if training is not None:
            with training_mode(self, training):
                return self(*args, **kwargs)
        if len(args) == 1 and not kwargs and isinstance(args[0], (list, tuple, Mapping)):
            bound = bind_call(self.module, self._signature(), args[0])
            if bound is not self:
                return bound(args[0])
        return super().__call__(*args, **kwargs)

    def _call(self, inputs: Any) -> Any:
        """Call the module with one batch of inputs, in the way that was bound for their structure."""
        call, _ = self._calls.get(type(inputs)) or self._bind_call(inputs)
        return call(inputs)

    def _rows(self, inputs: Any) -> int:
        """Count the samples in one batch of inputs."""
        _, count = self._calls.get(type(inputs)) or self._bind_call(inputs)
        return count(inputs)

    def _bind_call(self, inputs: Any) -> tuple[Call, Callable[[Any], int]]:
        structure = tree.treedef(inputs)
        if structure not in self._known_calls:
            call = bind_call(self.module, self._signature(), inputs)
            self._known_calls[structure] = self._prepare_call(call), rows_of(inputs)
        self._example = blank(inputs)
        bound = self._calls[type(inputs)] = self._known_calls[structure]
        return bound

    def compile_call(self) -> None:
        """Call the module compiled from now on, as far as it can be, where a whole step cannot be one graph."""
        self.prepare_calls(partial(_compiled, self._prepare_call))

    def prepare_calls(self, prepare: Callable[[Call], Call]) -> None:
        """Pass the function that calls the module through `prepare` from now on."""
        self._prepare_call = prepare
        self._known_calls.clear()
        self._calls.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was bound to this very module: copies bind their own calls."""
        return {**self.__dict__, "_calls": {}, "_known_calls": {}}

    # -- weights, under the keys of the module itself ------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state of the wrapped module, under its own keys."""
        if self.module is self:
            return super().state_dict(*args, **kwargs)
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Load a state of the wrapped module, under its own keys."""
        if self.module is self:
            return super().load_state_dict(state_dict, *args, **kwargs)
        return self.module.load_state_dict(state_dict, *args, **kwargs)

    @property
    def weights(self) -> list[Tensor]:
        """All tensors of the state, in the order of `state_dict`."""
        return list(self.state_dict(keep_vars=True).values())

    @property
    def trainable_weights(self) -> list[Tensor]:
        """The parameters that are trained."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    @property
    def non_trainable_weights(self) -> list[Tensor]:
        """Frozen parameters and buffers."""
        trained = {id(parameter) for parameter in self.trainable_weights}
        return [tensor for tensor in self.weights if id(tensor) not in trained]

    variables = weights
    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[Array]:
        """Return copies of all weights as NumPy arrays, in the order of `state_dict`."""
        return [host_ready(tensor).to("cpu", copy=True).numpy() for tensor in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy arrays into the weights, in the order of `get_weights`.

        Raises:
            ValueError: If their number or a shape differs.
        """
        state = self.state_dict(keep_vars=True)
        if len(weights) != len(state):
            raise ValueError(
                f"`weights` must have {len(state)} arrays, one for each of {list(state)}, not {len(weights)}."
            )
        arrays = [torch.as_tensor(array) for array in weights]
        for (name, tensor), array in zip(state.items(), arrays):
            if tensor.shape != array.shape:
                raise ValueError(
                    f"`weights` has {describe(array)} for `{name}`, whose shape is {tuple(tensor.shape)}. "
                    "Pass what `get_weights` of the same architecture gave."
                )
        with torch.no_grad():
            for tensor, array in zip(state.values(), arrays):
                tensor.copy_(array)

    @property
    def has_lazy_weights(self) -> bool:
        """Tell whether weights are missing that are made when the module sees its first batch."""
        return any(map(is_lazy, weight_tensors(self.module)))

    def count_params(self) -> int:
        """Return the number of scalars in the weights.

        Raises:
            ValueError: If a lazy layer has not seen data yet.
        """
        tensors = weight_tensors(self.module)
        if any(map(is_lazy, tensors)):
            raise ValueError("The module has lazy layers that saw no data yet: call the model on a batch first.")
        return sum(tensor.numel() for tensor in tensors)

    def summary(
        self,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        print_fn: Callable[[str], Any] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Sequence[str] | None = None,
        input_shape: Any = None,
    ) -> None:
        """Print a table of the layers: their output shapes, and how many weights they have.

        Args:
            line_length: Characters in a line; by default as many as the contents need.
            positions: Where the columns end, as characters or as shares of the line up to 1.
            print_fn: Called with the table instead of printing it.
            expand_nested: Whether to list the layers inside of layers.
            show_trainable: Whether to tell which layers are trained.
            layer_range: Patterns for the names of the first and the last layer to list.
            input_shape: The shape of one sample, or a list or dictionary of shapes, to compute output shapes for;
                by default that of the data seen last.
        """
        found = self._summary(expand_nested, show_trainable, layer_range, input_shape)
        (print_fn or write_line)(found.text(line_length, positions))

    def _summary(
        self,
        expand_nested: bool = False,
        show_trainable: bool = False,
        layer_range: Sequence[str] | None = None,
        input_shape: Any = None,
    ) -> Summary:
        example = self._example if input_shape is None else zeros_of(input_shape)
        run = None if example is None else lambda: self._run_example(example)
        optimizer: Any = getattr(self, "optimizer", None)
        held = optimizer.variables if getattr(optimizer, "built", False) else ()
        return summarize(self.name, self.module, run, expand_nested, show_trainable, layer_range, held)

    def _repr_html_(self) -> str:
        """Show the summary in a notebook."""
        return self._summary(show_trainable=True).html()

    def _run_example(self, example: Any) -> None:
        device, dtype = device_of(self.module), floating_dtype_of(self.module)
        inputs = tree.map(lambda leaf: leaf.to(device, dtype if leaf.is_floating_point() else None), example)
        with training_mode(self, training=False), torch.random.fork_rng(_accelerators(device)):
            bind_call(self.module, self._signature(), inputs)(inputs)


def _as_it_is(call: Call) -> Call:
    return call


def _compiled(prepare: Callable[[Call], Call], call: Call) -> Call:
    compiled: Call = torch.compile(prepare(call), options={"fallback_random": True})
    return compiled


def _accelerators(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
