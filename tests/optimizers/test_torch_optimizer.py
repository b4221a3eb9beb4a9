import functools

import pytest
import torch

from torchfit.optimizers import TorchOptimizer, deserialize, schedules, serialize


def weight(*values):
    return torch.nn.Parameter(torch.tensor(values))


def test_an_instance_steps_as_it_is():
    w = weight(1.0)
    optimizer = TorchOptimizer(torch.optim.SGD([w], lr=0.5))
    optimizer.build([("w", w)])
    w.grad = torch.ones(1)
    optimizer.step()
    optimizer.zero_grad()
    assert (w.item(), w.grad, optimizer.iterations, optimizer.name) == (0.5, None, 1, "sgd")


def test_an_instance_of_other_parameters_is_refused():
    optimizer = TorchOptimizer(torch.optim.SGD([weight(1.0)], lr=0.5))
    with pytest.raises(ValueError, match="bound to other parameters"):
        optimizer.build([weight(1.0)])


def test_an_instance_may_train_a_part():
    head, body = weight(1.0), weight(1.0)
    optimizer = TorchOptimizer(torch.optim.SGD([head], lr=0.5))
    optimizer.build([body, head])
    assert len(optimizer.parameters) == 1


def test_frozen_parameters_are_left_out_of_factories():
    optimizer = TorchOptimizer(torch.optim.Adam)
    optimizer.build([weight(1.0), weight(1.0).requires_grad_(False)])
    assert len(optimizer.parameters) == 1


def test_learning_rate_keeps_the_ratio_of_groups():
    optimizer = TorchOptimizer(
        torch.optim.SGD([{"params": [weight(1.0)], "lr": 0.1}, {"params": [weight(1.0)], "lr": 0.01}])
    )
    optimizer.learning_rate = 0.2
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == pytest.approx([0.2, 0.02])
    assert optimizer.learning_rate == 0.2


def test_learning_rate_before_build_and_as_a_tensor():
    optimizer = TorchOptimizer(functools.partial(torch.optim.Adam, lr=torch.tensor(0.1)))
    assert optimizer.learning_rate == 0.1
    optimizer.learning_rate = 0.25
    optimizer.build([weight(1.0)])
    rate = optimizer.optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    assert rate.item() == 0.25


def test_schedules_are_torchs_own():
    optimizer = TorchOptimizer(torch.optim.SGD([weight(1.0)], lr=0.5))
    with pytest.raises(TypeError, match="lr_scheduler"):
        optimizer.learning_rate = schedules.CosineDecay(0.1, 10)


def test_state_goes_on_bit_by_bit():
    runs = []
    for stop in (None, 3):
        torch.manual_seed(0)
        w = weight(1.0, -2.0)
        optimizer = TorchOptimizer(torch.optim.Adam)
        optimizer.build([w])
        for step in range(6):
            if step == stop:
                state = optimizer.state_dict()
                optimizer = TorchOptimizer(torch.optim.Adam)
                optimizer.load_state_dict(state)
                optimizer.build([w])
            optimizer.apply([torch.randn(2)])
        runs.append((w.tolist(), optimizer.iterations, [v.tolist() for v in optimizer.variables]))
    assert runs[0] == runs[1]


def test_config_round_trip():
    for made in (
        torch.optim.SGD,
        functools.partial(torch.optim.SGD, lr=0.5, momentum=0.9),
        torch.optim.SGD([weight(1.0)], lr=0.5, momentum=0.9),
    ):
        again = deserialize(serialize(TorchOptimizer(made)))
        again.build([weight(1.0)])
        assert isinstance(again.optimizer, torch.optim.SGD)
    assert again.optimizer.param_groups[0]["momentum"] == 0.9
    with pytest.raises(ValueError, match="Could not save"):
        serialize(TorchOptimizer(lambda parameters: torch.optim.SGD(parameters)))


def test_wrong_things_are_refused():
    with pytest.raises(ValueError, match=r"`optimizer` must be a torch.optim.Optimizer"):
        TorchOptimizer(3)
    with pytest.raises(ValueError, match="It returned: None"):
        TorchOptimizer(lambda parameters: None).build([weight(1.0)])
    with pytest.raises(ValueError, match=r"Unknown torch optimizer: 'Adan'. Did you mean 'Adam'"):
        TorchOptimizer.from_config({"name": "adan", "optimizer": "Adan", "arguments": {}})
