import copy
import functools

import pytest
import torch

from torchfit.optimizers import SGD, TorchOptimizer, deserialize, schedules, serialize


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
        TorchOptimizer(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="It returned: None"):
        TorchOptimizer(lambda parameters: None).build([weight(1.0)])  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"Unknown torch optimizer: 'Adan'. Did you mean 'Adam'"):
        TorchOptimizer.from_config({"name": "adan", "optimizer": "Adan", "arguments": {}})


# -- learning rates of groups


def groups_of(*rates):
    return TorchOptimizer(torch.optim.SGD([{"params": [weight(1.0)], "lr": rate} for rate in rates], lr=1.0))


def rates(optimizer):
    return [group["lr"] for group in optimizer.optimizer.param_groups]


def test_a_group_of_rate_zero_stays_there_and_brings_no_other_down():
    optimizer = groups_of(0.0, 0.2, 0.1)
    assert optimizer.learning_rate == 0.2
    optimizer.learning_rate = optimizer.learning_rate / 2
    assert rates(optimizer) == pytest.approx([0.0, 0.1, 0.05])


def test_rates_that_went_to_zero_together_come_back_in_their_ratio():
    optimizer = groups_of(0.0, 0.2, 0.1)
    optimizer.learning_rate = 0.0
    assert rates(optimizer) == [0.0, 0.0, 0.0]
    again = groups_of(0.0, 0.2, 0.1)
    again.load_state_dict(optimizer.state_dict())
    for each in (optimizer, again):
        each.learning_rate = 0.4
        assert rates(each) == pytest.approx([0.0, 0.4, 0.2])


def test_rates_that_are_all_zero_are_all_set():
    optimizer = groups_of(0.0, 0.0)
    optimizer.learning_rate = 0.1
    assert rates(optimizer) == [0.1, 0.1]


# -- weights


def test_weights_are_set_as_they_were_got():
    optimizer, other = (TorchOptimizer(torch.optim.Adam) for _ in range(2))
    for each, value in ((optimizer, 1.0), (other, 2.0)):
        each.build([weight(1.0, 2.0)])
        each.apply([torch.full((2,), value)])
    other.set_weights(optimizer.get_weights())
    assert [w.tolist() for w in other.get_weights()] == [w.tolist() for w in optimizer.get_weights()]
    with pytest.raises(ValueError, match=r"one array for each of the 5 `variables`.* Received: 1 arrays"):
        other.set_weights([1])


# -- names


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))


def trained(make, net, steps=2):
    optimizer = TorchOptimizer(make(net))
    optimizer.sync_parameters(net.named_parameters())
    go_on(optimizer, net, steps)
    return optimizer


def go_on(optimizer, net, steps=2):
    for step in range(steps):
        optimizer.zero_grad()
        net(torch.full((1, 2), step + 1.0)).square().sum().backward()
        optimizer.step()


ORDERS = {
    "in another order": lambda net: torch.optim.Adam([*net[1].parameters(), *net[0].parameters()], 0.1),
    "a part": lambda net: torch.optim.Adam(net[1].parameters(), 0.1),
    "groups": lambda net: torch.optim.AdamW(
        [
            {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
            {"params": [p for p in net.parameters() if p.ndim == 2], "lr": 0.01},
        ],
        lr=0.1,
        weight_decay=0.5,
    ),
    "named": lambda net: torch.optim.Adam(net.named_parameters(), 0.1),
    "a class": lambda net: functools.partial(torch.optim.Adam, lr=0.1),
    "closures": lambda net: torch.optim.LBFGS([*net[1].parameters(), *net[0].parameters()], 0.1, max_iter=2),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("make", ORDERS.values(), ids=ORDERS)
def test_what_is_described_and_saved_goes_on_as_it_was(make):
    """Moments belong to the parameters of their names, and groups hold those that they held."""
    net = network()
    optimizer = TorchOptimizer(make(net))
    optimizer.sync_parameters(net.named_parameters())
    run = with_closures if optimizer.needs_closure else go_on
    run(optimizer, net)
    other = copy.deepcopy(net)
    again = deserialize(serialize(optimizer))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.sync_parameters(other.named_parameters())
    run(optimizer, net)
    run(again, other)
    torch.testing.assert_close(list(net.parameters()), list(other.parameters()), rtol=0, atol=0)
    assert again.get_config() == optimizer.get_config()


def with_closures(optimizer, net, steps=2):
    for step in range(steps):

        def closure(step=step):
            optimizer.zero_grad()
            loss = net(torch.full((1, 2), step + 1.0)).square().sum()
            loss.backward()
            return loss

        optimizer.step(closure=closure)


def test_states_by_position_are_restored():
    net = network()
    optimizer = trained(ORDERS["in another order"], net)
    state = copy.deepcopy(optimizer.state_dict())
    del state["names"], state["shapes"]  # as earlier versions saved them
    again = trained(ORDERS["in another order"], network(), 0)
    again.load_state_dict(state)
    assert [v.tolist() for v in again.variables] == [v.tolist() for v in optimizer.variables]


def test_groups_that_were_added_are_resumed():
    net = network()
    net[0].requires_grad_(False)
    optimizer = trained(ORDERS["a part"], net)
    net[0].requires_grad_(True)
    optimizer.optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.01})
    assert optimizer.sync_parameters(net.named_parameters()).added == ("0.weight", "0.bias")
    go_on(optimizer, net)
    other = copy.deepcopy(net)
    again = trained(ORDERS["a part"], other, 0)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert rates(again) == [0.1, 0.01]
    go_on(optimizer, net)
    go_on(again, other)
    torch.testing.assert_close(list(net.parameters()), list(other.parameters()), rtol=0, atol=0)


def test_an_instance_tells_how_to_add_what_became_trainable():
    net = network()
    net[0].requires_grad_(False)
    optimizer = trained(ORDERS["a part"], net)
    net[0].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"\['0.weight', '0.bias'\] are trainable.*optimizer.add_param_group"):
        assert not optimizer.sync_parameters(net.named_parameters())
    assert not optimizer.sync_parameters(net.named_parameters())  # told once


def test_parameters_that_an_instance_holds_are_trained_once_they_are_trainable():
    net = network()
    net[0].requires_grad_(False)
    optimizer = trained(lambda net: torch.optim.Adam(net.parameters(), 0.1), net)
    assert len(optimizer.parameters) == 2
    net[0].requires_grad_(True)
    assert optimizer.sync_parameters(net.named_parameters()).added == ("0.weight", "0.bias")
    before = net[0].weight.detach().clone()
    go_on(optimizer, net)
    assert not torch.equal(net[0].weight, before)


def test_groups_of_other_parameters_are_refused():
    optimizer = TorchOptimizer(torch.optim.SGD, groups=[{"names": ["head.weight"], "lr": 0.1}])
    with pytest.raises(ValueError, match=r"there is none called \['head.weight'\]"):
        optimizer.build(network().named_parameters())
    with pytest.raises(ValueError, match="`groups` must be None"):
        TorchOptimizer(torch.optim.SGD([weight(1.0)]), groups=[])


def test_groups_whose_names_are_not_known_cannot_be_described():
    net, loss = network(), weight(1.0)
    optimizer = TorchOptimizer(torch.optim.SGD([{"params": net.parameters()}, {"params": [loss]}]))
    optimizer.sync_parameters(net.named_parameters())
    with pytest.raises(ValueError, match="Could not save the parameter groups"):
        optimizer.get_config()


def test_other_groups_keep_their_options_when_a_state_is_loaded():
    net = network()
    optimizer = trained(ORDERS["in another order"], net)
    other = trained(ORDERS["groups"], network(), 0)
    with pytest.warns(UserWarning, match="with other parameter groups"):
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert rates(other) == [0.1, 0.01]


# -- closures


class SharpnessAware(torch.optim.SGD):
    """Takes a step uphill first, and the gradient there: the loss is evaluated twice."""

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        steps = [0.05 * p.grad.sign() for p in parameters]
        torch._foreach_add_(parameters, steps)
        loss = torch.enable_grad()(closure)()
        torch._foreach_sub_(parameters, steps)
        super().step()
        return loss


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.LBFGS(p, 0.5, max_iter=4),
        lambda p: torch.optim.Adam(p, 0.1),
        lambda p: SharpnessAware(p, 0.1),
    ],
    ids=["LBFGS", "Adam", "SharpnessAware"],
)
def test_a_training_step_evaluates_the_loss_as_often_as_a_loop(make):
    results = []
    for by_hand in (True, False):
        net, calls = network(), []
        optimizer = make(list(net.parameters())) if by_hand else TorchOptimizer(make(list(net.parameters())))

        def closure(net=net, calls=calls, optimizer=optimizer):
            optimizer.zero_grad()
            loss = net(torch.ones(1, 2)).square().sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            calls.append(loss.item())
            return loss

        for _ in range(2):
            if by_hand:
                if isinstance(optimizer, SharpnessAware):
                    closure()
                optimizer.step(closure)
            else:
                optimizer.step(32, closure=closure)
        results.append((calls, [p.tolist() for p in net.parameters()]))
    assert results[0] == results[1]


def test_closures_are_needed_accepted_or_ignored():
    kinds = (torch.optim.LBFGS, SharpnessAware, torch.optim.SGD, functools.partial(torch.optim.LBFGS, lr=1.0))
    made = [TorchOptimizer(kind) for kind in kinds]
    assert [each.needs_closure for each in made] == [True, False, False, True]
    assert [each.accepts_closure for each in made] == [True, True, False, True]
    assert not SGD().needs_closure
    with pytest.raises(TypeError, match=r"LBFGS evaluates the loss itself: `step` needs a `closure`.*`train_step`"):
        trained(lambda net: torch.optim.LBFGS(net.parameters()), network(), 1)


def test_optimizers_of_torchfit_take_closures_as_those_of_torch_do():
    w = weight(1.0)
    optimizer = SGD(0.5)
    optimizer.build([w])

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 1.0
        assert optimizer.step(closure=closure).item() == 0.0


def test_a_copy_of_an_optimizer_with_a_scheduler_makes_steps_of_its_own():
    net = network()
    optimizer = TorchOptimizer(torch.optim.SGD(net.parameters(), 0.1))
    torch.optim.lr_scheduler.StepLR(optimizer.optimizer, 1)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    other, twin = copy.deepcopy((optimizer, net))
    go_on(other, twin)
    assert all(map(torch.equal, before, net.parameters()))
    assert not any(map(torch.equal, before, twin.parameters()))


@pytest.mark.parametrize(("name", "value"), [("exp_avg", torch.zeros(7)), ("exp_avg", "text"), ("exp_avg_sq", None)])
def test_the_first_step_with_a_damaged_state_says_where_it_is_from(name, value):
    net = network()
    optimizer = trained(lambda net: torch.optim.Adam(net.parameters(), 0.1), net)
    state = copy.deepcopy(optimizer.state_dict())
    state["torch"]["state"][0][name] = value
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"The step of Adam failed with the state that was loaded.*damaged"):
        go_on(optimizer, net)
