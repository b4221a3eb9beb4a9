import pickle

import pytest

from torchfit._data.adapters.datasets import SampleFetcher
from torchfit._data.adapters.iterables import SeededStream
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


class RichError(Exception):
    def __init__(self, *, code):
        super().__init__()
        self.code = code


@pytest.mark.parametrize(
    "error", [RichError(code=3), KeyError("colour"), FileNotFoundError(2, "No such file", "/data/a.png")], ids=repr
)
def test_an_exception_is_raised_again_with_a_note(error):
    arguments, attributes = error.args, dict(vars(error))
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            reraise_with_location(error, "sample 3")
        assert caught.value is error
    assert error.__notes__ == ["Raised while reading sample 3."]
    assert error.args == arguments
    assert {**vars(error), "__notes__": None} == {**attributes, "__notes__": None}


def test_the_end_of_an_iteration_is_an_error():
    error = StopIteration("bad")
    with pytest.raises(RuntimeError, match=r"StopIteration: bad \(sample 3\)") as caught:
        reraise_with_location(error, "sample 3")
    assert caught.value.__cause__ is error
