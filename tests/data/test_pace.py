import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from torchfit._data.pace import Paced
from torchfit._data.source import as_source


@pytest.fixture
def paced(conversion):
    """Return a function that cuts data into epochs and gives the first inputs of every batch."""

    def cut(x, steps=None, epochs=1, first=0, batch_size=None):
        stopped = []
        batches = Paced(as_source(x, None, None, conversion).batches(batch_size), steps, epochs=epochs)
        batches.ran_out = lambda: stopped.append(True)
        found = []
        for epoch in batches.epochs(range(first, epochs)):
            found.append([batch.inputs[0].item() for batch in batches.epoch(epoch)])
            if stopped:
                break
        return found

    return cut


def loader(count):
    return DataLoader(torch.arange(float(count)), batch_size=1)


def generator(count):
    return (np.array([float(number)]) for number in range(count))


@pytest.mark.parametrize("make", [loader, generator])
def test_fewer_steps_go_on_in_the_next_epoch(make, paced):
    assert paced(make(9), steps=3, epochs=3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("make", [loader, generator])
def test_running_out_within_an_epoch_warns_and_ends(make, paced):
    with pytest.warns(UserWarning, match=r"^Your input ran out of data: `x` ended after 1 of 3 steps of epoch 2"):
        assert paced(make(4), steps=3, epochs=9) == [[0, 1, 2], [3]]


@pytest.mark.parametrize("make", [loader, generator])
def test_running_out_between_epochs_starts_no_empty_epoch(make, paced):
    with pytest.warns(UserWarning, match=r"^Your input ran out of data"):
        assert paced(make(6), steps=3, epochs=9) == [[0, 1, 2], [3, 4, 5]]


def test_as_many_steps_as_there_are_data_start_anew(paced):
    assert paced(loader(2), steps=2, epochs=3) == [[0, 1]] * 3


def test_a_generator_lasts_for_one_epoch(paced):
    with pytest.warns(UserWarning, match=r"^Your input ran out of data"):
        assert paced(generator(2), epochs=3) == [[0, 1]]


def test_a_loader_is_taken_anew_each_epoch(paced):
    assert paced(loader(2), epochs=2) == [[0, 1], [0, 1]]


def test_minus_one_goes_on_until_the_data_end(paced):
    assert paced(generator(4), steps=-1) == [[0, 1, 2, 3]]


def test_arrays_repeat_as_often_as_there_are_epochs(paced):
    assert paced(np.arange(4.0), steps=3, epochs=3, batch_size=1) == [[0, 1, 2], [3, 0, 1], [2, 3, 0]]
    assert paced(np.arange(4.0), steps=3, epochs=3, first=2, batch_size=1) == [[2, 3, 0]]


def test_arrays_run_out_too(paced):
    with pytest.warns(UserWarning, match="ran out of data"):
        assert paced(np.arange(4.0), steps=6, epochs=2, batch_size=1) == [[0, 1, 2, 3, 0, 1], [2, 3]]


def test_infinite_data_end_with_the_last_epoch(paced):
    def forever():
        while True:
            yield np.zeros(1)

    assert paced(forever(), steps=2, epochs=2) == [[0, 0], [0, 0]]


def test_nothing_is_drawn_beyond_the_last_step(paced):
    data = generator(10)
    paced(data, steps=2, epochs=2)
    assert next(data) == 4


def test_data_without_a_batch_are_refused(paced):
    with pytest.raises(ValueError, match="`x` gave no batch"):
        paced(generator(0))


def test_the_seed_is_that_of_the_batches(conversion):
    one, other = (Paced(as_source(np.arange(9.0), None, None, conversion).batches(shuffle=True)) for _ in range(2))
    other.seed = one.seed
    assert next(one.epoch(0)).inputs.tolist() == next(other.epoch(0)).inputs.tolist()


@pytest.mark.parametrize("steps", [0, -2, 1.5, "3", True])
def test_steps_must_be_a_number_of_steps(steps, paced):
    with pytest.raises(ValueError, match="`steps_per_epoch` must be a positive integer, -1 or None"):
        paced(loader(3), steps=steps)
