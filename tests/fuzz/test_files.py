"""Files that were damaged or forged in all ways.

Reading them works, or raises a `ValueError` that names the file. It executes nothing, opens and changes no other file,
and takes little time and memory. Some cases of each kind are tried by default; for more of them, with what they took:

    TORCHFIT_FUZZ_CASES=4000 python -m pytest tests/fuzz -n 0 -s
"""

import io
import itertools
import json
import os
import pickletools
import random
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import torchfit
from torchfit._serialization import archive
from torchfit._serialization.files import write_atomically
from torchfit._serialization.zip_files import append_checksum, iter_zip
from torchfit.models import load_model
from torchfit.saving import load_weights

CASES = int(os.environ.get("TORCHFIT_FUZZ_CASES", "60"))  # for each of the five kinds of files
SECONDS = 20  # for one case, on a busy machine
MEGABYTES = 512  # more than before the first case


class Custom(nn.Module):
    """A class that files may build by its constructor."""

    def __init__(self, size, inner):
        super().__init__()
        self.layer, self.inner = nn.Linear(size, size), inner

    def forward(self, x):
        return self.inner(self.layer(x))

    def get_config(self):
        return {"size": self.layer.in_features, "inner": self.inner}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LSTM(4, 4, batch_first=True), Custom(4, nn.Tanh()))


def model():
    made = torchfit.Model(network(), device="cpu")
    made.compile(torchfit.optimizers.Adam(1e-3, use_ema=True), nn.CrossEntropyLoss(), metrics=["acc"])
    made.build_optimizer()
    return made


class TooSlowError(Exception):
    pass


def _interrupt(*_):
    raise TooSlowError


class Auditor:
    """Notes what the interpreter is asked to execute or to change outside of the file that is read."""

    EXECUTION: tuple[str, ...] = (
        "exec",
        "compile",
        "import",
        "marshal.",
        "ctypes.",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "pty.",
        "subprocess.",
        "code.__new__",
        "function.__new__",
    )
    OUTSIDE = ("open", "os.", "shutil.", "socket.", "urllib.", "tempfile.", "sqlite3.", "glob.", "webbrowser.")

    def __init__(self):
        self.path, self.events = None, []
        sys.addaudithook(self.note)  # for good: there is no way to remove one

    def note(self, event, arguments):
        if self.path is None:
            return
        is_reading = event == "open" and str(arguments[0]) == self.path and "r" in str(arguments[1] or "r")
        is_torchs = event == "import" and arguments[0].partition(".")[0] in ("torch", "torchfit", "encodings")
        if event.startswith((*self.EXECUTION, *self.OUTSIDE)) and not (is_reading or is_torchs or is_importing()):
            self.events.append((event, str(arguments)[:200]))

    @contextmanager
    def watch(self, path):
        self.path, self.events = str(path), []
        try:
            yield self.events
        finally:
            self.path = None


def is_importing():
    """Return whether a module is being imported, which is noted by its name when it begins."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


class Record:
    """What all cases took together."""

    def __init__(self):
        self.auditor, self.cases, self.refused, self.slowest = Auditor(), 0, 0, (0.0, "")
        self.megabytes_before = peak_megabytes()

    @property
    def megabytes(self):
        return peak_megabytes() - self.megabytes_before

    def __str__(self):
        read = f"{self.cases} files were read in all ways, {self.refused} times a ValueError said why not"
        seconds, name = self.slowest
        return f"{read}; at most {seconds:.2f} s for one ({name}) and {self.megabytes:.0f} MB for all."


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "file"
    model().save(path)
    for read in readers(path).values():  # What is imported at the first use.
        read()
    made = Record()
    yield made
    print(f"\n{made}")


def readers(path):
    return {
        "load_model": lambda: load_model(path, custom_objects={"Custom": Custom}),
        "load_weights": lambda: load_weights(network(), path),
    }


@pytest.fixture
def survives(record):
    """Return a function that reads a file in all ways, each of which works or raises a `ValueError` that names it."""

    def check(path, name):
        record.cases += 1
        for reader, read in readers(path).items():
            refusal, started = None, time.process_time()
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            try:
                with warnings.catch_warnings(), record.auditor.watch(path) as events:
                    warnings.simplefilter("ignore")
                    read()
            except ValueError as error:
                refusal = str(error)
                record.refused += 1
            except BaseException as error:
                raise AssertionError(f"{reader}, case {name}: {type(error).__name__}") from error
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            record.slowest = max(record.slowest, (time.process_time() - started, f"{reader}, {name}"))
            assert events == [], (reader, name)
            assert refusal is None or str(path) in refusal, (reader, name, refusal)
            assert refusal is None or all(line.isprintable() for line in refusal.split("\n")), (reader, name)
            assert record.megabytes <= MEGABYTES, (reader, name)

    previous = signal.signal(signal.SIGALRM, _interrupt)
    yield check
    signal.signal(signal.SIGALRM, previous)


def cases(kind):
    """Yield a generator of random numbers for each case."""
    for number in range(CASES):
        yield f"{kind} {number}", random.Random(f"{kind} {number}")


def model_file(tmp_path):
    model().save(tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


def torch_file(**options):
    buffer = io.BytesIO()
    torch.save(network().state_dict(), buffer, **options)
    return buffer.getvalue()


def mutate_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        start = rng.randrange(len(data))
        stop = min(start + rng.choice([1, 2, 4, 64, 1024]), len(data))
        change = rng.randrange(5)
        if change == 0:
            data[start] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[start:stop] = rng.randbytes(stop - start)
        elif change == 2:
            del data[start:stop]
        elif change == 3:
            data[start:start] = data[start:stop]
        else:
            data[start:stop] = b"\xff" * (stop - start)
        data = data or bytearray(b"\0")
    return bytes(data)


def test_bytes(tmp_path, survives):
    files = [model_file(tmp_path), torch_file(), torch_file(_use_new_zipfile_serialization=False)]
    for name, rng in cases("bytes"):
        (tmp_path / "file").write_bytes(mutate_bytes(rng.choice(files), rng))
        survives(tmp_path / "file", name)


# -- zip files ---------------------------------------------------------------------------------------------------------


def parts_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def mutate_end(data, rng):
    """Change the directory or the end of a zip file, where sizes and places are."""
    data = bytearray(data)
    start = data.index(b"PK\1\2")
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(start, len(data) - 8)
        layout, value = rng.choice([("<H", 0xFFFF), ("<L", 0xFFFFFFFF), ("<Q", 1 << 62), ("<L", 0), ("<B", 255)])
        struct.pack_into(layout, data, place, rng.randint(0, value))
    return bytes(data)


def forge_parts(parts, rng):
    """Repeat, leave out, rename or resize parts."""
    parts = list(parts)
    for _ in range(rng.randint(1, 3)):
        number = rng.randrange(len(parts))
        name, content = parts[number]
        change = rng.randrange(5)
        if change == 0:
            parts.append((name, content))
        elif change == 1 and len(parts) > 1:
            del parts[number]
        elif change == 2:
            names = ["archive/data/0", "../../evil", "/etc/evil", "a", "archive/\x1bevil"]
            parts[number] = (rng.choice(names), content)
        elif change == 3:
            parts[number] = (name, content[: rng.randrange(len(content) + 1)])
        else:
            parts[number] = (name, content + bytes(rng.randrange(100)))
    return parts


def write_zip(path, parts, rng):
    if rng.random() < 0.5:
        write_atomically(path, append_checksum(iter_zip((name, content) for name, content in parts if name.isascii())))
        return
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in parts:
            file.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_files(tmp_path, survives):
    files = [model_file(tmp_path), torch_file()]
    for name, rng in cases("zip"):
        data = rng.choice(files)
        if rng.random() < 0.5:
            (tmp_path / "file").write_bytes(mutate_end(data, rng))
        else:
            write_zip(tmp_path / "file", forge_parts(parts_of(data), rng), rng)
        survives(tmp_path / "file", name)


# -- pickles -----------------------------------------------------------------------------------------------------------

INSTRUCTIONS = [op.code.encode("latin1") for op in pickletools.opcodes]
GLOBALS = [
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cbuiltins\nbytearray\n",
    b"cbuiltins\nset\n",
    b"ctorch\nload\n",
    b"ctorch\nTensor\n",
    b"ctorch._utils\n_rebuild_sparse_tensor\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"ccollections\nOrderedDict\n",
    b"ccollections\nCounter\n",
]


def instructions(data):
    """Split a pickle into its instructions."""
    starts = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(starts)]


def mutate_pickle(data, rng):
    steps = instructions(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        number = rng.randrange(1, len(steps) - 1)
        change = rng.randrange(7)
        if change == 0:
            del steps[number]
        elif change == 1:
            steps.insert(number, rng.choice(steps))
        elif change == 2:
            steps.insert(number, rng.choice(INSTRUCTIONS) + rng.randbytes(rng.randrange(9)))
        elif change == 3:
            other = rng.randrange(1, len(steps) - 1)
            steps[number], steps[other] = steps[other], steps[number]
        elif change == 4:
            steps[number] = rng.choice(GLOBALS)
        elif change == 5:
            steps[number] = b"J" + struct.pack("<i", rng.choice([-1, 0, 2**31 - 1, rng.randint(0, 1000)]))
        else:
            steps[number] = rng.choice([b"]", b"}", b")", b"N", b"\x88", b"X\x01\0\0\0\x1b", b"G\x7f\xf0" + bytes(6)])
    return b"".join(steps)


def test_pickles(tmp_path, survives):
    files = [parts_of(model_file(tmp_path)), parts_of(torch_file())]
    for name, rng in cases("pickle"):
        parts = [
            (part, mutate_pickle(content, rng) if part.endswith("data.pkl") else content)
            for part, content in rng.choice(files)
        ]
        write_zip(tmp_path / "file", parts, rng)
        survives(tmp_path / "file", name)


# -- what stands in a file of a model ----------------------------------------------------------------------------------


def odd_values(rng):
    shared: list[Any] = [1]
    for _ in range(rng.randint(1, 30)):
        shared = [shared, shared]
    function = {"#": "function", "name": "relu", "module": "torch.nn.functional", "registered": None}
    return [
        *(None, True, -1, 0, 7, 10**6, 2**62, float("nan"), "", "evil\x1b[2J\u202e\n", "Linear", "LSTM"),
        *("DataParallel", "forward", [], {}, [[]], shared, torch.zeros(3), torch.zeros(0), b"bytes"),
        *({"#": "module", "number": 0}, {"#": "module", "number": -1}, {"#": "tensor"}, {"#": "tuple", "items": [1]}),
        *({"#": "set", "items": [[1]]}, {"#": "device", "name": "cuda:99"}, function, {**function, "name": "eval"}),
        *({**function, "#": "class", "name": "Linear", "module": "torch.nn"}, {**function, "module": "builtins"}),
        {"#": "partial", "items": [function, [], {}]},
    ]


def containers(value):
    """Return all dictionaries and lists that are not empty, each once."""
    found, stack = {}, [value]
    while stack:
        part = stack.pop()
        if isinstance(part, (dict, list)) and part and id(part) not in found:
            found[id(part)] = part
            stack += part.values() if isinstance(part, dict) else part
    return list(found.values())


def mutate_content(content, rng):
    for _ in range(rng.choice([1, 1, 2, 6])):
        target = rng.choice(containers(content))
        key = rng.choice(list(target)) if isinstance(target, dict) else rng.randrange(len(target))
        change = rng.randrange(4)
        if change == 0:
            del target[key]
        elif change == 1:
            other = rng.choice(containers(content))
            target[key] = rng.choice(list(other.values()) if isinstance(other, dict) else other)
        elif change == 2 and isinstance(target, dict):
            target[rng.choice(["#", "config", "problem", "metric", "evil\x1b", "weight", "num_layers"])] = target[key]
        else:
            target[key] = rng.choice(odd_values(rng))


def test_contents_of_models(tmp_path, survives):
    path = tmp_path / "whole"
    model().save(path)
    for name, rng in cases("content"):
        content = archive.read(path)
        mutate_content(content, rng)
        try:
            archive.write(tmp_path / "file", content)
        except TypeError:  # it contains itself, or something that nobody can write
            continue
        survives(tmp_path / "file", name)


# -- safetensors -------------------------------------------------------------------------------------------------------


def test_safetensors(tmp_path, survives):
    safetensors = pytest.importorskip("safetensors.torch", reason="tests the extra package safetensors")
    path = tmp_path / "file.safetensors"
    whole = safetensors.save(network().state_dict(), {"torchfit": "1"})
    size = int.from_bytes(whole[:8], "little")
    for name, rng in cases("safetensors"):
        if rng.random() < 0.5:
            path.write_bytes(mutate_bytes(whole, rng))
        else:
            header = json.loads(whole[8 : 8 + size])
            entry = header[rng.choice(list(header))]
            entry[rng.choice([*entry, "evil\x1b"])] = rng.choice([[], [2**62, 2**62], [0, 10**12], "F64", -1, None, {}])
            text = json.dumps(header).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + size :])
        survives(path, name)


def test_a_whole_file_survives_as_it_is(tmp_path, survives):
    (tmp_path / "file").write_bytes(model_file(tmp_path))
    survives(tmp_path / "file", "whole")
