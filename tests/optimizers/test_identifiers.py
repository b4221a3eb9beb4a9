import functools

import pytest
import torch

import torchfit
from torchfit import optimizers
from torchfit.optimizers import SGD, Adam, AdamW, TorchOptimizer, deserialize, get, serialize
from torchfit.optimizers.identifiers import resolve_optimizer


@pytest.mark.parametrize(("name", "cls"), [("adam", "Adam"), ("RMSPROP", "RMSprop"), ("ScheduleFreeAdamW",) * 2])
def test_names_in_any_case(name, cls):
    assert type(get(name)) is getattr(optimizers, cls)
    assert type(resolve_optimizer(name)) is getattr(optimizers, cls)


def test_unknown_names_suggest_known_ones():
    with pytest.raises(ValueError, match=r"Unknown optimizer: 'adm'. Did you mean .*'Adam'"):
        resolve_optimizer("adm")


def test_instances_classes_and_configs():
    optimizer = SGD(0.5)
    assert get(optimizer) is optimizer
    assert resolve_optimizer(optimizer) is optimizer
    assert type(resolve_optimizer(AdamW)) is AdamW
    assert get({"class_name": "SGD", "config": {"learning_rate": 0.25}}).learning_rate == 0.25
    assert get(None) is None


@pytest.mark.parametrize("wrong", [None, 3, object(), torchfit.losses.MeanSquaredError, ["adam"]])
def test_anything_else_is_refused(wrong):
    with pytest.raises(ValueError, match="optimizer"):
        resolve_optimizer(wrong)


def test_torch_optimizers_are_adapted():
    w = torch.nn.Parameter(torch.zeros(1))
    given = torch.optim.SGD([w], lr=0.1)
    assert resolve_optimizer(given).optimizer is given
    for factory in (torch.optim.SGD, functools.partial(torch.optim.SGD, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)):
        adapted = resolve_optimizer(factory)
        assert isinstance(adapted, TorchOptimizer)
        adapted.build([w])
        assert isinstance(adapted.optimizer, torch.optim.SGD)


def test_a_partial_of_a_class_is_called():
    first, second = (resolve_optimizer(functools.partial(AdamW, 0.25, beta_1=0.5)) for _ in range(2))
    assert first is not second
    assert (type(first), first.learning_rate, first.beta_1) == (AdamW, 0.25, 0.5)


@pytest.mark.parametrize("function", [lambda: Adam(0.1), lambda parameters: Adam(0.1)])
def test_a_function_that_makes_an_optimizer_of_torchfit_is_told_to_pass_it(function):
    optimizer = resolve_optimizer(function)
    with pytest.raises(ValueError, match="An optimizer of torchfit is passed itself"):
        optimizer.build([torch.nn.Parameter(torch.zeros(1))])


def test_the_state_of_another_kind_of_optimizer_is_named():
    w = torch.nn.Parameter(torch.zeros(1))
    of_torch = torch.optim.SGD([w], lr=0.1)
    adapted, own = resolve_optimizer(of_torch), SGD()
    own.build([w])
    for optimizer in (adapted, own):
        with pytest.raises(ValueError, match=r"call model.optimizer.optimizer.load_state_dict\(state\)"):
            optimizer.load_state_dict(of_torch.state_dict())
    with pytest.raises(ValueError, match=r"of an optimizer of torch.optim. Compile the model with the same optimizer"):
        own.load_state_dict(adapted.state_dict())
    with pytest.raises(ValueError, match=r"of one of torchfit's own optimizers. Compile the model with the same"):
        adapted.load_state_dict(own.state_dict())


def test_custom_objects():
    class Mine(Adam):
        pass

    config = serialize(Mine(0.5))
    assert type(deserialize(config, custom_objects={"Mine": Mine})) is Mine
    with pytest.raises(ValueError, match="Unknown optimizer: 'Mine'"):
        deserialize(config)


def test_schedules_inside_configs():
    def halving(step):
        return 0.5**step

    config = serialize(SGD(optimizers.schedules.CosineDecay(0.1, 10)))
    assert deserialize(config).learning_rate == 0.1
    own = serialize(SGD(halving))
    assert SGD.from_config(own["config"], custom_objects={"halving": halving}).learning_rate == 1.0
    assert deserialize(own, custom_objects={"halving": halving}).learning_rate == 1.0
