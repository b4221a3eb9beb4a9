import re

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, losses
from torchfit._trainer.hints import ErrorTranslator


def message_of(net, x):
    with pytest.raises(ValueError, match="does not fit") as caught:
        Model(net, device="cpu").predict(x)
    return str(caught.value)


def test_the_layer_and_the_shapes_are_named():
    net = nn.Sequential()
    net.add_module("encoder", nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    net.add_module("head", nn.Linear(2, 1))
    told = message_of(net, np.ones((5, 4)))
    assert told.startswith(
        "`x` does not fit the model: layer `head`, Linear(in_features=2, out_features=1, bias=True), was called with "
        "a tensor of shape (5, 3) and dtype float32."
    )
    assert "torch says: mat1 and mat2 shapes cannot be multiplied (5x3 and 2x1)" in told


@pytest.mark.parametrize(
    ("net", "x", "words"),
    [
        (nn.Conv2d(3, 1, 2), np.ones((2, 1, 8, 8)), r"Conv2d\(3, 1.*shape \(2, 1, 8, 8\)"),
        (nn.BatchNorm1d(3), np.ones((2, 4)), r"BatchNorm1d\(3.*shape \(2, 4\)"),
        (nn.Embedding(3, 2), np.array([[3]]), r"Embedding\(3, 2\).*shape \(1, 1\) and dtype int64"),
        (nn.Embedding(3, 2), np.array([[1.0]]), r"Embedding\(3, 2\).*dtype float32"),
        (nn.Linear(2, 1), np.ones((2, 2), dtype=int), r"Linear.*dtype int64"),
        (nn.LSTM(3, 2), np.ones((2, 5, 4)), r"LSTM\(3, 2\).*shape \(2, 5, 4\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_of_torch(net, x, words):
    assert re.search(words, message_of(net, x))


class Mine(nn.Module):
    def forward(self, x):
        return x @ torch.ones(7, 7)


def test_code_of_users_speaks_for_itself():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        Model(Mine(), device="cpu").predict(np.ones((2, 3)))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("size"), KeyboardInterrupt(), RuntimeError("shape")], ids=repr
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, ErrorTranslator(nn.Linear(1, 1)):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("net", "x"),
    [
        (nn.Linear(8, 3), np.ones((4, 8), int)),
        (nn.Linear(8, 3), np.ones((4, 8), bool)),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), torch.ones(4, 2, 4, dtype=torch.uint8)),
        (nn.Conv1d(3, 2, 3), np.ones((4, 3, 8), int)),
        (nn.Conv2d(3, 2, 3), np.zeros((4, 3, 8, 8), "uint8")),
        (nn.Conv3d(3, 2, 3), np.zeros((4, 3, 8, 8, 8), "uint8")),
        (nn.LazyConv2d(2, 3), np.zeros((4, 3, 8, 8), "uint8")),
        (nn.ConvTranspose2d(3, 2, 3), np.zeros((4, 3, 8, 8), "uint8")),
        (nn.BatchNorm1d(8), np.ones((4, 8), int)),
        (nn.LayerNorm(8), np.ones((4, 8), int)),
        (nn.GRU(8, 2, batch_first=True), np.ones((4, 5, 8), int)),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True), np.ones((4, 5, 8), int)),
        (nn.AvgPool2d(2), np.zeros((4, 3, 8, 8), "uint8")),
        (nn.Softmax(1), np.ones((4, 8), int)),
        (nn.PReLU(), np.ones((4, 8), int)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_integers_where_a_layer_takes_floats(net, x):
    told = message_of(net, x)
    assert 'x.astype("float32")' in told
    assert "x.float()" in told


@pytest.mark.parametrize(
    ("net", "shape", "way_out"),
    [
        (nn.Conv1d(3, 2, 3), (4, 8, 3), "x.transpose(0, 2, 1)"),
        (nn.Conv2d(3, 2, 3), (4, 8, 8, 3), "x.transpose(0, 3, 1, 2)"),
        (nn.Conv3d(3, 2, 3), (4, 8, 8, 8, 3), "x.permute(0, 4, 1, 2, 3)"),
        (nn.BatchNorm2d(3), (4, 8, 8, 3), "x.transpose(0, 3, 1, 2)"),
        (nn.Conv2d(1, 2, 3), (4, 8, 8), "x[:, None]"),
        (nn.Conv1d(1, 2, 3), (4, 8), "x[:, None]"),
        (nn.BatchNorm2d(1), (4, 8, 8), "x[:, None]"),
        (nn.Conv2d(3, 2, 3), (4, 8, 8), "x[:, None].repeat(3, 1)"),
        (nn.Linear(40, 3), (40,), "x[None]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), (8,), "x[None]"),
        (nn.TransformerEncoderLayer(8, 2, batch_first=True), (4, 5, 9), "number and order of features"),
    ],
)
def test_axes_that_are_missing_or_elsewhere(net, shape, way_out):
    assert way_out in message_of(net, np.ones(shape, "float32"))


@pytest.mark.parametrize("net", [nn.Embedding(3, 2), nn.EmbeddingBag(3, 2)], ids=lambda net: type(net).__name__)
def test_ids_without_a_row_and_ids_that_are_floats(net):
    assert "from 0 to 2" in message_of(net, np.full((4, 2), 3))
    assert 'x.astype("int64")' in message_of(net, np.ones((4, 2), "float32"))


def compiled(net, loss="mse"):
    model = Model(net, device="cpu")
    model.compile("sgd", loss)
    return model


def test_a_last_batch_of_one_sample_is_too_small_for_batch_normalisation():
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    x = np.ones((33, 8), "float32")
    with pytest.raises(ValueError, match=r"layer `1`, BatchNorm1d\(4.*\(1, 4\).*`batch_size`.*drop_last") as caught:
        compiled(net).fit(x, x[:, :4], verbose=0)
    assert "validation_data" not in str(caught.value)
    compiled(net).evaluate(x, x[:, :4], verbose=0)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.ones(3)),
        nn.functional.cross_entropy,
        nn.NLLLoss(),
        nn.MultiMarginLoss(),
        lambda y_true, y_pred: nn.functional.cross_entropy(y_pred, y_true),
        losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
    ids=["CrossEntropyLoss", "weighted", "function", "NLLLoss", "MultiMarginLoss", "own", "sparse"],
)
class TestClassesOutOfRange:
    x, y = np.ones((96, 8), "float32"), np.arange(96) % 3
    message = "holds a class index that the outputs have no class for"

    @pytest.mark.parametrize("index", [3, -1])
    def test_in_any_batch(self, loss, index):
        wrong = self.y.copy()
        wrong[90] = index
        with pytest.raises(ValueError, match=f"`y` {self.message}"):
            compiled(nn.Linear(8, 3), loss).fit(self.x, wrong, shuffle=False, verbose=0)

    def test_in_the_validation(self, loss):
        with pytest.raises(ValueError, match=f"`y` in `validation_data` {self.message}"):
            compiled(nn.Linear(8, 3), loss).fit(self.x, self.y, validation_data=(self.x, self.y + 1), verbose=0)

    def test_in_evaluate_and_single_batches(self, loss):
        model = compiled(nn.Linear(8, 3), loss)
        for call in (model.evaluate, model.train_on_batch, model.test_on_batch):
            with pytest.raises(ValueError, match=f"`y` {self.message}"):
                call(self.x, self.y + 1)


def test_inputs_of_the_validation_are_told_as_those():
    x = np.ones((4, 8), "float32")
    with pytest.raises(ValueError, match="`x` in `validation_data` does not fit the model: layer Linear"):
        compiled(nn.Linear(8, 3)).fit(x, x[:, :3], validation_data=(x[:, :7], x[:, :3]), verbose=0)


def test_targets_that_a_loss_of_torch_refuses():
    with pytest.raises(ValueError, match=r"`y` does not fit the loss MultiLabelMarginLoss\(\)"):
        compiled(nn.Linear(8, 3), nn.MultiLabelMarginLoss()).fit(np.ones((4, 8)), np.arange(4), verbose=0)


def test_hooks_of_users_inside_a_layer_of_torch_speak_for_themselves():
    def refuse(*_):
        raise ValueError("own words about a shape")

    net = nn.Sequential(nn.Linear(4, 3))
    net[0].register_forward_hook(refuse)
    with pytest.raises(ValueError, match=r"^own words"):
        Model(net, device="cpu").predict(np.ones((2, 4), "float32"))


def test_a_device_that_stopped_is_told_with_the_usual_reasons():
    with pytest.raises(RuntimeError, match=r"class index in `y`.*embedding"), ErrorTranslator(nn.Linear(1, 1)):
        raise RuntimeError("CUDA error: device-side assert triggered")
