import shutil
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import torchfit
from torchfit.utils import plot_model

pytest.importorskip("torchview", reason="draws with torchview")
needs_graphviz = pytest.mark.skipif(
    shutil.which("dot") is None and find_spec("pygraphviz") is None, reason="Graphviz is not installed"
)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return torch.relu(x + self.inner(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = Block(), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.block(x))


def text_of(model, tmp_path, **options):
    plot_model(model, tmp_path / "model.svg", **options)
    return (tmp_path / "model.svg").read_text()


@needs_graphviz
def test_layers_and_shapes(tmp_path):
    text = text_of(torchfit.Model(Net(), device="cpu"), tmp_path, show_shapes=True, input_shape=(4,))
    assert all(part in text for part in (">Block<", ">Linear<", ">output: (None, 1)<"))
    assert ">relu<" not in text


@needs_graphviz
def test_nested_layers_with_everything(tmp_path):
    model = torchfit.Model(Net(), device="cpu")
    model.module.head.requires_grad_(False)
    options = {"show_layer_names": True, "show_dtype": True, "show_trainable": True, "expand_nested": True}
    text = text_of(model, tmp_path, input_shape=(4,), **options)
    for part in (">block.inner (Linear)<", ">relu<", ">dtype: float32<", ">not trainable<", ">trainable<"):
        assert part in text


@needs_graphviz
def test_activations_inside_of_layers(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.RNN(3, 4, nonlinearity="relu", batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    text = text_of(torchfit.Model(Recurrent(), device="cpu"), tmp_path, show_layer_activations=True, input_shape=(5, 3))
    assert ">activation: relu<" in text


@needs_graphviz
def test_shapes_come_from_the_data_seen_and_nothing_changes(tmp_path):
    class Own(torchfit.Model):
        def __init__(self):
            super().__init__(device="cpu")
            self.left, self.right = nn.Linear(2, 1), nn.Sequential(nn.Linear(3, 1), nn.Dropout())

        def forward(self, a, b):
            return self.left(a) + self.right(b)

    model = Own()
    model.predict({"a": torch.ones(2, 2), "b": torch.ones(2, 3)})
    state, training = torch.get_rng_state(), model.training
    text = text_of(model, tmp_path, show_shapes=True, rankdir="LR")
    assert ">shape: (None, 3)<" in text
    assert all(name in text for name in (">a<", ">b<"))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training is training


@needs_graphviz
def test_files(tmp_path):
    assert plot_model(nn.Linear(2, 1), tmp_path / "new" / "model", input_shape=(2,)) is None
    assert (tmp_path / "new" / "model.png").read_bytes().startswith(b"\x89PNG")


def test_without_dot_there_is_a_line_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(ImportError, match=r"pip install pygraphviz.*apt install graphviz"):
        plot_model(nn.Linear(2, 1), tmp_path / "model.png", input_shape=(2,))


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(ValueError, match="pass `input_shape=`"):
        plot_model(torchfit.Model(nn.Linear(2, 1), device="cpu"), tmp_path / "model.png")
    with pytest.raises(ValueError, match="`rankdir` must be"):
        plot_model(nn.Linear(2, 1), tmp_path / "model.png", rankdir="up", input_shape=(2,))
