import sys

import pytest
import torch
from torch import nn

from torchfit.saving import load_weights, save_weights

safetensors = pytest.importorskip("safetensors.torch", reason="tests the extra package safetensors")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_safetensors_reads_them(path):
    module = nn.Linear(3, 2)
    save_weights(module, path)
    found = safetensors.load_file(path)
    assert torch.equal(found["weight"], module.weight)


def test_reads_what_safetensors_wrote(path):
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    safetensors.save_file(module.state_dict(), path)
    load_weights(other, path)
    assert torch.equal(other.weight, module.weight)


def test_tied_weights(path):
    module, other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight, other[1].weight = module[0].weight, other[0].weight
    save_weights(module, path)
    load_weights(other, path)
    assert other[1].weight is other[0].weight
    torch.testing.assert_close(other.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_tied_weights_that_safetensors_wrote_under_one_name(path):
    module, other = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight, other[1].weight = module[0].weight, other[0].weight
    safetensors.save_model(module, str(path))
    load_weights(other, path)
    assert torch.equal(other[1].weight, module[0].weight)  # type: ignore[arg-type]


def test_half_precision_and_empty_tensors(path):
    module, other = nn.Linear(3, 2).to(torch.bfloat16), nn.Linear(3, 2).to(torch.bfloat16)
    for each in (module, other):
        each.register_buffer("empty", torch.zeros(0))
    save_weights(module, path)
    load_weights(other, path)
    torch.testing.assert_close(other.state_dict(), module.state_dict(), rtol=0, atol=0)


def test_without_the_package(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ImportError, match="pip install safetensors"):
        save_weights(nn.Linear(3, 2), path)
    assert not path.exists()


def test_whole_models_need_another_ending(path):
    import torchfit

    with pytest.raises(ValueError, match="holds weights only"):
        torchfit.Model(nn.Linear(1, 1)).save(path)
