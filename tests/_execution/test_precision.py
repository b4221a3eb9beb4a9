import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, mixed_precision, models, optimizers

x = np.linspace(-1, 1, 64, dtype="float32").reshape(16, 4)
y = x.sum(axis=1, keepdims=True) / 10  # small, so that no gradient overflows in float16


class Recording(nn.Module):
    """Remembers the dtype that its layer gave."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs):
        outputs = self.layer(inputs)
        self.dtype = outputs.dtype
        return outputs


@pytest.fixture(autouse=True)
def _own_dtypes_afterwards():
    yield
    mixed_precision.set_global_policy(None)


def fitted(policy=None, optimizer="sgd"):
    torch.manual_seed(0)
    model = Model(Recording(), dtype_policy=policy)
    model.compile(optimizer, "mse")
    return model, model.fit(x, y, epochs=2, verbose=0).history["loss"]


@pytest.mark.parametrize(
    ("policy", "computed", "kept"),
    [
        (None, torch.float32, torch.float32),
        ("float32", torch.float32, torch.float32),
        ("mixed_bfloat16", torch.bfloat16, torch.float32),
        ("mixed_float16", torch.float16, torch.float32),
        ("bfloat16", torch.bfloat16, torch.bfloat16),
        ("float64", torch.float64, torch.float64),
    ],
)
def test_a_policy_decides_in_which_dtype_is_computed_and_in_which_weights_are_kept(policy, computed, kept):
    model, losses = fitted(policy)
    assert model.module.dtype == computed
    assert model.module.layer.weight.dtype == kept
    assert losses == pytest.approx(fitted()[1], rel=0.05, abs=1e-3)


def test_the_global_policy_holds_for_models_made_after_it():
    mixed_precision.set_global_policy("mixed_bfloat16")
    model, _ = fitted()
    assert model.module.dtype == torch.bfloat16
    assert mixed_precision.global_policy().name == "mixed_bfloat16"


def test_float16_scales_the_loss_and_counts_skipped_updates():
    model, _ = fitted("mixed_float16")
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    assert model.optimizer.skipped_updates == 0
    assert float(model.optimizer.dynamic_scale) == 2.0**15


def test_float16_and_a_torch_optimizer_are_refused_with_the_way_out():
    model = Model(Recording(), dtype_policy="mixed_float16")
    with pytest.raises(ValueError, match="mixed_bfloat16"):
        model.compile(torch.optim.SGD, "mse")


def test_an_unknown_policy_is_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="Did you mean 'mixed_bfloat16'"):
        mixed_precision.set_global_policy("mixed_bfloat")


def test_a_saved_model_keeps_its_policy(tmp_path):
    model = Model(nn.Sequential(nn.Linear(4, 1)), dtype_policy="mixed_bfloat16")
    model.save(tmp_path / "model")
    assert models.load_model(tmp_path / "model").dtype_policy == mixed_precision.DTypePolicy("mixed_bfloat16")
