import pytest
import torch
from torch import nn

from torchfit import Model
from torchfit._trainer.module_call import Signature

ONE, TWO = torch.ones(2, 1), torch.full((2, 1), 2.0)


class Difference(nn.Module):
    def forward(self, left, right):
        return left - right


class Optional(nn.Module):
    def forward(self, left, right=None):
        return left if right is None else left - right


class Anything(nn.Module):
    def forward(self, *args, **kwargs):
        return sum(args) + sum(kwargs.values())


class Whole(nn.Module):
    """Takes a list or dictionary as it is."""

    def forward(self, parts):
        return sum(parts.values()) if isinstance(parts, dict) else sum(parts)


def called(module, inputs, **names):
    return Model(module, device="cpu", **names).predict_step((inputs,))[0].item()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "inputs", "result"),
    [
        (Difference(), [ONE, TWO], -1),
        (Difference(), (ONE, TWO), -1),
        (Difference(), {"right": TWO, "left": ONE}, -1),
        (Optional(), ONE, 1),
        (Optional(), [ONE], 1),
        (Optional(), [ONE, TWO], -1),
        (Optional(), {"left": ONE}, 1),
        (Anything(), [ONE, TWO], 3),
        (Anything(), {"a": ONE, "b": TWO}, 3),
        (Whole(), [ONE, TWO], 3),
        (Whole(), {"a": ONE, "b": TWO}, 3),
    ],
)
def test_structures_become_arguments(module, inputs, result):
    assert called(module, inputs) == result


def test_names_are_given_to_positions():
    assert called(Difference(), {"b": ONE, "a": TWO}, input_names=["a", "b"]) == 1


def test_the_model_is_called_like_fit_calls_the_module():
    model = Model(Difference(), device="cpu")
    for outputs in (model(ONE, TWO), model([ONE, TWO]), model({"left": ONE, "right": TWO}), model(left=ONE, right=TWO)):
        assert outputs[0].item() == -1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([ONE], r"`x` has 1 parts, but `Difference.forward` takes 2 inputs: \['left', 'right'\]"),
        ([ONE] * 3, r"`x` has 3 parts"),
        ({"left": ONE, "rigth": TWO}, r"keys \['left', 'rigth'\].*takes the inputs \['left', 'right'\]"),
    ],
)
def test_structures_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        called(Difference(), inputs)


def test_input_names_are_the_parameters():
    assert Signature(Difference()).input_names == ["left", "right"]
    assert Model(Difference(), input_names=["a", "b"], device="cpu").input_names == ["a", "b"]
