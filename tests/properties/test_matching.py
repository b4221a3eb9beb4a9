"""Whatever the nest: every target meets its own output, with its own weight."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchfit._trainer.output_matching import Layout, by_output, spread
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


STRUCTURES = nests(st.just(None).map(lambda _: 0)).filter(lambda nest: not tree.is_leaf(nest))


def numbered(nest):
    """Put the numbers 0, 1, … into the leaves."""
    return tree.unflattener(nest)(list(range(len(tree.leaves(nest)))))


def as_lists(nest):
    """Write tuples as lists and the other way round, and dictionaries backwards."""
    if tree.is_leaf(nest):
        return nest
    if isinstance(nest, dict):
        return {key: as_lists(nest[key]) for key in reversed(nest)}
    parts = [as_lists(part) for part in nest]
    return tuple(parts) if isinstance(nest, list) else parts


def found(value, layout):
    return {name: get(value) for name, get in by_output("y", value, layout, layout.names).items()}


@settings(max_examples=200, deadline=None)
@given(STRUCTURES)
def test_targets_nested_like_the_outputs_meet_them(nest):
    outputs = tree.map(float, numbered(nest))
    layout = Layout.of(outputs)
    expected = {name: get(outputs) for name, get in layout.getters(outputs).items()}
    assert sorted(expected.values()) == list(range(len(layout.names)))
    assert found(outputs, layout) == expected
    assert found(as_lists(outputs), layout) == expected


@settings(max_examples=200, deadline=None)
@given(STRUCTURES, st.randoms(use_true_random=False))
def test_targets_by_name_and_in_a_flat_list_meet_them(nest, random):
    outputs = numbered(nest)
    layout = Layout.of(outputs)
    expected = {name: get(outputs) for name, get in layout.getters(outputs).items()}
    names = random.sample(layout.names, len(layout.names))
    assert found({name: expected[name] for name in names}, layout) == expected
    assert found([expected[name] for name in layout.names], layout) == expected


@settings(max_examples=200, deadline=None)
@given(STRUCTURES, st.data())
def test_what_is_missing_is_missing_and_nothing_else(nest, data):
    outputs = numbered(nest)
    layout = Layout.of(outputs)
    kept = data.draw(st.lists(st.sampled_from(layout.names), unique=True))
    expected = {name: get(outputs) for name, get in layout.getters(outputs).items() if name in kept}
    assert found({name: expected.get(name) for name in layout.names}, layout) == expected
    assert found([expected.get(name) for name in layout.names], layout) == expected
    losses = spread("loss", {name: f"loss {expected[name]}" for name in kept}, layout, is_one=tree.is_leaf)
    assert losses == {name: f"loss {number}" for name, number in expected.items()}


@settings(max_examples=100, deadline=None)
@given(STRUCTURES)
def test_names_are_unique_and_do_not_depend_on_the_values(nest):
    names = Layout.of(tree.map(lambda _: torch.zeros(2), nest)).names
    assert len(set(names)) == len(names)
    assert names == Layout.of(numbered(nest)).names
