"""Zip files of uncompressed parts, as `torch.load` reads them: each part starts at a multiple of 64 bytes, for mmap.

The contents of the parts are covered by CRC-32 checksums, everything else by a SHA-256 in the comment of the file. All
sizes and offsets are written as 64-bit numbers (Zip64), so that there is one layout for small and large files. The
README of this package describes it.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import Any
from zlib import crc32

Part = tuple[str, Any]

CHECKSUM_TAG = b"torchfit sealed "
COMMENT_SIZE = len(CHECKSUM_TAG) + 64

_PART = Struct("<4s5H3L2H")  # local file header, followed by the name,
_SIZES = Struct("<2H2Q2sH")  # the Zip64 sizes, and the header of the padding
_ENTRY = Struct("<4s6H3L5H2L")  # central directory entry, followed by the name,
_OFFSET = Struct("<2H3Q")  # the Zip64 sizes and the offset
_END = Struct("<4sQ2H2L4Q 4sLQL 4s4H2LH")  # Zip64 end record, its locator, and the end record
_PART_SIZE, _SIZES_SIZE = _PART.size, _SIZES.size
_ALIGNMENT = 64
_VERSION, _DOS_EPOCH = 45, 33  # the zip version that knows Zip64; 1 January 1980
_ZIP64_32, _ZIP64_16 = 0xFFFFFFFF, 0xFFFF


def append_checksum(chunks: Iterable[Any]) -> Iterator[Any]:
    """Yield the chunks of a zip file, every second of which is the contents of a part, and then its checksum."""
    total = sha256()
    for number, chunk in enumerate(chunks):
        if number % 2 == 0:
            total.update(chunk)
        yield chunk
    total.update(CHECKSUM_TAG)
    yield CHECKSUM_TAG + total.hexdigest().encode()


def iter_zip(parts: Iterable[Part]) -> Iterator[Any]:
    """Yield the bytes of a zip file without the comment at its end; every second chunk is the contents of a part.

    Args:
        parts: Pairs of a name in ASCII and the contents, a buffer of bytes.
    """
    offset, directory = 0, []
    for text, content in parts:
        name, size = text.encode("ascii"), len(content)
        padding = -(offset + _PART_SIZE + _SIZES_SIZE + len(name)) % _ALIGNMENT
        common = (_VERSION, 0, 0, 0, _DOS_EPOCH, crc32(content), _ZIP64_32, _ZIP64_32, len(name))
        sizes = _SIZES.pack(1, 16, size, size, b"FB", padding)
        header = b"".join((_PART.pack(b"PK\3\4", *common, _SIZES_SIZE + padding), name, sizes, bytes(padding)))
        yield header
        yield content
        entry = _ENTRY.pack(b"PK\1\2", _VERSION, *common, _OFFSET.size, 0, 0, 0, 0, _ZIP64_32)
        directory += [entry, name, _OFFSET.pack(1, 24, size, size, offset)]
        offset += len(header) + size
    records = b"".join(directory)
    yield records + _end(len(directory) // 3, len(records), offset)


def _end(count: int, size: int, offset: int) -> bytes:
    record = (b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, size, offset)
    where = (b"PK\6\7", 0, offset + size, 1)
    many = (_ZIP64_16, _ZIP64_16, _ZIP64_32, _ZIP64_32)
    return _END.pack(*record, *where, b"PK\5\6", 0, 0, *many, COMMENT_SIZE)
