"""Tensors that overlap in memory, and tensors that merely lie in the same storage."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes: a multiple of the size of every dtype


def new_storage(nbytes: int) -> torch.UntypedStorage:
    """Return a storage of the CPU, whose bytes are arbitrary."""
    return torch.UntypedStorage(nbytes)  # type: ignore[no-untyped-call]


@torch.no_grad()
def unshare_storages(tensors: Iterable[Tensor]) -> None:
    """Give tensors that lie next to each other in one storage their own storages; overlapping ones keep sharing one.

    Otherwise each of them would keep the whole file in memory, and write all of it into the next file.
    """
    for group in _overlapping(tensors):
        storage = group[0].untyped_storage()
        begin = _begin(group[0]) // _ALIGNMENT * _ALIGNMENT
        end = max(map(_end, group))
        if end - begin < storage.nbytes():
            own = storage[begin:end].clone()
            for tensor in group:
                tensor.set_(own, tensor.storage_offset() - begin // tensor.itemsize, tensor.size(), tensor.stride())


def _overlapping(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield groups of tensors that have bytes in common."""
    group: list[Tensor] = []
    address, end = 0, 0
    different = {id(tensor): tensor for tensor in tensors}.values()
    for tensor in sorted(different, key=lambda tensor: (tensor.untyped_storage().data_ptr(), _begin(tensor))):
        if group and (tensor.untyped_storage().data_ptr() != address or _begin(tensor) >= end):
            yield group
            group, end = [], 0
        group.append(tensor)
        address, end = tensor.untyped_storage().data_ptr(), max(end, _end(tensor))
    if group:
        yield group


def byte_range(tensor: Tensor) -> tuple[int, int]:
    """Return the offsets of the first byte of a strided tensor in its storage, and of the byte after its last one.

    >>> byte_range(torch.zeros(4)[1:3])
    (4, 12)
    """
    return _begin(tensor), _end(tensor)


def _begin(tensor: Tensor) -> int:
    """Return the offset of the first byte of a tensor in its storage."""
    return int(tensor.storage_offset()) * tensor.itemsize


def _end(tensor: Tensor) -> int:
    """Return the offset of the byte after the last one of a tensor in its storage."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride()))
    return _begin(tensor) + (last + 1) * tensor.itemsize if tensor.numel() else _begin(tensor)
