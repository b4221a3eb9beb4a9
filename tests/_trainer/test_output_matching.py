from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch

from torchfit._trainer.output_matching import (
    OutputSpec,
    broadcast_to_outputs,
    find_own_loss,
    leaf_names,
    match_to_outputs,
    output_getters,
    outputs_of_one_target,
)
from torchfit._utils import tree

Pair = namedtuple("Pair", "mean spread")
T = torch.zeros(2, 1)


@dataclass
class Answer:
    kind: torch.Tensor
    boxes: list


@pytest.mark.parametrize(
    ("outputs", "given", "names"),
    [
        (T, None, ["output_1"]),
        (T, ["score"], ["score"]),
        ((T, T), None, ["output_1", "output_2"]),
        ([T, T], ["a", "b"], ["a", "b"]),
        ({"b": T, "a": T}, None, ["b", "a"]),
        (Pair(T, T), None, ["mean", "spread"]),
        (Answer(T, [T, T]), None, ["kind", "boxes_1", "boxes_2"]),
        ({"a": T}, ["ignored"], ["a"]),
    ],
)
def test_outputs_are_named(outputs, given, names):
    assert leaf_names(outputs, given) == names


def test_too_few_names_are_refused():
    with pytest.raises(ValueError, match=r"`output_names` names 1 outputs \['a'\], but the model returned 2"):
        leaf_names((T, T), ["a"])


def test_outputs_are_found_again():
    outputs = {"a": T, "b": (T, T)}
    getters = output_getters(outputs, ["a", "b_1", "b_2"])
    assert {name: get({"a": 4, "b": (5, 6)}) for name, get in getters.items()} == {"a": 4, "b_1": 5, "b_2": 6}


def output_spec(names):
    """Name the outputs of a module that returns a tuple."""
    return OutputSpec.of((T,) * len(names), names) if len(names) > 1 else OutputSpec.of(T, names)


def parts(value, names=("a", "b"), active_outputs=("a", "b")):
    return {
        name: get(value) for name, get in match_to_outputs("y", value, output_spec(names), list(active_outputs)).items()
    }


def test_parts_belong_to_outputs():
    assert parts(None) == {}
    assert parts([1, 2]) == {"a": 1, "b": 2}
    assert parts({"b": 2}) == {"b": 2}
    assert parts([1, None]) == {"a": 1}
    assert parts({"a": 1, "b": None}) == {"a": 1}
    assert parts(7, names=("a",), active_outputs=("a",)) == {"a": 7}
    assert parts(7, active_outputs=("b",)) == {"b": 7}
    assert parts([7], active_outputs=("b",)) == {"b": 7}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (T, r"`y` is a tensor of shape \(2, 1\).* but 2 outputs need one each: \['a', 'b'\]"),
        ([1, 2, 3], r"`y` has 3 parts, but the model has 2 outputs \['a', 'b'\]"),
        ({"A": 1}, r"`y` names the output 'A'.*Did you mean 'a'\?"),
    ],
)
def test_parts_that_fit_no_output_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        parts(value)


def spread_over(value, names=("a", "b")):
    return broadcast_to_outputs("loss", value, output_spec(names), is_single=tree.is_leaf)


def test_what_compile_got_is_spread_over_the_outputs():
    assert spread_over(None) == {}
    assert spread_over("mse") == {"a": "mse", "b": "mse"}
    assert spread_over(["mse", None]) == {"a": "mse"}
    assert spread_over({"b": "mae"}) == {"b": "mae"}


def test_what_fits_no_output_is_refused():
    with pytest.raises(ValueError, match=r"`loss` has 3 parts, but the model has 2 outputs \['a', 'b'\]"):
        spread_over(["mse"] * 3)
    with pytest.raises(ValueError, match="`loss` names the output 'c'"):
        spread_over({"c": "mse"})


NEST = {"a": (T, T), "b": {"c": T}, "d": T}


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2], "b": {"c": 3}, "d": 4},
        {"d": 4, "b": [3], "a": Pair(1, 2)},
        {"a_1": 1, "a_2": 2, "b_c": 3, "d": 4},
        [1, 2, 3, 4],
        ((1, 2), {"c": 3}, 4),
    ],
)
def test_nested_parts_meet_nested_outputs(value):
    names = OutputSpec.of(NEST).names
    assert names == ("a_1", "a_2", "b_c", "d")
    found = match_to_outputs("y", value, OutputSpec.of(NEST), names)
    assert {name: found[name](value) for name in names} == {"a_1": 1, "a_2": 2, "b_c": 3, "d": 4}


def test_parts_of_a_nest_may_be_missing():
    found = match_to_outputs("y", {"a": [None, 2]}, OutputSpec.of(NEST), ["a_2"])
    assert list(found) == ["a_2"]


@pytest.mark.parametrize("value", [{"a": [1, 2, 3]}, {"a": 1}, {"b": {"x": 1}}, [[1, 2], 3]])
def test_nests_of_another_shape_are_refused(value):
    with pytest.raises(ValueError, match=r"`y` .* outputs .*'a_1', 'a_2', 'b_c', 'd'"):
        match_to_outputs("y", value, OutputSpec.of(NEST), ["a_1", "a_2", "b_c", "d"])


def test_losses_may_be_nested_like_the_outputs():
    found = broadcast_to_outputs(
        "loss", {"a": ["mse", None], "b": {"c": "mae"}}, OutputSpec.of(NEST), is_single=tree.is_leaf
    )
    assert found == {"a_1": "mse", "b_c": "mae"}


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        ((None, []), ()),
        ({"logits": T, "cache": object()}, ("logits",)),
        ((object(), T), ("output_2",)),
        ({"main": (T, "text"), "cache": [object()]}, ("main_1",)),
    ],
)
def test_what_is_no_tensor_is_no_output(outputs, names):
    spec = OutputSpec.of(outputs)
    assert spec.names == names
    assert len(spec.leaf_names) == len(tree.leaves(outputs))
    assert all(spec.getters(outputs)[name](outputs) is T for name in names)


def test_names_that_were_given_are_those_of_tensors_or_of_everything():
    assert OutputSpec.of((object(), T), ["logits"]).names == ("logits",)
    assert OutputSpec.of((T, object()), ["logits", "cache"]).names == ("logits",)


def test_a_list_may_have_a_part_for_what_is_no_output():
    spec = OutputSpec.of((T, object()))
    assert broadcast_to_outputs("loss", ["mse", None], spec, is_single=tree.is_leaf) == {"output_1": "mse"}
    assert list(match_to_outputs("y", [T, None], spec, ["output_1"])) == ["output_1"]
    with pytest.raises(TypeError, match="The output 'output_2' of the model is an object of type object"):
        broadcast_to_outputs("loss", [None, "mse"], spec, is_single=tree.is_leaf)


WIDE = torch.zeros(2, 8)


@pytest.mark.parametrize(
    ("outputs", "chosen", "has_common_loss", "found"),
    [
        ({"a": T}, [], True, ["a"]),
        ({"a": T, "b": T}, [], True, []),
        ({"logits": T, "hidden": T}, [], True, ["logits"]),
        ({"loss": torch.tensor(0.0), "a": T}, [], True, ["a"]),
        ({"out": T, "aux": T}, ["out", "aux"], False, ["out", "aux"]),
        ({"out": T, "aux": WIDE}, ["out", "aux"], False, []),
        ({"logits": T, "hidden": WIDE}, ["hidden"], False, ["hidden"]),
        ({"logits": T, "aux": T}, ["aux"], True, ["logits", "aux"]),
        ({"a": T, "b": T}, ["b"], True, []),
    ],
)
def test_one_target_is_for(outputs, chosen, has_common_loss, found):
    assert outputs_of_one_target(outputs, chosen, has_common_loss=has_common_loss) == found


SCALAR = torch.tensor(0.5)


@pytest.mark.parametrize("outputs", [SCALAR, {"loss": SCALAR, "a": T}, (T, SCALAR), [SCALAR, T]])
def test_the_own_loss_of_a_module(outputs):
    assert find_own_loss(outputs) is SCALAR


@pytest.mark.parametrize("outputs", [T, {"loss": T}, {"scale": SCALAR}, Pair(T, SCALAR), (SCALAR, SCALAR), None, [3]])
def test_what_is_no_own_loss(outputs):
    assert find_own_loss(outputs) is None
