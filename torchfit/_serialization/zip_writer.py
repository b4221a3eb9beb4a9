"""Zip files of uncompressed parts, as `torch.load` reads them: every part at a multiple of 64 bytes, for memory maps.

The contents of the parts have checksums (CRC-32), which find every single flipped bit, and any damage but for one in
2**32. A seal sees to the rest: it is the comment of the file, a SHA-256 of everything before it but those contents.

All sizes and places are written as 64-bit numbers (Zip64), small ones as well: there is one form, whatever the size.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import Any
from zlib import crc32

Part = tuple[str, Any]

CHECKSUM_TAG = b"torchfit sealed "
COMMENT_SIZE = len(CHECKSUM_TAG) + 64

_PART = Struct("<4s5H3L2H")  # what stands before a part, then its name,
_SIZES = Struct("<2H2Q2sH")  # its sizes, and how much padding there is before its contents
_ENTRY = Struct("<4s6H3L5H2L")  # of a part in the directory at the end, then its name,
_PLACE = Struct("<2H3Q")  # its sizes and its place
_END = Struct("<4sQ2H2L4Q 4sLQL 4s4H2LH")  # the record of the directory, where that is, and the old form of both
_PART_SIZE, _SIZES_SIZE = _PART.size, _SIZES.size
_ALIGNMENT = 64
_VERSION, _DAY = 45, 33  # the version that knows Zip64; the first of January 1980
_SEE_BELOW, _SEE_BELOW_TOO = 0xFFFFFFFF, 0xFFFF


def append_checksum(pieces: Iterable[Any]) -> Iterator[Any]:
    """Give the pieces of a zip file, every second of them the contents of a part, and its seal."""
    total = sha256()
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            total.update(piece)
        yield piece
    total.update(CHECKSUM_TAG)
    yield CHECKSUM_TAG + total.hexdigest().encode()


def iter_zip(parts: Iterable[Part]) -> Iterator[Any]:
    """Give the bytes of a zip file, but for the seal at its end, piece by piece: every second is a part's contents.

    Args:
        parts: Names in ASCII, and contents: bytes, or what gives its bytes as a buffer of them.
    """
    place, directory = 0, []
    for text, content in parts:
        name, size = text.encode("ascii"), len(content)
        padding = -(place + _PART_SIZE + _SIZES_SIZE + len(name)) % _ALIGNMENT
        common = (_VERSION, 0, 0, 0, _DAY, crc32(content), _SEE_BELOW, _SEE_BELOW, len(name))
        sizes = _SIZES.pack(1, 16, size, size, b"FB", padding)
        header = b"".join((_PART.pack(b"PK\3\4", *common, _SIZES_SIZE + padding), name, sizes, bytes(padding)))
        yield header
        yield content
        entry = _ENTRY.pack(b"PK\1\2", _VERSION, *common, _PLACE.size, 0, 0, 0, 0, _SEE_BELOW)
        directory += [entry, name, _PLACE.pack(1, 24, size, size, place)]
        place += len(header) + size
    records = b"".join(directory)
    yield records + _end(len(directory) // 3, len(records), place)


def _end(count: int, size: int, place: int) -> bytes:
    record = (b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, size, place)
    where = (b"PK\6\7", 0, place + size, 1)
    many = (_SEE_BELOW_TOO, _SEE_BELOW_TOO, _SEE_BELOW, _SEE_BELOW)
    return _END.pack(*record, *where, b"PK\5\6", 0, 0, *many, COMMENT_SIZE)
