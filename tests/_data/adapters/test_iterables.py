import numpy as np
import pytest

from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.workers import LoaderConfig
from torchfit.utils import DatasetCreator


def numbers(count=3):
    for number in range(count):
        yield np.array([float(number)]), np.array([number])


EXPECTED = [([0], [0]), ([1], [1]), ([2], [2])]


@pytest.mark.parametrize(
    "loader_config", [LoaderConfig(), LoaderConfig(workers=2), LoaderConfig(use_multiprocessing=True)]
)
def test_a_generator_is_read_in_order(loader_config, batches_of):
    assert batches_of(numbers(), loader_config=loader_config) == EXPECTED


def test_a_generator_gives_its_batches_once(batch_spec):
    batches = get_data_adapter(numbers(), None, None, batch_spec).batches()
    assert [len(list(batches.epoch(epoch))) for epoch in range(2)] == [3, 0]


def test_a_generator_outlives_an_epoch_that_is_broken_off(batch_spec):
    generator = numbers()
    epoch = get_data_adapter(generator, None, None, batch_spec).batches().epoch(0)
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


def test_a_function_makes_a_new_generator_for_every_epoch(batch_spec):
    get_data_adapter(numbers, None, None, batch_spec)
    with pytest.raises(ValueError, match="needs 2 arguments"):
        get_data_adapter(lambda a, b: None, None, None, batch_spec)
    batches = get_data_adapter(lambda: numbers(2), None, None, batch_spec).batches()
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

    with pytest.raises(OSError, match=r"(?s)disk gone.*batch 1 of the data"):
        batches_of(broken())


def test_keyboard_interrupts_pass_untouched(batches_of):
    def interrupted():
        yield np.zeros(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batches_of(interrupted())
