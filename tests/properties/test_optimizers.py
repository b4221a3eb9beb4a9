"""What holds for every optimizer, whenever it is saved and however it is set."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchfit import optimizers

RULES = [
    name
    for name in optimizers.__all__
    if isinstance(vars(optimizers)[name], type)
    and issubclass(vars(optimizers)[name], optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
]
COMMON = st.fixed_dictionaries(
    {
        "weight_decay": st.sampled_from([None, 0.01]),
        "use_ema": st.booleans(),
        "ema_overwrite_frequency": st.sampled_from([None, 2]),
        "gradient_accumulation_steps": st.sampled_from([None, 3]),
    }
)
STEPS = 8


def fresh(name, options, scaled):
    if name == "AdamW" and options["weight_decay"] is None:
        options = {**options, "weight_decay": 0.0}
    inner = getattr(optimizers, name)(**options)
    return optimizers.LossScaleOptimizer(inner, initial_scale=2.0, dynamic_growth_steps=2) if scaled else inner


def run(name, options, scaled, stop):
    """Make all steps; at `stop`, continue with a copy made of the config, the state and the parameters."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in [(3, 2), (4,)]]
    optimizer = fresh(name, options, scaled)
    optimizer.build(parameters)
    for step in range(STEPS):
        if step == stop:
            state = copy.deepcopy(optimizer.state_dict())
            parameters = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
            optimizer = optimizers.deserialize(optimizers.serialize(optimizer))
            optimizer.build(parameters)
            optimizer.load_state_dict(state)
        optimizer.apply([torch.randn(3, 2), torch.randn(4)])
    return parameters, optimizer


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=10, deadline=None)
@given(options=COMMON, scaled=st.booleans(), stop=st.integers(0, STEPS - 1))
def test_a_saved_run_goes_on_bit_by_bit(name, options, scaled, stop):
    straight, one = run(name, options, scaled, None)
    resumed, other = run(name, options, scaled, stop)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.variables, other.variables, strict=True))
    assert one.iterations == other.iterations


@settings(max_examples=50, deadline=None)
@given(rate=st.floats(0, 10, allow_subnormal=False), factor=st.sampled_from([0.1, 0.5, 2.0]))
def test_learning_rates_are_what_float32_holds(rate, factor):
    optimizer = optimizers.SGD(rate)
    held = optimizer.learning_rate
    assert torch.tensor(held) == torch.tensor(rate, dtype=torch.float32)
    optimizer.learning_rate = held
    assert optimizer.learning_rate == held
    optimizer.learning_rate = held * factor
    assert optimizer.learning_rate == pytest.approx(rate * factor, rel=1e-6, abs=1e-30)


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_weighted_accumulation_is_the_mean_over_all_samples(parts):
    samples = torch.randn(sum(parts), 2, dtype=torch.float64)
    results = []
    for sizes in (parts, [sum(parts)]):
        w = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = optimizers.SGD(1.0, gradient_accumulation_steps=10)
        optimizer.build([w])
        for chunk in samples.split(sizes):
            optimizer.apply([chunk.mean(0)], num_samples=len(chunk))
        optimizer.flush()
        results.append(w.detach())
    torch.testing.assert_close(*results)
