import numpy as np
import pytest
import torch

from torchfit._utils import rng


def draws():
    return [np.random.rand(), np.random.randn(), np.random.randint(1000)]


@pytest.fixture(autouse=True)
def own_generator():
    before = rng.random_state()
    np.random.seed(7)
    yield
    rng.restore_random_state(before)


@pytest.mark.parametrize(
    "between",
    [list, draws, np.random.randn, lambda: np.random.randn(2), lambda: np.random.seed(9), lambda: np.random.rand(2000)],
)
def test_the_state_of_numpy_is_the_present_one_whatever_was_drawn_since_the_last(between):
    for prepare in (list, np.random.randn):
        prepare()
        rng.random_state()
        between()
        state = rng.random_state()
        expected = draws()
        rng.restore_random_state(state)
        assert draws() == expected


def test_the_second_of_two_normal_numbers_is_part_of_the_state():
    np.random.randn()
    state = rng.random_state()
    second = np.random.randn()
    assert rng.random_state()["numpy"][3:] == [0, 0.0]
    rng.restore_random_state(state)
    assert np.random.randn() == second


def test_numpy_is_asked_again_only_if_somebody_drew(monkeypatch):
    rng.random_state()
    monkeypatch.setattr(np.random, "get_state", None)
    first, second = (rng.random_state()["numpy"] for _ in range(2))
    assert torch.equal(first[1], second[1])
    np.random.rand()
    with pytest.raises(TypeError, match="not callable"):
        rng.random_state()


def test_another_generator_is_always_asked():
    own = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(np.random.MT19937(3))  # type: ignore[attr-defined]
    try:
        state = rng.random_state()
        expected = draws()
        rng.restore_random_state(state)
        assert draws() == expected
    finally:
        np.random.set_bit_generator(own)  # type: ignore[attr-defined]
