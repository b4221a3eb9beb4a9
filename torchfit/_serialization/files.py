"""Files that are there whole or not at all, in folders of this machine and at addresses such as `s3://…`.

A local file is written under a temporary name in the folder of its target, forced to the disk, and renamed:
whoever looks at the target, also after a power cut, sees the old file or the new one. For that, the contents must be
on the disk before the name is; when the name follows is a matter of seconds, unless the folder is forced to the disk
as well. A remote file is written here first and then uploaded in one piece, which object stores make visible when it
is complete.
"""

import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from itertools import count, islice
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast

PathLike: TypeAlias = "str | os.PathLike[str]"
Piece: TypeAlias = "bytes | bytearray | memoryview"

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")  # two letters at least: "C://" is a drive
_TEMPORARY = re.compile(r"^\.torchfit-(?P<host>.*)-(?P<process>\d+)-\d+\.tmp$")
_AT_ONCE = 64  # pieces of a file that are handed to the system together, if it can
_numbers = count()
_in_use: set[str] = set()
_swept: set[tuple[int, str]] = set()  # processes, and the folders that they have looked through


def _write_one(descriptor: int, pieces: Sequence[Piece]) -> int:
    return os.write(descriptor, pieces[0])


_write = getattr(os, "writev", _write_one)  # not on Windows


def is_remote(path: PathLike) -> bool:
    """Tell whether a path is an address that fsspec opens.

    >>> is_remote("s3://bucket/model"), is_remote("ckpt/model"), is_remote("file:///tmp/model")
    (True, False, False)
    """
    text = os.fspath(path)
    return bool(_SCHEME.match(text)) and not text.startswith("file://")


class Place(NamedTuple):
    """Where a file is to be written."""

    path: str
    """As it was asked for."""

    target: str
    """Where that is on this machine, or its address."""

    permissions: int
    """Those of the file that is there, or of a new one."""

    is_special: bool = False
    """Whether there is a device, a pipe or a folder."""

    is_remote: bool = False
    """Whether it is an address that fsspec opens."""


def resolve_target(path: PathLike) -> Place:
    """Return what a path leads to: of a link, the file is replaced, and not the link."""
    if is_remote(path):
        return Place(os.fspath(path), os.fspath(path), 0, is_remote=True)
    target = os.path.abspath(_local(path))
    mode = _mode(target)
    if mode is not None and stat.S_ISLNK(mode):
        target = os.path.realpath(target)
        mode = _mode(target)
    if mode is None:
        return Place(os.fspath(path), target, 0o666 & ~_umask())
    return Place(os.fspath(path), target, stat.S_IMODE(mode), not stat.S_ISREG(mode))


def write_atomically(path: PathLike, pieces: Iterable[Piece]) -> None:
    """Put a file of these pieces at `path`, as `write_at` does, and wait until a power cut cannot take it back."""
    write_target(resolve_target(path), pieces)


def write_target(place: Place, pieces: Iterable[Piece], lasting: bool = True) -> None:
    """Put a file of these pieces at its place, as a whole; missing folders are made.

    If `pieces` raises, the file that was there stays as it was and nothing else is left behind. `lasting` says whether
    to wait until a power cut cannot bring back the old file, which the disk may take a few milliseconds for.

    Raises:
        OSError: The file cannot be written (no space, no permission, …); it is named.
    """
    with _named(place.path):
        if place.is_remote:
            _upload(place.target, pieces)
        elif place.is_special:
            _write_into(place.target, pieces)
        else:
            _replace(place.target, place.permissions, pieces, lasting)


def open_read(path: PathLike) -> BinaryIO:
    """Open a file for reading, to be closed by the caller. It can be read anywhere (`seek`), also a remote one."""
    if not is_remote(path):
        return open(_local(path), "rb")
    return cast(BinaryIO, import_module("fsspec").open(os.fspath(path), "rb").open())


def check_writable(what: str, path: PathLike) -> None:
    """See to it that a file may be written at a path of this machine; missing folders count as if they were made.

    Raises:
        OSError: The folder, or the nearest one above it that is there, is none or takes no files. `what` names the
            path in the message.
    """
    if is_remote(path):
        return
    folder = os.path.dirname(os.path.abspath(_local(path)))
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{what}: cannot write to {os.fspath(path)!r}: {folder!r} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{what}: cannot write to {os.fspath(path)!r}: no permission for the folder {folder!r}.")


def exists(path: PathLike) -> bool:
    """Tell whether there is a file (or folder) at `path`."""
    if not is_remote(path):
        return os.path.exists(_local(path))
    system, inner = _remote(path)
    return bool(system.exists(inner))


def remove(path: PathLike) -> None:
    """Delete the file at `path`, if there is one."""
    if not is_remote(path):
        with suppress(FileNotFoundError):
            os.unlink(_local(path))
        return
    system, inner = _remote(path)
    with suppress(FileNotFoundError):
        system.rm_file(inner)


def move(path: PathLike, target: PathLike) -> None:
    """Give the file at `path`, if there is one, another name in the same folder, replacing what was there.

    Raises:
        OSError: It cannot be; the target is named.
    """
    with _named(target):
        if not is_remote(path):
            with suppress(FileNotFoundError):
                os.replace(_local(path), _local(target))
        elif exists(path):
            system, inner = _remote(path)
            system.mv(inner, _remote(target)[1])


def require_writable(folder: PathLike) -> None:
    """Make a folder if it is missing, and raise if no file can be written there; addresses are not looked at.

    Raises:
        OSError: The folder cannot be made or written to; it is named.
    """
    if is_remote(folder):
        return
    with _named(folder):
        os.makedirs(_local(folder), exist_ok=True)
        with tempfile.TemporaryFile(dir=_local(folder)) as file:
            file.write(b"torchfit")


def remove_empty_folder(folder: PathLike) -> None:
    """Delete a folder of this machine if it is empty."""
    with suppress(OSError):
        os.rmdir(_local(folder))


def _local(path: PathLike) -> str:
    text = os.path.expanduser(os.fspath(path))
    return text.removeprefix("file://")


def _remote(path: PathLike) -> tuple[Any, str]:
    system, inner = import_module("fsspec").core.url_to_fs(os.fspath(path))
    return system, inner


@contextmanager
def _named(path: PathLike) -> Iterator[None]:
    """Let every OSError name the file that was asked for, and not a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"Could not write the file {os.fspath(path)!r}: {error}") from error
        raise OSError(error.errno, f"Could not write the file: {error.strerror}", os.fspath(path)) from error


def _replace(target: str, permissions: int, pieces: Iterable[Piece], lasting: bool) -> None:
    folder = os.path.dirname(target)
    _sweep(folder)
    name = f".torchfit-{_host()}-{os.getpid()}-{next(_numbers)}.tmp"
    temporary = os.path.join(folder, name)
    _in_use.add(name)
    try:
        _write_new(temporary, permissions, pieces)
        if permissions & _umask():
            os.chmod(temporary, permissions)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        _in_use.discard(name)
    if lasting:
        _sync_folder(folder)


def _mode(target: str) -> int | None:
    """Return what kind of file there is, and its permissions."""
    try:
        return os.lstat(target).st_mode
    except OSError:
        return None


def _write_new(path: str, permissions: int, pieces: Iterable[Piece]) -> None:
    """Write a new file, and wait until the disk has it; its folder is made if it is missing.

    This asks the system for no more than it must: a thread that writes takes turns with the training at each question.
    """
    descriptor = _new(path, permissions)
    try:
        remaining = iter(pieces)
        while some := list(islice(remaining, _AT_ONCE)):
            _write_all(descriptor, some)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new(path: str, permissions: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, permissions)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, permissions)


def _write_all(descriptor: int, pieces: Iterable[Piece]) -> None:
    """Write some pieces, at once if the system can."""
    left = [memoryview(piece) for piece in pieces]
    while left:
        size = _write(descriptor, left)
        while left and size >= len(left[0]):
            size -= len(left.pop(0))
        left[:1] = [piece[size:] for piece in left[:1]]


def _write_into(target: str, pieces: Iterable[Piece]) -> None:
    """Write to what must not be replaced, such as a device or a pipe; a folder raises."""
    with open(target, "wb") as file:
        file.writelines(pieces)


def _upload(address: str, pieces: Iterable[Piece]) -> None:
    system, inner = _remote(address)
    with tempfile.TemporaryDirectory(prefix="torchfit-") as folder:
        local = os.path.join(folder, "upload")
        _write_into(local, pieces)
        system.put_file(local, inner)


def _sync_folder(folder: str) -> None:
    """Make a rename survive a power cut, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: str) -> None:
    """Remove temporary files of processes of this machine that were killed while they wrote; once in each process."""
    place = os.getpid(), folder
    if place in _swept:
        return
    _swept.add(place)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        match = _TEMPORARY.match(name) if name.startswith(".torchfit-") else None
        if match is None or match["host"] != _host():
            continue
        process = int(match["process"])
        if name not in _in_use and (process == os.getpid() or not _is_running(process)):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


@cache
def _umask() -> int:
    """Return the permissions that new files do not get; asked for once, since to ask is to set it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@cache
def _host() -> str:
    return socket.gethostname()


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # elsewhere, asking with signal 0 is not harmless
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
