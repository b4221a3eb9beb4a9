"""Architectures come back as they were: class by class, shape by shape, value by value."""

import functools
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import torchfit
from torchfit._saving import module_serializer
from torchfit._utils import tree
from torchfit.models import load_model


class Block(nn.Module):
    """A user-defined class, with data of many kinds in its attributes."""

    def __init__(self, size, scale=2.0):
        super().__init__()
        self._scale = scale
        self.sizes = (size, [size, {"half": size // 2}], torch.Size([size]))
        self.kind = torch.float32
        self.table = np.arange(3)
        self.epsilon = np.float32(0.5)
        self.act = F.gelu
        self.norm_class = functools.partial(nn.LayerNorm, eps=1e-3)
        self.fixed = torch.ones(size)
        self.linear = nn.Linear(size, size)
        self.norm = self.norm_class(size)
        self.register_buffer("offsets", torch.randn(size), persistent=False)

    def forward(self, x):
        return self.norm(self.act(self.linear(x)) * self._scale + self.offsets * self.fixed)


class Tied(nn.Module):
    """A weight and a layer that occur twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.first

    def forward(self, x):
        return self.again(self.second(self.first(x)))


class Configured(nn.Module):
    """A class that says itself how it is made."""

    def __init__(self, body, bias):
        super().__init__()
        self.body = body
        self.hidden = object()
        self.bias = nn.Parameter(torch.full((bias,), float(bias)))

    def forward(self, x):
        return self.body(x) + self.bias

    def get_config(self):
        return {"body": self.body, "bias": len(self.bias)}


class Opaque(nn.Module):
    """A class whose attributes are no plain data."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.cache = object()

    def forward(self, x):
        return self.layer(x)


def there_and_back(module, path, **options):
    torchfit.Model(module, device="cpu").save(path)
    return load_model(path, **options).module


def same_outputs(module, other, *inputs):
    module.eval()
    other.eval()
    with torch.no_grad():
        found, expected = other(*inputs), module(*inputs)
    return all(map(torch.equal, tree.leaves(found), tree.leaves(expected)))


SEQUENCE = (torch.linspace(-1, 1, 48).reshape(3, 2, 8),)
IMAGES = (torch.linspace(0, 1, 200).reshape(2, 1, 10, 10),)
NETWORKS = {
    "conv": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular", bias=False),
            nn.BatchNorm2d(4, momentum=0.3),
            nn.LeakyReLU(0.3, inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.ConvTranspose2d(4, 2, 2, stride=2),
            nn.AdaptiveAvgPool2d((2, None)),
            nn.Flatten(),
        ),
        IMAGES,
    ),
    "lstm": (lambda: nn.LSTM(8, 4, 2, bidirectional=True), SEQUENCE),
    "gru": (lambda: nn.GRU(8, 4, bias=False), SEQUENCE),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation=F.gelu), 2),
        SEQUENCE,
    ),
    "decoder": (lambda: nn.TransformerDecoderLayer(8, 2, 16, activation=nn.SiLU()), SEQUENCE * 2),
    "attention": (lambda: nn.MultiheadAttention(8, 2, kdim=8, add_bias_kv=True), SEQUENCE * 3),
    "norms": (lambda: nn.Sequential(nn.LayerNorm(8, bias=False), nn.GroupNorm(2, 2), nn.PReLU(2, 0.1)), SEQUENCE),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(8, 4), nn.Tanh()), nn.ModuleDict({"unused": nn.ELU()})["unused"]),
        SEQUENCE,
    ),
}


@pytest.mark.parametrize(("make", "inputs"), NETWORKS.values(), ids=NETWORKS)
def test_networks_of_torch_classes(make, inputs, path):
    module = make()
    loaded = there_and_back(module, path)
    assert repr(loaded) == repr(module)
    assert same_outputs(module, loaded, *inputs)


def test_names_of_layers(path):
    layers = OrderedDict(encode=nn.Linear(4, 2), decode=nn.Linear(2, 4))
    loaded = there_and_back(nn.Sequential(layers), path)  # type: ignore[arg-type]
    assert list(loaded.state_dict()) == ["encode.weight", "encode.bias", "decode.weight", "decode.bias"]


def test_containers(path):
    module = nn.ModuleDict({"list": nn.ModuleList([nn.Linear(1, 1)]), "numbers": nn.ParameterList([torch.ones(2)])})
    loaded = there_and_back(module, path)
    assert repr(loaded) == repr(module)
    assert loaded["numbers"][0].tolist() == [1, 1]


def test_lazy_layers_that_saw_data(path):
    module = nn.Sequential(nn.LazyLinear(3))
    module(torch.zeros(1, 7))
    assert repr(there_and_back(module, path)) == repr(module)


def test_lazy_layers_that_saw_none(path):
    with pytest.raises(TypeError, match="lazy layer that saw no data yet"):
        there_and_back(nn.LazyLinear(3), path)


def test_what_was_changed_after_construction(path):
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2))
    module[0].p = 0.25  # type: ignore[assignment]
    module[1].note = "mine"  # type: ignore[assignment]
    loaded = there_and_back(module, path)
    assert (loaded[0].p, loaded[1].note) == (0.25, "mine")


def test_dtypes_flags_and_memory_formats(path):
    module = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)).to(torch.bfloat16)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    module[0].weight.requires_grad_(False)
    module[1].eval()
    loaded = there_and_back(module, path)
    assert loaded[0].weight.dtype is torch.bfloat16
    assert loaded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [parameter.requires_grad for parameter in loaded.parameters()] == [False, True, True, True]
    assert [part.training for part in loaded.modules()] == [True, True, False]


def test_own_classes(path):
    module = nn.Sequential(Block(4, scale=3.0), nn.Linear(4, 1))
    loaded = there_and_back(module, path, custom_objects={"Block": Block})
    assert type(loaded[0]) is Block
    assert same_outputs(module, loaded, torch.randn(2, 4))
    assert loaded[0].sizes == module[0].sizes
    assert (loaded[0].table.tolist(), loaded[0].epsilon, loaded[0].kind) == ([0, 1, 2], np.float32(0.5), torch.float32)


def test_registered_classes(path):
    registered = torchfit.saving.register_serializable("tests")(type("Registered", (Block,), {}))
    module = registered(4)
    assert same_outputs(module, there_and_back(module, path), torch.randn(2, 4))


def test_own_classes_in_a_scope(path):
    with torchfit.saving.custom_object_scope({"Block": Block}):
        assert type(there_and_back(Block(4), path)) is Block


def test_classes_with_a_config(path):
    module = Configured(nn.Sequential(nn.Linear(4, 3)), 3)
    nn.init.normal_(module.bias)
    loaded = there_and_back(module, path, custom_objects={"Configured": Configured})
    assert same_outputs(module, loaded, torch.randn(2, 4))


def test_sharing(path):
    module = Tied()
    loaded = there_and_back(module, path, custom_objects={"Tied": Tied})
    assert loaded.again is loaded.first
    assert loaded.second.weight is loaded.first.weight
    assert len(list(loaded.parameters())) == len(list(module.parameters()))
    assert same_outputs(module, loaded, torch.randn(2, 4))


def test_own_classes_that_are_not_given_are_named(path):
    torchfit.Model(nn.Sequential(Block(4))).save(path)
    with pytest.raises(ValueError, match="cannot be built from the file alone") as caught:
        load_model(path)
    message = str(caught.value)
    assert f"Block: its class, defined in {__name__}, is not part of torch.nn" in message
    assert "custom_objects={'Block': Block}" in message
    assert "module=..." in message


def test_attributes_that_are_no_data_are_named(path):
    with pytest.warns(UserWarning, match=r"Opaque: its attribute `cache` .*\nWhen loading it, build the module"):
        torchfit.Model(Opaque()).save(path)
    with pytest.raises(ValueError, match="Opaque: its attribute `cache` is an object of type object"):
        load_model(path, custom_objects={"Opaque": Opaque})


@pytest.mark.filterwarnings("ignore:The file cannot hold everything")
def test_a_module_that_is_passed_in(path):
    module = Opaque()
    torchfit.Model(module).save(path)
    loaded = load_model(path, module=Opaque()).module
    assert same_outputs(module, loaded, torch.randn(2, 4))


class Hooked(nn.Linear):
    """Has a hook, and no `get_config`."""

    def __init__(self):
        super().__init__(4, 4)
        self.register_forward_hook(lambda module, inputs, output: 2 * output)


def hooked_linear():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


CODE = {
    "hook": hooked_linear,
    "own class": Hooked,
    "prune": lambda: prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5),
    "old spectral_norm": lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
}


@pytest.mark.filterwarnings("ignore:The file cannot hold everything")
@pytest.mark.parametrize("name", CODE)
def test_a_module_that_only_code_can_build_is_asked_for(path, name):
    module = nn.Sequential(CODE[name](), nn.ReLU())
    torchfit.Model(module).save(path)
    with pytest.raises(ValueError, match="cannot be built from the file alone") as caught:
        load_model(path)
    advice = str(caught.value).splitlines()[-1]
    assert advice == f"Build the module yourself and pass it: load_model({str(path)!r}, module=...)."
    loaded = load_model(path, module=nn.Sequential(CODE[name](), nn.ReLU())).module
    assert same_outputs(module.eval(), loaded.eval(), torch.randn(2, 4))


def test_hooks_are_told_when_saving(path):
    with pytest.warns(UserWarning, match="Linear: it has hooks"):
        torchfit.Model(hooked_linear()).save(path)


@pytest.mark.filterwarnings("ignore:The file cannot hold everything")
def test_a_class_that_is_not_saved_is_not_asked_for(path):
    torchfit.Model(nn.Sequential(Opaque(), Block(4))).save(path)
    for given in ({}, {"Opaque": Opaque, "Block": Block}):
        with pytest.raises(ValueError, match=r"Opaque: its attribute `cache`") as caught:
            load_model(path, custom_objects=given)
        assert "custom_objects" not in str(caught.value)
        assert str(caught.value).endswith("module=...). Or define get_config() in Opaque, and save the model again.")


def test_own_functions(path):
    module = Block(4)
    module.act = squared  # type: ignore[assignment]
    objects = {"Block": Block}
    with pytest.raises(ValueError, match="it needs the function 'squared'"):
        there_and_back(module, path, custom_objects=objects)
    loaded = load_model(path, custom_objects={**objects, "squared": squared}).module
    assert same_outputs(module, loaded, torch.randn(2, 4))


def squared(x):
    return x * x


@pytest.mark.parametrize("name", ["Module.__init__", "functional", "os", "Parameter", "_reduction"])
def test_names_in_a_file_reach_nothing_but_layers(name):
    reference = {"name": name, "module": "torch.nn", "registered": None}
    assert module_serializer.find_class(reference) is None


@pytest.mark.parametrize("name", ["load", "save", "hub", "cuda", "storage", "_C", "compile"])
def test_names_in_a_file_reach_no_functions_but_those_of_tensors(name):
    for module in ("torch", "torch.nn.functional", "torchfit.functional", "os"):
        reference = {"name": name, "module": module, "registered": None}
        assert module_serializer.find_function(reference) is None


def test_wrappers_leave_no_trace(path):
    module = nn.Sequential(nn.Linear(2, 2), torch.compile(nn.Linear(2, 2), backend="eager"))  # type: ignore[call-overload]
    module[0].weight.requires_grad_(False)
    torchfit.Model(torch.compile(module, backend="eager")).save(path)  # type: ignore[arg-type]
    loaded = load_model(path).module
    assert repr(loaded) == repr(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert [parameter.requires_grad for parameter in loaded.parameters()] == [False, True, True, True]
