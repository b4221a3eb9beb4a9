"""Error messages for common mistakes, in terms of the user's call and with a way to fix them.

They cover attributes of other libraries' models, inputs that a layer of torch rejects, inputs without a batch axis, and
errors from inside torch. Nothing here reads the values of a tensor, only shapes and dtypes.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn

from torchfit._data.convert import hint_for_pairs
from torchfit._types import Nested
from torchfit._utils import tree
from torchfit._utils.errors import describe, iter_frames
from torchfit._utils.modules import ModuleWrapper, floating_dtype_of, has_running_stats
from torchfit._utils.names import near_names
from torchfit._utils.tensors import is_plain

_FIT = "`fit` takes generators, Datasets and loaders as well"
_CLASSES = "write model.predict(x).argmax(-1), or (model.predict(x) > 0.5) for one unit of probabilities"
_STEP = "override `train_step`, `test_step` and `predict_step`, or write `compute_loss`"
_TRAINER = "there is no separate trainer: `compile` and `fit` take its arguments"
_CALLS = "pass a name, an object or a function to `compile`"
_ESTIMATOR = "torchfit.sklearn.Classifier and Regressor have it"
_SHAPES = "model.summary(input_shape=…) shows the shapes, and `example_inputs` has one sample after the first batch"

_HINTS = {
    # Keras
    "layers": "iterate over model.module.named_children()",
    "get_layer": "write model.module.get_submodule(name), or an attribute of model.module",
    "add": "put layers into an nn.Sequential, and wrap that: Model(nn.Sequential(…))",
    "pop": "put layers into an nn.Sequential, and wrap that: Model(nn.Sequential(…))",
    "fit_generator": _FIT,
    "evaluate_generator": "`evaluate` takes generators, Datasets and loaders as well",
    "predict_generator": "`predict` takes generators, Datasets and loaders as well",
    "predict_classes": _CLASSES,
    "inputs": "model.input_names has the names",
    "outputs": "model.predict(x) returns them",
    "input_shape": _SHAPES,
    "output_shape": _SHAPES,
    "get_config": "model.save(path) stores the architecture; model.get_compile_config() describes what was compiled",
    "to_json": "model.save(path) stores the architecture",
    "to_yaml": "model.save(path) stores the architecture",
    "loss_fn": "model.loss has what was compiled, model.compute_loss computes it",
    "build_from_config": "torchfit.models.load_model(path) rebuilds a saved model",
    "quantize": "torch.ao.quantization works on model.module",
    "summary_plot": "torchfit.utils.plot_model(model) draws it",
    # scikit-learn
    "predict_proba": f"model.predict(x) returns what the module returns (apply softmax to logits); {_ESTIMATOR}",
    "predict_log_proba": f"model.predict(x) returns what the module returns; {_ESTIMATOR}",
    "decision_function": "model.predict(x) returns what the module returns",
    "score": f"model.evaluate(x, y) returns the loss and the metrics; {_ESTIMATOR}",
    "partial_fit": "call `train_on_batch`, or `fit` again: it continues with the weights there are",
    "fit_predict": "call `fit`, then `predict`",
    "fit_transform": "call `fit`, then `predict`",
    "transform": "model.predict(x) returns what the module returns",
    "classes_": f"classes are numbered from 0 to the number of outputs less 1; {_ESTIMATOR}",
    "get_params": f"model.get_compile_config() returns the arguments of `compile`; {_ESTIMATOR}",
    "set_params": f"call `compile` again; {_ESTIMATOR}",
    # Lightning
    "training_step": _STEP,
    "validation_step": _STEP,
    "configure_optimizers": _CALLS,
    "trainer": _TRAINER,
    "save_hyperparameters": "model.save(path) stores the arguments of `compile`",
    "hparams": "model.get_compile_config() returns the arguments of `compile`",
    "log": "add_metric(value, name=…) in a `forward`, or a metric in `compile`",
    "log_dict": "add_metric(value, name=…) in a `forward`, or a metric in `compile`",
    "load_from_checkpoint": "torchfit.models.load_model(path), or model.load_weights(path)",
    "to_onnx": 'model.export(path, format="onnx")',
    "to_torchscript": 'model.export(path, format="torchscript")',
    "freeze": "torchfit.utils.freeze(model), or parts by name: freeze(model, 'encoder')",
    "unfreeze": "torchfit.utils.unfreeze(model), or parts by name: unfreeze(model, 'head')",
    "current_epoch": "a callback gets the epoch in `on_epoch_begin`",
    "global_step": "model.optimizer.iterations counts the updates",
    "device": "next(model.parameters()).device; choose one with Model(module, device=…)",
    # fastai, skorch, Hugging Face
    "fit_one_cycle": "pass torch.optim.lr_scheduler.OneCycleLR to the callback TorchLRScheduler",
    "fine_tune": "the callback FineTuning trains the head first, and the rest from an epoch on",
    "freeze_to": "torchfit.utils.freeze(model, 'name', …) freezes parts by name",
    "learn": _TRAINER,
    "recorder": "`fit` returns a History: history.plot(), history.to_frame()",
    "get_preds": "call `predict`",
    "show_results": "torchfit.utils.worst_samples(model, x, y) finds the samples with the highest losses",
    "module_": "model.module is the wrapped module",
    "save_pretrained": "model.module.save_pretrained(…) if it is one of Hugging Face, else model.save(path)",
    "push_to_hub": "model.module.push_to_hub(…) if it is one of Hugging Face",
}


def is_initialized(module: nn.Module) -> bool:
    """Return whether the `__init__` of a module has called that of `nn.Module`."""
    return hasattr(module, "training") or isinstance(module, torch.jit.ScriptModule)  # Frozen ones have no mode.


def call_super_first(module: nn.Module) -> str:
    """Return the message for a module that is not initialized."""
    return f"`{type(module).__name__}.__init__` must call `super().__init__()`, before anything else."


class MissingAttribute:
    """The error message for a missing attribute of a model, composed only when shown, because `hasattr` is frequent."""

    def __init__(self, model: ModuleWrapper, name: str) -> None:
        self._model, self._name = model, name

    def __str__(self) -> str:
        """Return the text, with a hint if there is one."""
        model, name = self._model, self._name
        if not is_initialized(model):
            return call_super_first(model)
        text = f"{type(model).__name__!r} object has no attribute {name!r}"
        if name.startswith("_") or hasattr(type(model), name):  # a property of this name failed
            return text
        if name in _HINTS:
            return f"{text}. Instead: {_HINTS[name]}."
        if model.module is not model and hasattr(model.module, name):
            return f"{text}, but the module that it wraps has: model.module.{name}."
        near = near_names(name, [known for known in dir(type(model)) if not known.startswith("_")])
        return f"{text}. Did you mean {' or '.join(map(repr, near))}?" if near else text


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMALISATIONS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_SPATIAL_AXES = {"1d": 1, "2d": 2, "3d": 3}
_AXIS_NAMES = ("batch", "channel", "depth", "height", "width")


def describe_layer(module: nn.Module, layer: nn.Module) -> str:
    """Return the name of a layer in a module, with its arguments or, if it contains other layers, with its class."""
    names = {id(submodule): name for name, submodule in module.named_modules()}
    name = names.get(id(layer), "").removeprefix("module.")
    kind = repr(layer) if "\n" not in repr(layer) else type(layer).__name__
    return f"`{name}`, {kind}," if name else kind


def suggest_way_out(layer: nn.Module, received: object, text: str) -> str:
    """Return a sentence that says what to do about an input that a layer of torch rejected.

    Args:
        layer: The layer.
        received: Its input, of any type.
        text: The error message of torch.
    """
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return _suggest_ids(layer, received)
    if not isinstance(received, Tensor):
        return _suggest_one_tensor(received)
    if "more than 1 value per channel" in text and has_running_stats(layer):
        return (
            "In training it normalizes by the values of a batch, and one sample has no variance. Choose a `batch_size` "
            "that leaves no last batch of one sample, or drop that batch: `drop_last=True` of a DataLoader."
        )
    if "more than 1 spatial element" in text:
        return (
            "It normalizes each channel of a sample over the axes after the channels, which hold one value here. Pass "
            "longer inputs, or use nn.LayerNorm or nn.GroupNorm, which normalize over the channels."
        )
    if not is_plain(received):
        return "Check the inputs of this layer: it takes tensors, dense and with values."
    if not (received.is_floating_point() or received.is_complex()):
        dtype = str(floating_dtype_of(layer)).removeprefix("torch.")
        return (
            f'This layer computes with floats: cast the inputs, x.astype("{dtype}") of an array or x.float() of a '
            "tensor. Integer images are usually divided by 255 as well."
        )
    return _suggest_axes(layer, received) or "Check the number and order of features in `x` against this layer."


_TARGETS_APART = (
    "Inputs and targets are passed as fit(x, y), as the tuple (x, y) in `validation_data`, and batches (x, y) by an "
    "iterator, iter(batches)."
)
_NAMES_OF_TARGETS = ("y", "label", "labels", "target", "targets", "y_true", "class", "classes")


def suggest_label_names(keys: Sequence[str]) -> str:
    """Return the hint for a dictionary that may contain the targets.

    >>> suggest_label_names(["image", "label"])
    "If 'label' is a target, name it: Model(module, input_names=['image'], label_names=['label'])."
    """
    labels = [key for key in keys if str(key).lower() in _NAMES_OF_TARGETS] or list(keys)[-1:]
    inputs = [key for key in keys if key not in labels]
    names = f"input_names={inputs}, label_names={labels}"
    subject, pronoun = ("is a target", "it") if len(labels) == 1 else ("are targets", "them")
    return f"If {', '.join(map(repr, labels))} {subject}, name {pronoun}: Model(module, {names})."


def _suggest_one_tensor(received: object) -> str:
    """Return the hint for a tuple, such as an RNN returns, or a list of arrays where one tensor is expected."""
    if isinstance(received, tuple):
        return (
            "It takes one tensor. If the layer before it returns several, as nn.GRU and nn.LSTM return (outputs, "
            "state), put a module between them that picks one in its `forward`, such as `return parts[0][:, -1]` for "
            f"the last step of batch_first outputs. {_TARGETS_APART}"
        )
    if isinstance(received, (list, dict)) and len(received) == 1:
        return (
            f"It takes one tensor, and not a {type(received).__name__} with one in it: pass the array itself, or a "
            f"dictionary whose key is a parameter of `forward`. {_TARGETS_APART}"
        )
    if isinstance(received, dict):
        return (
            f"It takes one tensor, and `x` has several parts. {suggest_label_names(list(received))} Else join "
            f"the parts to one array, or write a module whose `forward` takes each of them. {_TARGETS_APART}"
        )
    if isinstance(received, list):
        return hint_for_pairs(received) or (
            "It takes one tensor, and `x` has several parts. Join them to one array, np.concatenate(x, 1) along the "
            "features or np.stack(x) for a list of samples, or write a module whose `forward` takes each of them. "
            f"{_TARGETS_APART}"
        )
    return "Check the inputs of this layer: it takes tensors."


def _suggest_ids(layer: nn.Embedding | nn.EmbeddingBag, received: object) -> str:
    if isinstance(received, Tensor) and received.is_floating_point():
        return 'This layer takes ids, which are integers: pass x.astype("int64") of an array or x.long() of a tensor.'
    if isinstance(received, Tensor) and received.dtype not in (torch.int64, torch.int32):
        return 'This layer takes ids as int64 or int32: pass x.astype("int64") of an array or x.long() of a tensor.'
    last = layer.num_embeddings - 1
    return (
        f"This layer has rows for the ids from 0 to {last}, and `x` holds others. Make `num_embeddings` the highest "
        "id plus 1, or map unknown ids to a known one."
    )


def channels_of(layer: nn.Module) -> int | None:
    """Return the number of input channels of a convolution or normalization layer, or `None` for other layers."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.in_channels
    if isinstance(layer, _NORMALISATIONS):
        return layer.num_features
    return layer.num_channels if isinstance(layer, nn.GroupNorm) else None


def num_spatial_axes(layer: nn.Module) -> int | None:
    """Return the number of spatial axes of a layer such as `nn.Conv2d`, or `None` for layers without them."""
    name = type(layer).__name__.removeprefix("Lazy").lower()
    return None if isinstance(layer, nn.BatchNorm1d) else _SPATIAL_AXES.get(name[-2:])


def _suggest_axes(layer: nn.Module, received: Tensor) -> str | None:
    """Return the hint for channels on the last axis, or for a missing channel or batch axis."""
    channels, shape, spatial = channels_of(layer), tuple(received.shape), num_spatial_axes(layer)
    if channels is None:
        return suggest_missing_axis(layer, shape)
    if spatial is not None and len(shape) in (2, spatial + 1):
        return suggest_missing_axis(layer, shape)
    if len(shape) > 2 and shape[-1] == channels != shape[1]:
        axes = (0, len(shape) - 1, *range(1, len(shape) - 1))
        order = ", ".join(map(str, axes))
        return (
            f"It takes {channels} channels on the second axis, and the inputs seem to have them on the last: pass "
            f"x.transpose({order}) of an array or x.permute({order}) of a tensor."
        )
    return None


def suggest_missing_axis(layer: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Return the hint for inputs without a batch, channel or feature axis, or `None` for other inputs."""
    spatial, channels = num_spatial_axes(layer), channels_of(layer)
    if isinstance(layer, (nn.Linear, nn.Flatten)) and len(shape) == 1:
        return (
            "The first axis of `x` is the batch, and no axis is left for the features. Pass one sample as a batch of "
            "one, x[None], and samples of one feature each as x[:, None]."
        )
    if spatial is not None and spatial > 1 and len(shape) == len(_AXIS_NAMES[:2]):
        axes = ", ".join(_AXIS_NAMES[5 - spatial :])
        return (
            f"It takes batches of {spatial + 2} axes, and the rows of `x` are flat. Give them their axes back: "
            f"x.reshape(len(x), {channels or 'channel'}, {axes})."
        )
    if spatial is None or channels is None or len(shape) != spatial + 1:
        return None
    names = ", ".join((*_AXIS_NAMES[:2], *_AXIS_NAMES[5 - spatial :]))
    add_channel = "x[:, None]" if channels == 1 else f"x[:, None].repeat({channels}, 1) of an array"
    return (
        f"It takes batches of {spatial + 2} axes: {names}. Pass one sample as a batch of one, x[None]; where the "
        f"axis of channels is missing, pass {add_channel}."
    )


Call = Callable[[nn.Module, Nested], Nested]


def check_batch_axis(call: Call, module: nn.Module, inputs: Nested) -> Call:
    """Wrap the call with the first batch to reject inputs that a layer takes as a single sample.

    Arrays are cut into batches along their first axis. If a sample has no batch axis, the sample itself is cut, and a
    layer such as `nn.Linear` silently takes the pieces for samples.
    """
    leaves = [leaf for leaf in tree.leaves(inputs) if isinstance(leaf, Tensor)]
    suspects = [layer for layer in module.modules() if any(takes_as_sample(layer, leaf.ndim) for leaf in leaves)]
    return partial(_call_checked, call, leaves, suspects) if suspects else call


def takes_as_sample(layer: nn.Module, num_axes: int) -> bool:
    """Return whether a layer takes an input with `num_axes` axes as a single sample without a batch axis.

    >>> takes_as_sample(nn.Linear(4, 3), 1), takes_as_sample(nn.Conv2d(3, 4, 2), 3), takes_as_sample(nn.ReLU(), 1)
    (True, True, False)
    """
    if isinstance(layer, nn.Linear):
        return num_axes == 1
    return isinstance(layer, CONVOLUTIONS) and num_axes == (num_spatial_axes(layer) or 0) + 1


def _call_checked(
    call: Call, leaves: Sequence[Tensor], suspects: Sequence[nn.Module], module: nn.Module, inputs: Nested
) -> Nested:
    def check(layer: nn.Module, received: tuple[object, ...]) -> None:
        """Check inputs that are parts of `x`; tensors that the model computed may have any axes."""
        first = received[0] if received else None
        if isinstance(first, Tensor) and _is_one_of(first, leaves) and takes_as_sample(layer, first.ndim):
            raise ValueError(
                f"`x` does not fit the model: layer {describe_layer(module, layer)} was called with {describe(first)}. "
                f"{suggest_missing_axis(layer, tuple(first.shape))}"
            )

    with ExitStack() as hooks:
        for layer in suspects:
            hooks.callback(layer.register_forward_pre_hook(check).remove)
        return call(module, inputs)


def _is_one_of(tensor: Tensor, tensors: Sequence[Tensor]) -> bool:
    return any(tensor is other for other in tensors)


_MISMATCH = re.compile(
    r"shape|size|dimension|at least|embed_dim|expect|should contain|should be the same|dtype|must match|must be Tensor"
    r"|channel|same type|must have the type|not implemented for|out of range|valid range|promoting|can't be cast",
    re.I,
)
_NO_SUCH_CLASS = re.compile(r"out of bounds|Class values must be", re.I)
_NO_SUCH_TARGET = re.compile(r"^Target -?\d+ is out of bounds|^target out of range|'target' is out of range", re.I)
_NOTHING_TO_TRAIN = re.compile(r"does not require grad and does not have a grad_fn")
_NUMPY_OF_GRADIENT = re.compile(r"Can't call numpy\(\) on Tensor that requires grad")
_DEVICE_ASSERT = re.compile(r"device-side assert")
_LOSSES = "torch.nn.modules.loss"


class ErrorTranslator:
    """Converts mismatches found inside torch's own layers to a `ValueError` that names the layer and the shapes.

    The same is done for class indices that are out of range, and for losses that depend on no parameter. Exceptions
    from the user's own code, and out-of-memory errors, pass through unchanged.

    The frame with the `with` statement is left out of the traceback of what was converted. From Python 3.12 on, the
    frame of a generator of `contextlib` keeps that of its caller, which holds the exception: a reference cycle that
    would keep the model until the next garbage collection.

    Args:
        module: The module of the model, to find the names of layers.
        data_name: The argument that the data were passed as, `x` or `validation_data`.
        has_gradients: Whether gradients are computed, as in training.
    """

    def __init__(self, module: nn.Module, data_name: str = "x", has_gradients: bool = True) -> None:
        self._module, self._data_name, self._has_gradients = module, data_name, has_gradients

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not isinstance(error, _TRANSLATED) or isinstance(error, torch.OutOfMemoryError) or traceback is None:
            return
        if _DEVICE_ASSERT.search(str(error)):
            raise RuntimeError(_ON_THE_DEVICE) from error.with_traceback(traceback.tb_next)
        explanation = _explain(self._module, self._data_name, self._has_gradients, error)
        if explanation is not None:
            raise ValueError(explanation) from error.with_traceback(traceback.tb_next)


_TRANSLATED = (RuntimeError, IndexError, TypeError, ValueError, AssertionError, AttributeError)

_NO_GRADIENT = (
    "The loss depends on no trainable parameter, so there is nothing to learn. Is every parameter frozen "
    "(`utils.unfreeze(model)`), or does `forward` or the loss cut off the gradient, with `detach()` or `no_grad`?"
)

_GRADIENTS_ARE_OFF = (
    "Gradients are off in validation, `evaluate` and `predict`, so nothing can be differentiated there. If `forward` "
    "or the loss computes derivatives, as of outputs by inputs, put that part into `with torch.enable_grad():`."
)

_NO_CLASS = (
    "holds a class index that the outputs have no class for: class indices start at 0, and the last one is the "
    "number of classes minus 1. Give the last layer more units, renumber the classes, or exclude an index from the "
    "loss with `ignore_class=` (torch: `ignore_index=`)."
)

_LEAVES_TORCH = (
    "The loss, or the `forward` of a module, converts a tensor to a NumPy array, through which gradients cannot flow. "
    "Use torch's functions: torch.mean instead of np.mean, and so on."
)

_ON_THE_DEVICE = (
    "The device stopped at an index that is out of range: most often a class index in `y` that the outputs have no "
    'class for, or an id in `x` that an embedding has no row for. The same call with device="cpu", in a new process, '
    "says which."
)


def _explain(module: nn.Module, data_name: str, has_gradients: bool, error: Exception) -> str | None:
    """Return a message to replace that of `error`, or `None` to keep it."""
    text, traceback = str(error), error.__traceback__
    if _passes_through("torchfit._data", traceback):
        return None
    if _NOTHING_TO_TRAIN.search(text):
        return _NO_GRADIENT if has_gradients else _GRADIENTS_ARE_OFF
    if _NUMPY_OF_GRADIENT.search(text):
        return _LEAVES_TORCH
    if _NO_SUCH_TARGET.search(text) or (
        _NO_SUCH_CLASS.search(text) and _passes_through("torchfit.functional", traceback)
    ):
        return f"{_in_data('y', data_name)} {_NO_CLASS}"
    found = _failing_layer(traceback)
    if found is None:
        return None
    layer, received, home, is_in_torch = found
    if not (is_in_torch and _MISMATCH.search(text)) and (received is None or is_plain(received)):
        return None
    came = "its inputs" if received is None else describe(received)
    if home == _LOSSES:
        y = _in_data("y", data_name)
        return f"{y} does not fit the loss {layer!r}, which was called with the outputs {came}. torch says: {text}"
    return (
        f"{_in_data('x', data_name)} does not fit the model: layer {describe_layer(module, layer)} was called with "
        f"{came}. {suggest_way_out(layer, received, text)} torch says: {text}"
    )


def _in_data(argument: str, data_name: str) -> str:
    return f"`{argument}`" if data_name == "x" else f"`{argument}` in `{data_name}`"


def _passes_through(package: str, traceback: TracebackType | None) -> bool:
    """Return whether a package of torchfit, such as the one that reads the data, is among the callers."""
    return any(_module_of(entry).startswith(package) for entry in iter_frames(traceback))


def _failing_layer(traceback: TracebackType | None) -> tuple[nn.Module, object, str, bool] | None:
    """Return the innermost module whose `forward` was running, its input, and where this `forward` was written.

    The last item is whether the code that failed is torch's. The result is `None` if the `forward` is not torch's.
    """
    found, where = None, ""
    for entry in iter_frames(traceback):
        frame, where = entry.tb_frame, _module_of(entry)
        if frame.f_code.co_name == "forward":  # Reading the locals of other frames would keep the error itself alive.
            values, names = frame.f_locals, frame.f_code.co_varnames[1:2]
            if isinstance(values.get("self"), nn.Module):
                found = values["self"], values.get(names[0]) if names else None, where
    if found is None or not found[2].startswith("torch.nn"):
        return None
    return *found, where.startswith("torch.")


def _module_of(entry: TracebackType) -> str:
    return str(entry.tb_frame.f_globals.get("__name__"))
