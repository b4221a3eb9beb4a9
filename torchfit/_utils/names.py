"""Utilities for names: snake case, unique names, suggestions for misspelt names and unknown keyword arguments."""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from torchfit._utils.errors import filter_traceback

_MAX_LISTED = 5
_MAX_NEAR = 3
_MIN_CONTAINED = 3


def snake_case(name: str) -> str:
    """Turn a class name into a variable name.

    >>> snake_case("MeanSquaredError"), snake_case("AUC"), snake_case("R2Score")
    ('mean_squared_error', 'auc', 'r2_score')
    """
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest known names, or with the first five if none are near.

    >>> did_you_mean("adm", ["adam", "sgd"]), did_you_mean("top_k", ["top_k_accuracy", "auc"])
    ("Did you mean 'adam'?", "Did you mean 'top_k_accuracy'?")
    >>> did_you_mean("x", "abcdefg")
    'Known names: a, b, c, d, e and 2 more.'
    """
    known = sorted(known)
    near = near_names(name, known)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    more = f" and {len(known) - _MAX_LISTED} more" if len(known) > _MAX_LISTED else ""
    return f"Known names: {', '.join(known[:_MAX_LISTED])}{more}."


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names with a similar spelling or, if there are none, that contain `name`."""
    lowered = {candidate.lower(): candidate for candidate in known}
    name = str(name).lower()
    near = difflib.get_close_matches(name, lowered, n=_MAX_NEAR)
    if not near and len(name) >= _MIN_CONTAINED:
        near = [candidate for candidate in lowered if name in candidate][:_MAX_NEAR]
    return [lowered[candidate] for candidate in near]


def unique_names(names: Iterable[str]) -> list[str]:
    """Append numbers to repeated names, leaving the first as it is.

    >>> unique_names(["auc", "loss", "auc"])
    ['auc', 'loss', 'auc_1']
    """
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 0
        while candidate in taken:
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        result.append(candidate)
    return result


Function = TypeVar("Function", bound=Callable[..., object])
Class = TypeVar("Class", bound=type)

_NAMES_HERE: Mapping[str, tuple[str, ...]] = {
    # data and loops
    "X": ("x",),
    "data": ("x", "dataset"),
    "dataset": ("x",),
    "generator": ("x",),
    "train_dataloaders": ("x",),
    "dataloaders": ("x",),
    "labels": ("y",),
    "target": ("y",),
    "targets": ("y",),
    "n_epochs": ("epochs",),
    "nb_epoch": ("epochs",),
    "num_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "bs": ("batch_size",),
    "val_data": ("validation_data",),
    "val_dataloaders": ("validation_data",),
    "eval_set": ("validation_data",),
    "valid_data": ("validation_data",),
    "val_split": ("validation_split",),
    "validation_fraction": ("validation_split",),
    "test_size": ("validation_split", "right_size"),
    "train_size": ("left_size",),
    "weights": ("sample_weight",),
    "num_workers": ("workers",),
    "n_jobs": ("workers",),
    "progress": ("verbose",),
    "random_state": ("seed",),
    # compile
    "criterion": ("loss",),
    "loss_fn": ("loss",),
    "loss_func": ("loss",),
    "objective": ("loss",),
    "optim": ("optimizer",),
    "scoring": ("metrics",),
    # losses and metrics
    "ignore_index": ("ignore_class",),
    "reduce": ("reduction",),
    "size_average": ("reduction",),
    "smoothing": ("label_smoothing",),
    "logits": ("from_logits",),
    "dim": ("axis",),
    "n_classes": ("num_classes",),
    "top_k": ("k",),
    "bins": ("num_thresholds",),
    # optimizers and schedules
    "lr": ("learning_rate", "initial_learning_rate"),
    "init_lr": ("initial_learning_rate",),
    "betas": ("beta_1", "beta_2"),
    "eps": ("epsilon",),
    "alpha": ("rho",),
    "max_norm": ("global_clipnorm",),
    "max_grad_norm": ("global_clipnorm",),
    "gradient_clip_val": ("global_clipnorm",),
    "clip_value": ("clipvalue",),
    "accumulate_grad_batches": ("gradient_accumulation_steps",),
    "gamma": ("decay_rate", "factor"),
    "step_size": ("decay_steps",),
    "total_iters": ("decay_steps",),
    "T_max": ("decay_steps",),
    "T_0": ("first_decay_steps",),
    "T_mult": ("t_mul",),
    "eta_min": ("alpha",),
    "milestones": ("boundaries",),
    "min_lr": ("start",),
    "start_lr": ("start",),
    "max_lr": ("end",),
    "end_lr": ("end",),
    "num_it": ("steps",),
    "num_iter": ("steps",),
    "num_training": ("steps",),
    # callbacks
    "metric": ("monitor", "metrics"),
    "metrics": ("monitor",),
    "tol": ("min_delta",),
    "tolerance": ("min_delta",),
    "threshold": ("min_delta",),
    "n_iter_no_change": ("patience",),
    "warmup": ("warmup_steps", "start_from_epoch"),
    "dirpath": ("filepath", "backup_dir"),
    "path": ("filepath", "filename", "log_dir", "backup_dir"),
    "filename": ("filepath",),
    "every_n_train_steps": ("save_freq",),
    "period": ("save_freq",),
    "delimiter": ("separator",),
    "sep": ("separator",),
}
"""Names of arguments in other libraries, and the names that they may have here."""

_ELSEWHERE: Mapping[str, str] = {
    "lr": "Pass it to the optimizer: optimizers.Adam(learning_rate=…).",
    "learning_rate": "Pass it to the optimizer: optimizers.Adam(learning_rate=…).",
    "weight_decay": "Pass it to the optimizer: optimizers.AdamW(weight_decay=…).",
    "optimizer": "Pass it to `compile`.",
    "loss": "Pass it to `compile`.",
    "criterion": "It is 'loss' of `compile`.",
    "metrics": "Pass it to `compile`.",
    "device": "Pass it to the model: Model(module, device=…).",
    "precision": "Pass it to the model: Model(module, dtype_policy=…).",
    "inputs": "A model wraps a torch.nn.Module, which computes the outputs: Model(module).",
    "outputs": "A model wraps a torch.nn.Module, which computes the outputs: Model(module).",
    "layers": "A model wraps a torch.nn.Module: Model(nn.Sequential(…)).",
    "epochs": "Pass it to `fit`.",
    "num_epochs": "It is 'epochs' of `fit`.",
    "max_epochs": "It is 'epochs' of `fit`.",
    "val_data": "It is 'validation_data' of `fit`.",
    "weight": "Weights of classes are passed to `fit`, as `class_weight`; of samples, as `sample_weight`.",
    "class_weight": "Pass it to `fit`.",
    "sample_weight": "Pass it to `fit`.",
    "pos_weight": "Weights of classes are passed to `fit`, as `class_weight`.",
    "seed": "Call utils.set_random_seed(…) before.",
    "random_state": "Call utils.set_random_seed(…) before.",
}
"""Arguments that other functions take, and where to pass them."""


def hide_unknown(function: Function) -> Function:
    """Hide the parameter that catches unknown arguments from `help`, completion and the API reference."""
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return function


def no_unknown(owner: str, function: Callable[..., object], given: Mapping[str, object]) -> None:
    """Raise a `TypeError` if arguments were given that `function` does not have, with a hint for the first.

    >>> no_unknown("fit", lambda x, epochs=1: None, {"epoch": 3})
    Traceback (most recent call last):
    TypeError: `fit` has no argument `epoch`. Did you mean 'epochs'?
    """
    error = _unknown_argument(owner, function, given) if given else None
    if error is not None:
        raise error


def _unknown_argument(owner: str, function: Callable[..., object], given: Mapping[str, object]) -> TypeError | None:
    """Return the error for the first argument that `function` does not have."""
    known = argument_names(function)
    for name in given:
        if name not in known:
            return TypeError(f"`{owner}` has no argument `{name}`. {way_out(name, known)}")
    return None


def argument_names(function: Callable[..., object]) -> list[str]:
    """List the names of the parameters of a function.

    >>> argument_names(no_unknown)
    ['owner', 'function', 'given']
    """
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


def way_out(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the possible names of an unknown argument, or the function where it belongs.

    >>> way_out("lr", ["learning_rate", "momentum"]), way_out("momentm", ["learning_rate", "momentum"])
    ('Here it is `learning_rate`.', "Did you mean 'momentum'?")
    """
    known = list(known)
    candidates = [f"`{candidate}`" for candidate in _NAMES_HERE.get(name, ()) if candidate in known]
    if candidates:
        return f"Here it is {' and '.join(candidates)}."
    return _ELSEWHERE.get(name) or did_you_mean(name, known)


def suggest_keywords(function: Function) -> Function:
    """Wrap a function so that the error for an unknown argument suggests the nearest known ones.

    Nothing is checked before a call: the wrapper catches Python's `TypeError` and replaces its message. Functions that
    run in every step are not wrapped, because a wrapper costs a call.

    >>> @suggest_keywords
    ... def scale(value, factor=2):
    ...     return value * factor
    >>> scale(3, factr=4)
    Traceback (most recent call last):
    TypeError: `scale` has no argument `factr`. Did you mean 'factor'?
    """
    return _suggesting(function)


class SuggestsKeywords:
    """A base class whose constructors suggest the nearest known names for unknown arguments.

    Constructors of user-defined subclasses are left as they are; they usually call one of torchfit, which is wrapped.
    """

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Wrap the constructor of a class of this package."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls) and cls.__module__.partition(".")[0] == __name__.partition(".")[0]:
            suggest_constructor_keywords(cls)


def suggest_constructor_keywords(cls: Class) -> Class:
    """Wrap the constructor of a class as `suggest_keywords` wraps a function.

    >>> @suggest_constructor_keywords
    ... class Scale:
    ...     def __init__(self, factor=2):
    ...         self.factor = factor
    >>> Scale(factr=4)
    Traceback (most recent call last):
    TypeError: `Scale` has no argument `factr`. Did you mean 'factor'?
    """
    setattr(cls, "__init__", _suggesting(vars(cls)["__init__"], cls))  # noqa: B010
    return cls


def _suggesting(function: Function, cls: type | None = None) -> Function:
    """Wrap a function, or the constructor of `cls`."""

    @functools.wraps(function)
    def suggesting(*args: object, **kwargs: object) -> object:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            unknown_argument = None
            traceback = error.__traceback__
            if isinstance(error, TypeError) and traceback is not None and traceback.tb_next is None:
                # The call itself raised it: `function` was not entered.
                owner = function.__name__ if cls is None else _class_called(type(args[0]), cls)
                unknown_argument = _unknown_argument(owner, function, kwargs)
            if unknown_argument is not None:
                raise unknown_argument from None
            filter_traceback(error)
            raise

    return suggesting  # type: ignore[return-value]


def _class_called(called: type, cls: type) -> str:
    """Return the name of the class that was called, or of the base class whose constructor a subclass called."""
    return called.__name__ if called.__init__ is cls.__init__ else cls.__name__  # type: ignore[misc]
