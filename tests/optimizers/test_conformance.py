"""What every optimizer must do, whoever wrote its rule. New members are found by their names."""

import copy
import pickle

import pytest
import torch

from torchfit import optimizers

SHAPES = [(4, 3), (3,), (3, 3, 2)]
RULES = [
    name
    for name in optimizers.__all__
    if isinstance(vars(optimizers)[name], type)
    and issubclass(vars(optimizers)[name], optimizers.Optimizer)
    and name != "Optimizer"
]
WRAPPED = {"LossScaleOptimizer": [optimizers.SGD()], "MultiOptimizer": [{".*": optimizers.SGD()}]}
OPTIONS = {
    "SGD": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "RMSprop": [{"momentum": 0.9, "centered": True}],
    "Adam": [{"amsgrad": True}],
    "Ftrl": [{"l1_regularization_strength": 0.1, "l2_shrinkage_regularization_strength": 0.1, "beta": 0.1}],
    "Muon": [{"nesterov": False, "rms_rate": None}],
    "ScheduleFreeAdamW": [{"warmup_steps": 3}],
}
EVERYTHING = {"weight_decay": 0.01, "global_clipnorm": 1.0, "use_ema": True, "ema_overwrite_frequency": 2}
CASES = [
    pytest.param(name, options, id=f"{name}-{'-'.join(options) or 'defaults'}")
    for name in RULES
    for options in ([{}, EVERYTHING, *OPTIONS.get(name, [])] if name != "LossScaleOptimizer" else [{}])
]


def make(name, options=None):
    if name == "LossScaleOptimizer":
        return optimizers.LossScaleOptimizer(optimizers.Adam(), initial_scale=4.0, dynamic_growth_steps=2)
    if name == "MultiOptimizer":
        rules = {"layer.0": optimizers.Adam(0.001), ".*1": optimizers.RMSprop(0.001)}
        options = {key: value for key, value in (options or {}).items() if key not in ("weight_decay", "learning_rate")}
        return optimizers.MultiOptimizer(rules, default=optimizers.AdamW(0.001), **options)
    return getattr(optimizers, name)(**(options or {}))


def bound(name, options=None, shapes=SHAPES, dtype=torch.float32):
    """Return an optimizer and the parameters that it is built with, the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]
    optimizer = make(name, options)
    optimizer.build((f"layer.{index}", parameter) for index, parameter in enumerate(parameters))
    return optimizer, parameters


def gradients(step, shapes=SHAPES):
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def numbers(optimizer, learning_rate, step):
    """Return what an update needs: a rate for each rule, and the step."""
    return [learning_rate] * (optimizer.count_of_numbers - 1) + [step]


def compiled_difference(name, options, backend):
    """Return how far six compiled steps end from six eager ones, the learning rate changing each time."""
    torch._dynamo.reset()
    eager, eager_parameters = bound(name, options)
    other, other_parameters = bound(name, options)
    update = torch.compile(other.update, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(6):
            eager.learning_rate = 0.1 / (step + 1)
            eager.apply(gradients(step))
            update(gradients(step), *numbers(other, torch.tensor(0.1 / (step + 1)), torch.tensor(float(step + 1))))
    return max(float((a - b).detach().abs().max()) for a, b in zip(eager_parameters, other_parameters))


@pytest.mark.graphs
@pytest.mark.parametrize(("name", "options"), CASES)
def test_compiles_into_one_graph(name, options):
    assert compiled_difference(name, options, "eager") < 2e-6


@pytest.mark.graphs
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, inside inductor
@pytest.mark.parametrize("name", ["RMSprop", "AdamW", "LossScaleOptimizer"])
def test_inductor_agrees_with_eager(name):
    options = EVERYTHING if name == "AdamW" else {}
    assert compiled_difference(name, options, "inductor") < 2e-6


@pytest.mark.parametrize("name", RULES)
def test_learns(name):
    """A parameter moves towards the minimum of its square."""
    optimizer, parameters = bound(name)
    optimizer.learning_rate = 0.01
    before = sum(float(p.detach().square().sum()) for p in parameters)
    for _ in range(30):
        optimizer.scale_loss(sum(p.square().sum() for p in parameters)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(float(p.detach().square().sum()) for p in parameters) < before
    assert optimizer.iterations == 30


@pytest.mark.parametrize(("name", "options"), CASES)
def test_config_makes_the_same_optimizer(name, options):
    optimizer = make(name, options)
    config = optimizer.get_config()
    assert type(optimizer).from_config(config).get_config() == config
    again = optimizers.deserialize(optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == config


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_before_build_is_taken_over(name, options):
    optimizer, parameters = bound(name, options)
    optimizer.apply(gradients(0))
    again = make(name, options)
    again.load_state_dict(optimizer.state_dict())
    again.build([(f"layer.{index}", parameter) for index, parameter in enumerate(parameters)])
    assert again.iterations == 1
    assert all(torch.equal(a, b) for a, b in zip(again.variables, optimizer.variables, strict=True))


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("is_built", [True, False])
def test_the_state_of_an_unused_optimizer_begins_afresh(name, options, is_built):
    """Whether it is loaded after training or in a new process, as with the optimizers of torch."""
    start = make(name, options).state_dict()
    fresh, expected = bound(name, options)
    used, parameters = bound(name, options)
    if is_built:
        used.apply(gradients(3))
        used.learning_rate = 0.5
        with torch.no_grad():
            torch._foreach_copy_(parameters, expected)
        used.load_state_dict(start)
    else:
        used = make(name, options)
        used.load_state_dict(start)
        assert used.state_dict() == start
        used.build((f"layer.{index}", parameter) for index, parameter in enumerate(parameters))
    for step in range(2):
        fresh.apply(gradients(step))
        used.apply(gradients(step))
    assert all(torch.equal(a, b) for a, b in zip(parameters, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(used.variables, fresh.variables, strict=True))


@pytest.mark.parametrize("name", RULES)
def test_a_parameter_without_gradient_stays(name):
    optimizer, parameters = bound(name, {"weight_decay": 0.1} if name != "LossScaleOptimizer" else {})
    before = parameters[1].clone()
    parameters[1].requires_grad_(False)
    first, _, last = gradients(0)
    optimizer.apply([first, None, last])
    assert torch.equal(parameters[1], before)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes(name, dtype):
    optimizer, parameters = bound(name, dtype=dtype)
    optimizer.apply([gradient.to(dtype) for gradient in gradients(0)])
    assert all(p.dtype == dtype and p.isfinite().all() for p in parameters)


@pytest.mark.parametrize("name", RULES)
def test_gradients_in_another_memory_order(name):
    optimizer, parameters = bound(name)
    other, other_parameters = bound(name)
    first, *rest = gradients(0)
    optimizer.apply([first, *rest])
    other.apply([first.t().contiguous().t(), *rest])
    for a, b in zip(parameters, other_parameters):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:The pattern")
@pytest.mark.parametrize("name", RULES)
def test_sparse_gradients_count_as_dense_ones(name):
    indices, values = torch.tensor([[0, 2]]), torch.tensor([[1.0, -1.0], [2.0, 0.5]])
    sparse = torch.sparse_coo_tensor(indices, values, (4, 2), check_invariants=True)
    results = []
    for gradient in (sparse, sparse.to_dense()):
        optimizer, parameters = bound(name, shapes=[(4, 2)])
        optimizer.apply([gradient])
        results.append(parameters[0].detach())
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", RULES)
def test_copies_and_pickles(name):
    assert pickle.loads(pickle.dumps(make(name))).get_config() == make(name).get_config()
    parameters, optimizer = copy.deepcopy(bound(name)[::-1])
    before = parameters[0].detach().clone()
    optimizer.apply(gradients(0))
    assert not torch.equal(parameters[0], before)


@pytest.mark.parametrize("name", RULES)
def test_unknown_arguments_are_named(name):
    with pytest.raises(ValueError, match="has no argument `clip_norm`"):
        type(make(name))(*WRAPPED.get(name, ()), clip_norm=1.0)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_rate_of_zero_changes_no_parameter(name, options):
    optimizer, parameters = bound(name, {key: value for key, value in options.items() if "ema" not in key})
    optimizer.apply(gradients(0))
    before = [p.detach().clone() for p in parameters]
    optimizer.learning_rate = 0.0
    for step in (1, 2):
        optimizer.apply(gradients(step))
    optimizer.update(gradients(3), *numbers(optimizer, torch.tensor(0.0), torch.tensor(4.0)))
    assert all(p.isfinite().all() for p in parameters)
    if name != "ScheduleFreeAdamW" and "momentum" not in options:  # what moves, moves on
        assert all(torch.equal(p, was) for p, was in zip(parameters, before))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("options", [{}, {"epsilon": 1e-12}, {"initial_accumulator_value": 0.0}], ids=str)
@pytest.mark.parametrize("is_traced", [False, True])
def test_half_precision_parameters_without_a_gradient_stay_as_they_are(name, options, is_traced):
    if name == "LossScaleOptimizer" or not set(options) <= set(make(name).get_config()):
        pytest.skip("no such argument")
    shapes = [(6,), (4, 3), ()]
    optimizer, parameters = bound(name, {"learning_rate": 0.001, **options}, shapes, torch.float16)
    before = [p.detach().clone() for p in parameters]
    masks = [torch.arange(6) > 3, torch.tensor([[False, True, True]] * 4), torch.tensor(False)]
    for step in range(1, 5):
        grads = [mask.half() * 10.0 ** -(step - 1) for mask in masks]
        if is_traced:
            optimizer.update(grads, *numbers(optimizer, torch.tensor(0.001), torch.tensor(float(step))))
        else:
            optimizer.apply(grads)
    assert all(p.isfinite().all() for p in parameters)
    for p, was, mask in zip(parameters, before, masks):
        if name not in ("Ftrl", "Muon"):  # the leader starts at 0, whatever the parameters were; matrices move as one
            assert torch.equal(p[~mask], was[~mask])


@pytest.mark.parametrize("name", RULES)
def test_complex_parameters_are_refused_by_rules_that_are_not_defined_for_them(name):
    optimizer, parameter = make(name), torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    if optimizer.supports_complex:
        optimizer.build([("layer.0", parameter)])
        optimizer.apply([torch.full((2,), 1j)])
        assert torch.equal(parameter.detach(), torch.full((2,), 1 - 0.01j))
    else:
        with pytest.raises(ValueError, match="not defined for complex parameters"):
            optimizer.build([("layer.0", parameter)])
