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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from itertools import count
from typing import Any, BinaryIO, TypeAlias, cast

PathLike: TypeAlias = "str | os.PathLike[str]"

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]+://")  # two letters at least: "C://" is a drive
_TEMPORARY = re.compile(r"^\.torchfit-(?P<host>.*)-(?P<process>\d+)-\d+\.tmp$")
_numbers = count()
_in_use: set[str] = set()
_swept: set[tuple[int, str]] = set()  # processes, and the folders that they have looked through


def is_remote(path: PathLike) -> bool:
    """Tell whether a path is an address that fsspec opens.

    >>> is_remote("s3://bucket/model"), is_remote("ckpt/model"), is_remote("file:///tmp/model")
    (True, False, False)
    """
    text = os.fspath(path)
    return bool(_SCHEME.match(text)) and not text.startswith("file://")


def write_atomically(path: PathLike, write: Callable[[BinaryIO], object], lasting: bool = True) -> None:
    """Call `write(file)` and put what it wrote at `path`, as a whole; missing folders are made.

    If `write` raises, the file that was there stays as it was and nothing else is left behind. `lasting` says whether
    to wait until a power cut cannot bring back the old file, which the disk may take a few milliseconds for.

    Raises:
        OSError: The file cannot be written (no space, no permission, …); it is named.
    """
    with _named(path):
        if is_remote(path):
            _upload(os.fspath(path), write)
        else:
            _replace(_local(path), write, lasting)


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


def _replace(target: str, write: Callable[[BinaryIO], object], lasting: bool) -> None:
    mode = _mode(target)
    if mode is not None and stat.S_ISLNK(mode):  # The file is replaced, not the link to it.
        target = os.path.realpath(target)
        mode = _mode(target)
    if mode is not None and not stat.S_ISREG(mode):
        _write_into(target, write)
        return
    folder = os.path.dirname(target) or os.curdir
    _sweep(folder)
    name = f".torchfit-{socket.gethostname()}-{os.getpid()}-{next(_numbers)}.tmp"
    temporary = os.path.join(folder, name)
    _in_use.add(name)
    try:
        with _new(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
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


def _new(path: str) -> BinaryIO:
    """Open a new file; its folder is made if it is missing."""
    try:
        return open(path, "xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def _write_into(target: str, write: Callable[[BinaryIO], object]) -> None:
    """Write to what must not be replaced, such as a device or a pipe; a folder raises."""
    with open(target, "wb") as file:
        write(file)


def _upload(address: str, write: Callable[[BinaryIO], object]) -> None:
    system, inner = _remote(address)
    with tempfile.TemporaryDirectory(prefix="torchfit-") as folder:
        local = os.path.join(folder, "upload")
        with open(local, "wb") as file:
            write(file)
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
        if match is None or match["host"] != socket.gethostname():
            continue
        process = int(match["process"])
        if name not in _in_use and (process == os.getpid() or not _is_running(process)):
            with suppress(OSError):
                os.unlink(os.path.join(folder, name))


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
