"""Unknown keyword arguments of public classes and functions, with the nearest there are."""

# mypy: disable-error-code="arg-type,call-arg"

import copy
import importlib
import inspect
import pickle
import traceback

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, distribution, losses, metrics, optimizers, saving, utils
from torchfit.optimizers import schedules

PACKAGES = ["losses", "metrics", "callbacks", "optimizers", "optimizers.schedules", "utils", "saving"]
PACKAGES += ["mixed_precision", "distribution"]
RUN_IN_STEPS = set(dir(torchfit.functional)) | {"mse", "mae", "mape", "msle", "bce", "kld"}
PASSED_ON = {"LossFunctionWrapper", "OverOutputs", "MeanMetricWrapper", "WandbLogger", "MLflowLogger"}
"""Classes that hand unknown arguments to a function of the user or of another library."""

Y = np.arange(6) % 3


def public():
    """Return the public classes and functions of torchfit that take arguments by name."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(f"torchfit.{package}")
        for name in module.__all__:
            member = getattr(module, name)
            if callable(member) and name.lower() not in RUN_IN_STEPS and name not in PASSED_ON and named(member):
                found[f"{package}.{name}"] = member
    return found


def named(function):
    """Return the names of the arguments that have a default."""
    if isinstance(function, type) and not inspect.isfunction(function.__init__):
        return []
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is not p.empty]


NOT_MADE_BY_USERS = {"distribution.InputContext", "utils.InputContext", "utils.LRFinderResult", "utils.WorstSamples"}
NOT_MADE_BY_USERS |= {"metrics.Variable", "callbacks.CallbackList", "callbacks.History"}
LOOK_UPS = ("get", "serialize", "deserialize", "get_registered_object", "get_registered_name")
MEMBERS = {
    name: member
    for name, member in public().items()
    if name not in NOT_MADE_BY_USERS and name.rpartition(".")[2] not in LOOK_UPS
}


@pytest.mark.parametrize("name", MEMBERS)
def test_a_misspelt_argument_is_answered_with_the_right_one(name):
    argument = named(MEMBERS[name])[-1]
    with pytest.raises((TypeError, ValueError)) as caught:
        MEMBERS[name](**{f"{argument}z": 1})
    owner = MEMBERS[name].__name__
    assert str(caught.value).startswith(f"`{owner}` has no argument `{argument}z`. Did you mean '{argument}'")
    assert len(traceback.format_exception(caught.value)) <= 5


def test_most_members_are_covered():
    assert len(MEMBERS) >= 120


def fitted(**arguments):
    model = torchfit.Model(nn.Linear(2, 3), device="cpu")
    model.compile("sgd", "mse")
    return model.fit(np.zeros((6, 2), "float32"), np.zeros((6, 3), "float32"), verbose=0, **arguments)


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (lambda: optimizers.Adam(lr=0.1), "`Adam` has no argument `lr`. Here it is `learning_rate`."),
        (lambda: optimizers.Adam(betas=(0.9, 0.99)), "Here it is `beta_1` and `beta_2`."),
        (lambda: optimizers.SGD(moment=0.9), "Did you mean 'momentum'"),
        (lambda: schedules.CosineDecay(0.1, T_max=10), "Here it is `decay_steps`."),
        (lambda: callbacks.EarlyStopping(tol=0.1), "Here it is `min_delta`."),
        (lambda: callbacks.EarlyStopping(n_iter_no_change=3), "Here it is `patience`."),
        (lambda: callbacks.ReduceLROnPlateau(gamma=0.1), "Here it is `factor`."),
        (lambda: callbacks.ModelCheckpoint(dirpath="a"), "Here it is `filepath`."),
        (lambda: losses.SparseCategoricalCrossentropy(ignore_index=0), "Here it is `ignore_class`."),
        (lambda: losses.CategoricalCrossentropy(weight=[1, 2]), "passed to `fit`, as `class_weight`"),
        (lambda: metrics.MeanIoU(n_classes=3), "Here it is `num_classes`."),
        (lambda: saving.load_model("a", custom_object={}), "Did you mean 'custom_objects'?"),
        (lambda: distribution.DataParallel(batchnorm="local"), "Did you mean 'batch_norm'?"),
        (lambda: utils.to_categorical(Y, num_class=3), "Did you mean 'num_classes'?"),
        (lambda: fitted(n_epochs=3), "`fit` has no argument `n_epochs`. Here it is `epochs`."),
        (lambda: fitted(eval_set=3), "Here it is `validation_data`."),
        (lambda: fitted(lr=0.1), "Pass it to the optimizer: optimizers.Adam(learning_rate=…)."),
    ],
)
def test_names_of_other_libraries_are_answered_with_the_name_here(call, answer):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert answer in str(caught.value)


class Own(losses.MeanSquaredError):
    """A loss with a constructor of its own."""

    def __init__(self, power, **options):
        super().__init__(**options)
        self.power = power


class Plain(metrics.Mean):
    """A metric without one."""


def test_constructors_of_users_are_left_as_they_are():
    assert not hasattr(Own.__init__, "__wrapped__")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'power'"):
        Own()


@pytest.mark.parametrize(
    ("call", "owner"), [(lambda: Own(1, nam="a"), "MeanSquaredError"), (lambda: Plain(nam=1), "Plain")]
)
def test_the_constructor_that_was_called_is_named(call, owner):
    with pytest.raises(TypeError, match=f"`{owner}` has no argument `nam`. Did you mean 'name'"):
        call()


def test_errors_of_types_in_a_constructor_are_not_taken_for_unknown_arguments():
    with pytest.raises(ValueError, match="`reduction` must be"):
        losses.Huber(reduction=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'filepath'"):
        callbacks.ModelCheckpoint(save_best_only=True)


def test_signatures_copies_and_pickles_are_those_of_plain_classes():
    assert list(inspect.signature(losses.Huber).parameters) == ["delta", "reduction", "name", "dtype"]
    assert losses.Huber.__init__.__qualname__ == "Huber.__init__"
    for member in (losses.Huber(2.0), metrics.AUC(num_thresholds=7), schedules.CosineDecay(0.1, 10)):
        assert pickle.loads(pickle.dumps(member)).get_config() == member.get_config()
        assert copy.deepcopy(member).get_config() == member.get_config()


@pytest.mark.graphs
def test_constructors_are_traced_by_the_compiler():
    @torch.compile(backend="eager", fullgraph=True)
    def loss(y_true, y_pred):
        return losses.MeanSquaredError()(y_true, y_pred)

    assert loss(torch.zeros(2, 1), torch.ones(2, 1)).item() == 1
