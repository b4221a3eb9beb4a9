import pickle

import pytest

from torchfit._data.adapters.datasets import SampleFetcher
from torchfit._data.adapters.iterable_dataset import SeededStream
from torchfit._data.workers import Request, _RequestDataset, read_ahead, reraise_with_location


class Numbers:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return float(index)


def test_what_workers_hold_can_be_sent_to_fresh_processes():
    reader = pickle.loads(pickle.dumps(_RequestDataset(SampleFetcher(Numbers()))))
    assert reader[Request([1, 3], seed=0)].tolist() == [1, 3]
    assert list(pickle.loads(pickle.dumps(SeededStream([1, 2], seed=0)))) == [1, 2]


def test_reading_ahead_keeps_the_order_and_goes_no_further_than_asked():
    started = []
    ahead = read_ahead(lambda item: started.append(item) or item, range(100), threads=1, queue_size=3)
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    assert len(started) <= 6


class StrangeError(Exception):
    def __init__(self, code, reason):
        super().__init__(code, reason)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("bad"), ValueError), (StrangeError(1, "bad"), RuntimeError), (StopIteration("bad"), RuntimeError)],
)
def test_errors_are_told_with_their_place_and_cause(error, kind):
    with pytest.raises(kind, match=r"bad.*\(sample 3\)") as caught:
        reraise_with_location(error, "sample 3")
    assert caught.value.__cause__ is error
