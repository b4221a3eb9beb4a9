"""Batches reach the module as they are, whatever their structure, and count as many samples as they hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence
from torch.utils.data import DataLoader

import torchfit
from tests.plain_loop.by_hand import X, Y, assert_same, compiled, trained_by_hand, twins
from tests.support import Echo
from torchfit import optimizers

# -- the arrays of the user stay as they are ---------------------------------------------------------------------------


class Shifts(nn.Module):
    """Works in place on what it is given."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        x -= 1.0
        return self.linear(x)


def test_evaluate_leaves_the_inputs_as_they_are_when_a_module_works_in_place():
    net, x = Shifts(), X.copy()
    right = F.cross_entropy(net.linear(torch.tensor(X) - 1), torch.tensor(Y)).item()
    found = [compiled(net, nn.CrossEntropyLoss()).evaluate(x, Y, verbose=0) for _ in range(2)]
    assert found == pytest.approx([right, right], rel=1e-5)
    assert np.array_equal(x, X)


def test_predict_leaves_the_inputs_as_they_are_when_a_module_works_in_place():
    x = X.copy()
    compiled(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), "mse").predict(x)
    assert np.array_equal(x, X)


def test_every_validation_sees_the_same_data_when_a_module_works_in_place():
    x = X.copy()
    model = compiled(Shifts(), nn.CrossEntropyLoss())
    first, second, third = model.fit(X.copy(), Y, epochs=3, validation_data=(x, Y), verbose=0).history["val_loss"]
    assert first == pytest.approx(second) == pytest.approx(third)
    assert np.array_equal(x, X)


def fills_its_targets(y_true, y_pred):
    known = y_true >= 0
    y_true[~known] = 0
    return F.cross_entropy(y_pred, y_true.long(), reduction="none") * known


def test_targets_stay_as_they_are_when_a_loss_works_in_place():
    y = np.where(np.arange(24) % 4 == 0, -1, Y)
    given = y.copy()
    model = compiled(nn.Linear(4, 3), fills_its_targets)
    assert model.evaluate(X, given, verbose=0) == pytest.approx(model.evaluate(X, given, verbose=0))
    assert np.array_equal(given, y)


# -- batches of different structure ------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


TARGET = X.sum(1, keepdims=True)
A, B = {"a": TARGET}, {"b": TARGET}


@pytest.mark.filterwarnings("ignore")  # a head has no gradient in some batches, which may be told
@pytest.mark.parametrize(
    "targets", [[A, {**A, **B}], [A, B]], ids=["the second head comes later", "the heads take turns"]
)
def test_every_target_is_trained_on_also_if_batches_hold_different_ones(targets):
    net, twin = twins(TwoHeads)
    history = compiled(net, {"a": "mse", "b": "mse"}, 0.1).fit(iter([(X, y) for y in targets]), verbose=0).history
    x, t = torch.tensor(X), torch.tensor(TARGET)
    right = trained_by_hand(twin, [(x, y) for y in targets], lambda p, y: sum(F.mse_loss(p[k], t) for k in y), 0.1)
    assert_same(net.state_dict(), right)
    assert {"a_loss", "b_loss"} <= set(history)


def test_evaluate_reports_every_target_that_some_batch_holds():
    model = compiled(TwoHeads(), {"a": "mse", "b": "mse"})
    logs = model.evaluate(iter([(X, A), (X, {**A, **B})]), verbose=0, return_dict=True)
    right = F.mse_loss(model.module.b(torch.tensor(X)), torch.tensor(TARGET)).item()
    assert logs["b_loss"] == pytest.approx(right, rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # a head has no gradient in some batches, which may be told
def test_targets_of_none_may_take_turns():
    class Pair(TwoHeads):
        def forward(self, x):
            return self.a(x), self.b(x)

    net = Pair()
    before = [head.weight.detach().clone() for head in (net.a, net.b)]
    batches = [(X, (TARGET, None)), (X, (None, TARGET))]
    compiled(net, ["mse", "mse"], 0.1).fit(iter(batches), verbose=0)
    assert not torch.equal(net.a.weight, before[0])
    assert not torch.equal(net.b.weight, before[1])


def test_an_optional_input_is_handed_over_whenever_a_batch_holds_it():
    seen = []

    class Optional(Echo):
        def forward(self, x, mask=None):
            seen.append(mask is not None)
            return super().forward(x)

    mask = np.ones(24, "float32")
    batches = [({"x": X}, X), ({"x": X, "mask": mask}, X), ({"x": X}, X), ({"x": X, "mask": mask}, X)]
    model = compiled(Optional(), "mse", input_names=["x", "mask"])
    model.preflight = False
    model.fit(iter(batches), verbose=0)
    assert seen[-4:] == [False, True, False, True]


# -- batches whose parts have different first axes ---------------------------------------------------------------------


class Recurrent(nn.Module):
    """Takes sequences as `(steps, batch, features)`, as PyTorch's recurrent layers do unless told otherwise."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(3, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.gru(x)[0][-1])


def test_batches_may_have_the_time_first():
    torch.manual_seed(0)
    samples = [(torch.randn(2 + i % 4, 3), i % 2) for i in range(10)]
    collate = lambda rows: (pad_sequence([x for x, _ in rows]), torch.tensor([y for _, y in rows]))  # noqa: E731
    loader = DataLoader(samples, batch_size=4, collate_fn=collate)  # type: ignore[arg-type]
    net, twin = twins(Recurrent)
    compiled(net, nn.CrossEntropyLoss(), 0.1).fit(loader, verbose=0)
    assert_same(net.state_dict(), trained_by_hand(twin, loader, nn.CrossEntropyLoss(), 0.1))


def test_the_loss_of_batches_with_the_time_first_is_the_mean_over_samples():
    torch.manual_seed(0)
    batches = [(torch.randn(7, 4, 3), torch.tensor([0, 1, 0, 1])), (torch.randn(2, 1, 3), torch.tensor([1]))]
    net = Recurrent()
    right = sum(F.cross_entropy(net(x), y, reduction="sum").item() for x, y in batches) / 5
    assert compiled(net, nn.CrossEntropyLoss()).evaluate(iter(batches), verbose=0) == pytest.approx(right, rel=1e-5)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag, self.out = nn.EmbeddingBag(50, 8), nn.Linear(8, 3)

    def forward(self, text, offsets):
        return self.out(self.bag(text, offsets))


def test_batches_may_hold_all_tokens_in_one_row_with_offsets():
    batches = [
        ((torch.arange(9), torch.tensor([0, 2, 5])), torch.tensor([0, 1, 2])),
        ((torch.arange(5, 12), torch.tensor([0, 4])), torch.tensor([2, 0])),
    ]
    net, twin = twins(Bag)
    compiled(net, nn.CrossEntropyLoss(), 0.5).fit(iter(batches), verbose=0)
    assert_same(net.state_dict(), trained_by_hand(twin, batches, nn.CrossEntropyLoss(), 0.5))


class Detector(torchfit.Model):
    """A step of the user's, for images of different sizes with any number of boxes each."""

    def __init__(self):
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 1, 1), []

    def train_step(self, batch):
        images, targets = batch
        self.seen.append((len(images), [target["name"] for target in targets]))
        loss = sum(self.conv(image).mean() + target["boxes"].sum() for image, target in zip(images, targets))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss}


def test_a_step_of_the_users_gets_the_batch_that_the_loader_made():
    samples = [(torch.rand(3, 4 + i, 5), {"boxes": torch.rand(i % 3, 4), "name": f"{i}.png"}) for i in range(4)]
    loader = DataLoader(samples, batch_size=3, collate_fn=lambda rows: tuple(zip(*rows)))  # type: ignore[arg-type]
    model = Detector()
    model.compile("sgd")
    model.fit(loader, verbose=0)
    assert model.seen == [(3, ["0.png", "1.png", "2.png"]), (1, ["3.png"])]


# -- how many samples a batch holds ------------------------------------------------------------------------------------


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(3, 5), nn.Linear(5, 1)

    def forward(self, packed):
        return self.out(self.gru(packed)[1][-1])


class Graph:
    """A batch of a custom class, with a `to` method."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return Graph(self.x.to(device))


class OfGraphs(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, graph):
        return self.linear(graph.x)


def packed_batch(lengths):
    return pack_sequence([torch.ones(n, 3) for n in lengths], enforce_sorted=False), torch.tensor(lengths)[
        :, None
    ].float()


def test_the_loss_of_packed_sequences_is_the_mean_over_sequences():
    net, batches = Packed(), [packed_batch([1, 2, 1]), packed_batch([9])]
    right = sum((net(x) - y).square().sum().item() for x, y in batches) / 4
    assert compiled(net, "mse").evaluate(iter(batches), verbose=0) == pytest.approx(right, rel=1e-5)


def test_the_loss_of_batches_of_an_own_class_is_the_mean_over_samples():
    net, x, y = OfGraphs(), torch.arange(15.0).reshape(5, 3), torch.arange(5.0)[:, None]
    batches = [(Graph(x[:4]), y[:4]), (Graph(x[4:]), y[4:])]
    right = F.mse_loss(net.linear(x), y).item()
    assert compiled(net, "mse").evaluate(iter(batches), verbose=0) == pytest.approx(right, rel=1e-5)
    assert compiled(net, "mse").fit(iter(batches), verbose=0).history["loss"] == [pytest.approx(right, rel=1e-5)]


def test_gathered_gradients_of_packed_sequences_are_those_of_the_large_batch():
    lengths = [1, 2, 1, 2, 9, 8, 7]
    net, twin = twins(Packed)
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    model.fit(iter([packed_batch(lengths[:5]), packed_batch(lengths[5:])]), verbose=0)
    assert_same(net.state_dict(), trained_by_hand(twin, [packed_batch(lengths)], F.mse_loss, 0.1))


def test_packed_sequences_may_be_trained_on_batch_by_batch():
    net, twin = twins(Packed)
    x, y = packed_batch([2, 4, 1])
    compiled(net, "mse", 0.1).train_on_batch(x, y)
    assert_same(net.state_dict(), trained_by_hand(twin, [(x, y)], F.mse_loss, 0.1))
