import functools

import pytest
import torch.nn.functional as F
from torch import nn

from torchfit import functional, losses
from torchfit.losses.checks import LossTraits, loss_traits


def weighted(y_true, y_pred):
    return (y_true - y_pred).abs()


def binary_dice(y_true, y_pred):
    return 1 - (y_true * y_pred).mean()


@pytest.mark.parametrize(
    ("loss", "traits"),
    [
        ("binary_crossentropy", LossTraits("binary")),
        ("bce", LossTraits("binary")),
        (losses.BinaryFocalCrossentropy(from_logits=True), LossTraits("binary", from_logits=True)),
        (losses.CategoricalCrossentropy(axis=1), LossTraits("categorical", 1)),
        (losses.CategoricalFocalCrossentropy(), LossTraits("categorical")),
        (
            losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255, axis=1),
            LossTraits("sparse", 1, True, 255),
        ),
        (losses.CategoricalGeneralizedCrossEntropy(), LossTraits("sparse")),
        ("hinge", LossTraits("binary", from_logits=True)),
        ("mse", LossTraits("other")),
        (losses.Dice(axis=1), LossTraits("other")),
        (nn.CrossEntropyLoss(ignore_index=3), LossTraits("sparse", 1, True, 3)),
        (nn.NLLLoss, LossTraits("sparse", 1, True, -100)),
        (F.cross_entropy, LossTraits("sparse", 1, True, -100)),
        (functools.partial(F.cross_entropy, ignore_index=0), LossTraits("sparse", 1, True, 0)),
        (nn.MultiMarginLoss(), LossTraits("sparse", 1, True)),
        (nn.BCELoss(), LossTraits("binary")),
        (nn.BCEWithLogitsLoss(), LossTraits("binary", from_logits=True)),
        (F.binary_cross_entropy_with_logits, LossTraits("binary", from_logits=True)),
        (nn.SoftMarginLoss(), LossTraits("binary", from_logits=True)),
        (nn.L1Loss(), LossTraits("other")),
        (functional.categorical_crossentropy, LossTraits("categorical")),
        (functools.partial(functional.binary_crossentropy, from_logits=True), LossTraits("binary", from_logits=True)),
        (
            functools.partial(functional.sparse_categorical_crossentropy, axis=1, ignore_class=-1),
            LossTraits("sparse", 1, False, -1),
        ),
        (weighted, LossTraits()),
        (binary_dice, LossTraits("binary")),
        (None, LossTraits()),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_traits(loss, traits):
    assert loss_traits(loss) == traits


def test_classes_of_users_inherit_traits():
    class Own(losses.SparseCategoricalCrossentropy):
        pass

    assert loss_traits(Own(axis=1)) == LossTraits("sparse", 1)
    assert loss_traits(losses.Loss()) == LossTraits("other")


class Unknown(nn.Module):
    def forward(self, y_pred, y_true):
        return (y_pred - y_true).square().mean()


def test_nothing_is_known_of_a_module_of_the_users():
    assert loss_traits(Unknown()) == LossTraits(None)
    assert loss_traits(losses.LossFunctionWrapper(Unknown())) == LossTraits(None)
