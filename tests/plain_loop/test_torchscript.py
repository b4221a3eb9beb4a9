"""TorchScript and exported modules train, evaluate and predict as in a plain loop."""

import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from tests.plain_loop.by_hand import X, Y, assert_same, compiled, trained_by_hand

pytestmark = pytest.mark.filterwarnings("ignore")  # torch calls TorchScript deprecated

INPUTS, TARGETS = torch.tensor(X), torch.tensor(Y)


class Net(nn.Module):
    """Has a mode: in evaluation, it drops nothing and normalises by the running statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x, scale: float = 1.0):
        return self.head(torch.relu(self.features(x))) * scale


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 3)

    def forward(self, left, right):
        return self.head(torch.cat([left, right], 1))


class JoinedList(Joined):
    def forward(self, parts: list[torch.Tensor]):
        return self.head(torch.cat(parts, 1))


def loaded(module):
    stream = io.BytesIO()
    torch.jit.save(module, stream)
    stream.seek(0)
    return torch.jit.load(stream)


def scripted():
    return torch.jit.script(Net())


def traced():
    return torch.jit.trace(Net().eval(), INPUTS[:2])  # Tracing records the mode.


def frozen():
    return torch.jit.freeze(torch.jit.script(Net().eval()))


def seeded(kind, *sizes):
    torch.manual_seed(0)
    return kind(*sizes)


WAYS = {
    "script": scripted,
    "script without children": lambda: torch.jit.script(nn.Linear(4, 3)),
    "script of a Sequential": lambda: torch.jit.script(Net().features.append(nn.Linear(8, 3))),
    "script in a module": lambda: nn.Sequential(scripted()),
    "script in a wrapper": lambda: nn.DataParallel(scripted()),
    "a frozen part": lambda: nn.Sequential(frozen(), seeded(nn.Linear, 3, 3)),
    "load": lambda: loaded(scripted()),
    "trace": traced,
    "load of a trace": lambda: loaded(traced()),
}


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_they_train_and_predict_as_in_a_loop(make, jit_compile):
    net, twin = make(), make()
    twin.load_state_dict(net.state_dict())
    model = torchfit.Model(net, device="cpu")
    model.compile(torch.optim.SGD(net.parameters(), 0.1), nn.CrossEntropyLoss(), jit_compile=jit_compile)
    torch.manual_seed(1)
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    twin.train()
    torch.manual_seed(1)
    batches = [*zip(INPUTS.split(8), TARGETS.split(8))]
    assert_same(trained_by_hand(twin, 2 * batches, F.cross_entropy, 0.1), net.state_dict())
    twin.eval()
    outputs = twin(INPUTS).detach()
    np.testing.assert_allclose(model.predict(X, batch_size=10), outputs, atol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(X), outputs, atol=1e-5)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(F.cross_entropy(outputs, TARGETS).item(), abs=1e-5)


def test_a_step_trains_in_train_mode_and_restores_the_mode():
    net, twin = scripted(), scripted()
    twin.load_state_dict(net.state_dict())
    net.eval()
    torch.manual_seed(1)
    compiled(net, nn.CrossEntropyLoss(), 0.1).train_on_batch(X, Y)
    torch.manual_seed(1)
    assert_same(trained_by_hand(twin, [(INPUTS, TARGETS)], F.cross_entropy, 0.1), net.state_dict())
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(Joined()),
        lambda: loaded(torch.jit.script(Joined())),
        lambda: torch.jit.trace(Joined(), (INPUTS, INPUTS)),
    ],
    ids=["script", "load", "trace"],
)
def test_several_inputs_are_passed_by_position_and_by_name(make):
    net = make()
    model, outputs = torchfit.Model(net, device="cpu"), net(INPUTS, INPUTS + 1).detach()
    assert model.input_names == ["left", "right"]
    np.testing.assert_allclose(model.predict([X, X + 1]), outputs, atol=1e-6)
    np.testing.assert_allclose(model.predict({"right": X + 1, "left": X}), outputs, atol=1e-6)
    with pytest.raises(ValueError, match=r"`Joined.forward` takes 2 inputs: \['left', 'right'\]"):
        model.predict(X)


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: loaded(torch.jit.script(net))], ids=["script", "load"])
def test_a_list_is_one_input_where_it_is_declared_so(make):
    net = make(JoinedList())
    outputs = net([INPUTS, INPUTS + 1]).detach()
    np.testing.assert_allclose(torchfit.Model(net, device="cpu").predict([X, X + 1]), outputs, atol=1e-6)


def test_a_frozen_module_predicts_and_cannot_be_trained():
    net = frozen()
    outputs = net(INPUTS).detach()
    model = compiled(net, nn.CrossEntropyLoss())
    np.testing.assert_allclose(model.predict(X), outputs, atol=1e-5)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(F.cross_entropy(outputs, TARGETS).item(), abs=1e-5)
    with pytest.raises(ValueError, match=r"Net has no parameters to train: torch\.jit\.freeze"):
        model.fit(X, Y, verbose=0)


def test_summaries_name_the_compiled_classes():
    lines = []
    model = compiled(nn.Sequential(scripted(), nn.Linear(3, 3)), nn.CrossEntropyLoss())
    model.predict(X)
    model.summary(print_fn=lines.append)
    told = "\n".join(lines)
    assert "0 (Net)" in told
    assert "(None, 3)" in told
    assert torchfit.Model(scripted(), device="cpu").name == "net"


def test_copies_weights_and_files(tmp_path):
    model = compiled(scripted(), nn.CrossEntropyLoss(), 0.1)
    twin = copy.deepcopy(model)
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "weights.pt")
    model.save(tmp_path / "model.torchfit")
    twin.load_weights(tmp_path / "weights.pt")
    np.testing.assert_allclose(twin.predict(X), model.predict(X), atol=1e-6)
    again = torchfit.models.load_model(tmp_path / "model.torchfit", module=scripted())
    np.testing.assert_allclose(again.predict(X), model.predict(X), atol=1e-6)
    with pytest.raises(ValueError, match="Build the module yourself and pass it"):
        torchfit.models.load_model(tmp_path / "model.torchfit")


COPIED = {
    **{name: WAYS[name] for name in ("script", "load", "trace", "script in a module")},
    "partly frozen": lambda: frozen_head(scripted()),
}


def frozen_head(net):
    net.head.weight.requires_grad_(False)
    return net


@pytest.mark.parametrize("make", COPIED.values(), ids=COPIED)
@pytest.mark.parametrize("optimizer", ["adam", torch.optim.Adam, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_copies_train_as_the_original_does(make, optimizer):
    net = make()
    model = compiled(net, nn.CrossEntropyLoss())
    model.compile(optimizer, nn.CrossEntropyLoss())
    flags = [parameter.requires_grad for parameter in net.parameters()]
    for _ in range(2):  # before and after the optimizer has a state
        twin = copy.deepcopy(model)
        assert [parameter.requires_grad for parameter in twin.module.parameters()] == flags
        before = copy.deepcopy(model.get_weights())
        states = []
        for each in (twin, model):
            torch.manual_seed(1)
            each.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
            states.append(each.module.state_dict())
            if each is twin:
                for weight, same in zip(model.get_weights(), before):
                    np.testing.assert_array_equal(weight, same)
        assert_same(*states)


def test_copies_of_losses_that_are_scripts_train_as_well():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, targets):
            return F.cross_entropy(outputs * self.scale, targets)

    model = compiled(seeded(nn.Linear, 4, 3), torch.jit.script(Scaled()), 0.1)
    model.fit(X, Y, verbose=0)
    twin = copy.deepcopy(model)
    scales = []
    for each in (model, twin):
        each.fit(X, Y, shuffle=False, verbose=0)
        scales.append(next(each.loss_modules.parameters()).item())
    assert scales[0] == pytest.approx(scales[1], abs=1e-6)
    assert scales[0] != 1


def test_a_learning_rate_search_leaves_the_script_as_it_was():
    net = scripted()
    before = copy.deepcopy(net.state_dict())
    model = compiled(net, nn.CrossEntropyLoss(), 0.1)
    model.lr_find(X, Y, batch_size=8, steps=5)
    assert_same(before, net.state_dict())


def test_a_copy_that_torch_makes_is_refused_with_the_way_out():
    net = copy.deepcopy(scripted())
    with pytest.raises(ValueError, match=r"In a copy of a TorchScript module, call detach_\(\)\.requires_grad_\(\)"):
        compiled(net, nn.CrossEntropyLoss()).fit(X, Y, verbose=0)
    for parameter in net.parameters():
        parameter.detach_().requires_grad_()
    compiled(net, nn.CrossEntropyLoss()).fit(X, Y, verbose=0)


def test_a_file_of_a_frozen_module_is_read_into_another(tmp_path):
    net = frozen()
    torchfit.Model(net, device="cpu").save(tmp_path / "model.torchfit")
    again = torchfit.models.load_model(tmp_path / "model.torchfit", module=net)
    np.testing.assert_allclose(again.predict(X), net(INPUTS).detach(), atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda net: net, nn.Sequential], ids=["exported", "in a module"])
def test_exported_modules_train_and_predict_as_in_a_loop(wrap):
    def make():
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        rows = {0: torch.export.Dim("rows", min=2)}
        return wrap(torch.export.export(net, (INPUTS,), dynamic_shapes=(rows,)).module())

    net, twin = make(), make()
    twin.load_state_dict(net.state_dict())
    model = compiled(net, nn.CrossEntropyLoss(), 0.1)
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert_same(trained_by_hand(twin, zip(INPUTS.split(8), TARGETS.split(8)), F.cross_entropy, 0.1), net.state_dict())
    outputs = twin(INPUTS).detach()
    np.testing.assert_allclose(model.predict(X), outputs, atol=1e-5)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(F.cross_entropy(outputs, TARGETS).item(), abs=1e-5)


def test_tensorboard_draws_no_graph_and_training_goes_on(tmp_path):
    pytest.importorskip("tensorboard")
    model = compiled(scripted(), nn.CrossEntropyLoss(), 0.1)
    with pytest.warns(UserWarning, match="the graph of a TorchScript module cannot be drawn"):
        model.fit(X, Y, verbose=0, callbacks=[torchfit.callbacks.TensorBoard(str(tmp_path), write_graph=True)])
