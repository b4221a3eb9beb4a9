"""Which tensors share memory, and which only lie in the same storage."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_ALIGNMENT = 64  # bytes: a multiple of the size of every dtype


@torch.no_grad()
def unshare_storages(tensors: Iterable[Tensor]) -> None:
    """Give tensors that lie beside each other in one storage storages of their own. Those that overlap share one.

    Otherwise each of them would keep all of a file in memory, and bring all of it into the next file.
    """
    for neighbours in _overlapping(tensors):
        storage = neighbours[0].untyped_storage()
        begin = _begin(neighbours[0]) // _ALIGNMENT * _ALIGNMENT
        end = max(map(_end, neighbours))
        if end - begin < storage.nbytes():
            own = storage[begin:end].clone()
            for tensor in neighbours:
                tensor.set_(own, tensor.storage_offset() - begin // tensor.itemsize, tensor.size(), tensor.stride())


def _overlapping(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Put those together that have bytes in common, the first ones first."""
    group: list[Tensor] = []
    place, end = 0, 0
    different = {id(tensor): tensor for tensor in tensors}.values()
    for tensor in sorted(different, key=lambda tensor: (tensor.untyped_storage().data_ptr(), _begin(tensor))):
        if group and (tensor.untyped_storage().data_ptr() != place or _begin(tensor) >= end):
            yield group
            group, end = [], 0
        group.append(tensor)
        place, end = tensor.untyped_storage().data_ptr(), max(end, _end(tensor))
    if group:
        yield group


def _begin(tensor: Tensor) -> int:
    """Return at which byte of its storage a tensor begins."""
    return int(tensor.storage_offset()) * tensor.itemsize


def _end(tensor: Tensor) -> int:
    """Return behind which byte of its storage a tensor ends."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.size(), tensor.stride()))
    return _begin(tensor) + (last + 1) * tensor.itemsize if tensor.numel() else _begin(tensor)
