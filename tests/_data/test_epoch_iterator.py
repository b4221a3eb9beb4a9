import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.epoch_iterator import EpochIterator


@pytest.fixture
def epochs_of(batch_spec):
    """Return a function that cuts data into epochs and gives the first inputs of every batch."""

    def cut(x, steps=None, epochs=1, first=0, batch_size=None):
        stopped = []
        batches = EpochIterator(get_data_adapter(x, None, None, batch_spec).batches(batch_size), steps, epochs=epochs)
        batches.on_exhausted = lambda: stopped.append(True)
        found = []
        for epoch in batches.epochs(range(first, epochs)):
            found.append([batch.inputs[0].item() for batch in batches.epoch(epoch)])
            if stopped:
                break
        return found

    return cut


def loader(count):
    return DataLoader(torch.arange(float(count)), batch_size=1)  # type: ignore[arg-type]


def generator(count):
    return (np.array([float(number)]) for number in range(count))


@pytest.mark.parametrize("make", [loader, generator])
def test_fewer_steps_go_on_in_the_next_epoch(make, epochs_of):
    assert epochs_of(make(9), steps=3, epochs=3) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_running_out_within_an_epoch_warns_and_ends(epochs_of):
    with pytest.warns(UserWarning, match=r"^Your input ran out of data: `x` ended after 1 of 3 steps of epoch 2"):
        assert epochs_of(generator(4), steps=3, epochs=9) == [[0, 1, 2], [3]]


def test_running_out_between_epochs_starts_no_empty_epoch(epochs_of):
    with pytest.warns(UserWarning, match=r"^Your input ran out of data"):
        assert epochs_of(generator(6), steps=3, epochs=9) == [[0, 1, 2], [3, 4, 5]]


class Samples(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return float(index)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([0.0, 1.0, 2.0, 3.0])


class Batches:
    def __iter__(self):
        return generator(4)


@pytest.mark.parametrize(
    ("make", "batch_size"),
    [
        (lambda: loader(4), None),
        (lambda: DataLoader(Stream(), batch_size=1), None),
        (Samples, 1),
        (Stream, 1),
        (Batches, None),
        (lambda: lambda: generator(4), None),
    ],
)
def test_what_can_be_iterated_over_again_starts_anew(make, batch_size, epochs_of):
    assert epochs_of(make(), steps=3, epochs=4, batch_size=batch_size) == [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]]
    assert epochs_of(make(), steps=2, epochs=4, batch_size=batch_size) == [[0, 1], [2, 3], [0, 1], [2, 3]]
    with pytest.warns(UserWarning, match="`x` ended after 2 of 6 steps of epoch 2"):
        found = epochs_of(make(), steps=6, epochs=2, batch_size=batch_size)
    assert found == [[0, 1, 2, 3, 0, 1], [2, 3]]


def test_as_many_steps_as_there_are_data_start_anew(epochs_of):
    assert epochs_of(loader(2), steps=2, epochs=3) == [[0, 1]] * 3


def test_a_generator_lasts_for_one_epoch(epochs_of):
    with pytest.warns(UserWarning, match=r"^Your input ran out of data"):
        assert epochs_of(generator(2), epochs=3) == [[0, 1]]


def test_a_loader_is_taken_anew_each_epoch(epochs_of):
    assert epochs_of(loader(2), epochs=2) == [[0, 1], [0, 1]]


def test_minus_one_goes_on_until_the_data_end(epochs_of):
    assert epochs_of(generator(4), steps=-1) == [[0, 1, 2, 3]]


def test_arrays_repeat_as_often_as_there_are_epochs(epochs_of):
    assert epochs_of(np.arange(4.0), steps=3, epochs=3, batch_size=1) == [[0, 1, 2], [3, 0, 1], [2, 3, 0]]
    assert epochs_of(np.arange(4.0), steps=3, epochs=3, first=2, batch_size=1) == [[2, 3, 0]]


def test_arrays_run_out_too(epochs_of):
    with pytest.warns(UserWarning, match="ran out of data"):
        assert epochs_of(np.arange(4.0), steps=6, epochs=2, batch_size=1) == [[0, 1, 2, 3, 0, 1], [2, 3]]


def test_infinite_data_end_with_the_last_epoch(epochs_of):
    def forever():
        while True:
            yield np.zeros(1)

    assert epochs_of(forever(), steps=2, epochs=2) == [[0, 0], [0, 0]]


def test_nothing_is_drawn_beyond_the_last_step(epochs_of):
    data = generator(10)
    epochs_of(data, steps=2, epochs=2)
    assert next(data) == 4


def test_data_without_a_batch_are_refused(epochs_of):
    with pytest.raises(ValueError, match="`x` gave no batch"):
        epochs_of(generator(0))


def test_the_seed_is_that_of_the_batches(batch_spec):
    one, other = (
        EpochIterator(get_data_adapter(np.arange(9.0), None, None, batch_spec).batches(shuffle=True)) for _ in range(2)
    )
    other.seed = one.seed
    assert next(one.epoch(0)).inputs.tolist() == next(other.epoch(0)).inputs.tolist()


@pytest.mark.parametrize("steps", [0, -2, 1.5, "3", True, np.zeros(3), int])
def test_steps_must_be_a_number_of_steps(steps, epochs_of):
    with pytest.raises(ValueError, match="`steps_per_epoch` must be a positive integer, -1 or None"):
        epochs_of(loader(3), steps=steps)


class Ending(list):
    """Says a length, and ends before."""

    def __getitem__(self, index):
        return next(iter(())) if index == 3 else super().__getitem__(index)


class Short:
    def __len__(self):
        return 4

    def __iter__(self):
        return generator(2)


@pytest.mark.parametrize("data", [DataLoader(Ending(range(8)), batch_size=1), Short()], ids=["loader", "iterable"])  # type: ignore[arg-type]
def test_data_that_end_before_their_length_give_a_warning(data, epochs_of):
    with pytest.warns(UserWarning, match=r"`x` ended after \d of \d batches, which is what its length says"):
        epochs_of(data)


def test_an_epoch_that_is_left_early_gives_no_warning(batch_spec):
    epoch = EpochIterator(get_data_adapter(loader(5), None, None, batch_spec).batches()).epoch(0)
    next(epoch)
    epoch.close()


def test_the_length_may_change_from_epoch_to_epoch(batch_spec):
    data = [0.0, 1.0, 2.0]
    batches = EpochIterator(get_data_adapter(DataLoader(data, batch_size=1), None, None, batch_spec).batches())  # type: ignore[arg-type]
    assert len(list(batches.epoch(0))) == batches.steps == 3
    del data[1:]
    assert len(list(batches.epoch(1))) == batches.steps == 1
