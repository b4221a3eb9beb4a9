import os
import pickle

import pytest
import torch
from torch import nn

import torchfit
from tests.support import Evil
from torchfit.saving import load_weights, save_weights


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def same(module, other):
    state, found = module.state_dict(), other.state_dict()
    return list(state) == list(found) and all(torch.equal(state[key], found[key]) for key in state)


def load(path, **options):
    module = network()
    torchfit.Model(module, device="cpu").load_weights(path, **options)
    return module


ENDINGS = ["weights", "weights.pt", "weights.safetensors"]


@pytest.mark.parametrize("name", ENDINGS)
def test_round_trip(name, tmp_path):
    model = torchfit.Model(network(), device="cpu")
    model.save_weights(tmp_path / name)
    assert same(load(tmp_path / name), model.module)
    assert os.listdir(tmp_path) == [name]


def test_torch_reads_them(path):
    module = network()
    save_weights(module, path)
    other = network()
    other.load_state_dict(torch.load(path))
    assert same(module, other)


def test_weights_of_a_whole_model(path):
    model = torchfit.Model(network(), device="cpu")
    model.save(path)
    assert same(load(path), model.module)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_torch(path, legacy):
    module = network()
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    assert same(load(path), module)


@pytest.mark.parametrize("name", ["state_dict", "model_state_dict"])
def test_checkpoints_that_hold_a_state(path, name):
    module = network()
    torch.save({"epoch": 3, name: module.state_dict()}, path)
    assert same(load(path), module)


def test_prefixes_of_wrappers_are_taken_off(path):
    module = network()
    torch.save({f"module._orig_mod.{key}": value for key, value in module.state_dict().items()}, path)
    assert same(load(path), module)


def test_a_module_called_module_keeps_its_name(path):
    outer = nn.ModuleDict({"module": network()})
    save_weights(outer, path)
    other = nn.ModuleDict({"module": network()})
    load_weights(other, path)
    assert same(outer, other)


def test_wrappers_leave_no_prefixes(path):
    module = network()
    save_weights(torch.compile(nn.DataParallel(module), backend="eager"), path)  # type: ignore[arg-type]
    assert list(torch.load(path)) == list(module.state_dict())


def test_into_a_compiled_module(path):
    module = network()
    save_weights(module, path)
    other = network()
    load_weights(torch.compile(other, backend="eager"), path)  # type: ignore[arg-type]
    assert same(module, other)


def test_every_key_that_does_not_fit_is_named(path):
    state = network().state_dict()
    state["0.weight"] = torch.zeros(2, 4)
    state["extra"] = torch.zeros(3)
    del state["2.bias"]
    torch.save(state, path)
    module = network()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_weights(module, path)
    assert str(caught.value) == (
        f"The weights of the file {str(path)!r} do not fit Sequential:\n"
        "  missing: 2.bias (1,)\n"
        "  unexpected: extra (3,)\n"
        "  0.weight: (2, 4) in the file, (2, 3) here\n"
        "  (by_name=True leaves missing and unexpected keys alone, skip_mismatch=True those of another shape)"
    )
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_by_name(path):
    torch.save({"2.bias": torch.tensor([5.0]), "extra": torch.zeros(1)}, path)
    assert load(path, by_name=True)[2].bias.tolist() == [5.0]


def test_skip_mismatch(path):
    state = network().state_dict()
    state["0.weight"], state["2.bias"] = torch.zeros(2, 4), torch.tensor([5.0])
    torch.save(state, path)
    with pytest.warns(UserWarning, match=r"left alone:\n  0.weight: \(2, 4\) in the file, \(2, 3\) here"):
        assert load(path, skip_mismatch=True)[2].bias.tolist() == [5.0]


def test_lazy_layers_take_the_shape_of_the_file(path):
    save_weights(nn.Sequential(nn.Linear(3, 2)), path)
    module = nn.Sequential(nn.LazyLinear(2))
    load_weights(module, path)
    assert module[0].weight.shape == (2, 3)


def test_refuses_to_replace(path):
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        save_weights(network(), path, overwrite=False)


def test_files_without_weights_are_refused(path):
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"holds no weights: expected a state_dict .* found a list of length 2"):
        load_weights(network(), path)


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_malicious_files_run_nothing(tmp_path, name, write):
    witness = tmp_path / "witness"
    write({"0.weight": Evil(witness)}, tmp_path / name)
    with pytest.raises(ValueError, match="was refused") as caught:
        load_weights(network(), tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["weights", "weights.safetensors"])
def test_damaged_files_are_refused(tmp_path, name):
    path = tmp_path / name
    module = nn.Linear(3, 2)
    save_weights(module, path)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(0, len(whole), 17)]
    for position in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged|refused") as caught:
            load_weights(module, path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["weights.h5", "model.weights.h5", "weights.keras", "weights.hdf5"])
def test_extensions_of_keras_are_warned_of(tmp_path, name):
    with pytest.warns(UserWarning, match=r"neither Keras nor programs for HDF5. Choose another extension"):
        save_weights(network(), tmp_path / name)
    load(tmp_path / name)


@pytest.mark.parametrize("later", [False, True])
def test_models_with_extensions_of_keras_are_warned_of(tmp_path, later):
    model = torchfit.Model(network(), device="cpu")
    with pytest.warns(UserWarning, match="neither Keras") as caught:
        model.prepare_save(tmp_path / "model.keras") if later else model.save(tmp_path / "model.keras")
    assert caught[0].filename == __file__


class Tied(nn.Module):
    """Weights, a buffer and a part of a weight that occur under two names."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.rand(3))
        self.register_buffer("first", self.scale[:1])


@pytest.mark.parametrize("left_out", [["head.weight", "first"], ["embedding.weight"]])
def test_names_of_tied_weights_may_be_left_out(path, left_out):
    module, other = Tied(), Tied()
    torch.save({key: value for key, value in module.state_dict().items() if key not in left_out}, path)
    load_weights(other, path)
    assert same(module, other)
    assert other.head.weight is other.embedding.weight


def test_names_whose_memory_is_not_filled_by_others_are_missing(path):
    state = Tied().state_dict()
    del state["scale"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"missing: scale \(3,\)"):
        load_weights(Tied(), path)


def test_a_tied_weight_that_does_not_fit_is_left_alone_under_all_its_names(path):
    torch.save({"embedding.weight": torch.zeros(9, 5), "scale": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"Tied:\n  embedding.weight: \(9, 5\) in the file"):
        load_weights(Tied(), path)
    with pytest.warns(UserWarning, match=r"left alone:\n  embedding.weight: \(9, 5\) in the file"):
        load_weights(Tied(), path, skip_mismatch=True)


def test_loading_by_name_says_if_no_name_is_found(path):
    torch.save({"encoder.weight": torch.zeros(1)}, path)
    with pytest.warns(UserWarning, match="Nothing was loaded: .* there is 'encoder.weight', and here '0.weight'"):
        load(path, by_name=True)


class Counting(nn.Module):
    """Keeps something besides tensors in its state."""

    def __init__(self, calls=0):
        super().__init__()
        self.linear, self.calls = nn.Linear(3, 1), calls

    def forward(self, x):
        self.calls += 1
        return self.linear(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_extra_state_is_saved_and_loaded(path):
    save_weights(Counting(7), path)
    other = Counting()
    load_weights(other, path)
    assert other.calls == 7


def test_weights_are_the_tensors_without_the_extra_state():
    model = torchfit.Model(Counting(7), device="cpu")
    weights = model.get_weights()
    assert [weight.shape for weight in weights] == [(1, 3), (1,)]
    model.set_weights([weight + 1 for weight in weights])
    assert model.module.linear.bias.item() == pytest.approx(weights[1].item() + 1)
    assert len(model.weights) == len(model.trainable_weights) == 2


def test_an_extra_state_that_the_module_refuses_is_an_error_that_names_the_file(path):
    torch.save({**Counting().state_dict(), "_extra_state": {}}, path)
    with pytest.raises(ValueError, match=r"weights of the file .* cannot be loaded into Counting: 'calls'"):
        load_weights(Counting(), path)


@pytest.mark.parametrize("value", [torch.eye(2).to_sparse(), torch.ones(2, 2, dtype=torch.complex64), "text"])
def test_tensors_of_another_kind_do_not_fit(path, value):
    torch.save({"weight": value, "bias": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"weight: .* in the file, \(2, 2\) here"):
        load_weights(nn.Linear(2, 2), path)


def test_names_are_shown_escaped(path):
    torch.save({"weight": torch.zeros(1, 1), "evil\x1b[31m\n\u202e": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_weights(nn.Linear(1, 1, bias=False), path)
    assert r"unexpected: evil\x1b[31m\n\u202e (1,)" in str(caught.value)
