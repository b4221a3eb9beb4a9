"""Training, saving and resuming as in a plain loop, in cases that were never wrong."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from tests.support import Echo, compiled
from torchfit import callbacks, losses, metrics, optimizers
from torchfit.models import load_model


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))


X = torch.tensor(np.random.default_rng(0).normal(size=(32, 4)).astype("float32"))
Y = X.sum(1, keepdim=True)


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_class_weights_read_one_hot_rows(kind):
    x, y = np.zeros((4, 3)), np.eye(3)[[0, 1, 2, 1]].astype(kind)
    history = compiled(Echo(), losses.CategoricalCrossentropy(from_logits=True)).fit(
        x, y, class_weight={1: 3.0}, verbose=0
    )
    assert history.history["loss"] == [pytest.approx(2 * 1.0986123, rel=1e-5)]  # (1 + 3 + 1 + 3) / 4


def test_flat_weights_multiply_the_values_of_torchs_losses():
    y, weights = np.array([0, 1, 2, 0]), np.array([1.0, 2.0, 3.0, 2.0])
    loss = compiled(Echo(), nn.CrossEntropyLoss()).evaluate(np.zeros((4, 3)), y, sample_weight=weights, verbose=0)
    assert loss == pytest.approx(2 * 1.0986123, rel=1e-5)


def test_flat_targets_go_with_a_column_of_outputs():
    x, y, weights = np.array([[1.0], [2.0], [5.0]]), np.zeros(3), np.array([1.0, 0.0, 1.0])
    assert compiled(Echo(), "mse").evaluate(x, y, sample_weight=weights, verbose=0) == pytest.approx(26 / 3, rel=1e-5)


def test_a_weighted_mean_of_samples_divides_by_the_sum_of_the_weights():
    loss = losses.MeanSquaredError(reduction="mean_with_sample_weight")
    assert loss([[0.0], [0.0]], [[1.0], [3.0]], [1.0, 3.0]).item() == pytest.approx(7.0)


def test_weights_of_steps_multiply_the_values_of_steps():
    x, weights = np.array([[[1.0], [2.0]], [[3.0], [4.0]]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    loss = compiled(Echo(), "mse").evaluate(x, np.zeros((2, 2, 1)), sample_weight=weights, verbose=0)
    assert loss == pytest.approx(17 / 4)


def test_the_loss_divides_by_the_number_of_samples_whatever_the_batch_size():
    weights = np.linspace(0, 3, 32)
    model = compiled(network(), "mse")
    found = [model.evaluate(X, Y, size, sample_weight=weights, verbose=0) for size in (1, 5, 32)]
    right = (((model.module(X) - Y) ** 2)[:, 0].detach().numpy() * weights).mean()
    assert found == pytest.approx([right] * 3, rel=1e-5)


# -- losses and metrics ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "x", "y", "right"),
    [
        ("binary_crossentropy", [[0.2], [0.6], [0.9]], [0, 0, 1], 2 / 3),
        ("sparse_categorical_crossentropy", [[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]], [0, 1, 0], 2 / 3),
        ("categorical_crossentropy", [[0.9, 0.1], [0.3, 0.7], [0.4, 0.6]], [[1, 0], [0, 1], [1, 0]], 2 / 3),
        (nn.CrossEntropyLoss(), [[2.0, -1], [0.3, 0.7], [-0.4, 0.6]], [0, 1, 0], 2 / 3),
    ],
    ids=["binary", "sparse", "categorical", "torch"],
)
def test_accuracy_is_that_of_the_usual_outputs(loss, x, y, right):
    model = compiled(Echo(), loss, metrics=["accuracy"])
    assert model.evaluate(np.array(x), np.array(y), verbose=0)[1] == pytest.approx(right)


def test_a_model_that_only_adds_losses_is_evaluated_without_targets():
    class Net(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            torchfit.add_loss(y.square().mean())
            return y

    net = Net(4, 1)
    right = F.linear(X, net.weight, net.bias).square().mean().item()
    assert compiled(net, None).evaluate(X, verbose=0) == pytest.approx(right, rel=1e-5)


def test_outputs_without_a_loss_need_no_targets():
    class Two(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return {"y": y, "hidden": y.abs()}

    assert np.isfinite(compiled(Two(4, 1), {"y": "mse"}).evaluate(X, Y, verbose=0, return_dict=True)["loss"])


@pytest.mark.parametrize("entry", ["predict_iter", "predict_on_batch"])
def test_single_predictions_do_not_call_functions_that_add_losses(entry):
    called, model = [], compiled(network(), "mse")
    model.add_loss(lambda hidden: called.append(1) or 0.0 * hidden.mean(), on="1")
    assert len(list(getattr(model, entry)(X))) > 0
    assert not called


def test_r2_of_years_is_that_of_numpy():
    y = np.array([[1990.0], [2000.0], [2010.0], [2020.0]])
    p = y + np.array([[1.0], [-1.0], [1.0], [-1.0]])
    metric = metrics.R2Score()
    metric.update_state(y, p)
    assert metric.result().item() == pytest.approx(1 - 4 / 500, abs=1e-2)


# -- gradients and optimizers ------------------------------------------------------------------------------------------


def test_a_step_of_the_users_may_gather_gradients_over_batches():
    class Gathers(torchfit.Model):
        batches = 0

        def train_step(self, batch):
            x, y = batch
            loss = F.mse_loss(self(x), y) / 2
            loss.backward()
            self.batches += 1
            if self.batches % 2 == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
            return {"loss": loss.detach()}

    net, twin = network(), network()
    model = Gathers(net, device="cpu")
    model.compile(torch.optim.SGD(net.parameters(), 0.1))
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)
    F.mse_loss(twin(X), Y).backward()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    for one, other in zip(net.parameters(), twin.parameters()):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("way", ["microbatch", "gradient_accumulation_steps"])
def test_parts_of_a_batch_make_the_update_of_the_whole(way):
    net, twin, weights = network(), network(), torch.linspace(0, 2, 32)
    if way == "microbatch":
        model = compiled(net, "mse", optimizers.SGD(0.1), microbatch=7)
        model.fit(X, Y, batch_size=32, sample_weight=weights, shuffle=False, verbose=0)
    else:
        model = compiled(net, "mse", optimizers.SGD(0.1, gradient_accumulation_steps=5))
        model.fit(X, Y, batch_size=7, sample_weight=weights, shuffle=False, verbose=0)
    ((twin(X) - Y).square()[:, 0] * weights).mean().backward()
    torch.optim.SGD(twin.parameters(), 0.1).step()
    for one, other in zip(net.parameters(), twin.parameters()):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("make", [lambda net: "adam", lambda net: torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)])
def test_a_layer_that_is_frozen_between_fits_stays_as_it_is(make):
    net = network()
    model = compiled(net, "mse", make(net))
    model.fit(X, Y, verbose=0)
    net[0].requires_grad_(False)
    before = net[0].weight.detach().clone()
    model.fit(X, Y, verbose=0)
    assert torch.equal(net[0].weight, before)


def test_rates_of_groups_keep_their_ratio():
    net = network()
    groups = [{"params": net[0].parameters(), "lr": 0.02}, {"params": net[2].parameters(), "lr": 0.01}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    schedule = callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    compiled(net, "mse", optimizer).fit(X, Y, callbacks=[schedule], verbose=0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.005])


# -- data --------------------------------------------------------------------------------------------------------------


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="number of samples"):
        compiled(network(), "mse").fit(X, Y[:31], verbose=0)


@pytest.mark.parametrize("loss", ["mse", nn.MSELoss(), nn.CrossEntropyLoss()], ids=["torchfit", "torch", "classes"])
@pytest.mark.filterwarnings("ignore:The loss cross_entropy_loss compares classes")
def test_targets_that_are_fewer_than_outputs_in_a_batch_are_refused(loss):
    y = torch.zeros(31, dtype=torch.long) if isinstance(loss, nn.CrossEntropyLoss) else Y[:31]
    with pytest.raises(ValueError, match=r"31|differ"):
        compiled(network(), loss).fit(iter([(X, y)]), verbose=0)


def test_a_list_goes_by_position_a_dictionary_by_name_and_keywords_are_open():
    class Difference(Echo):
        def forward(self, first, second):
            return super().forward(first - second)

    class Open(Echo):
        def forward(self, **inputs):
            return super().forward(inputs["first"] - inputs["second"])

    for net, x in ((Difference(), [X, 2 * X]), (Difference(), {"second": 2 * X, "first": X}),
                   (Open(), {"first": X, "second": 2 * X})):  # fmt: skip
        assert np.allclose(compiled(net, "mse").predict(x), -X)


def test_outputs_in_dictionaries_and_tuples_are_joined_over_batches():
    class Net(Echo):
        def forward(self, x):
            return {"a": super().forward(x), "b": (x[:, 0], x.sum(1))}

    predictions = compiled(Net(), None).predict(X, batch_size=5)
    assert np.allclose(predictions["a"], X)
    assert np.allclose(predictions["b"][1], X.sum(1), atol=1e-6)


def test_balanced_class_weights_read_the_targets_of_a_dataset():
    class Told(TensorDataset):
        targets = torch.tensor([0, 0, 0, 1])

    dataset = Told(torch.zeros(4, 2), Told.targets)
    history = compiled(Echo(), nn.CrossEntropyLoss()).fit(dataset, class_weight="balanced", verbose=0).history
    assert history["loss"] == [pytest.approx(0.6931472, rel=1e-5)]


# -- files -------------------------------------------------------------------------------------------------------------


def test_weights_that_are_missing_are_refused(tmp_path):
    torch.save({"0.weight": torch.zeros(6, 4)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"0\.bias"):
        torchfit.Model(network(), device="cpu").load_weights(tmp_path / "weights.pt")


@pytest.mark.parametrize("optimizer", ["adam", torch.optim.AdamW, optimizers.Lion(0.001, weight_decay=0.1)])
def test_a_loaded_model_goes_on_as_the_saved_one(tmp_path, optimizer):
    model = compiled(network(), "mse", optimizer)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    for one in (model, loaded):
        one.fit(X, Y, shuffle=False, verbose=0)
    assert np.array_equal(loaded.predict(X), model.predict(X))


def test_a_log_is_not_appended_to_one_with_other_columns(tmp_path):
    pd.DataFrame({"epoch": [0], "other": [1.0]}).to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(ValueError, match=r"log\.csv"):
        compiled(network(), "mse").fit(
            X, Y, callbacks=[callbacks.CSVLogger(tmp_path / "log.csv", append=True)], verbose=0
        )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("optimizer", ["adam", torch.optim.SGD, optimizers.SGD(0.1, gradient_accumulation_steps=2)])
def test_copies_of_a_trained_model_train_by_themselves_and_alike(copied, optimizer):
    model = compiled(network(), "mse", copy.deepcopy(optimizer), metrics=["mae"])
    model.fit(X, Y, batch_size=8, validation_data=(X, Y), verbose=0)
    twin = copied(model)
    before = [parameter.detach().clone() for parameter in model.module.parameters()]
    twin.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert all(torch.equal(one, other) for one, other in zip(before, model.module.parameters()))
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert np.array_equal(model.predict(X), twin.predict(X))


def test_loaders_and_arrays_train_alike():
    ends = []
    for data in ((X, Y), (DataLoader(TensorDataset(X, Y), batch_size=32),)):
        net = network()
        compiled(net, "mse", optimizers.Adam(0.01)).fit(*data, shuffle=False, epochs=2, verbose=0)
        ends.append(net[0].weight.detach())
    assert torch.allclose(*ends, atol=1e-6)
