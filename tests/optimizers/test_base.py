import copy

import pytest
import torch

from torchfit.optimizers import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    LossScaleOptimizer,
    MultiOptimizer,
    Optimizer,
    RMSprop,
    TorchOptimizer,
    schedules,
)


def weight(*values):
    return torch.nn.Parameter(torch.tensor(values))


def test_step_reads_gradients_and_zero_grad_forgets_them():
    w = weight(1.0, 2.0)
    optimizer = SGD(0.5)
    optimizer.build([w])
    (w * torch.tensor([1.0, 2.0])).sum().backward()
    optimizer.step()
    assert w.tolist() == [0.5, 1.0]
    optimizer.zero_grad()
    assert w.grad is None


def test_learning_rate_reads_as_float32():
    optimizer = SGD(0.1)
    optimizer.learning_rate = optimizer.learning_rate * 0.1
    assert optimizer.learning_rate == 0.01
    optimizer.learning_rate = torch.tensor(0.3)
    assert optimizer.learning_rate == 0.3


def test_learning_rate_of_a_schedule_cannot_be_set():
    optimizer = SGD(schedules.ExponentialDecay(0.1, 1, 0.5))
    with pytest.raises(TypeError, match="decided by a schedule"):
        optimizer.learning_rate = 0.1
    optimizer.learning_rate = schedules.ExponentialDecay(0.2, 1, 0.5)
    assert optimizer.learning_rate == 0.2


def test_any_callable_is_a_schedule():
    w = weight(0.0)
    by_step, plain = SGD(lambda step: 1.0 / (step + 1)), SGD(lambda: 0.25)
    by_step.build([w])
    by_step.apply([torch.ones(1)])
    assert (by_step.learning_rate, plain.learning_rate) == (0.5, 0.25)


def test_variables_begin_with_iterations_and_learning_rate():
    optimizer = Adam(0.5)
    optimizer.build([weight(1.0), weight(2.0, 3.0)])
    optimizer.apply([torch.ones(1), torch.ones(2)])
    iterations, rate, *slots = optimizer.variables
    assert (int(iterations), float(rate)) == (1, 0.5)
    assert [tuple(slot.shape) for slot in slots] == [(1,), (1,), (2,), (2,)]
    assert len(Adam(lambda: 0.1).variables) == 1


def test_apply_gradients_binds_and_matches_by_parameter():
    a, b = weight(1.0), weight(1.0, 1.0)
    optimizer = SGD(1.0)
    assert optimizer.apply_gradients([(torch.ones(1), a), (torch.ones(2), b)]) == 1
    assert optimizer.apply_gradients([(torch.full((2,), 2.0), b), (torch.ones(1), a)]) == 2
    assert (a.tolist(), b.tolist()) == ([-1.0], [-2.0, -2.0])


def test_build_leaves_out_frozen_and_repeated_parameters():
    shared, frozen = weight(1.0), weight(2.0).requires_grad_(False)
    optimizer = SGD()
    optimizer.build([shared, frozen, shared])
    assert len(optimizer.parameters) == 1
    optimizer.build([shared])
    with pytest.raises(ValueError, match="Unknown parameter"):
        optimizer.build([weight(3.0)])


@pytest.mark.parametrize("parameters", [3, torch.zeros(2), [{"params": []}], ["w"]])
def test_build_refuses_what_is_no_parameter(parameters):
    with pytest.raises(TypeError, match="`parameters` must"):
        SGD().build(parameters)


def test_build_refuses_results_of_calculations():
    with pytest.raises(ValueError, match="leaf tensors"):
        SGD().build([weight(1.0) * 2])


def test_no_parameters_are_legal():
    optimizer = SGD()
    optimizer.build([])
    optimizer.step()
    optimizer.apply([])
    assert optimizer.iterations == 0


def test_apply_before_build_and_with_wrong_gradients():
    with pytest.raises(ValueError, match=r"Call optimizer\.build"):
        SGD().apply([torch.ones(1)])
    optimizer = SGD()
    optimizer.build([weight(1.0)])
    with pytest.raises(ValueError, match=r"each of the 1 parameters .* Received: 2 gradients"):
        optimizer.apply([torch.ones(1)] * 2)
    with pytest.raises(ValueError, match=r"shape of its parameter, \(1,\). Received: a tensor of shape \(2,\)"):
        optimizer.apply([torch.ones(2)])


def test_missing_gradients_warn_once_by_name_and_none_at_all_raises():
    optimizer = SGD()
    optimizer.build([("body", weight(1.0)), ("head", weight(1.0))])
    with pytest.warns(UserWarning, match=r"no gradient for the parameters \['head'\]"):
        optimizer.apply([torch.ones(1), None])
    optimizer.apply([torch.ones(1), None])
    with pytest.raises(ValueError, match=r"No gradients provided"):
        optimizer.step()


def test_weight_decay_spares_what_is_excluded():
    a, b, c = weight(1.0), weight(1.0), weight(1.0)
    optimizer = SGD(0.5, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[a], var_names=["bias"])
    optimizer.build([("weight", a), ("bias", b), ("other", c)])
    optimizer.apply([torch.zeros(1)] * 3)
    assert [a.item(), b.item(), c.item()] == [1.0, 1.0, 0.75]


def test_names_are_needed_to_exclude_by_name():
    optimizer = AdamW()
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    with pytest.raises(ValueError, match="named_parameters"):
        optimizer.build([weight(1.0)])


def test_average_begins_after_the_first_update_and_is_written_at_the_end():
    w = weight(0.0)
    optimizer = SGD(1.0, use_ema=True, ema_momentum=0.5)
    optimizer.build([w])
    for gradient in (-1.0, -2.0):
        optimizer.apply([torch.tensor([gradient])])
    assert w.item() == 3.0
    optimizer.finalize_variable_values()
    assert w.item() == 2.0  # 0.5 * 1 + 0.5 * 3


def test_average_overwrites_every_so_many_updates():
    w = weight(0.0)
    optimizer = SGD(1.0, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2)
    optimizer.build([w])
    seen = []
    for _ in range(3):
        optimizer.apply([torch.tensor([-2.0])])
        seen.append(w.item())
    assert seen == [2.0, 3.0, 5.0]


@pytest.mark.parametrize("rule", [SGD, RMSprop, Adam, Adagrad])
def test_accumulation_equals_one_large_batch(rule):
    """Clipping, averages and iterations included; Keras moves its averages at every gradient of a window."""
    options = {"global_clipnorm": 0.5, "use_ema": True, "ema_overwrite_frequency": 2, "weight_decay": 0.1}
    gathered, whole = rule(gradient_accumulation_steps=3, **options), rule(**options)
    a, b = weight(1.0, -1.0), weight(1.0, -1.0)
    gathered.build([a])
    whole.build([b])
    parts = torch.randn(12, 2)
    for part in parts:
        gathered.apply([part])
    for batch in parts.reshape(4, 3, 2).mean(1):
        whole.apply([batch])
    torch.testing.assert_close(a, b)
    assert gathered.iterations == whole.iterations == 4


def test_accumulation_by_weight_and_a_window_cut_short():
    w = weight(0.0)
    optimizer = SGD(1.0, gradient_accumulation_steps=3)
    optimizer.build([w])
    optimizer.apply([torch.tensor([1.0])], num_samples=3)
    optimizer.apply([torch.tensor([5.0])], num_samples=1)
    assert w.item() == 0.0
    optimizer.flush()
    optimizer.flush()
    assert (w.item(), optimizer.iterations) == (-2.0, 1)


def test_accumulation_keeps_gradients_that_come_once_in_a_window():
    a, b = weight(0.0), weight(0.0)
    optimizer = SGD(1.0, gradient_accumulation_steps=2)
    optimizer.build([a, b])
    one = torch.ones(1)
    optimizer.apply([one, one])
    optimizer.apply([one, None])
    assert (a.item(), b.item()) == (-1.0, -0.5)


def test_own_calls_of_the_pure_update():
    a, b = weight(1.0), weight(1.0)
    plain, by_hand = Adam(), Adam()
    plain.build([a])
    by_hand.build([b])
    for _ in range(3):
        plain.apply([torch.ones(1)])
        by_hand.update([torch.ones(1)], *by_hand.begin_update())
    assert torch.equal(a, b)
    assert by_hand.iterations == 3


def test_counts_of_updates_that_were_not_made_are_taken_back():
    optimizer = SGD(lambda step: 1.0 / (step + 1))
    optimizer.build([weight(1.0)])
    optimizer.begin_update()
    counts = optimizer.counter_state()
    optimizer.begin_update()
    optimizer.set_counter_state(counts)
    assert (optimizer.iterations, optimizer.learning_rate) == (1, 0.5)


def test_no_optimizer_of_ours_keeps_a_step_out_of_graphs():
    inner = SGD(gradient_accumulation_steps=2)
    assert [inner.compile_blocker, LossScaleOptimizer(inner).compile_blocker] == [None, None]


def test_gathering_counted_outside_of_a_graph_equals_that_of_steps():
    a, b = weight(1.0), weight(1.0)
    plain, by_hand = (SGD(0.5, gradient_accumulation_steps=2) for _ in range(2))
    plain.build([a])
    by_hand.build([b])
    for value, rows in ((1.0, 3), (2.0, 1), (4.0, 2)):
        gradients = [torch.full((1,), value)]
        plain.apply(gradients, num_samples=rows)
        (closes,) = by_hand.update_schedule(1)
        numbers = by_hand.begin_accumulation_step()
        by_hand.accumulate(gradients, rows)
        if closes:
            by_hand.update_accumulated(*numbers)
            by_hand.zero_accumulated()
    plain.flush()
    by_hand.flush()
    assert (a.item(), by_hand.iterations) == (b.item(), 2)


def test_scale_loss_and_unscale_gradients():
    w = weight(1.0)
    optimizer = SGD(1.0, loss_scale_factor=4.0)
    optimizer.build([w])
    optimizer.scale_loss(w.sum()).backward()
    assert w.grad.item() == 4.0
    optimizer.step()
    assert w.item() == 0.0


def test_state_goes_by_name_or_by_order():
    optimizer = SGD(0.5, momentum=0.5)
    optimizer.build([("a", weight(1.0)), ("b", weight(1.0))])
    optimizer.apply([torch.tensor([1.0]), torch.tensor([2.0])])
    state = copy.deepcopy(optimizer.state_dict())
    assert set(state["parameters"]) == {"a", "b"}
    swapped, unnamed = SGD(momentum=0.5), SGD(momentum=0.5)
    swapped.build([("b", weight(1.0)), ("a", weight(1.0))])
    swapped.load_state_dict(state)
    assert [slot.item() for slot in swapped.variables[2:]] == [-1.0, -0.5]
    unnamed.build([weight(1.0), weight(1.0)])
    unnamed.load_state_dict(state)
    assert [slot.item() for slot in unnamed.variables[2:]] == [-0.5, -1.0]
    assert (unnamed.learning_rate, unnamed.iterations) == (0.5, 1)


def test_state_of_something_else_is_refused():
    state = {}
    for name, parameter in {"w": weight(1.0), "v": weight(1.0, 2.0)}.items():
        optimizer = SGD(momentum=0.5)
        optimizer.build([(name, parameter)])
        state[name] = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"must have the shape \(2,\). Received: a tensor of shape \(1,\)"):
        optimizer.load_state_dict(state["w"])
    adam = Adam()
    adam.build([("v", weight(1.0, 2.0))])
    with pytest.raises(ValueError, match=r"holds \['momentum'\], and this optimizer needs \['momentum', 'velocity'\]"):
        adam.load_state_dict(state["v"])
    with pytest.raises(ValueError, match="what `state_dict\\(\\)` returned"):
        adam.load_state_dict({"state": {}})
    other = SGD(momentum=0.5)
    other.build([("v", weight(1.0)), ("u", weight(1.0))])
    with pytest.raises(
        ValueError, match=r"belongs to other parameters: it has none for \['v', 'u'\], and some for \['w'\]"
    ):
        other.load_state_dict(state["w"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -0.1}, r"`learning_rate` must be a number >= 0.* Received: learning_rate=-0.1"),
        ({"learning_rate": "fast"}, "learning_rate='fast'"),
        ({"learning_rate": None}, "learning_rate=None"),
        ({"learning_rate": schedules.CosineDecay}, "Pass an instance"),
        ({"clipnorm": 1.0, "clipvalue": 2.0}, "Only one of .*clipnorm=1.0, clipvalue=2.0"),
        ({"clipnorm": 0.0}, "`clipnorm` must be a number > 0"),
        ({"global_clipnorm": "x"}, "`global_clipnorm` must be a number > 0"),
        ({"weight_decay": -1.0}, "`weight_decay` must be a number >= 0"),
        ({"ema_momentum": 1.5}, r"`ema_momentum` must be a float in the range \[0, 1\]"),
        ({"ema_overwrite_frequency": 0}, "`ema_overwrite_frequency` must be an integer >= 1"),
        ({"gradient_accumulation_steps": 1}, "`gradient_accumulation_steps` must be an integer >= 2"),
        ({"gradient_accumulation_steps": 2.5}, "gradient_accumulation_steps=2.5"),
        ({"momentum": 1.5}, r"`momentum` must be a float in the range \[0, 1\]"),
        ({"moment": 0.9}, "`SGD` has no argument `moment`. Did you mean 'momentum'"),
        ({"lr": 0.9}, "`SGD` has no argument `lr`. Here it is `learning_rate`"),
        ({"max_norm": 1.0}, "Here it is `global_clipnorm`"),
        ({"foreach": True}, "`SGD` has no argument `foreach`.*pass an optimizer of PyTorch, such as torch.optim.SGD"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SGD(**arguments)


def test_decay_of_older_keras_is_ignored_with_a_warning():
    with pytest.warns(UserWarning, match="pass a schedule"):
        SGD(decay=0.1)  # type: ignore[call-arg]


def test_a_rule_must_be_defined():
    optimizer = Optimizer(0.1)
    optimizer.build([weight(1.0)])
    with pytest.raises(NotImplementedError, match="update_rule"):
        optimizer.apply([torch.ones(1)])


def test_few_calls_per_step(monkeypatch):
    import sys

    w = [torch.nn.Parameter(torch.zeros(2)) for _ in range(6)]
    for optimizer in (SGD(), RMSprop(), Adam(), AdamW()):
        optimizer.build(w)
        calls = []
        for _ in range(2):
            for each in w:
                each.grad = torch.ones(2)
            calls.clear()
            sys.setprofile(
                lambda frame, event, _, calls=calls: (
                    calls.append(frame.f_code.co_name)
                    if event == "call" and "torchfit" in frame.f_code.co_filename
                    else None
                )
            )
            optimizer.step()
            optimizer.zero_grad()
            sys.setprofile(None)
        assert len(calls) <= 12, calls


@pytest.mark.parametrize(
    ("options", "names"),
    [({"lr": 0.1}, "`learning_rate`"), ({"betas": (0.9, 0.99)}, "`beta_1` and `beta_2`"), ({"eps": 1e-8}, "`epsilon`")],
)
def test_names_of_pytorch_are_told_by_the_name_here_and_not_with_all_names(options, names):
    with pytest.raises(ValueError, match=names) as caught:
        Adam(**options)
    assert "ema_momentum" not in str(caught.value)


def test_the_optimizer_inside_of_a_scaled_one_has_counted_the_updates_that_were_made():
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = LossScaleOptimizer(Adam(schedules.ExponentialDecay(0.1, 1, 0.5)), initial_scale=2.0)
    assert optimizer.inner_optimizer.iterations == 0
    optimizer.build([weight])
    for gradient in (1.0, float("inf"), 1.0):
        optimizer.apply([torch.tensor([gradient])])
    assert (optimizer.iterations, optimizer.inner_optimizer.iterations) == (2, 2)
    assert optimizer.inner_optimizer.learning_rate == optimizer.learning_rate == pytest.approx(0.025)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.1),
        lambda: LossScaleOptimizer(SGD(0.1)),
        lambda: MultiOptimizer({".*": SGD(0.1)}),
        lambda: TorchOptimizer(torch.optim.SGD),
        lambda: TorchOptimizer(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])),
    ],
)
def test_the_name_of_the_learning_rate_in_torch_is_answered_with_the_name_here(make):
    optimizer = make()
    rate = optimizer.learning_rate
    with pytest.raises(AttributeError, match=f"'{type(optimizer).__name__}' object.*'lr'. Here it is `learning_rate`"):
        optimizer.lr = 0.5
    with pytest.raises(AttributeError, match="Here it is `learning_rate`"):
        optimizer.lr
    assert not hasattr(optimizer, "lr")
    assert copy.deepcopy(optimizer).learning_rate == optimizer.learning_rate == rate
