import numpy as np
import pytest

from torchfit._data.arguments import Loading
from torchfit._data.source import as_source
from torchfit.utils import DatasetCreator


def numbers(count=3):
    for number in range(count):
        yield np.array([float(number)]), np.array([number])


EXPECTED = [([0], [0]), ([1], [1]), ([2], [2])]


@pytest.mark.parametrize("loading", [Loading(), Loading(workers=2), Loading(use_multiprocessing=True)])
def test_a_generator_is_read_in_order(loading, batches_of):
    assert batches_of(numbers(), loading=loading) == EXPECTED


def test_a_generator_gives_its_batches_once(conversion):
    batches = as_source(numbers(), None, None, conversion).batches()
    assert [len(list(batches.epoch(epoch))) for epoch in range(2)] == [3, 0]


def test_a_generator_outlives_an_epoch_that_is_broken_off(conversion):
    generator = numbers()
    epoch = as_source(generator, None, None, conversion).batches().epoch(0)
    next(epoch)
    del epoch
    assert next(generator)[1] == 1


def test_a_list_of_batches_would_be_inputs_but_an_iterable_is_data(batches_of):
    class Batches:
        def __iter__(self):
            return numbers()

        def __len__(self):
            return 3

    assert batches_of(Batches()) == EXPECTED


def test_a_function_makes_a_new_generator_for_every_epoch(conversion):
    batches = as_source(numbers, None, None, conversion)
    with pytest.raises(ValueError, match="needs 2 arguments"):
        as_source(lambda a, b: None, None, None, conversion)
    batches = as_source(lambda: numbers(2), None, None, conversion).batches()
    assert [len(list(batches.epoch(epoch))) for epoch in range(3)] == [2, 2, 2]


def test_a_dataset_creator_is_told_the_process(batches_of):
    creator = DatasetCreator(lambda context: numbers(context.num_input_pipelines))
    assert batches_of(creator) == EXPECTED[:1]


def test_a_function_may_make_arrays(batches_of):
    assert batches_of(lambda: (np.zeros(1), np.ones(1))) == [([0], [1])]


def test_an_exception_tells_the_batch(batches_of):
    def broken():
        yield np.zeros(1)
        raise OSError("disk gone")

    with pytest.raises(OSError, match=r"disk gone \(batch 1 of the data"):
        batches_of(broken())


def test_keyboard_interrupts_pass_untouched(batches_of):
    def interrupted():
        yield np.zeros(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batches_of(interrupted())
