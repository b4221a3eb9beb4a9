"""What the trainer knows of a model from earlier calls is looked up again once it has changed."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit._trainer.base_model import ModelStructure
from torchfit.metrics import Mean

X, Y = torch.randn(32, 4), torch.randn(32, 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.extra, self.seen, self.by_name = None, [], {}

    def forward(self, x):
        return self.head(self.body(x).relu())


def insert_first(net):
    net.body = nn.Sequential(nn.Linear(4, 4), net.body)


def swap(net):
    net.body, net.head = net.head, net.body


def rename(net):
    net.top = net.head
    del net.head


CHANGES = {
    "a parameter is frozen": lambda net: net.body.weight.requires_grad_(False),
    "a parameter is replaced": lambda net: setattr(net.body, "weight", nn.Parameter(torch.ones(8, 4))),
    "a parameter is added": lambda net: setattr(net, "scale", nn.Parameter(torch.ones(1))),
    "a parameter is removed": lambda net: setattr(net.body, "bias", None),
    "parameters are tied": lambda net: setattr(net.head, "bias", nn.Parameter(net.head.bias.detach())),
    "a module is added": lambda net: setattr(net, "late", nn.Linear(1, 1)),
    "a module is inserted": insert_first,
    "a module is replaced": lambda net: setattr(net, "head", nn.Linear(8, 2)),
    "modules change places": swap,
    "a module is renamed": rename,
    "a module is removed": lambda net: delattr(net, "head"),
    "a module is replaced by None": lambda net: setattr(net, "head", None),
    "an attribute becomes a metric": lambda net: setattr(net, "extra", Mean("seen")),
    "an attribute becomes a list of metrics": lambda net: setattr(net, "extra", [Mean("seen")]),
    "an attribute becomes a tuple": lambda net: setattr(net, "extra", (Mean("seen"),)),
    "a list gets a metric": lambda net: net.seen.append(Mean("seen")),
    "a dictionary gets a metric": lambda net: net.by_name.update(seen=Mean("seen")),
    "a list is replaced by another": lambda net: setattr(net, "seen", [Mean("seen")]),
    "a list is replaced by a number": lambda net: setattr(net, "seen", 3),
    "torch's layer gets a list of metrics": lambda net: setattr(net.body, "seen", [Mean("seen")]),
    "a layer gets a mode of its own": lambda net: setattr(net.body, "train", lambda mode=True: net.body),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_is_noticed(change):
    model = torchfit.Model(Net())
    structure = ModelStructure(model)
    assert structure.describes(model)
    change(model.module)
    assert not structure.describes(model)
    assert ModelStructure(model).describes(model)


def test_a_list_is_told_from_one_of_the_same_length():
    net = Net()
    net.seen = [Mean("first")]
    structure = ModelStructure(torchfit.Model(net))
    net.seen[0] = Mean("second")
    assert not structure.describes(torchfit.Model(net))


def test_values_of_weights_and_modes_are_no_changes():
    model = torchfit.Model(Net())
    structure = ModelStructure(model)
    model.eval()
    with torch.no_grad():
        model.module.body.weight.add_(1)
    model.module.double()
    assert structure.describes(model)
    assert structure.floating_dtype(model) is torch.float64


def test_lazy_layers_are_looked_up_every_time():
    model = torchfit.Model(nn.Sequential(nn.LazyLinear(2)))
    structure = ModelStructure(model)
    assert not structure.describes(model)
    model.module(X)
    assert ModelStructure(model).describes(model)


def test_the_other_modules_that_are_trained_belong_to_it():
    model, loss = torchfit.Model(Net()), nn.Linear(2, 2)
    structure = ModelStructure(model, [loss])
    assert structure.describes(model, [loss])
    assert not structure.describes(model)
    assert not structure.describes(model, [nn.Linear(2, 2)])
    loss.bias.requires_grad_(False)
    assert not structure.describes(model, [loss])


def test_a_model_is_freed_with_its_structure():
    model = torchfit.Model(Net())
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    gc.collect()
    gc.disable()
    try:
        reference = weakref.ref(model.module.body)
        del model
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_look_up_their_own(make_copy):
    net = Net()
    model = torchfit.Model(net)
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    other = make_copy(model)
    other.module.body.requires_grad_(False)
    ours, theirs = net.body.weight.clone(), other.module.body.weight.clone()
    other.train_on_batch(X, Y)
    model.train_on_batch(X, Y)
    assert torch.equal(other.module.body.weight, theirs)
    assert not torch.equal(net.body.weight, ours)


# -- between calls with single batches, compared with a loop -----------------------------------------------------------


def freeze_body(net):
    net.body.requires_grad_(False)


def unfreeze_body(net):
    net.body.requires_grad_(True)


def new_head(net):
    torch.manual_seed(5)
    net.head = nn.Linear(8, 2)


def dropout_before_head(net):
    net.head = nn.Sequential(nn.Dropout(0.5), net.head)


STORIES = {
    "frozen and unfrozen": [freeze_body, None, unfreeze_body, None],
    "a new head": [None, new_head, None],
    "frozen, then a new head": [freeze_body, new_head, unfreeze_body],
    "a layer with a mode": [None, dropout_before_head, None],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_single_batches_follow_changes_like_a_loop(story):
    torch.manual_seed(1)
    net = Net()
    theirs = copy.deepcopy(net)
    model = torchfit.Model(net)
    model.compile(torchfit.optimizers.SGD(0.1), nn.MSELoss())
    ours, expected = [], []
    for number, change in enumerate([None, *story]):
        for each in (net, theirs):
            if change is not None:
                change(each)
        torch.manual_seed(number)
        ours += [model.train_on_batch(X, Y), model.test_on_batch(X, Y), model.predict_on_batch(X).sum()]
        torch.manual_seed(number)
        theirs.train()
        trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(trained, 0.1)
        loss = nn.functional.mse_loss(theirs(X), Y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        theirs.eval()
        with torch.no_grad():
            expected += [loss.item(), nn.functional.mse_loss(theirs(X), Y).item(), theirs(X).sum().item()]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_group_that_is_added_to_the_optimizer_of_torch_is_trained():
    net = Net()
    optimizer = torch.optim.SGD(net.body.parameters(), 0.1)
    model = torchfit.Model(net)
    model.compile(optimizer, "mse")
    model.train_on_batch(X, Y)
    before = net.head.weight.clone()
    optimizer.add_param_group({"params": list(net.head.parameters()), "lr": 0.1})
    model.train_on_batch(X, Y)
    after = net.head.weight.clone()
    assert not torch.equal(before, after)
    freeze_body(net)
    body = net.body.weight.clone()
    model.train_on_batch(X, Y)
    assert torch.equal(net.body.weight, body)
    assert not torch.equal(net.head.weight, after)


def test_metrics_that_a_layer_gets_are_reset_and_reported():
    class Counting(Net):
        def forward(self, x):
            for metric in self.seen:
                metric.update_state(x.abs().mean())
            return super().forward(x)

    model = torchfit.Model(Counting())
    model.compile("sgd", "mse")
    assert list(model.test_on_batch(X, Y, return_dict=True)) == ["loss"]
    model.module.seen.append(Mean("size"))
    first = model.test_on_batch(X, Y, return_dict=True)
    second = model.test_on_batch(2 * X, Y, return_dict=True)
    np.testing.assert_allclose(first["size"], X.abs().mean(), rtol=1e-6)
    np.testing.assert_allclose(second["size"], 2 * first["size"], rtol=1e-6)


def test_losses_of_single_batches_are_those_of_the_state():
    """The mean over one batch is read without adding up; the state must say the same."""
    model = torchfit.Model(Net())
    model.compile("sgd", nn.MSELoss())
    loss = model.test_on_batch(X, Y)
    total, count = model.metrics[0].variables[:2]
    np.testing.assert_allclose(float(total) / float(count), loss, rtol=1e-7)
    again = model.test_on_batch(2 * X, Y, reset_metrics=False)
    expected = nn.functional.mse_loss(model.module(2 * X), Y).item()
    np.testing.assert_allclose(again, (loss + expected) / 2, rtol=1e-6)
    np.testing.assert_allclose(model.test_on_batch(X, Y), loss, rtol=1e-7)
