"""Every optimizer with each option, every schedule: the numbers that Keras computes. A new member is one line below."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from torchfit import optimizers
from torchfit.optimizers import schedules

keras = pytest.importorskip("keras")

SHAPES = [(4, 3), (3,), (5, 4), (3, 3, 2), ()]
STEPS = 20

OWN_OPTIONS = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "RMSprop": [{"momentum": 0.9}, {"centered": True}, {"momentum": 0.5, "centered": True, "rho": 0.8}],
    "Adam": [{"amsgrad": True}, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}],
    "AdamW": [{"amsgrad": True}, {"weight_decay": 0.1}],
    "Adadelta": [{"rho": 0.5, "epsilon": 1e-4}],
    "Adafactor": [{"relative_step": False}, {"clip_threshold": 0.5, "epsilon_2": 0.1, "beta_2_decay": -0.5}],
    "Adagrad": [{"initial_accumulator_value": 0.5, "epsilon": 1e-3}],
    "Adamax": [{"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}],
    "Ftrl": [
        {"l1_regularization_strength": 0.1, "l2_regularization_strength": 0.2},
        {"l2_shrinkage_regularization_strength": 0.1, "beta": 0.3, "learning_rate_power": -0.7},
        {"initial_accumulator_value": 0.5},
    ],
    "Lamb": [{"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}],
    "Lion": [{"beta_1": 0.5, "beta_2": 0.9}],
    "Muon": [
        {"nesterov": False, "rms_rate": None},
        {"exclude_layers": ["v0"], "adam_lr_ratio": 0.5, "adam_weight_decay": None},
        {"ns_steps": 3, "momentum": 0.5, "muon_a": 3.0, "weight_decay": None},
    ],
    "Nadam": [{"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}],
    "ScheduleFreeAdamW": [{"warmup_steps": 5}, {"beta_1": 0.5, "epsilon": 1e-3}],
}
COMMON_OPTIONS = [
    {},
    {"learning_rate": 0.05},
    {"weight_decay": 0.01},
    {"clipnorm": 1.0},
    {"clipvalue": 0.5},
    {"global_clipnorm": 1.0},
    {"use_ema": True},
    {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3},
    {"loss_scale_factor": 8.0},
    {"gradient_accumulation_steps": 4},
]
CASES = [
    pytest.param(name, options, id=f"{name}-{'-'.join(options) or 'defaults'}")
    for name, own in OWN_OPTIONS.items()
    for options in [*COMMON_OPTIONS, *own]
]


class ScheduleFreeAdamW(keras.optimizers.ScheduleFreeAdamW):  # type: ignore[name-defined]
    """Keras' rule without its slip on torch, where "the old momentum" is the tensor that was just changed in place."""

    def assign_sub(self, variable, value):
        variable._value = variable.value - value


def of_keras(name, **options):
    own = {"ScheduleFreeAdamW": ScheduleFreeAdamW}
    return own.get(name, getattr(keras.optimizers, name))(**options)


def values():
    """Return first parameters, and gradients for each step."""
    rng = np.random.default_rng(7)
    first = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    return first, [[rng.normal(size=s).astype("float32") * 2 for s in SHAPES] for _ in range(STEPS)]


def run_keras(optimizer, gradients=None, each_step=None):
    first, default = values()
    variables = [keras.Variable(value, name=f"v{index}") for index, value in enumerate(first)]
    optimizer.build(variables)
    for step, batch in enumerate(gradients or default):
        if each_step:
            each_step(optimizer, step)
        optimizer.apply([torch.tensor(gradient) for gradient in batch])
    return [variable.value.detach().numpy() for variable in variables]


def run_ours(optimizer, gradients=None, each_step=None):
    first, default = values()
    parameters = [torch.nn.Parameter(torch.tensor(value)) for value in first]
    optimizer.build([(f"v{index}", parameter) for index, parameter in enumerate(parameters)])
    for step, batch in enumerate(gradients or default):
        if each_step:
            each_step(optimizer, step)
        optimizer.apply([torch.tensor(gradient) for gradient in batch])
    return [parameter.detach().numpy() for parameter in parameters]


def assert_equal(ours, theirs, tolerance):
    for left, right in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_twenty_steps(name, options):
    # float32 leaves Keras' 1 - beta**step four digits in the first steps, and Newton-Schulz iterations amplify rounding
    tolerance = 1e-5 if "learning_rate" in options or name in ("Muon", "Adafactor") else 1e-6
    ours, theirs = getattr(optimizers, name)(**options), of_keras(name, **options)
    assert_equal(run_ours(ours), run_keras(theirs), tolerance)
    assert ours.iterations == int(theirs.iterations)
    assert float(ours.learning_rate) == pytest.approx(float(theirs.learning_rate), rel=1e-6)


@pytest.mark.parametrize("name", [name for name in OWN_OPTIONS if name not in ("Adafactor", "Nadam")])
def test_variables_in_keras_order(name):
    ours, theirs = getattr(optimizers, name)(use_ema=True), of_keras(name, use_ema=True)
    run_ours(ours), run_keras(theirs)
    expected = [variable.value.detach().numpy() for variable in theirs.variables]
    assert_equal([variable.detach().numpy() for variable in ours.variables], expected, 1e-4)


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_arguments_and_defaults(name):
    ours, theirs = getattr(optimizers, name)(), getattr(keras.optimizers, name)()
    expected = theirs.get_config()
    assert ours.get_config() == {
        **expected,
        "name": ours.name,
        "learning_rate": pytest.approx(expected["learning_rate"], rel=1e-6),
    }
    assert expected["name"].rstrip("_0123456789") == ours.name
    own = [p for p in inspect.signature(type(ours)).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    wanted = list(inspect.signature(getattr(keras.optimizers, name)).parameters.values())[: len(own)]
    assert [(p.name, p.default) for p in own] == [(p.name, p.default) for p in wanted]


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_configs_of_keras_are_read(name):
    theirs = getattr(keras.optimizers, name)(keras.optimizers.schedules.CosineDecay(0.1, 100), clipnorm=2.0)
    ours = optimizers.deserialize(keras.optimizers.serialize(theirs))
    assert type(ours) is getattr(optimizers, name)
    assert ours.clipnorm == 2.0
    assert ours.learning_rate == 0.1


@pytest.mark.parametrize("name", ["SGD", "Adam", "Muon"])
def test_exclude_from_weight_decay(name):
    def prepared(optimizer):
        optimizer.exclude_from_weight_decay(var_names=["v1", "2$"])
        return optimizer

    options = {"weight_decay": 0.1, "learning_rate": 0.01}
    ours, theirs = getattr(optimizers, name)(**options), of_keras(name, **options)
    assert_equal(run_ours(prepared(ours)), run_keras(prepared(theirs)), 1e-5)


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=["each", "accumulated"])
def test_schedule_inside_an_optimizer(options):
    ours = optimizers.SGD(schedules.ExponentialDecay(0.1, 5, 0.5), **options)
    theirs = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5), **options)
    assert_equal(run_ours(ours), run_keras(theirs), 1e-6)


def test_learning_rate_set_between_steps():
    def halve(optimizer, step):
        if step == 10:
            optimizer.learning_rate = 0.005

    ours, theirs = optimizers.SGD(momentum=0.9), keras.optimizers.SGD(momentum=0.9)
    assert_equal(run_ours(ours, each_step=halve), run_keras(theirs, each_step=halve), 1e-6)


def test_zero_gradients():
    zeros = [[np.zeros(shape, "float32") for shape in SHAPES]] * 3
    for name in OWN_OPTIONS:
        ours, theirs = getattr(optimizers, name)(clipnorm=1.0), of_keras(name, clipnorm=1.0)
        assert_equal(run_ours(ours, zeros), run_keras(theirs, zeros), 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_gradients_that_are_not_finite(option, bad):
    gradients = values()[1][:1]
    gradients[0][0][1, 1] = bad
    options: dict[str, Any] = {option: 1.0}
    ours, theirs = optimizers.SGD(**options), keras.optimizers.SGD(**options)
    assert_equal(run_ours(ours, gradients), run_keras(theirs, gradients), 1e-6)


def test_loss_scale_optimizer():
    gradients = values()[1]
    gradients[3][0][0, 0] = np.inf
    gradients[4][1][0] = np.nan
    ours = optimizers.LossScaleOptimizer(optimizers.Adam(), initial_scale=64.0, dynamic_growth_steps=3)
    theirs = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=64.0, dynamic_growth_steps=3)
    assert_equal(run_ours(ours, gradients), run_keras(theirs, gradients), 1e-6)
    assert float(ours.dynamic_scale) == float(theirs.dynamic_scale.value)
    assert (ours.iterations, ours.skipped_updates) == (int(theirs.iterations), 2) == (18, 2)
    assert float(ours.scale_loss(torch.tensor(2.0))) == float(theirs.scale_loss(torch.tensor(2.0)))


def test_multi_optimizer():
    def rules_of(family):
        rules = {"v[0-2]": family.Adam(0.01, clipnorm=1.0), "v3": family.RMSprop(weight_decay=0.1)}
        return family.MultiOptimizer(family.OptimizerMap(family.SGD(momentum=0.9), rules))

    ours, theirs = rules_of(optimizers), rules_of(keras.optimizers)
    assert_equal(run_ours(ours), run_keras(theirs), 1e-6)
    assert [each.iterations for each in ours.optimizers] == [int(each.iterations) for each in theirs.optimizers]


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_weights_are_set_as_in_keras(name):
    ours, theirs = getattr(optimizers, name)(), of_keras(name)
    run_ours(ours), run_keras(theirs)
    for optimizer in (ours, theirs):
        optimizer.set_weights([np.full(variable.shape, 2.0, "float32") for variable in optimizer.variables])
    assert ours.iterations == int(theirs.iterations) == 2
    assert ours.learning_rate == float(theirs.learning_rate) == 2.0
    assert all((weight == 2.0).all() for weight in ours.get_weights())


def test_a_loss_scale_that_is_not_dynamic_is_refused_as_by_keras():
    for family in (optimizers, keras.optimizers):
        family.LossScaleOptimizer(family.SGD(), dynamic=True)
        with pytest.raises(ValueError, match="loss_scale_factor"):
            family.LossScaleOptimizer(family.SGD(), dynamic=False)


SCHEDULES = [
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 700}),
    ("CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 300, "alpha": 0.2}),
    (
        "CosineDecay",
        {"initial_learning_rate": 0.01, "decay_steps": 500, "warmup_target": 0.1, "warmup_steps": 100},
    ),
    ("CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 64}),
    (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 50, "t_mul": 1.0, "m_mul": 0.8, "alpha": 0.1},
    ),
    (
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 40, "t_mul": 3.0, "m_mul": 0.9},
    ),
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 100, "decay_rate": 0.9}),
    ("ExponentialDecay", {"initial_learning_rate": 0.1, "decay_steps": 100, "decay_rate": 0.9, "staircase": True}),
    ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 100, "decay_rate": 0.5}),
    ("InverseTimeDecay", {"initial_learning_rate": 0.1, "decay_steps": 100, "decay_rate": 0.5, "staircase": True}),
    ("PiecewiseConstantDecay", {"boundaries": [100, 400], "values": [0.1, 0.05, 0.01]}),
    ("PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 600}),
    (
        "PolynomialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 300, "power": 2.0, "cycle": True, "end_learning_rate": 0.01},
    ),
]


@pytest.mark.parametrize(("name", "arguments"), SCHEDULES)
def test_a_thousand_steps_of_a_schedule(name, arguments):
    ours = getattr(schedules, name)(**arguments)
    theirs = getattr(keras.optimizers.schedules, name)(**arguments)
    expected = [float(theirs(step)) for step in range(1001)]
    np.testing.assert_allclose([ours(step) for step in range(1001)], expected, rtol=1e-5, atol=1e-6)
    assert ours.get_config() == theirs.get_config()
    assert schedules.deserialize(keras.optimizers.schedules.serialize(theirs))(77) == ours(77)


def test_every_name_of_keras_is_here():
    missing = set(dir(keras.optimizers)) - set(optimizers.__all__)
    assert {name for name in missing if not name.startswith("_")} == {"legacy"}
    missing = set(dir(keras.optimizers.schedules)) - set(schedules.__all__)
    assert not [name for name in missing if not name.startswith("_")]
