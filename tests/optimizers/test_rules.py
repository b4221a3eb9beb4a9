"""What single rules promise beyond their numbers."""

import pytest
import torch

from torchfit import optimizers
from torchfit.optimizers import _fused


def weight(*values):
    return torch.nn.Parameter(torch.tensor(values))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("RMSprop", {"rho": 1.0}, r"`rho` must be a float in the range \[0, 1\)"),
        ("Adam", {"beta_1": 1.0}, "`beta_1` must be"),
        ("Adam", {"epsilon": -1.0}, "`epsilon` must be"),
        ("AdamW", {"weight_decay": None}, "`weight_decay` must be"),
        ("Adagrad", {"initial_accumulator_value": -1.0}, "`initial_accumulator_value` must be"),
        ("Adafactor", {"clip_threshold": 0.0}, "`clip_threshold` must be"),
        ("Adafactor", {"beta_2_decay": 0.8}, "`beta_2_decay` must be a number < 0"),
        ("Ftrl", {"learning_rate_power": 0.5}, "`learning_rate_power` must be a number <= 0"),
        ("Ftrl", {"l1_regularization_strength": -0.5}, "`l1_regularization_strength` must be"),
        ("Lion", {"beta_1": 0.0}, r"`beta_1` must be a float in the range \(0, 1\]"),
        ("Muon", {"exclude_layers": "head"}, "`exclude_layers` must be a list"),
        ("Muon", {"ns_steps": 1.5}, "`ns_steps` must be an integer"),
        ("ScheduleFreeAdamW", {"warmup_steps": -1}, "`warmup_steps` must be an integer >= 0"),
        ("LossScaleOptimizer", {"inner_optimizer": "adam"}, "`inner_optimizer` must be"),
        ("LossScaleOptimizer", {"inner_optimizer": optimizers.SGD(), "clipnorm": 1.0}, "on the inner optimizer"),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(**arguments)


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"beta_1": 0.0}])
def test_fused_adam_equals_the_foreach_rule(options, monkeypatch):
    results = []
    for is_available in (True, False):
        monkeypatch.setattr(_fused, "available", lambda *_, answer=is_available: answer)
        torch.manual_seed(0)
        w = torch.nn.Parameter(torch.randn(50))
        optimizer = optimizers.Adam(0.01, **options)
        optimizer.build([w])
        for _ in range(20):
            optimizer.apply([torch.randn(50)])
        results.append(w.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_momentum_equals_the_foreach_rule(nesterov, monkeypatch):
    results = []
    for is_available in (True, False):
        monkeypatch.setattr(_fused, "available", lambda *_, answer=is_available: answer)
        torch.manual_seed(0)
        w = torch.nn.Parameter(torch.randn(50))
        optimizer = optimizers.SGD(0.01, momentum=0.9, nesterov=nesterov)
        optimizer.build([w])
        for step in range(20):
            optimizer.learning_rate = 0.1 / (step + 1)
            optimizer.apply([torch.randn(50)])
        results.append(w.detach())
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_fused_kernels_are_refused_where_they_do_not_fit():
    plain = torch.zeros(3, 2)
    assert _fused.available("adam", [plain])
    assert not _fused.available("adam", [plain, plain.double()])
    assert not _fused.available("adam", [plain.t()])
    assert not _fused.available("adam", [])
    assert not _fused.available("muon", [plain])
    assert not _fused.usable(0.1, [plain.t()])
    assert not _fused.usable(torch.tensor(0.1), [plain])


def test_adafactor_keeps_rows_and_columns_only():
    optimizer = optimizers.Adafactor()
    optimizer.build([torch.nn.Parameter(torch.zeros(50, 40)), weight(1.0)])
    assert [tuple(slot.shape) for slot in optimizer.variables[2:]] == [(50,), (40,), (1,)]


def test_muon_leaves_embeddings_and_named_layers_to_adam():
    def parameters():
        return [(name, torch.nn.Parameter(torch.eye(2))) for name in ("embedding.weight", "hidden.weight", "head")]

    optimizer = optimizers.Muon(exclude_layers=["^head"])
    optimizer.build(parameters())
    assert set(optimizer.state_dict()["parameters"]["hidden.weight"]) == {"momentum"}
    assert set(optimizer.state_dict()["parameters"]["embedding.weight"]) == {"momentum", "adam_velocity"}
    assert set(optimizer.state_dict()["parameters"]["head"]) == {"momentum", "adam_velocity"}
    unnamed = optimizers.Muon(exclude_layers=["^head"])
    with pytest.raises(ValueError, match="named_parameters"):
        unnamed.build([parameter for _, parameter in parameters()])


def test_schedule_free_parameters_lie_between_the_iterate_and_the_mean():
    """Worked by hand from the paper, with beta_2 = 0 so that each step is rate * sign(g)."""
    w = weight(1.0)
    optimizer = optimizers.ScheduleFreeAdamW(0.1, beta_1=0.5, beta_2=0.0, epsilon=0.0)
    optimizer.build([w])
    z = x = 1.0
    for step in range(1, 5):
        optimizer.apply([torch.ones(1)])
        z -= 0.1
        x += (z - x) / step
        assert w.item() == pytest.approx(0.5 * z + 0.5 * x, abs=1e-6)


def test_loss_scale_asks_the_schedule_for_updates_that_were_made():
    w = weight(1.0)
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(lambda step: 1.0 / (step + 1)), initial_scale=1.0)
    optimizer.build([w])
    for gradient in (1.0, float("nan"), 0.5):  # the scale is 0.5 by then
        optimizer.apply([torch.tensor([gradient])])
    assert (optimizer.iterations, optimizer.skipped_updates) == (2, 1)
    assert optimizer.learning_rate == pytest.approx(1 / 3)
    assert w.item() == pytest.approx(-0.5)


def test_loss_scale_with_accumulation():
    w = weight(1.0)
    inner = optimizers.SGD(1.0, gradient_accumulation_steps=2)
    optimizer = optimizers.LossScaleOptimizer(inner, initial_scale=2.0)
    optimizer.build([w])
    for gradient in (2.0, 6.0, float("inf"), 1.0):
        optimizer.apply([torch.tensor([gradient])])
    assert (w.item(), optimizer.iterations, optimizer.skipped_updates) == (-1.0, 1, 1)
