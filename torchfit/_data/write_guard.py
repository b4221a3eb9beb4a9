"""Keeps steps that work in place, such as a `ReLU(inplace=True)` on the inputs, from changing the user's data."""

import warnings
from collections.abc import Sequence
from weakref import ref

from torch import Tensor

from torchfit._utils.compat import version_of

# Up to this many bytes of batches are copied together, which costs next to nothing: the caches hold them, and the
# allocator does not ask the system for memory.
BLOCK_BYTES = 120 * 2**10


class WriteGuard:
    """Hands out views of large tensors, or copies where a step writes into them.

    The first batches are copies. Once the step that got the first of them is over and did not write into it, views are
    handed out, and the version counters of the tensors, which any write into a view increments, are compared.
    """

    def __init__(self, sources: Sequence[Tensor]) -> None:
        """Guard tensors `(samples, …)`."""
        self._sources = sources
        self._versions: list[int] | None = None  # of the sources, once views are handed out
        self._probes: list[tuple[ref[Tensor], Tensor]] = []  # the first copies, and aliases that outlive them
        self.is_written = any(source.is_inference() for source in sources)  # Such tensors count no versions.

    def protect(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what a step gets instead of these views of the sources: copies, or the views themselves."""
        if self._versions is None and not self.is_written:
            self._examine_probes()
        if self._versions is not None and self._versions != _versions(self._sources):
            self._report_late_write()
        if self._versions is not None:
            return views
        copies = [view.clone() for view in views]
        if not self._probes and not self.is_written:
            self._probes = [(ref(copy), copy.detach()) for copy in copies]
        return copies

    def _examine_probes(self) -> None:
        """Decide once the step is over that got the first copies, which nobody holds any more then."""
        if any(alias.is_inference() or version_of(alias) for _, alias in self._probes):
            self.is_written, self._probes = True, []
        elif self._probes and all(copy() is None for copy, _ in self._probes):
            self._versions, self._probes = _versions(self._sources), []

    def _report_late_write(self) -> None:
        self.is_written, self._versions = True, None
        warnings.warn(
            "The module, the loss or a metric wrote into a batch in place, after steps that did not. Batches are "
            "copied from now on, but that one was changed in the data that were passed. Work on a copy: x = x.clone().",
            stacklevel=2,
        )


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    return [version_of(tensor) for tensor in tensors]
