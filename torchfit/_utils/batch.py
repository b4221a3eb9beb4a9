"""The batch: the only thing that flows through a loop."""

from torchfit._utils.tree import Tree


class Batch(tuple[Tree, ...]):
    """One batch: `(inputs,)`, `(inputs, targets)` or `(inputs, targets, sample_weight)`.

    It is a plain tuple of the parts that are present, so that an overridden `train_step` may write
    `x, y = batch`, with names for everyone else. Each part is a tensor `(batch, …)` or a
    nest (list, tuple, dict) of them; a missing part reads as `None`.
    """

    __slots__ = ()

    def __new__(cls, inputs: Tree, targets: Tree = None, sample_weight: Tree = None) -> "Batch":
        """Pack the parts, without the missing ones at the end."""
        if sample_weight is not None:
            return tuple.__new__(cls, (inputs, targets, sample_weight))
        if targets is not None:
            return tuple.__new__(cls, (inputs, targets))
        return tuple.__new__(cls, (inputs,))

    def __getnewargs__(self) -> tuple[Tree, ...]:
        """Return the parts, from which copies and pickles are built."""
        return tuple(self)

    @property
    def parts(self) -> tuple[Tree, Tree, Tree]:
        """All three parts, to be unpacked together."""
        inputs, targets, sample_weight = (*self, None, None)[:3]
        return inputs, targets, sample_weight

    @property
    def inputs(self) -> Tree:
        """The inputs of the module."""
        return self[0]

    @property
    def targets(self) -> Tree:
        """The targets, or `None`."""
        return self[1] if len(self) > 1 else None

    @property
    def sample_weight(self) -> Tree:
        """The sample weights, or `None`."""
        return self[2] if len(self) > 2 else None


def parts_of(data: object) -> tuple[Tree, Tree, Tree]:
    """Return inputs, targets and weights of a batch, or of what an overridden step passes on.

    >>> parts_of((1, 2)), parts_of(1)
    ((1, 2, None), (1, None, None))
    """
    inputs, targets, sample_weight = (*data, None, None)[:3] if isinstance(data, tuple) else (data, None, None)
    return inputs, targets, sample_weight


def unwrapped(batch: Batch) -> Tree:
    """Return a batch as a user-defined step gets it: bare inputs are not in a tuple, unless they are a sequence.

    >>> unwrapped(Batch(1)), unwrapped(Batch([1, 2])), unwrapped(Batch(1, 2))
    (1, ([1, 2],), (1, 2))
    """
    return batch[0] if len(batch) == 1 and not isinstance(batch[0], (list, tuple)) else batch
