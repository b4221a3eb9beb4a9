"""Writes files atomically, in local folders and at addresses such as `s3://…`.

A local file is written under a temporary name in the folder of its target, flushed to disk and renamed. A reader sees
either the old file or the new one, even after a power failure. The rename itself reaches the disk within seconds, or at
once if the folder is flushed as well. A remote file is written locally and then uploaded; object stores make it visible
only when it is complete.
"""

import errno
import os
import re
import secrets
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, TypeAlias, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from torchfit._serialization.zip_files import Chunk
from torchfit._utils.names import near_names

PathLike: TypeAlias = "str | os.PathLike[str]"

fcntl: Any = import_module("fcntl") if os.name == "posix" else None  # `None` on Windows, which has no such locks

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")  # at least two letters: "C://" is a drive
_FILE_SCHEME = re.compile(r"^file:/", re.IGNORECASE)
_TEMPORARY = re.compile(r"^\.torchfit-(?P<host>.*)-[0-9a-f]{16}\.tmp$")
_ANY_TEMPORARY = re.compile(r"^\.torchfit-.*\.tmp$")  # including those of earlier versions and other machines
_STALE_AFTER = 3600.0  # seconds since the last write, for files that this machine cannot lock
_WRITEV_MAX = 64  # the number of chunks in one system call, if supported
_cleaned: set[tuple[int, str]] = set()  # (process id, folder) in which stale files were removed


def _write_one(descriptor: int, chunks: Sequence[Chunk]) -> int:
    return os.write(descriptor, chunks[0])


_write = getattr(os, "writev", _write_one)  # not on Windows


def is_remote(path: PathLike) -> bool:
    """Return whether a path is an address that fsspec opens.

    >>> is_remote("s3://bucket/model"), is_remote("ckpt/model"), is_remote("FILE:/tmp/model")
    (True, False, False)
    """
    text = os.fspath(path)
    return bool(_SCHEME.match(text)) and not _FILE_SCHEME.match(text)


class FileTarget(NamedTuple):
    """Where a file is written."""

    path: str
    """The path as it was given."""

    resolved: str
    """The absolute path without links, or the address."""

    permissions: int
    """The permissions of the existing file, or of a new one."""

    is_special: bool = False
    """Whether the path is a device, a pipe or a folder."""

    is_remote: bool = False
    """Whether the path is an address that fsspec opens."""


def resolve_target(path: PathLike) -> FileTarget:
    """Return where to write a path. If it is a symbolic link, the file it points to will be replaced, not the link."""
    if is_remote(path):
        return FileTarget(os.fspath(path), os.fspath(path), 0, is_remote=True)
    target = os.path.abspath(local_path(path))
    mode = _mode(target)
    if mode is not None and stat.S_ISLNK(mode):
        target = os.path.realpath(target)
        mode = _mode(target)
    if mode is None:
        return FileTarget(os.fspath(path), target, 0o666 & ~_umask())
    return FileTarget(os.fspath(path), target, stat.S_IMODE(mode), not stat.S_ISREG(mode))


def write_atomically(path: PathLike, chunks: Iterable[Chunk]) -> None:
    """Write a file from chunks, as `write_target` does, and wait until it would survive a power failure."""
    write_target(resolve_target(path), chunks)


def write_target(target: FileTarget, chunks: Iterable[Chunk], durable: bool = True) -> None:
    """Write a file from chunks, atomically; missing folders are created.

    If `chunks` raises, an existing file is unchanged and nothing is left behind. `durable` says whether to wait until a
    power failure can no longer bring back the old file, which may take a few milliseconds.

    Raises:
        OSError: If the file cannot be written (no space, no permission, …); the message names it.
    """
    with _name_path_in_errors(target.path):
        if target.is_remote:
            _upload(target.resolved, chunks)
        elif target.is_special:
            _write_special(target.resolved, chunks)
        else:
            _replace(target.resolved, target.permissions, chunks, durable)


def open_read(path: PathLike) -> BinaryIO:
    """Open a local or remote file for reading. It is seekable, and the caller must close it."""
    if not is_remote(path):
        local = local_path(path)
        if not os.path.lexists(local):
            raise FileNotFoundError(errno.ENOENT, f"No such file{_near_files(local)}", os.fspath(path))
        return open(local, "rb")
    return cast(BinaryIO, import_module("fsspec").open(os.fspath(path), "rb").open())


def _near_files(path: str) -> str:
    """Return a hint that names the folder, and files in it with a name like that of `path`."""
    folder, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f", and no folder {folder!r}"
    near = near_names(name, os.listdir(folder))
    return f" in the folder {folder!r}" + (f" (but {' and '.join(map(repr, near))})" if near else "")


def check_writable(what: str, path: PathLike) -> None:
    """Check that a file can be written at a local path; missing folders would be created.

    Raises:
        OSError: If the folder, or its nearest existing ancestor, is not a writable folder. `what` names the path in
            the message.
    """
    if is_remote(path):
        return
    folder = os.path.dirname(os.path.abspath(local_path(path)))
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"{what}: cannot write to {os.fspath(path)!r}: {folder!r} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{what}: cannot write to {os.fspath(path)!r}: no permission for the folder {folder!r}.")


def exists(path: PathLike) -> bool:
    """Return whether there is a file (or folder) at `path`."""
    if not is_remote(path):
        return os.path.exists(local_path(path))
    system, inner = _remote(path)
    return bool(system.exists(inner))


def remove(path: PathLike) -> None:
    """Delete the file at `path`, if there is one."""
    if not is_remote(path):
        with suppress(FileNotFoundError):
            os.unlink(local_path(path))
        return
    system, inner = _remote(path)
    with suppress(FileNotFoundError):
        system.rm_file(inner)


def move(path: PathLike, target: PathLike) -> None:
    """Rename the file at `path`, if there is one, within the same folder, replacing the target.

    Raises:
        OSError: If it cannot be renamed; the message names the target.
    """
    with _name_path_in_errors(target):
        if not is_remote(path):
            with suppress(FileNotFoundError):
                os.replace(local_path(path), local_path(target))
        elif exists(path):
            system, inner = _remote(path)
            system.mv(inner, _remote(target)[1])


def require_writable(folder: PathLike) -> None:
    """Create a folder if it is missing, and raise if files cannot be written there; addresses are not checked.

    Raises:
        OSError: If the folder cannot be created or written to; the message names it.
    """
    if is_remote(folder):
        return
    with _name_path_in_errors(folder):
        os.makedirs(local_path(folder), exist_ok=True)
        with tempfile.TemporaryFile(dir=local_path(folder)) as file:
            file.write(b"torchfit")


def remove_empty_folder(folder: PathLike) -> None:
    """Delete a local folder if it is empty."""
    with suppress(OSError):
        os.rmdir(local_path(folder))


def local_path(path: PathLike) -> str:
    """Return the local path for a path or an address `file:///…`, which may be percent-encoded.

    Raises:
        ValueError: If the address is on another machine, or is not an absolute path.

    >>> local_path("file:///tmp/a%20name"), local_path("file:/tmp/name"), local_path("folder/a%20name")
    ('/tmp/a name', '/tmp/name', 'folder/a%20name')
    """
    text = os.fspath(path)
    if not _FILE_SCHEME.match(text):
        return os.path.expanduser(text)
    address = urlsplit(text)
    if address.netloc not in ("", "localhost") or not address.path:
        raise ValueError(
            f"An address of a file on this machine has the form file:///folder/name. Received: {text!r}. Pass the path "
            "without file://, or an absolute one."
        )
    return url2pathname(text[len("file:") :].removeprefix("//").removeprefix(address.netloc))


def require_local(what: str, path: PathLike) -> str:
    """Return the local path for a path or an address `file:///…`.

    Raises:
        ValueError: If it is a remote address; `what` names the path in the message.
    """
    if is_remote(path):
        raise ValueError(f"{what}: expected a local path. Received the address {os.fspath(path)!r}.")
    return local_path(path)


def _remote(path: PathLike) -> tuple[Any, str]:
    system, inner = import_module("fsspec").core.url_to_fs(os.fspath(path))
    return system, inner


@contextmanager
def _name_path_in_errors(path: PathLike) -> Iterator[None]:
    """Make every `OSError` name the given path instead of a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(f"Could not write the file {os.fspath(path)!r}: {error}") from error
        raise OSError(error.errno, f"Could not write the file: {error.strerror}", os.fspath(path)) from error


def _replace(target: str, permissions: int, chunks: Iterable[Chunk], durable: bool) -> None:
    folder = os.path.dirname(target)
    _remove_stale_files(folder)
    temporary = os.path.join(folder, f".torchfit-{_host()}-{secrets.token_hex(8)}.tmp")
    try:
        with _new_file(temporary, permissions) as descriptor:
            _write_chunks(descriptor, chunks)
            if permissions & _umask():
                os.chmod(temporary, permissions)
            if fcntl is not None:  # The lock is held until the file is renamed. Windows can only rename closed files.
                os.replace(temporary, target)
        if fcntl is None:
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        _sync_folder(folder)


def _mode(target: str) -> int | None:
    """Return the type and permissions of a file, or `None` if it does not exist."""
    try:
        return os.lstat(target).st_mode
    except OSError:
        return None


@contextmanager
def _new_file(path: str, permissions: int) -> Iterator[int]:
    """Open a new file that is locked while it is open; create its folder if it is missing."""
    descriptor = _create(path, permissions)
    while (
        _lock(descriptor, wait=True) and not os.fstat(descriptor).st_nlink
    ):  # The file was removed before it was locked.
        os.close(descriptor)
        descriptor = _create(path, permissions)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_chunks(descriptor: int, chunks: Iterable[Chunk]) -> None:
    """Write a file and flush it to the disk.

    This makes as few system calls as possible: each one can pass the GIL back and forth between a writer thread and
    `fit`.
    """
    remaining = iter(chunks)
    while group := list(islice(remaining, _WRITEV_MAX)):
        _write_all(descriptor, group)
    os.fsync(descriptor)


def _lock(descriptor: int, wait: bool) -> bool:
    """Lock a file and return whether that succeeded; without `wait`, do not wait for another process's lock."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # It is locked, or the file system has no locks.
        return False
    return True


def _create(path: str, permissions: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, permissions)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, permissions)


def _write_all(descriptor: int, chunks: Iterable[Chunk]) -> None:
    """Write chunks, in a single call if the system supports that."""
    pending = [memoryview(chunk) for chunk in chunks]
    while pending:
        size = _write(descriptor, pending)
        while pending and size >= len(pending[0]):
            size -= len(pending.pop(0))
        pending[:1] = [chunk[size:] for chunk in pending[:1]]


def _write_special(target: str, chunks: Iterable[Chunk]) -> None:
    """Write to a file that must not be replaced, such as a device or a pipe; a folder raises an `OSError`."""
    with open(target, "wb") as file:
        file.writelines(chunks)


def _upload(address: str, chunks: Iterable[Chunk]) -> None:
    system, inner = _remote(address)
    with tempfile.TemporaryDirectory(prefix="torchfit-") as folder:
        local = os.path.join(folder, "upload")
        _write_special(local, chunks)
        system.put_file(local, inner)


def _sync_folder(folder: str) -> None:
    """Flush a folder to disk, so that a rename survives a power failure, if the system supports that."""
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # not supported by some network file systems
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale_files(folder: str) -> None:
    """Remove temporary files of processes that were killed while writing; once per process and folder."""
    key = os.getpid(), folder
    if key in _cleaned:
        return
    _cleaned.add(key)
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        if _ANY_TEMPORARY.match(name):
            with suppress(OSError):
                _remove_if_stale(os.path.join(folder, name), name)


def _remove_if_stale(path: str, name: str) -> None:
    """Remove a temporary file unless it may be in use.

    Files of this machine are locked while in use. Other files, such as those of another machine that shares the folder,
    are removed if they have not been written to for an hour.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        match = _TEMPORARY.match(name)
        is_of_this_machine = match is not None and match["host"] == _host()
        is_old = time.time() - os.fstat(descriptor).st_mtime > _STALE_AFTER
        is_free = _lock(descriptor, wait=False)
        is_stale = is_old or (is_of_this_machine and is_free)
        if is_stale and fcntl is not None:  # The lock is held until the file is removed.
            os.unlink(path)
    finally:
        os.close(descriptor)
    if is_stale and fcntl is None:
        os.unlink(path)


@cache
def _umask() -> int:
    """Return the umask of this process. It is read only once, because reading it means setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


@cache
def _host() -> str:
    """Return the name of this machine, as a part of file names."""
    return re.sub(r"\W", "_", socket.gethostname())[:64]
