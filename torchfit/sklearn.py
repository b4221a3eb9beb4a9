"""scikit-learn estimators that train a network, for pipelines and searches. Needs the package scikit-learn.

It is imported when `torchfit.sklearn` is first used, not by `import torchfit`.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from torchfit import losses
from torchfit._utils.errors import describe
from torchfit._utils.names import did_you_mean
from torchfit.losses.traits import loss_traits
from torchfit.model import Model

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'torchfit.sklearn needs scikit-learn, 1.6 or newer. Type: pip install "torchfit[sklearn]"'
    ) from error

__all__ = ["Classifier", "Regressor"]

_OF_MODULE = "module__"

Array = np.ndarray[Any, Any]


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """Base of both estimators."""

    def __init__(
        self,
        module: Callable[..., nn.Module] | nn.Module | None = None,
        *,
        module_arguments: Mapping[str, Any] | None = None,
        optimizer: Any = "adam",
        learning_rate: float | None = None,
        loss: Any = None,
        metrics: Any = None,
        epochs: int = 20,
        batch_size: int = 32,
        validation_split: float = 0.0,
        callbacks: Any = None,
        device: Any = "auto",
        verbose: int = 0,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.module = module
        self.module_arguments = module_arguments
        self.optimizer = optimizer
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

    def set_params(self, **params: Any) -> Any:
        """Set arguments by name; `module__name` sets the argument `name` of `module`, as `module_arguments` does.

        Raises:
            ValueError: If there is no such argument.

        >>> Regressor(lambda inputs, outputs, hidden: None).set_params(module__hidden=8).module_arguments
        {'hidden': 8}
        """
        own = {name: value for name, value in params.items() if not name.startswith(_OF_MODULE)}
        for name in own:
            _check_nested(self, name)
        super().set_params(**own)
        arguments = {name.removeprefix(_OF_MODULE): params[name] for name in params if name.startswith(_OF_MODULE)}
        if arguments:
            _check_arguments(self.module, arguments)
            self.module_arguments = {**(self.module_arguments or {}), **arguments}
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments by name; with `deep` those of `module` as well, as `module__name`."""
        params: dict[str, Any] = super().get_params(deep=deep)
        arguments = self.module_arguments if deep and isinstance(self.module_arguments, Mapping) else {}
        return {**params, **{f"{_OF_MODULE}{name}": value for name, value in arguments.items()}}

    def _fit(self, X: Array, y: Array, sample_weight: Any, inputs: int, outputs: int) -> Any:
        """Train the network: a new one, or with `warm_start` the one that exists."""
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
        module: Any = self.module if self.module is not None else _network
        if isinstance(module, nn.Module):
            network: Any = copy.deepcopy(module)
        elif callable(module):
            network = _build_network(module, inputs, outputs, self.module_arguments or {})
        else:
            raise ValueError(
                f"`module` must be a module or return one for (inputs, outputs). Received: {describe(module)}."
            )
        model = Model(network, device=self.device)
        optimizer, loss, metrics = (copy.deepcopy(part) for part in (self.optimizer, self.loss, self.metrics))
        model.compile(optimizer, self._default_loss() if loss is None else loss, metrics=metrics)
        if self.learning_rate is not None:
            model.optimizer.learning_rate = self.learning_rate
        return model

    def _default_loss(self) -> Any:
        raise NotImplementedError

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self, "model_")
        X = validate_data(self, X, reset=False, dtype=self._dtype(), allow_nd=True)
        return np.asarray(self.model_.predict(X, batch_size=max(self.batch_size, 256)))

    def _dtype(self) -> Any:
        """Return the dtype of inputs: integers are kept for user-defined networks, which may have embeddings."""
        return np.float32 if self.module is None else "numeric"


class Classifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A network that predicts classes.

    Args:
        module: A function or class `(inputs, outputs, **module_arguments)` that returns a module, where inputs and
            outputs are the numbers of features and of classes; one that takes neither is called without them; or a
            module, which is copied. Its outputs are logits `(batch, classes)` for the default loss. By default one
            hidden layer of 100 units.
        module_arguments: More arguments for `module`. A search tries values of one as `module__name`.
        optimizer: As in `Model.compile`.
        learning_rate: The learning rate; by default the optimizer's.
        loss: As in `Model.compile`; by default the crossentropy of logits. Targets are class indices.
        metrics: As in `Model.compile`.
        epochs, batch_size, validation_split, callbacks, verbose: As in `Model.fit`; callbacks are used as they are.
        device: As in `Model`.
        warm_start: Whether another `fit` continues with the trained network.
        random_state: A seed, or NumPy's `RandomState`, that decides weights and order.

    Attributes:
        classes_: The classes, sorted.
        model_: The trained `Model`.
        history_: name -> values by epoch.
        n_iter_: How many epochs were trained.
        n_features_in_: The number of features.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> bool(Classifier(learning_rate=0.01, random_state=0).fit(X, y).score(X, y) > 0.9)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Classifier":
        """Train on inputs `(samples, features, …)` and classes `(samples,)` of any kind.

        Raises:
            ValueError: If the data have a wrong shape or dtype, or there is only one class.
        """
        X, y = validate_data(self, X, y, dtype=self._dtype(), allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("Classifier needs samples of at least 2 classes in `y`, but there is one class.")
        return self._fit(X, labels, sample_weight, X.shape[1], len(self.classes_))  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, `(samples, classes)`."""
        outputs = torch.from_numpy(self._outputs(X)).double()
        are_logits = loss_traits(self._default_loss() if self.loss is None else self.loss).from_logits
        if outputs.ndim == 1 or outputs.shape[1] == 1:
            single = outputs.reshape(-1, 1)
            single = single.sigmoid() if are_logits else single
            return torch.cat([1 - single, single], 1).numpy()
        return (outputs.softmax(1) if are_logits else outputs).numpy()

    def predict(self, X: Any) -> Array:
        """Return the most probable classes, `(samples,)`."""
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])

    def _default_loss(self) -> Any:
        return losses.SparseCategoricalCrossentropy(from_logits=True)


class Regressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A network that predicts one or several numbers.

    The arguments and attributes are those of `Classifier`, without classes; `module` returns `(batch, outputs)`, and
    the default loss is the mean squared error.

    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> bool(Regressor(learning_rate=0.01, random_state=0).fit(X, X.sum(1)).score(X, X.sum(1)) > 0.9)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Regressor":
        """Train on inputs `(samples, features, …)` and numbers `(samples,)` or `(samples, outputs)`.

        Raises:
            ValueError: If the data have a wrong shape or dtype.
        """
        X, y = validate_data(self, X, y, dtype=self._dtype(), allow_nd=True, multi_output=True, y_numeric=True)
        self._is_flat = y.ndim == 1
        targets = np.asarray(y, "float32").reshape(len(y), -1)
        return self._fit(X, targets, sample_weight, X.shape[1], targets.shape[1])  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Array:
        """Return the predictions, in the shape of the targets passed to `fit`."""
        outputs = self._outputs(X).astype("float64")
        return outputs.reshape(-1) if self._is_flat else outputs

    def _default_loss(self) -> Any:
        return losses.MeanSquaredError()

    def __sklearn_tags__(self) -> Any:
        """Declare that several targets are supported."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 100), nn.ReLU(), nn.Linear(100, outputs))


def _check_nested(estimator: _Estimator, name: str) -> None:
    """Check that a name such as `optimizer__rate` belongs to something that has arguments in scikit-learn's way."""
    outer, separator, _ = name.partition("__")
    value = getattr(estimator, outer, None)
    if separator and outer in estimator.get_params(deep=False) and not hasattr(value, "set_params"):
        raise ValueError(
            f"`{name}`: `{outer}` is {describe(value)}, which has no arguments to set. Search over `{outer}` itself, "
            "with the values or objects to try; there are `learning_rate` for the rate and `module__name` for "
            "arguments of `module`."
        )


def _check_arguments(module: Any, arguments: Mapping[str, Any]) -> None:
    """Check that what makes the network takes these arguments."""
    if module is None or isinstance(module, nn.Module):
        raise ValueError(
            f"`module__{next(iter(arguments))}` sets an argument of the function that makes the network, but `module` "
            f"is {describe(module)}. Pass a function or class (inputs, outputs, **module_arguments)."
        )
    parameters = _parameters_of(module)
    if parameters is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in arguments:
        if name not in parameters:
            raise ValueError(f"`module__{name}`: `module` takes no argument {name!r}. {did_you_mean(name, parameters)}")


def _build_network(module: Callable[..., Any], inputs: int, outputs: int, arguments: Mapping[str, Any]) -> Any:
    """Call what makes the network with the numbers of inputs and outputs, or without if it takes neither."""
    if _takes(module, inputs, outputs, **arguments):
        return module(inputs, outputs, **arguments)
    if _takes(module, **arguments):
        return module(**arguments)
    named = ", ".join(["inputs", "outputs", *(f"{name}=" for name in arguments)])
    raise ValueError(
        f"`module` is {describe(module)}, which does not take the arguments it is called with, ({named}): the numbers "
        "of features and of classes or targets, and `module_arguments`. Let it take these, or none of the first two."
    )


def _takes(function: Callable[..., Any], *args: Any, **arguments: Any) -> bool:
    try:
        inspect.signature(function).bind(*args, **arguments)
    except TypeError:
        return False
    except ValueError:  # It has no signature, as some functions written in C.
        return True
    return True


def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
