import numpy as np
import pytest
from torch import nn

import torchfit
from torchfit.utils import timeseries_dataset_from_array


def windows(*arguments, **options):
    dataset = timeseries_dataset_from_array(*arguments, **options)
    return [batch.tolist() for batch in dataset]


def test_strides_and_rates():
    (found,) = windows(np.arange(99), None, 10, sequence_stride=3, sampling_rate=2)
    assert found[0] == list(range(0, 20, 2))
    assert found[1] == list(range(3, 22, 2))
    assert found[-1] == list(range(78, 98, 2))


def test_targets_belong_to_the_first_step_of_a_window():
    series = np.arange(10)
    dataset = timeseries_dataset_from_array(series[:-3], series[3:], 3, batch_size=4)
    inputs, targets = dataset[0]
    assert (inputs[:, -1] + 1 == targets).all()
    assert [len(batch[0]) for batch in dataset] == [4, 1]


def test_bounds():
    assert windows(np.arange(10), None, 2, start_index=4, end_index=8) == [[[4, 5], [5, 6], [6, 7]]]


def test_single_windows_and_random_order():
    dataset = timeseries_dataset_from_array(np.arange(6), None, 3, batch_size=None)
    assert len(dataset) == 4
    assert dataset[1].tolist() == [1, 2, 3]
    (shuffled,) = windows(np.arange(20), None, 2, shuffle=True, seed=1)
    assert sorted(shuffled) == [[i, i + 1] for i in range(19)] != shuffled


def test_windows_go_into_fit():
    series = np.sin(np.arange(40.0))[:, None]
    dataset = timeseries_dataset_from_array(series[:-4], series[4:], 4, batch_size=8)
    model = torchfit.Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), device="cpu")
    model.compile("adam", "mse")
    history = model.fit(dataset, epochs=2, verbose=0)
    assert history.params["steps"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "`sequence_length` must be a positive integer"),
        ({"sequence_length": 3, "batch_size": -1}, "`batch_size`"),
        ({"sequence_length": 11}, "does not fit into 10 steps"),
        ({"sequence_length": 2, "start_index": 10}, "`start_index`"),
        ({"sequence_length": 2, "start_index": 5, "end_index": 4}, "`end_index`"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        timeseries_dataset_from_array(np.arange(10), None, **options)
