"""Whatever the nest: every target meets its own output, with its own weight."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchfit._trainer.output_matching import OutputSpec, broadcast_to_outputs, match_to_outputs
from torchfit._utils import tree

KEYS = st.text(alphabet="abcd", min_size=1, max_size=2)


def nests(ends):
    return st.recursive(
        ends,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3),
            st.lists(inner, min_size=1, max_size=3).map(tuple),
            st.dictionaries(KEYS, inner, min_size=1, max_size=3),
        ),
        max_leaves=8,
    )


STRUCTURES = nests(st.just(None).map(lambda _: 0)).filter(lambda structure: not tree.is_leaf(structure))


def numbered(structure):
    """Put the numbers 0, 1, … into the leaves, as tensors."""
    return tree.unflattener(structure)([torch.tensor(number) for number in range(len(tree.leaves(structure)))])


def as_lists(structure):
    """Write tuples as lists and the other way round, and dictionaries backwards."""
    if tree.is_leaf(structure):
        return structure
    if isinstance(structure, dict):
        return {key: as_lists(structure[key]) for key in reversed(structure)}
    parts = [as_lists(part) for part in structure]
    return tuple(parts) if isinstance(structure, list) else parts


def found(value, output_spec):
    return {name: get(value) for name, get in match_to_outputs("y", value, output_spec, output_spec.names).items()}


@settings(max_examples=200, deadline=None)
@given(STRUCTURES)
def test_targets_nested_like_the_outputs_meet_them(structure):
    outputs = numbered(structure)
    output_spec = OutputSpec.of(outputs)
    expected = {name: get(outputs) for name, get in output_spec.getters(outputs).items()}
    assert sorted(expected.values()) == list(range(len(output_spec.names)))
    assert found(outputs, output_spec) == expected
    assert found(as_lists(outputs), output_spec) == expected


@settings(max_examples=200, deadline=None)
@given(STRUCTURES, st.randoms(use_true_random=False))
def test_targets_by_name_and_in_a_flat_list_meet_them(structure, random):
    outputs = numbered(structure)
    output_spec = OutputSpec.of(outputs)
    expected = {name: get(outputs) for name, get in output_spec.getters(outputs).items()}
    names = random.sample(output_spec.names, len(output_spec.names))
    assert found({name: expected[name] for name in names}, output_spec) == expected
    assert found([expected[name] for name in output_spec.names], output_spec) == expected


@settings(max_examples=200, deadline=None)
@given(STRUCTURES, st.data())
def test_what_is_missing_is_missing_and_nothing_else(structure, data):
    outputs = numbered(structure)
    output_spec = OutputSpec.of(outputs)
    kept = data.draw(st.lists(st.sampled_from(output_spec.names), unique=True))
    expected = {name: get(outputs) for name, get in output_spec.getters(outputs).items() if name in kept}
    assert found({name: expected.get(name) for name in output_spec.names}, output_spec) == expected
    assert found([expected.get(name) for name in output_spec.names], output_spec) == expected
    losses = broadcast_to_outputs(
        "loss", {name: f"loss {expected[name]}" for name in kept}, output_spec, is_single=tree.is_leaf
    )
    assert losses == {name: f"loss {number}" for name, number in expected.items()}


@settings(max_examples=100, deadline=None)
@given(STRUCTURES)
def test_names_are_unique_and_do_not_depend_on_the_values(structure):
    names = OutputSpec.of(tree.map(lambda _: torch.zeros(2), structure)).names
    assert len(set(names)) == len(names)
    assert names == OutputSpec.of(numbered(structure)).names
