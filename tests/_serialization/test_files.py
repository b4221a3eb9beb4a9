import os
import subprocess
import sys

import pytest

from torchfit._serialization import files

posix = pytest.mark.skipif(os.name != "posix", reason="tests what Windows lacks")


def failing():
    yield b"half of it"
    raise RuntimeError("stopped")


def read(path):
    with files.open_read(path) as file:
        return file.read()


def test_writes_the_whole_file_and_makes_folders(tmp_path):
    files.write_atomically(tmp_path / "new" / "file", [b"all"])
    assert read(tmp_path / "new" / "file") == b"all"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="stopped"):
        files.write_atomically(tmp_path / "file", failing())
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def five_bytes(descriptor, chunks):
    return os.write(descriptor, b"".join(chunks)[:5])


@pytest.mark.parametrize("write", [five_bytes, files._write_one])
def test_all_pieces_are_written_however_few_the_system_takes(tmp_path, monkeypatch, write):
    monkeypatch.setattr(files, "_write", write)
    chunks = [bytes([number]) * (number % 9) for number in range(200)]
    files.write_atomically(tmp_path / "file", iter(chunks))
    assert read(tmp_path / "file") == b"".join(chunks)


@posix
def test_replaces_what_a_link_points_to(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.write_atomically(tmp_path / "link", [b"new"])
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@posix
@pytest.mark.parametrize("permissions", [0o600, 0o640, 0o777])
def test_keeps_the_permissions_of_the_file(tmp_path, permissions):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(permissions)
    files.write_atomically(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").stat().st_mode & 0o777 == permissions


@posix
def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").write_bytes(b"any")
    files.write_atomically(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


@posix
def test_a_folder_is_an_error_that_names_it(tmp_path):
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        files.write_atomically(tmp_path, [b"new"])


@posix
def test_a_device_is_not_replaced():
    files.write_atomically(os.devnull, [b"gone"])
    assert not os.path.isfile(os.devnull)


def test_errors_of_the_system_name_the_file(tmp_path):
    def full():
        yield b"much"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as caught:
        files.write_atomically(tmp_path / "file", full())
    assert caught.value.filename == str(tmp_path / "file")
    assert caught.value.errno == 28


@posix
def test_a_file_system_that_takes_no_more_is_an_os_error(tmp_path):
    program = (
        "import resource, torch; from torchfit._serialization import archive;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"archive.write({str(tmp_path / 'file')!r}, torch.zeros(1_000_000))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    messages = [line for line in result.stderr.splitlines() if line.startswith("OSError: ")]
    assert messages[-1].startswith("OSError: [Errno 27] Could not write the file: File too large")
    assert str(tmp_path / "file") in messages[-1]
    assert os.listdir(tmp_path) == []


@posix
def test_leftovers_of_killed_processes_are_removed(tmp_path):
    program = (
        "import os, signal; from torchfit._serialization import files;"
        f"files.write_atomically({str(tmp_path / 'file')!r}, (os.kill(os.getpid(), signal.SIGKILL) for _ in (1,)))"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(os.listdir(tmp_path)) == 1
    files.write_atomically(tmp_path / "other", [b"all"])
    assert os.listdir(tmp_path) == ["other"]


def test_temporary_files_in_use_are_left_alone(tmp_path):
    def chunks():
        files.write_atomically(tmp_path / "inner", [b"2"])
        yield b"1"

    files.write_atomically(tmp_path / "outer", chunks())
    assert sorted(os.listdir(tmp_path)) == ["inner", "outer"]


def test_remote_files():
    address = "memory://folder/file"
    files.write_atomically(address, [b"all"])
    assert read(address) == b"all"
    assert files.exists(address)
    files.remove(address)
    assert not files.exists(address)


def test_a_failed_remote_write_leaves_the_old_file():
    files.write_atomically("memory://folder/kept", [b"old"])
    with pytest.raises(RuntimeError, match="stopped"):
        files.write_atomically("memory://folder/kept", failing())
    assert read("memory://folder/kept") == b"old"


def test_removes_local_files(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    files.remove(tmp_path / "file")
    files.remove(tmp_path / "file")
    assert not files.exists(tmp_path / "file")


def test_file_addresses_are_local(tmp_path):
    files.write_atomically(f"file://{tmp_path}/file", [b"all"])
    assert (tmp_path / "file").read_bytes() == b"all"


def test_addresses_of_files_are_decoded(tmp_path):
    for start in ("file://", "file://localhost", "file:", "FILE://"):
        files.write_atomically(f"{start}{tmp_path}/a%20name", [start.encode()])
        assert (tmp_path / "a name").read_bytes() == start.encode()


@pytest.mark.parametrize("address", ["file://server/folder/name", "file://name", "file://"])
def test_addresses_of_other_machines_are_refused(address):
    with pytest.raises(ValueError, match="has the form file:///folder/name"):
        files.write_atomically(address, [b"all"])


ANOTHER_PROCESS = """
import sys, time; from torchfit._serialization import files
def chunks():
    for number in range(100):
        yield b"some" * 1000
    print("writing", flush=True)
    sys.stdin.read()
files._host = lambda: {host!r}
files.write_atomically({path!r}, chunks())
"""


@posix
@pytest.mark.parametrize("host", [files._host(), "another"])
def test_temporary_files_of_other_processes_that_write_are_left_alone(tmp_path, host):
    program = ANOTHER_PROCESS.format(host=host, path=str(tmp_path / "other"))
    arguments = [sys.executable, "-c", program]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        files.write_atomically(tmp_path / "file", [b"all"])
        assert len(os.listdir(tmp_path)) == 2
        process.stdin.close()
    assert process.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


@pytest.mark.parametrize("name", [".torchfit-another-0123456789abcdef.tmp", ".torchfit-host-12-3.tmp"])
def test_leftovers_of_other_machines_and_versions_are_removed_when_they_are_old(tmp_path, name):
    (tmp_path / name).write_bytes(b"half")
    files.write_atomically(tmp_path / "file", [b"all"])
    assert sorted(os.listdir(tmp_path)) == [name, "file"]
    os.utime(tmp_path / name, (0, 0))
    files._cleaned.clear()
    files.write_atomically(tmp_path / "file", [b"all"])
    assert os.listdir(tmp_path) == ["file"]


def test_a_temporary_file_that_is_removed_before_it_is_locked_is_created_again(tmp_path, monkeypatch):
    removed = []

    def lock(descriptor, wait):
        if not removed:
            (name,) = os.listdir(tmp_path)
            removed.append(name)
            os.unlink(tmp_path / name)
        return True

    monkeypatch.setattr(files, "_lock", lock)
    files.write_atomically(tmp_path / "file", [b"all"])
    assert (tmp_path / "file").read_bytes() == b"all"
