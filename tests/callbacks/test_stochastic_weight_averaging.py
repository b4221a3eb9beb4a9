import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import optimizers
from torchfit.callbacks import BackupAndRestore, LambdaCallback, StochasticWeightAveraging

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def compiled(optimizer=None):
    torch.manual_seed(0)
    model = torchfit.Model(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), device="cpu")
    model.compile(optimizer or optimizers.SGD(0.1), "mse")
    return model


def fit(model, *callbacks, epochs=5):
    weights = []

    def copy(epoch, logs):
        weights.append({name: value.clone() for name, value in model.module.state_dict().items()})

    keep = LambdaCallback(on_epoch_end=copy)
    history = model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks, keep])
    return weights, history.history


def mean(weights, name):
    return torch.stack([each[name] for each in weights]).mean(0)


@pytest.mark.parametrize("start", [3, 0.6])
def test_the_model_ends_with_the_mean_of_the_last_epochs(start):
    model, other = compiled(), compiled()
    averaging = StochasticWeightAveraging(start)
    weights, history = fit(model, averaging)
    assert history == fit(other)[1]  # Training is not disturbed.
    for name in ("0.weight", "2.bias", "1.running_mean"):
        assert torch.allclose(model.module.state_dict()[name], mean(weights[3:], name), atol=1e-6)
    assert averaging.num_averaged == 2


def test_statistics_are_computed_anew_from_data():
    model = compiled()
    fit(model, StochasticWeightAveraging(3, batch_norm_data=X, batch_size=16))
    with torch.no_grad():
        hidden = model.module[0](torch.tensor(X))
    assert torch.allclose(model.module[1].running_mean, hidden.mean(0), atol=1e-5)
    assert model.module[1].momentum == 0.1
    assert not model.module[1]._forward_pre_hooks


def test_the_rate_is_constant_after_it_was_annealed(capsys):
    model, rates = compiled(), []
    averaging = StochasticWeightAveraging(1, learning_rate=0.01, anneal_epochs=1, verbose=1)
    fit(model, averaging, LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(model.optimizer.learning_rate)))
    assert rates == pytest.approx([0.1, 0.055, 0.01, 0.01, 0.01])
    assert capsys.readouterr().out == (
        "\nEpoch 00002: StochasticWeightAveraging starts.\n"
        "StochasticWeightAveraging: the weights are the mean of 4 epochs.\n"
    )


def test_groups_keep_the_ratio_of_their_rates():
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    groups = [{"params": [net.weight], "lr": 0.2}, {"params": [net.bias], "lr": 0.1}]
    model = torchfit.Model(net, device="cpu")
    model.compile(torch.optim.SGD(groups), "mse")
    fit(model, StochasticWeightAveraging(1, learning_rate=0.02), epochs=2)
    assert [group["lr"] for group in model.optimizer.optimizer.param_groups] == pytest.approx([0.02, 0.01])


def test_half_precision_is_averaged_in_float32():
    averaging, module = StochasticWeightAveraging(0), nn.Linear(1, 1, bias=False).half()
    averaging.set_model(type("Model", (), {"module": module}))
    averaging.on_train_begin()
    for epoch, value in enumerate([2048.0, 2050.0, 2052.0]):
        nn.init.constant_(module.weight, value)
        averaging.on_epoch_end(epoch)
    averaging.on_train_end()
    assert module.weight.item() == 2050.0


@pytest.mark.parametrize("epoch", [2, 4])
def test_an_interrupted_run_is_resumed(epoch, tmp_path):
    def make():
        return StochasticWeightAveraging(2, learning_rate=0.01, anneal_epochs=2)

    def interrupt(index, logs):
        if index == epoch:
            raise KeyboardInterrupt

    model = compiled()
    fit(model, make(), epochs=6)
    with pytest.raises(KeyboardInterrupt):
        fit(compiled(), make(), BackupAndRestore(tmp_path), LambdaCallback(on_epoch_begin=interrupt), epochs=6)
    resumed = compiled()
    fit(resumed, make(), BackupAndRestore(tmp_path), epochs=6)
    assert all(map(torch.equal, model.module.state_dict().values(), resumed.module.state_dict().values()))


def test_an_epoch_that_never_comes_is_refused():
    with pytest.raises(ValueError, match="start_epoch is 5, but training ends after 5 epochs"):
        fit(compiled(), StochasticWeightAveraging(5))


def test_a_rate_beside_a_schedule_is_refused():
    optimizer = optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))
    with pytest.raises(TypeError, match=r"StochasticWeightAveraging: the learning rate .* is set by a schedule"):
        fit(compiled(optimizer), StochasticWeightAveraging(1, learning_rate=0.1))


@pytest.mark.parametrize("wrong", [-1, 1.0, "0.8", True])
def test_other_starts_are_refused(wrong):
    with pytest.raises(ValueError, match="start_epoch: expected an epoch"):
        StochasticWeightAveraging(wrong)
