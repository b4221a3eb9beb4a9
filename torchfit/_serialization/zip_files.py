"""Reads and writes zip files of uncompressed parts, as `torch.load` reads them.

Each part starts at a multiple of 64 bytes, for mmap. The contents of the parts are covered by CRC-32 checksums,
everything else by a SHA-256 in the comment of the file. All sizes and offsets are written as 64-bit numbers (Zip64), so
that there is one layout for small and large files. The README of this package describes it.

Only files of that layout are read: uncompressed parts, one after the other, followed by the directory and the end
records. The contents are therefore never larger than the file, and all other readers see the same parts.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import BinaryIO, NamedTuple, TypeAlias
from zlib import crc32

Chunk: TypeAlias = "bytes | bytearray | memoryview"
NamedContents: TypeAlias = tuple[str, Chunk]

CHECKSUM_TAG = b"torchfit sealed "
COMMENT_SIZE = len(CHECKSUM_TAG) + 64
END_SIGNATURE = b"PK\5\6"
END_SIZE = 22  # of the end record, without the comment

_LOCAL = Struct("<4s5H3L2H")  # local file header, followed by the name
_SIZES = Struct("<2H2Q2sH")  # the Zip64 sizes in it, and the header of the padding
_ENTRY = Struct("<4s6H3L5H2L")  # central directory entry, followed by the name
_OFFSET = Struct("<2H3Q")  # the Zip64 sizes and the offset in it
_END_64 = Struct("<4sQ2H2L4Q")
_LOCATOR = Struct("<4sLQL")  # of the Zip64 end record
_END = Struct("<4s4H2LH")
_ENDS = Struct("<4sQ2H2L4Q 4sLQL 4s4H2LH")  # these three
_FIELD = Struct("<2H")  # header of an extra field
_ALIGNMENT = 64
_VERSION, _DOS_EPOCH = 45, 33  # the zip version that introduced Zip64; 1 January 1980
_MAX_32, _MAX_16 = 0xFFFFFFFF, 0xFFFF  # instead of values that are stored as 64 bits
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
_CHUNK = 1 << 20


def append_checksum(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks of a zip file, of which every second one is the contents of a part, and then its checksum."""
    total = sha256()
    for number, chunk in enumerate(chunks):
        if number % 2 == 0:
            total.update(chunk)
        yield chunk
    total.update(CHECKSUM_TAG)
    yield CHECKSUM_TAG + total.hexdigest().encode()


def iter_zip(parts: Iterable[NamedContents]) -> Iterator[Chunk]:
    """Yield the bytes of a zip file without the comment at its end; every second chunk is the contents of a part.

    Args:
        parts: Pairs of a name in ASCII and the contents, a buffer of bytes.
    """
    offset, directory = 0, []
    for text, content in parts:
        name, size = text.encode("ascii"), len(content)
        padding = -(offset + _LOCAL.size + _SIZES.size + len(name)) % _ALIGNMENT
        common = (_VERSION, 0, 0, 0, _DOS_EPOCH, crc32(content), _MAX_32, _MAX_32, len(name))
        sizes = _SIZES.pack(1, 16, size, size, b"FB", padding)
        header = b"".join((_LOCAL.pack(b"PK\3\4", *common, _SIZES.size + padding), name, sizes, bytes(padding)))
        yield header
        yield content
        entry = _ENTRY.pack(b"PK\1\2", _VERSION, *common, _OFFSET.size, 0, 0, 0, 0, _MAX_32)
        directory += [entry, name, _OFFSET.pack(1, 24, size, size, offset)]
        offset += len(header) + size
    records = b"".join(directory)
    yield records + _end_records(len(directory) // 3, len(records), offset)


def _end_records(count: int, size: int, offset: int) -> bytes:
    record = (b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, size, offset)
    locator = (b"PK\6\7", 0, offset + size, 1)
    placeholders = (_MAX_16, _MAX_16, _MAX_32, _MAX_32)
    return _ENDS.pack(*record, *locator, b"PK\5\6", 0, 0, *placeholders, COMMENT_SIZE)


class InvalidZipError(Exception):
    """Raised if a file does not have the expected layout; the message says what is wrong."""


class Part(NamedTuple):
    """A part of a zip file."""

    name: str
    offset: int
    """The offset of the first byte of the contents in the file."""

    size: int
    """The size of the contents in bytes."""

    crc: int
    """CRC-32 of the contents."""


def read_directory(file: BinaryIO, comment_size: int) -> list[Part]:
    """Return the parts of a zip file, in the order of their contents.

    Args:
        file: The whole file.
        comment_size: The size of the comment after the end record, in bytes.

    Raises:
        InvalidZipError: If the file has another layout.
    """
    end = file.seek(0, os.SEEK_END) - END_SIZE - comment_size
    count, size, offset, stop = _directory_range(file, end)
    if offset + size != stop:
        raise InvalidZipError("its directory is not where it should be")
    try:
        entries = list(_entries(_read_at(file, offset, size)))
    except (struct.error, UnicodeDecodeError) as error:
        raise InvalidZipError("its directory is broken") from error
    if len(entries) != count or len({name for name, *_ in entries}) != count:
        raise InvalidZipError("its directory lists other parts than it says")
    return _locate(file, entries, offset)


def check_contents(file: BinaryIO, part: Part) -> None:
    """Check that the contents of a part match their checksum.

    Raises:
        InvalidZipError: If they do not.
    """
    file.seek(part.offset)
    crc, left = 0, part.size
    while left and (chunk := file.read(min(left, _CHUNK))):
        crc, left = crc32(chunk, crc), left - len(chunk)
    _compare(part, crc)


def read_contents(file: BinaryIO, part: Part, buffer: memoryview) -> None:
    """Read the contents of a part into a buffer of its size.

    Raises:
        InvalidZipError: If they do not match their checksum.
    """
    file.seek(part.offset)
    num_read = 0
    while num_read < part.size and (size := file.readinto(buffer[num_read : num_read + _CHUNK])):  # type: ignore[attr-defined]
        num_read += size
    _compare(part, crc32(buffer))


def _compare(part: Part, crc: int) -> None:
    if crc != part.crc:
        raise InvalidZipError(f"the checksum of its part {part.name!r} does not match")


def _directory_range(file: BinaryIO, end: int) -> tuple[int, int, int, int]:
    """Return the number of entries, size and offset of the directory, and the offset of the end records."""
    signature, disk, start_disk, disk_count, count, size, offset, _ = _END.unpack(_read_at(file, end, END_SIZE))
    if signature != END_SIGNATURE:
        raise InvalidZipError("it ends too early, or its end was changed")
    stop = end
    locator = _read_at(file, end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        _, disk, stop, _ = _LOCATOR.unpack(locator)
        if stop + _END_64.size != end - _LOCATOR.size:
            raise InvalidZipError("its end record is not where it should be")
        record = _END_64.unpack(_read_at(file, stop, _END_64.size))
        signature, _, _, _, disk, start_disk, disk_count, count, size, offset = record
        if signature != b"PK\6\6":
            raise InvalidZipError("its end was changed")
    if disk or start_disk or disk_count != count:
        raise InvalidZipError("it is a part of a larger archive")
    return count, size, offset, stop


def _entries(directory: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield the name, header offset, size and CRC-32 of each part in the directory."""
    position = 0
    while position < len(directory):
        fields = _ENTRY.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, crc, stored, size, *lengths = fields
        name_size, extra_size, comment_size, disk, _, _, offset = lengths
        position += _ENTRY.size
        name = directory[position : position + name_size].decode()
        extra = directory[position + name_size : position + name_size + extra_size]
        position += name_size + extra_size + comment_size
        size, stored, offset, disk = _zip64_values(extra, [size, stored, offset, disk])
        if signature != b"PK\1\2" or disk or position > len(directory):
            raise InvalidZipError("its directory is broken")
        if method or stored != size or flags & _ENCRYPTED:
            raise InvalidZipError(f"its part {name!r} is compressed or encrypted, which no writer of such files does")
        yield name, offset, size, crc


def _zip64_values(extra: bytes, values: list[int]) -> list[int]:
    """Replace the values that are too large for the entry by those in its extra field."""
    missing = [number for number, value in enumerate(values) if value == (_MAX_16 if number == 3 else _MAX_32)]
    position = 0
    while missing and position + _FIELD.size <= len(extra):
        tag, size = _FIELD.unpack_from(extra, position)
        position += _FIELD.size
        if tag == 1:
            layout = Struct("<" + "".join("L" if number == 3 else "Q" for number in missing))
            for number, value in zip(missing, layout.unpack_from(extra[: position + size], position)):
                values[number] = value
            return values
        position += size
    return values


def _locate(file: BinaryIO, entries: list[tuple[str, int, int, int]], stop: int) -> list[Part]:
    """Check the local headers of the parts, and return the parts."""
    parts = []
    end = 0
    for name, header, size, crc in sorted(entries, key=lambda entry: entry[1]):
        if header < end or header + _LOCAL.size > stop:
            raise InvalidZipError("its parts overlap")
        signature, *_, name_size, extra_size = _LOCAL.unpack(_read_at(file, header, _LOCAL.size))
        if signature != b"PK\3\4" or _read_at(file, header + _LOCAL.size, name_size) != name.encode():
            raise InvalidZipError(f"its part {name!r} is not where it should be")
        start = header + _LOCAL.size + name_size + extra_size
        end = start + size
        parts.append(Part(name, start, size, crc))
    if end > stop:
        raise InvalidZipError("its parts overlap")
    return parts


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise InvalidZipError("it ends too early")
    return data
