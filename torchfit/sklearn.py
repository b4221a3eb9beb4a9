"""scikit-learn estimators that train a network, for pipelines and parameter searches.

This module needs scikit-learn. It is imported when `torchfit.sklearn` is first used, not by `import torchfit`.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from torchfit import losses
from torchfit._types import Array, Config, Logs, UserData
from torchfit._utils.errors import describe
from torchfit._utils.names import argument_names, did_you_mean, hide_unknown, near_names, no_unknown
from torchfit.callbacks import Callback
from torchfit.losses.checks import loss_traits
from torchfit.model import Model
from torchfit.optimizers.identifiers import resolve_optimizer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.metrics import get_scorer, make_scorer
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("torchfit.sklearn needs scikit-learn, 1.6 or newer. Type: pip install scikit-learn") from error

__all__ = ["Classifier", "EpochScoring", "Regressor"]

Estimator = TypeVar("Estimator", bound="_Estimator")

_ROUTED = {"module__": "module_arguments", "optimizer__": "optimizer_arguments"}


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """Base of both estimators."""

    @hide_unknown
    def __init__(
        self,
        module: Callable[..., nn.Module] | nn.Module | None = None,
        *,
        module_arguments: Config | None = None,
        optimizer: object = "adam",
        optimizer_arguments: Config | None = None,
        learning_rate: float | None = None,
        loss: object = None,
        metrics: object = None,
        epochs: int = 20,
        batch_size: int = 32,
        validation_split: float = 0.0,
        callbacks: object = None,
        device: str | torch.device | None = "auto",
        verbose: int = 0,
        warm_start: bool = False,
        random_state: object = None,
        **routed: object,
    ) -> None:
        self.module = module
        self.module_arguments = module_arguments
        self.optimizer = optimizer
        self.optimizer_arguments = optimizer_arguments
        self.learning_rate = learning_rate
        self.loss = loss
        self.metrics = metrics
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_split = validation_split
        self.callbacks = callbacks
        self.device = device
        self.verbose = verbose
        self.warm_start = warm_start
        self.random_state = random_state
        if routed:
            no_unknown(type(self).__name__, _Estimator.__init__, _without_routed(routed))
            self.set_params(**routed)

    def set_params(self: Estimator, **params: object) -> Estimator:
        """Set arguments by name; `module__name` sets the argument `name` of `module`, as `module_arguments` does.

        `module__name` sets the argument `name` of `module` in `module_arguments`, and `optimizer__name` that of the
        optimizer in `optimizer_arguments`.

        Raises:
            ValueError: If there is no such argument.

        >>> Regressor(lambda inputs, outputs, hidden: None).set_params(module__hidden=8).module_arguments
        {'hidden': 8}
        """
        own = _without_routed(params)
        _check_known(self, [name for name in own if "__" not in name])
        for name in own:
            _check_nested(self, name)
        super().set_params(**own)
        for prefix, attribute in _ROUTED.items():
            arguments = {name.removeprefix(prefix): params[name] for name in params if name.startswith(prefix)}
            if arguments:
                _CHECKS[prefix](self, arguments)
                setattr(self, attribute, {**(getattr(self, attribute) or {}), **arguments})
        return self

    def get_params(self, deep: bool = True) -> Config:
        """Return the arguments by name; with `deep`, include those of `module` and the optimizer as `module__name`."""
        params: Config = super().get_params(deep=deep)
        for prefix, attribute in _ROUTED.items() if deep else ():
            arguments = getattr(self, attribute)
            if isinstance(arguments, Mapping):
                params |= {f"{prefix}{name}": value for name, value in arguments.items()}
        return params

    def _fit(self: Estimator, X: Array, y: Array, sample_weight: UserData, inputs: int, outputs: int) -> Estimator:
        """Train a new network or, with `warm_start`, the existing one."""
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float32)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if not (self.warm_start and hasattr(self, "model_")):
                self.model_ = self._compiled(inputs, outputs)
            history = self.model_.fit(
                X,
                y,
                batch_size=self.batch_size,
                epochs=self.epochs,
                verbose=self.verbose,
                callbacks=self.callbacks,
                validation_split=self.validation_split,
                sample_weight=weights,
            )
        self.history_ = history.history
        self.n_iter_ = len(history.epoch)
        return self

    def _compiled(self, inputs: int, outputs: int) -> Model:
        module = self.module if self.module is not None else _network
        if isinstance(module, nn.Module):
            network = copy.deepcopy(module)
        elif callable(module):
            network = _build_network(module, inputs, outputs, self.module_arguments or {})
        else:
            raise ValueError(
                f"`module` must be a module or return one for (inputs, outputs). Received: {describe(module)}."
            )
        model = Model(network, device=self.device)
        loss, metrics = copy.deepcopy((self.loss, self.metrics))
        optimizer = _make_optimizer(copy.deepcopy(self.optimizer), self.optimizer_arguments or {})
        model.compile(optimizer, self._default_loss() if loss is None else loss, metrics=metrics)
        if self.learning_rate is not None:
            model.optimizer.learning_rate = self.learning_rate
        return model

    def _default_loss(self) -> losses.Loss:
        raise NotImplementedError

    def _outputs(self, X: UserData) -> Array:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, dtype=self._dtype(), allow_nd=True)
        return np.asarray(self.model_.predict(X, batch_size=max(self.batch_size, 256)))

    def _dtype(self) -> object:
        """Return the dtype of inputs; integers are kept for user-defined networks, which may have embeddings."""
        return np.float32 if self.module is None else "numeric"


class Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A network that predicts classes.

    Args:
        module: A module, which is copied, or a function or class `(inputs, outputs, **module_arguments)` that returns
            one. `inputs` and `outputs` are the numbers of features and of classes; they are omitted if the function
            does not take them. For the default loss, the module returns logits `(batch, classes)`. By default, a
            network with one hidden layer of 100 units.
        module_arguments: Further arguments for `module`. In a parameter search they are called `module__name`.
        optimizer: As in `Model.compile`.
        optimizer_arguments: Arguments for the optimizer, if that is a name or a class. In a parameter search they are
            called `optimizer__name`.
        learning_rate: The learning rate; by default the optimizer's.
        loss: As in `Model.compile`; by default the crossentropy of logits. Targets are class indices.
        metrics: As in `Model.compile`.
        epochs, batch_size, validation_split, callbacks, verbose: As in `Model.fit`; callbacks are used as they are.
        device: As in `Model`.
        warm_start: Whether another `fit` continues with the trained network.
        random_state: A seed, or NumPy's `RandomState`, that determines the initial weights and the order of samples.
        **routed: Entries of `module_arguments` and `optimizer_arguments`, as `module__name` and `optimizer__name`.

    Attributes:
        classes_: The classes, sorted.
        model_: The trained `Model`.
        history_: The history of training, as a dictionary from names to values by epoch.
        n_iter_: The number of epochs trained.
        n_features_in_: The number of features.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> bool(Classifier(learning_rate=0.01, random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    >>> Classifier(optimizer="sgd", optimizer__momentum=0.9).get_params()["optimizer__momentum"]
    0.9
    """

    def fit(self, X: UserData, y: UserData, sample_weight: UserData = None) -> "Classifier":
        """Train on inputs `(samples, features, …)` and class labels `(samples,)` of any type.

        Raises:
            ValueError: If the data have a wrong shape or dtype, or there is only one class.
        """
        X, y = validate_data(self, X, y, dtype=self._dtype(), allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier needs samples of at least 2 classes in `y`, but there is one class.")
        return self._fit(X, labels, sample_weight, X.shape[1], len(self.classes_))

    def predict_proba(self, X: UserData) -> Array:
        """Return the probabilities of the classes, `(samples, classes)`."""
        traits = loss_traits(self._default_loss() if self.loss is None else self.loss)
        return _probabilities(self._outputs(X), traits.from_logits)

    def predict(self, X: UserData) -> Array:
        """Return the most probable classes, `(samples,)`."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])

    def _default_loss(self) -> losses.Loss:
        return losses.SparseCategoricalCrossentropy(from_logits=True)


class Regressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A network that predicts one or several numbers.

    The arguments and attributes are those of `Classifier`, except `classes_`. `module` returns `(batch, outputs)`, and
    the default loss is the mean squared error.

    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> bool(Regressor(learning_rate=0.01, random_state=0).fit(X, X.sum(1)).score(X, X.sum(1)) > 0.9)
    True
    """

    def fit(self, X: UserData, y: UserData, sample_weight: UserData = None) -> "Regressor":
        """Train on inputs `(samples, features, …)` and numbers `(samples,)` or `(samples, outputs)`.

        Raises:
            ValueError: If the data have a wrong shape or dtype.
        """
        X, y = validate_data(self, X, y, dtype=self._dtype(), allow_nd=True, multi_output=True, y_numeric=True)
        self._is_flat = y.ndim == 1
        targets = np.asarray(y, "float32").reshape(len(y), -1)
        return self._fit(X, targets, sample_weight, X.shape[1], targets.shape[1])

    def predict(self, X: UserData) -> Array:
        """Return the predictions, in the shape of the targets passed to `fit`."""
        outputs = self._outputs(X).astype("float64")
        return outputs.reshape(-1) if self._is_flat else outputs

    def _default_loss(self) -> losses.Loss:
        return losses.MeanSquaredError()

    def __sklearn_tags__(self) -> Any:
        """Declare that several targets are supported."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class EpochScoring(Callback):
    """Scores predictions with scikit-learn after every epoch, and adds the score to the logs.

    scikit-learn's scores, such as `f1_score` or the area under a curve, need all predictions at once. This callback
    therefore predicts `data` again at the end of every epoch. Other callbacks may monitor the score by its name.

    Args:
        scoring: The name of a scorer of scikit-learn ("roc_auc", "f1_macro", "neg_median_absolute_error", …), a scorer
            made by `make_scorer`, or a function `(y_true, y_pred)` of `sklearn.metrics` on classes or values.
        data: Arrays `(x, y)`: the inputs, and the true classes or values.
        name: The key in the logs; by default the name of the scorer or function, with `val_` before it.
        batch_size: Samples per batch of the prediction.

    Raises:
        ValueError: If there is no such scorer, or `data` is not a pair.

    >>> EpochScoring("f1_macro", (np.ones((4, 2)), [0, 1, 0, 1])).name
    'val_f1_macro'
    """

    def __init__(
        self, scoring: object, data: tuple[UserData, UserData], name: str | None = None, batch_size: int = 256
    ) -> None:
        if not isinstance(data, (tuple, list)) or len(data) != 2:
            raise ValueError(f"`data` must be (x, y). Received: {describe(data)}.")
        if not (isinstance(scoring, str) or callable(scoring)):
            raise ValueError(f"`scoring` must be the name of a scorer or a function. Received: {describe(scoring)}.")
        is_function = inspect.isfunction(scoring)
        self._score = make_scorer(scoring) if is_function else get_scorer(scoring)
        told = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
        self.name = name or f"val_{told}"
        self.data = data
        self.batch_size = batch_size
        self.written_logs = (self.name,)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Add the score of this epoch to the logs."""
        x, y = self.data
        outputs = np.asarray(self.model.predict(x, batch_size=self.batch_size, verbose=0))
        score = float(self._score(_estimator_of(self.model, outputs, np.asarray(y)), x, y))
        if logs is not None:
            logs[self.name] = score


class _Predicted(BaseEstimator):  # type: ignore[misc]
    """An estimator that returns given predictions, to pass to a scorer."""

    def __init__(self, outputs: Array) -> None:
        self.outputs = outputs

    def fit(self, X: UserData, y: UserData) -> "_Predicted":
        """Do nothing; scorers require this method."""
        return self

    def predict(self, X: UserData) -> Array:
        """Return the values, `(samples,)` if there is one per sample."""
        return self.outputs[:, 0] if self.outputs.shape[1:] == (1,) else self.outputs


class _PredictedClasses(ClassifierMixin, _Predicted):  # type: ignore[misc]
    """A classifier that returns given probabilities, to pass to a scorer."""

    def __init__(self, outputs: Array) -> None:
        super().__init__(outputs)
        self.classes_ = np.arange(outputs.shape[1])

    def predict_proba(self, X: UserData) -> Array:
        """Return the probabilities of the classes."""
        return self.outputs

    def predict(self, X: UserData) -> Array:
        """Return the most probable classes."""
        return np.asarray(self.outputs.argmax(1))


def _estimator_of(model: Model, outputs: Array, y: Array) -> _Predicted:
    """Return an estimator with these outputs, a classifier if the targets are classes."""
    are_classes = y.ndim == 1 and y.dtype.kind in "biu"
    if not are_classes:
        return _Predicted(outputs)
    return _PredictedClasses(_probabilities(outputs, loss_traits(model.loss).from_logits))


def _probabilities(outputs: Array, are_logits: bool) -> Array:
    """Return the probabilities of the classes, `(samples, classes)`, also from a single output for two classes."""
    values = torch.from_numpy(outputs).double()
    if values.ndim == 1 or values.shape[1] == 1:
        single = values.reshape(-1, 1)
        single = single.sigmoid() if are_logits else single
        return torch.cat([1 - single, single], 1).numpy()
    return (values.softmax(1) if are_logits else values).numpy()


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 100), nn.ReLU(), nn.Linear(100, outputs))


def _check_known(estimator: _Estimator, names: Iterable[str]) -> None:
    """Check that names are arguments of the estimator itself; its network has others."""
    known = argument_names(_Estimator.__init__)
    for name in names:
        if name not in known:
            near = near_names(name, known)
            here = did_you_mean(name, near) if near else f"An argument of `module` is set as `module__{name}`."
            raise ValueError(f"`{type(estimator).__name__}` has no argument `{name}`. {here}")


def _check_nested(estimator: _Estimator, name: str) -> None:
    """Check that the part of a name before `__` refers to an object with scikit-learn's parameters."""
    outer, separator, _ = name.partition("__")
    value = getattr(estimator, outer, None)
    if separator and outer in estimator.get_params(deep=False) and not hasattr(value, "set_params"):
        raise ValueError(
            f"`{name}`: `{outer}` is {describe(value)}, which has no arguments to set. Search over `{outer}` itself, "
            "with the values or objects to try. Only `module__name` and `optimizer__name` set nested arguments."
        )


def _without_routed(params: Config) -> Config:
    """Return the estimator's own arguments, without `module__name` and `optimizer__name`."""
    return {name: value for name, value in params.items() if not name.startswith(tuple(_ROUTED))}


def _make_optimizer(optimizer: object, arguments: Config) -> object:
    """Return the optimizer, built with `arguments` if it is a name or a class."""
    if not arguments:
        return optimizer
    kind = optimizer if isinstance(optimizer, type) else type(resolve_optimizer(optimizer))
    if issubclass(kind, torch.optim.Optimizer):
        return functools.partial(kind, **arguments)
    return kind(**arguments)


def _check_optimizer(estimator: _Estimator, arguments: Config) -> None:
    """Check that the optimizer can be built with `arguments`."""
    if not isinstance(estimator.optimizer, (str, type)):
        raise ValueError(
            f"`optimizer__{next(iter(arguments))}` sets an argument of an optimizer that is a name or a class, but "
            f"`optimizer` is {describe(estimator.optimizer)}. Pass its name or its class."
        )


def _check_module(estimator: _Estimator, arguments: Config) -> None:
    """Check that the function that builds the network accepts `arguments`."""
    module = estimator.module
    if module is None or isinstance(module, nn.Module):
        raise ValueError(
            f"`module__{next(iter(arguments))}` sets an argument of the function that builds the network, but `module` "
            f"is {describe(module)}. Pass a function or class (inputs, outputs, **module_arguments)."
        )
    parameters = _parameters_of(module)
    if parameters is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            raise ValueError(f"`module__{name}`: `module` takes no argument {name!r}. {did_you_mean(name, parameters)}")


_CHECKS = {"module__": _check_module, "optimizer__": _check_optimizer}


def _build_network(module: Callable[..., nn.Module], inputs: int, outputs: int, arguments: Config) -> nn.Module:
    """Build the network, passing the numbers of inputs and outputs if the function takes them."""
    if _takes(module, inputs, outputs, **arguments):
        return module(inputs, outputs, **arguments)
    if _takes(module, **arguments):
        return module(**arguments)
    named = ", ".join(["inputs", "outputs", *(f"{name}=" for name in arguments)])
    raise ValueError(
        f"`module` is {describe(module)}, which does not accept the arguments it is called with, ({named}): the "
        "numbers of features and of classes or targets, and `module_arguments`. It must accept all of them, or neither "
        "of the first two."
    )


def _takes(function: Callable[..., object], *args: object, **arguments: object) -> bool:
    try:
        inspect.signature(function).bind(*args, **arguments)
    except TypeError:
        return False
    except ValueError:  # It has no signature, like some functions written in C.
        return True
    return True


def _parameters_of(function: Callable[..., object]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
