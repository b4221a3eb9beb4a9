import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import torchfit
from torchfit.callbacks import CSVLogger, ModelCheckpoint
from torchfit.losses.checks import check_targets
from torchfit.utils import freeze

x = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
labels = np.arange(16) % 3
LOGITS = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(net=None, loss=LOGITS, optimizer="sgd", **options):
    model = torchfit.Model(net or nn.Linear(4, 3), device="cpu")
    model.compile(optimizer, loss, **options)
    return model


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return self.used(x)


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x).detach()


@pytest.mark.parametrize("jit_compile", [None, True])
def test_certain_mistakes_stop_before_anything_is_updated(jit_compile):
    model = compiled(jit_compile=jit_compile)
    before = model.get_weights()
    with pytest.raises(ValueError, match="from 1 to 3, and the outputs have 3 classes"):
        model.fit(x, labels + 1, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))
    model.fit(x, labels, verbose=0)


def test_every_fit_looks_at_its_own_data():
    model = compiled()
    model.fit(x, labels, verbose=0)
    with pytest.raises(ValueError, match="from -1 to 1"):
        model.fit(x, labels - 1, verbose=0)


def test_every_output_is_looked_at():
    class Two(nn.Linear):
        def forward(self, x):
            return {"a": super().forward(x), "b": super().forward(x)}

    model = compiled(Two(4, 3), {"a": LOGITS, "b": "mse"})
    with pytest.raises(ValueError, match="from 1 to 3"):
        model.fit(x, {"a": labels + 1, "b": np.zeros((16, 3))}, verbose=0)


def test_probable_mistakes_are_told_once():
    model = compiled(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)))
    with pytest.warns(UserWarning, match="expects logits") as told:
        model.fit(x, labels, epochs=3, batch_size=4, verbose=0)
    assert len(told) == 1


@pytest.mark.parametrize("optimizer", ["adam", torch.optim.Adam])
def test_parameters_without_a_gradient(optimizer):
    with pytest.warns(UserWarning, match=r"no gradient for the parameters \['unused.weight', 'unused.bias'\]"):
        compiled(Unused(), optimizer=optimizer).fit(x, labels, verbose=0)


def test_a_loss_that_depends_on_no_parameter():
    with pytest.raises(ValueError, match="depends on no trainable parameter"):
        compiled(Detached(4, 3)).fit(x, labels, verbose=0)


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"microbatch": 2}, {"steps_per_execution": 2}])
def test_a_module_without_trainable_parameters_updates_its_statistics(options):
    net = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)).requires_grad_(False)
    model = compiled(net, **options)
    before = [parameter.clone() for parameter in net.parameters()]
    with pytest.warns(UserWarning, match="Sequential has no trainable parameters"):
        history = model.fit(x + 5, labels, epochs=2, verbose=0).history
    assert all(map(torch.equal, before, net.parameters()))
    assert net[0].running_mean.abs().max() > 0.1
    assert np.isfinite(history["loss"]).all()


def test_frozen_layers_that_go_on_changing():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    net[1].requires_grad_(False)
    with pytest.warns(UserWarning, match="'1' are frozen, but these normalisation layers are in train mode"):
        compiled(net).fit(x, labels, verbose=0)
    freeze(net, "1")
    compiled(net).fit(x, labels, verbose=0)


def test_a_last_batch_of_one_sample_is_told_with_the_way_out():
    model = compiled(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"one sample has no variance\. Choose a `batch_size`"):
        model.fit(x, labels, batch_size=5, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_layers_that_were_frozen_as_in_keras_are_told_of():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    net[0].trainable = False  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"`trainable = False` of '0' has no effect.*freeze\(model, '0'\)"):
        compiled(net).fit(x, labels, verbose=0)
    freeze(net, "0")
    compiled(net).fit(x, labels, verbose=0)


def test_a_module_and_a_parameter_that_were_frozen_as_in_keras_are_told_of():
    net = nn.Linear(4, 3)
    net.trainable = net.bias.trainable = False  # type: ignore[assignment, attr-defined]
    with pytest.warns(UserWarning, match=r"of the module \(and 1 more\) has no effect.*freeze\(model\)"):
        compiled(net).fit(x, labels, verbose=0)


def test_a_flag_of_ones_own_means_what_its_class_says():
    class Own(nn.Linear):
        def __init__(self, trainable):
            super().__init__(4, 3)
            self.trainable = trainable

    compiled(Own(trainable=False)).fit(x, labels, verbose=0)


def test_a_model_is_frozen_as_in_keras():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model = compiled(net)
    assert model.trainable
    model.trainable = False
    assert not model.trainable
    before = model.get_weights()
    with pytest.warns(UserWarning, match="no trainable parameters"):
        model.fit(x, labels, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))
    model.trainable = True
    model.fit(x, labels, verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])
    with pytest.raises(ValueError, match="`trainable` must be True or False"):
        model.trainable = "no"


@pytest.mark.parametrize("callback", [ModelCheckpoint, CSVLogger])
def test_paths_that_cannot_be_written(callback, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    model = compiled()
    with pytest.raises(OSError, match="file"):
        model.fit(x, labels, verbose=0, callbacks=[callback(f"{file}/deeper/result")])
    assert model.optimizer.iterations == 0
    model.fit(x, labels, verbose=0, callbacks=[callback(f"{tmp_path}/deeper/result")])


def test_it_can_be_switched_off():
    model = compiled(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)))
    model.preflight = False
    model.fit(x, labels, verbose=0)


def batches():
    for start in range(0, 16, 4):
        yield x[start : start + 4], labels[start : start + 4]


def test_generators_lose_nothing_and_randomness_is_untouched():
    def run(preflight):
        torch.manual_seed(0)
        model = compiled(
            nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)), metrics=["acc"]
        )
        model.preflight = preflight
        history = model.fit(batches(), verbose=0)
        return history.params["steps"], history.history, model.get_weights(), torch.get_rng_state()

    with_checks, without = run(True), run(False)
    assert with_checks[:2] == without[:2]
    assert all(map(np.array_equal, with_checks[2], without[2]))
    assert torch.equal(with_checks[3], without[3])


def test_a_train_step_of_ones_own_is_left_alone():
    class Own(torchfit.Model):
        def train_step(self, batch):
            return {"loss": 0.0}

    model = Own(nn.Linear(4, 3), device="cpu")
    model.compile("sgd", LOGITS)
    model.fit(x, labels + 1, verbose=0)


def test_the_cost_is_a_few_operations():
    class Operations(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket.__name__ != "detach":  # which computes nothing
                self.names.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    outputs, targets = nn.Linear(64, 10)(torch.randn(32, 64)), torch.arange(32) % 10
    with Operations() as operations:
        check_targets(LOGITS, targets, outputs)
    assert 0 < len(operations.names) <= 10, operations.names
