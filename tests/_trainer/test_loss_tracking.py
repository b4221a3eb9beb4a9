"""The loss over an epoch: exact, whoever reads it and whenever, and whatever happens to the tensors afterwards."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, losses
from torchfit._trainer.loss_tracking import LossMean, LossTerm, LossTerms, TotalLoss

RNG = np.random.default_rng(0)
VALUES = torch.tensor(RNG.random(150), dtype=torch.float32)
ROWS = RNG.integers(1, 50, 150).tolist()
MEAN = np.average(VALUES.double().numpy(), weights=ROWS)


def filled(values=VALUES, denominators=ROWS, **arguments):
    mean = LossMean(**arguments)
    for value, denominator in zip(values, denominators):
        mean.add(value, denominator)
    return mean


@pytest.mark.parametrize("kind", [float, torch.tensor], ids=["numbers", "tensors"])
def test_the_mean_is_that_of_all_totals(kind):
    mean = filled(denominators=[kind(rows) for rows in ROWS])
    assert mean.result().item() == pytest.approx(MEAN, rel=1e-7)
    assert filled(is_sum=True, denominators=[kind(1.0)] * 150).result().item() == pytest.approx(VALUES.sum().item())


def test_reading_makes_no_difference():
    read, unread = LossMean(), filled()
    for value, rows in zip(VALUES, ROWS):
        read.add(value, rows)
        read.result(), read.variables, read.state_dict()
    assert read.result() == unread.result()
    for one, other in zip(read.variables, unread.variables):
        assert torch.equal(one, other)


def test_a_loss_that_is_written_to_afterwards_was_taken_in_as_it_was():
    mean, loss = LossMean(), torch.tensor(2.0)
    mean.add(loss, 1.0)
    loss.fill_(100.0)
    mean.add(loss, 3.0)
    assert mean.result() == (2.0 + 300.0) / 4


def test_batches_without_values_do_not_count_but_real_nan_does():
    nan = torch.tensor(float("nan"))
    assert filled([torch.tensor(2.0), nan], [torch.tensor(1.0), torch.tensor(0.0)]).result() == 2.0
    assert filled([torch.tensor(2.0), nan], [torch.tensor(1.0), torch.tensor(1.0)]).result().isnan()
    assert filled([torch.tensor(2.0), nan], [1.0, 1.0]).result().isnan()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda mean: pickle.loads(pickle.dumps(mean))], ids=["copy", "pickle"])
def test_copies_share_nothing(how):
    original = filled(VALUES[:3], ROWS[:3])
    before, copied = original.result(), None
    original.add(VALUES[3], ROWS[3])
    copied = how(original)
    original.add(VALUES[4], ROWS[4])
    assert copied.result() == filled(VALUES[:4], ROWS[:4]).result()
    assert original.result() == filled(VALUES[:5], ROWS[:5]).result() != before


def test_the_state_contains_every_batch():
    mean = filled(VALUES[:3], ROWS[:3])
    other = filled(VALUES[5:7], ROWS[5:7])
    other.load_state_dict(mean.state_dict())
    assert other.result() == mean.result()
    snapshot = filled(VALUES[:3], ROWS[:3])
    state = snapshot.snapshot_state()
    snapshot.add(VALUES[3], 1.0)
    snapshot.restore_state(state)
    assert snapshot.result() == mean.result()
    snapshot.reset_state()
    assert snapshot.result() == 0.0


def test_a_custom_step_updates_it_like_a_mean():
    mean = LossMean()
    mean.update_state(torch.tensor(2.0, requires_grad=True))
    mean.update_state(5.0, sample_weight=2)
    mean.update_state([1.0, 3.0], sample_weight=[1.0, 0.0])
    assert mean.result().item() == pytest.approx((2.0 + 10.0 + 1.0) / 4)


def test_what_was_added_to_an_unknown_loss_is_left_out():
    total = TotalLoss()
    for loss, rows in ((torch.tensor(2.0), torch.tensor(4.0)), (torch.tensor(float("nan")), torch.tensor(0.0))):
        terms = LossTerms([LossTerm("output", loss, rows, False, True)], loss)
        total.update(type("Batch", (), {"loss": loss + 0.5, "losses": terms, "rows": 4})())
    assert total.result() == 2.5


class Penalized(Model):
    """Adds a penalty to the compiled loss."""

    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs) + 0.5


@pytest.mark.parametrize("kind", [Model, Penalized])
def test_a_batch_of_ignored_labels_changes_neither_the_loss_nor_the_weights(kind):
    x, y = torch.tensor(RNG.normal(size=(6, 3)), dtype=torch.float32), torch.tensor([0, 1, 2, 0, -100, -100])
    torch.manual_seed(0)
    module = nn.Linear(3, 3)
    plain = copy.deepcopy(module)
    model = kind(module)
    model.compile(torch.optim.SGD(module.parameters(), 0.1), nn.CrossEntropyLoss())
    history = model.fit(x, y, batch_size=2, shuffle=False, verbose=0)

    optimizer, values = torch.optim.SGD(plain.parameters(), 0.1), []
    for start in (0, 2, 4):
        loss = nn.functional.cross_entropy(plain(x[start : start + 2]), y[start : start + 2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    torch.testing.assert_close(module.weight, plain.weight, rtol=0, atol=0)
    added = 0.5 if kind is Penalized else 0.0
    assert history.history["loss"] == [pytest.approx(sum(values[:2]) / 2 + added, rel=1e-6)]


def test_gradients_are_those_of_backward(monkeypatch):
    from torchfit._utils import compat

    for loss_dtype, has_engine in ((torch.float32, True), (torch.float64, True), (torch.float32, False)):
        if not has_engine:
            monkeypatch.setattr(compat, "_run_engine", None)
        weight = torch.tensor([1.0, 2.0], requires_grad=True)
        compat.backward(weight.square().sum().to(loss_dtype), torch.ones(()))
        assert weight.grad.tolist() == [2.0, 4.0]
        compat.backward(weight.square().sum().to(loss_dtype), torch.ones(()))
        assert weight.grad.tolist() == [4.0, 8.0]


def test_a_loss_that_is_a_parameter_gets_a_gradient_of_its_own():
    from torchfit._utils import compat

    unit, weight = torch.ones(()), nn.Parameter(torch.tensor(3.0))
    compat.backward(weight, unit)
    weight.grad.mul_(5.0)
    assert unit.item() == 1.0


def test_losses_with_other_dtypes_and_shapes_say_what_torch_says():
    model = Model(nn.Linear(2, 1))
    model.compile("sgd", losses.MeanSquaredError(dtype="float64"))
    assert np.isfinite(model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0).history["loss"][0])
