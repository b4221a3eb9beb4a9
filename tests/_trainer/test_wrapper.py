import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))


@pytest.fixture
def model(net):
    return Model(net, device="cpu")


class Own(Model):
    """A model that was subclassed instead of wrapped."""

    def __init__(self):
        super().__init__(device="cpu")
        self.linear = nn.Linear(2, 1)

    def forward(self, x):
        return self.linear(x)


def test_keys_are_those_of_the_bare_module(model, net):
    assert list(model.state_dict()) == list(net.state_dict())
    assert list(Own().state_dict()) == ["linear.weight", "linear.bias"]


def test_weights_go_both_ways(model, net, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    twin = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    twin.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(twin[0].weight, net[0].weight)  # type: ignore[arg-type]
    other = Model(twin, device="cpu")
    twin[0].weight.data.zero_()
    other.load_state_dict(net.state_dict())
    assert torch.equal(twin[0].weight, net[0].weight)  # type: ignore[arg-type]


def test_compiled_models_keep_these_keys(model, net):
    model.compile("adam", nn.MSELoss(), metrics=["mae"])
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert list(model.state_dict()) == list(net.state_dict())
    assert len(list(model.parameters())) == len(list(net.parameters()))


def test_get_weights_gives_copies(model, net):
    weights = model.get_weights()
    assert [weight.shape for weight in weights] == [tuple(value.shape) for value in net.state_dict().values()]
    weights[0][:] = 7
    assert (net[0].weight != 7).all()


def test_set_weights_writes_in_place(model, net):
    parameter = net[0].weight
    model.set_weights([np.full_like(weight, 2) for weight in model.get_weights()])
    assert net[0].weight is parameter
    assert (parameter == 2).all()


def test_weights_apart(model, net):
    net[0].requires_grad_(False)
    assert len(model.trainable_weights) == 4
    assert len(model.non_trainable_weights) == 2 + 3
    assert len(model.weights) == len(model.variables) == 9


def test_counts(model):
    assert model.count_params() == 25
    with pytest.raises(ValueError, match=r"lazy layers.*call the model on a batch first"):
        Model(nn.LazyLinear(2), device="cpu").count_params()


def test_training_holds_for_one_call(model, net):
    net.train()
    net[1].eval()
    x = torch.ones(4, 2)
    still = [model(x, training=False) for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.equal(model(x, training=True), model(x, training=True))
    assert [layer.training for layer in net] == [True, False, True, True]


def test_a_model_that_defines_no_forward():
    class Empty(Model):
        pass

    with pytest.raises(NotImplementedError, match="Empty wraps no module: define its `forward`"):
        Empty(device="cpu")(torch.ones(1))


def test_a_subclass_trains():
    model = Own()
    model.compile("sgd", "mse")
    first, *_, last = model.fit(np.ones((8, 2)), np.ones((8, 1)), epochs=9, verbose=0).history["loss"]
    assert last < first
    assert model.module is model


def test_names():
    assert (Model(nn.Linear(1, 1)).name, Own().name, Model(nn.Linear(1, 1), name="mine").name) == (
        "linear",
        "own",
        "mine",
    )


def test_lazy_layers_train():
    model = Model(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)), device="cpu")
    model.compile("adam", "mse")
    model.fit(np.ones((4, 5)), np.ones((4, 1)), verbose=0)
    assert model.count_params() == 5 * 3 + 3 + 3 + 1
