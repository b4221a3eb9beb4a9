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
from torchfit._trainer.loop_contexts import ModelStructure
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


def rename_parameter(layer):
    layer.offset = layer.bias
    del layer.bias


CHANGES = {
    "a parameter is frozen": lambda net: net.body.weight.requires_grad_(False),
    "a parameter is cast": lambda net: net.head.double(),
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
    "an empty list makes room for one with a metric": lambda net: (
        delattr(net, "seen"),
        setattr(net, "s", [Mean("s")]),
    ),
    "a parameter is renamed": lambda net: rename_parameter(net.head),
    "a parameter moves": lambda net: (setattr(net.body, "bias", None), setattr(net.head, "more", net.head.bias)),
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
    assert structure.describes(model)


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


def test_replaced_weights_are_freed():
    net = Net()
    model = torchfit.Model(net)
    model.compile("sgd", "mse")
    model.train_on_batch(X, Y)
    weight = weakref.ref(net.body.weight)
    net.body = nn.Linear(4, 8)
    model.compile("sgd", "mse")
    model.evaluate(X, Y, verbose=0)
    gc.collect()
    assert weight() is None


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


def test_a_result_does_not_change_with_later_batches():
    model = torchfit.Model(Net().double())
    model.compile("sgd", nn.MSELoss())
    model.test_on_batch(X, Y)
    loss = model.metrics[0].double()
    first = loss.result()
    before = first.clone()
    model.test_on_batch(2 * X, Y)
    assert torch.equal(first, before)


# -- what is not an ordinary module ------------------------------------------------------------------------------------


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("make", [torch.jit.script, lambda layer: torch.jit.trace(layer, X)], ids=["script", "trace"])
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_modules_of_torchscript_are_trained(make):
    torch.manual_seed(0)
    inner = nn.Linear(4, 8)
    net = nn.Sequential(Around(make(copy.deepcopy(inner))), nn.Linear(8, 2))
    plain = copy.deepcopy(nn.Sequential(Around(inner), net[1]))
    ours, expected = [], []
    for each, results in ((net, ours), (plain, expected)):
        model = torchfit.Model(each)
        model.compile(torchfit.optimizers.SGD(0.1), nn.MSELoss())
        results += [model.train_on_batch(X, Y), model.train_on_batch(X, Y), *model.predict_on_batch(X)[0]]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_layers_that_torch_compiles():
    torch.manual_seed(0)
    layer, head = nn.Linear(4, 8), nn.Linear(8, 2)
    net = nn.Sequential(Around(torch.compile(copy.deepcopy(layer), backend="eager")), copy.deepcopy(head))
    ours, expected = [], []
    for each, results in ((net, ours), (nn.Sequential(layer, head), expected)):
        model = torchfit.Model(each)
        model.compile(torchfit.optimizers.SGD(0.1), nn.MSELoss())
        results += [model.train_on_batch(X, Y), model.train_on_batch(X, Y), model.test_on_batch(X, Y)]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_losses_of_torchscript():
    model = torchfit.Model(Net())
    model.compile("sgd", torch.jit.script(nn.MSELoss()))
    np.testing.assert_allclose(model.test_on_batch(X, Y), nn.functional.mse_loss(model.module(X), Y).item(), rtol=1e-6)


class InPhases(Net):
    """Shows the parameters of its head only, until the second phase."""

    phase = 1

    def named_parameters(self, *args, **kwargs):
        found = super().named_parameters(*args, **kwargs)
        return (entry for entry in found if self.phase == 2 or entry[0].startswith("head"))

    def parameters(self, recurse=True):
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))


def test_a_module_that_chooses_its_parameters_is_asked_every_time():
    net = InPhases()
    model = torchfit.Model(net)
    model.compile(torchfit.optimizers.SGD(0.1), "mse")
    model.train_on_batch(X, Y)
    before = net.body.weight.clone()
    net.phase = 2
    model.train_on_batch(X, Y)
    assert not torch.equal(before, net.body.weight)


def test_metrics_in_lists_of_torchs_modules():
    def probe(module, inputs, output):
        for metric in module.probes:
            metric.update_state(output.abs().mean().detach())

    net, probes = nn.Sequential(nn.Linear(4, 2)), [Mean("first")]
    vars(net)["probes"] = probes
    net.register_forward_hook(probe)
    model = torchfit.Model(net)
    model.compile("sgd", "mse")
    assert list(model.test_on_batch(X, Y, return_dict=True)) == ["loss", "first"]
    probes[0] = Mean("second")
    for scale in (1, 10):
        logs = model.test_on_batch(scale * X, Y, return_dict=True)
        np.testing.assert_allclose(logs["second"], net(scale * X).abs().mean().item(), rtol=1e-5)


@pytest.mark.parametrize("number", range(5))
def test_an_item_in_the_place_of_one_that_is_gone(number):
    """It may have the same address."""
    net = Net()
    net.seen = [nn.Identity()]
    structure = ModelStructure(torchfit.Model(net))
    net.seen.clear()
    net.seen.append(Mean("seen"))
    assert not structure.describes(torchfit.Model(net))


# -- changes by code that runs when a call has begun -------------------------------------------------------------------


class AddsDropout(torchfit.callbacks.Callback):
    def set_model(self, model):
        super().set_model(model)
        if len(model.module) == 1:
            model.module.append(nn.Dropout(0.9))


def test_a_layer_that_a_callback_adds_gets_the_mode():
    model = torchfit.Model(nn.Sequential(nn.Linear(4, 2)))
    with_callback = model.predict(X, callbacks=[AddsDropout()])
    np.testing.assert_array_equal(with_callback, model.predict(X))


def test_a_layer_that_the_data_add_gets_the_mode():
    model = torchfit.Model(nn.Sequential(nn.Linear(4, 2)))

    def data():
        model.module.append(nn.Dropout(0.9))
        return X

    np.testing.assert_array_equal(model.predict(data), model.module.eval()(X).detach())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_after_ordinary_ones():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x):
            return torch.stack([self.layer(rows).mean(0) for rows in x.unbind()]) if x.is_nested else self.layer(x)

    model = torchfit.Model(Net())
    assert model.predict_on_batch(X).shape == (32, 2)
    assert model.predict_on_batch(torch.nested.nested_tensor([X[:3], X[:2]])).shape == (2, 2)


def test_a_flag_that_a_wrapper_finds_in_its_layer():
    class Wrapper(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def __getattr__(self, name):
            found = self.__dict__["_modules"].get("layer")
            return found if name == "layer" else getattr(found, name)

        def forward(self, x):
            statistics = self.running_mean, self.running_var
            return nn.functional.batch_norm(x, *statistics, self.weight, self.bias, self.training)

    layer = nn.BatchNorm1d(4)
    model = torchfit.Model(nn.Sequential(Wrapper(layer), nn.Linear(4, 2)))
    model.compile("sgd", "mse")
    torchfit.utils.freeze(model, "0")
    model.train_on_batch(X, Y)
    assert not layer.running_mean.any()


# -- parameters that only the optimizer holds, and modules that compare themselves -------------------------------------


def test_a_parameter_that_only_torchs_optimizer_holds_is_trained_once_it_is_unfrozen():
    torch.manual_seed(0)
    net, scale = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), nn.Parameter(torch.ones(()), requires_grad=False)
    theirs, their_scale = copy.deepcopy(net), copy.deepcopy(scale)
    model = torchfit.Model(net)
    optimizer = torch.optim.SGD([*net.parameters(), scale], 0.1)
    model.compile(optimizer, lambda y, outputs: ((outputs * scale - y) ** 2).mean(-1), microbatch=16)
    reference = torch.optim.SGD([*theirs.parameters(), their_scale], 0.1)
    for number in range(5):
        for each in (scale, their_scale):
            each.requires_grad_(number >= 2)
        model.train_on_batch(X, Y)
        reference.zero_grad()
        ((theirs(X) * their_scale - Y) ** 2).mean().backward()
        reference.step()
        torch.testing.assert_close(scale, their_scale, atol=1e-5, rtol=1e-5)


class Compared(nn.Linear):
    def __eq__(self, other):
        return self.weight.shape == other.weight.shape

    __hash__ = nn.Module.__hash__


def test_modules_that_compare_themselves():
    net = nn.Sequential(Compared(4, 8), Compared(8, 2))
    model = torchfit.Model(net)
    model.compile("sgd", nn.MSELoss())
    losses = [model.train_on_batch(X, Y) for _ in range(3)]
    assert losses[2] < losses[0]
    structure = ModelStructure(model)
    net[1] = Compared(8, 2)
    assert not structure.describes(model)


def test_a_module_of_another_class():
    net = Net()
    structure = ModelStructure(torchfit.Model(net))
    net.__class__ = InPhases
    assert not structure.describes(torchfit.Model(net))
