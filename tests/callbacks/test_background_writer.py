import gc
import threading
import weakref

import pytest

from torchfit.callbacks.model_checkpoint import BackgroundWriter


@pytest.fixture
def writer():
    writer = BackgroundWriter()
    yield writer
    writer.close()


def full_disk():
    raise OSError(28, "No space left on device")


def test_files_are_written_one_after_the_other_by_one_thread(writer):
    threads = []
    for _ in range(3):
        writer.start(lambda: threads.append(threading.current_thread().name))
    writer.wait()
    assert threads == ["torchfit-writer"] * 3


def test_waiting_lasts_until_the_file_is_there(writer):
    may_end, written = threading.Event(), []
    writer.start(lambda: (may_end.wait(60), written.append(True)))
    assert written == []
    may_end.set()
    writer.wait()
    assert written == [True]
    writer.wait()  # There is nothing to wait for.


def test_what_went_wrong_is_raised_once_where_it_is_waited_for(writer):
    writer.start(full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        writer.wait()
    writer.wait()
    written = []
    writer.start(lambda: written.append(True))
    writer.wait()
    assert written == [True]


def test_the_next_file_is_not_begun_after_an_error(writer):
    written = []
    writer.start(full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        writer.start(lambda: written.append(True))
    writer.wait()
    assert written == []


def test_at_the_end_an_error_is_a_warning_and_no_thread_is_left():
    writer = BackgroundWriter()
    writer.start(full_disk)
    with pytest.warns(UserWarning, match="A file of this training run was not written: .*No space left"):
        writer.close()
    assert "torchfit-writer" not in [thread.name for thread in threading.enumerate()]


def test_it_writes_again_after_the_end(writer):
    written = []
    for number in range(2):
        writer.start(lambda number=number: written.append(number))
        writer.close()
    assert written == [0, 1]


def test_the_contents_of_a_file_are_let_go_of_once_it_is_written(writer):
    class Contents:
        def write(self):
            pass

    contents = Contents()
    seen = weakref.ref(contents)
    writer.start(contents.write)
    del contents
    writer.wait()
    gc.collect()
    assert seen() is None
