"""What Windows and macOS do in another way, simulated here: files, folders, processes, memory maps, consoles.

Nothing here shows that torchfit runs on these systems. It shows what the code does where a system call is missing or
refuses what Linux allows.
"""

import errno
import mmap
import multiprocessing
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import torchfit
from torchfit import callbacks
from torchfit._serialization import files
from torchfit._trainer.loops import peak_memory

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def make_model():
    torch.manual_seed(0)
    model = torchfit.Model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
    model.compile("adam", "mse")
    return model


# -- files -------------------------------------------------------------------------------------------------------------

DESCRIPTORS = Path("/proc/self/fd")


def is_open(path):
    """Return whether this process has a file open."""
    return os.path.realpath(path) in map(os.path.realpath, DESCRIPTORS.iterdir())


def refuse_open_files(function):
    def refusing(*paths, **options):
        if not options.get("dir_fd") and any(is_open(path) for path in paths):
            raise PermissionError(errno.EACCES, "The file is in use", *paths[:1])
        return function(*paths, **options)

    return refusing


@pytest.fixture
def windows(monkeypatch):
    """No locks on files, none that is open can be renamed, replaced or deleted, and folders cannot be opened."""
    if not DESCRIPTORS.exists():
        pytest.skip("the system does not show which files are open")
    open_file = os.open

    def open_no_folder(path, *arguments, **options):
        if os.path.isdir(path) and not arguments[0] & getattr(os, "O_TMPFILE", 0):
            raise PermissionError(errno.EACCES, "This is a folder", path)
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setattr(files, "_write", files._write_one)
    monkeypatch.setattr(files, "_cleaned", set())
    for name in ("replace", "unlink"):
        monkeypatch.setattr(files.os, name, refuse_open_files(getattr(os, name)))  # type: ignore[attr-defined]
    monkeypatch.setattr(files.os, "open", open_no_folder)  # type: ignore[attr-defined]


def test_the_simulation_refuses_what_windows_refuses(windows, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with open(tmp_path / "file", "rb"):
        with pytest.raises(PermissionError):
            os.unlink(tmp_path / "file")
        with pytest.raises(PermissionError):
            os.replace(tmp_path / "file", tmp_path / "other")
    with pytest.raises(PermissionError):
        os.open(tmp_path, os.O_RDONLY)
    os.unlink(tmp_path / "file")


def test_files_are_replaced_without_locks(windows, tmp_path):
    for content in (b"first", b"second"):
        files.write_atomically(tmp_path / "folder" / "file", [content[:3], content[3:]])
        assert (tmp_path / "folder" / "file").read_bytes() == content
    assert os.listdir(tmp_path / "folder") == ["file"]


def test_a_file_that_is_read_elsewhere_stays_and_is_named(windows, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with open(tmp_path / "file", "rb"), pytest.raises(PermissionError, match="Could not write the file") as caught:
        files.write_atomically(tmp_path / "file", [b"new"])
    assert caught.value.filename == str(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_nothing(windows, tmp_path):
    def chunks():
        yield b"half"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        files.write_atomically(tmp_path / "file", chunks())
    assert os.listdir(tmp_path) == []


def test_leftovers_are_removed_once_they_are_old(windows, tmp_path):
    leftover = tmp_path / f".torchfit-{files._host()}-0123456789abcdef.tmp"
    leftover.write_bytes(b"half")
    files.write_atomically(tmp_path / "file", [b"all"])
    assert leftover.exists()  # Without a lock it could belong to a process that is writing.
    os.utime(leftover, (0, 0))
    files._cleaned.clear()
    files.write_atomically(tmp_path / "file", [b"all"])
    assert os.listdir(tmp_path) == ["file"]


def test_old_files_that_another_process_writes_are_left_alone(windows, tmp_path):
    leftover = tmp_path / ".torchfit-another-0123456789abcdef.tmp"
    with open(leftover, "wb"):
        os.utime(leftover, (0, 0))
        files.write_atomically(tmp_path / "file", [b"all"])
    assert leftover.exists()


@pytest.mark.parametrize("name", ["model.torchfit", "weights.weights.pt", "weights.safetensors"])
def test_what_is_loaded_can_be_saved_at_the_same_path(windows, tmp_path, name):
    model = make_model()
    model.fit(X, Y, verbose=0)
    is_model = name == "model.torchfit"
    save = model.save if is_model else model.save_weights
    save(tmp_path / name)
    if is_model:
        loaded = torchfit.models.load_model(tmp_path / name)
    else:
        loaded = make_model()
        loaded.load_weights(tmp_path / name)
    save(tmp_path / name)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    assert os.listdir(tmp_path) == [name]


class Breaks(callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_callbacks_that_write_files(windows, tmp_path):
    def run(model, *more):
        written = [
            callbacks.BackupAndRestore(tmp_path / "backup"),
            callbacks.ModelCheckpoint(tmp_path / "best.weights.pt", save_weights_only=True),
            callbacks.CSVLogger(tmp_path / "log.csv", append=True),
        ]
        return model.fit(X, Y, epochs=4, verbose=0, callbacks=[*written, *more])

    with pytest.raises(KeyboardInterrupt):
        run(make_model(), Breaks())
    resumed = make_model()
    run(resumed)
    whole = make_model()
    whole.fit(X, Y, epochs=4, verbose=0)
    for ours, theirs in zip(resumed.module.parameters(), whole.module.parameters()):
        assert torch.equal(ours, theirs)
    assert len((tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()) == 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["best.weights.pt", "log.csv"]


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [r"C:\models\best.pt", "C:/models/best.pt", "C://models", r"\\server\share\best.pt"])
def test_drives_and_shares_are_no_addresses(path):
    assert not files.is_remote(path)
    assert files.local_path(path) == path


def test_file_addresses_with_a_drive(monkeypatch):
    nturl2path = pytest.importorskip("nturl2path")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        monkeypatch.setattr(files, "url2pathname", nturl2path.url2pathname)
        assert files.local_path("file:///C:/my%20models/best.pt") == r"C:\my models\best.pt"
        assert files.local_path("file://localhost/C:/models/best.pt") == r"C:\models\best.pt"


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_maps_where_pages_cannot_be_released(monkeypatch, tmp_path):
    monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    monkeypatch.setattr("torchfit._data.adapters.lazy_arrays._MAX_MAPPED_BYTES", 0)
    X.tofile(tmp_path / "x.dat")
    mapped = np.memmap(tmp_path / "x.dat", "float32", mode="r", shape=X.shape)
    on_disk, in_memory = (
        make_model().fit(data, Y, batch_size=8, epochs=2, shuffle=False, verbose=0) for data in (mapped, X)
    )
    assert on_disk.history == in_memory.history


def test_peak_memory_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory(torch.device("cpu")) == 0
    history = make_model().fit(X, Y, verbose=0)
    assert history.timing["peak_memory"] == [0.0]


def test_peak_memory_on_macos_is_counted_in_bytes(monkeypatch):
    usage = types.SimpleNamespace(ru_maxrss=12_000_000)
    resource = types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)
    monkeypatch.setitem(sys.modules, "resource", resource)
    monkeypatch.setattr("sys.platform", "darwin")
    assert peak_memory(torch.device("cpu")) == 12_000_000
    monkeypatch.setattr("sys.platform", "linux")
    assert peak_memory(torch.device("cpu")) == 12_000_000 * 1024


# -- workers -----------------------------------------------------------------------------------------------------------


class Samples(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return X[index], Y[index]


class Batches(torchfit.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


class Stream(IterableDataset):
    def __iter__(self):
        return zip(X, Y)


class MappedSamples(Dataset):
    """Samples in a memory map, which each process opens for itself."""

    def __init__(self, path):
        self.x = np.load(path, mmap_mode="r")

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return np.array(self.x[index]), Y[index]

    def __getstate__(self):
        return {"path": self.x.filename}

    def __setstate__(self, state):
        self.__init__(state["path"])


@pytest.fixture
def spawns():
    """Worker processes inherit nothing, as on Windows and macOS."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


SOURCES = {
    "Dataset": (lambda path: Samples(), {"batch_size": 8, "workers": 1, "use_multiprocessing": True}),
    "IterableDataset": (lambda path: Stream(), {"batch_size": 8, "workers": 1, "use_multiprocessing": True}),
    "Sequence": (lambda path: Batches(), {"workers": 1, "use_multiprocessing": True}),
    "DataLoader": (lambda path: DataLoader(MappedSamples(path), 8, num_workers=1), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_workers_that_inherit_nothing(spawns, source, tmp_path):
    np.save(tmp_path / "x.npy", X)
    make, options = SOURCES[source]
    data = make(tmp_path / "x.npy")
    found = make_model().fit(data, **options, shuffle=False, verbose=0)
    expected = make_model().fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert found.history == expected.history


@pytest.mark.filterwarnings("ignore:Got pickle error")  # torch's own advice, from 2.9 on
def test_data_that_cannot_be_sent_to_workers_that_inherit_nothing(spawns):
    class Local(Samples):
        pass

    with pytest.raises(ValueError, match="cannot be sent to worker processes"):
        make_model().fit(Local(), workers=1, use_multiprocessing=True, verbose=0)


# -- consoles ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import warnings
import numpy as np, torchfit
from torch import nn
from torchfit import callbacks
warnings.filterwarnings("error", category=EncodingWarning, module="torchfit")
x = np.zeros((16, 4), "float32")
model = torchfit.Model(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)))
model.compile("adam", "mse", metrics=["mae"])
model.fit(x, x[:, :1], epochs=2, validation_split=0.5, callbacks=callbacks.CSVLogger("log.csv"))
model.evaluate(x, x[:, :1])
model.summary()
"""


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_what_is_printed_needs_no_unicode(encoding, tmp_path):
    """Also, no text file depends on the encoding of the system."""
    folder = Path(torchfit.__file__).parents[1]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(folder)}
    arguments = [sys.executable, "-X", "warn_default_encoding", "-c", PROGRAM]
    result = subprocess.run(arguments, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert result.returncode == 0, result.stderr.decode(errors="replace")
    assert "Total params: 49" in result.stdout.decode(encoding)
