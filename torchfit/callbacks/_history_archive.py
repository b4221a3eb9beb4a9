"""Long histories in files of their own, so that the states of a long run do not grow with it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from torchfit._serialization import archive, files
from torchfit.callbacks.history import History, Record

_CHUNK_EPOCHS = 256


class HistoryArchive:
    """Stores a history in chunks that are written once; a state holds their number and the epochs since the last.

    Args:
        path_of: returns the path of a file, from its name.

    Attributes:
        num_chunks: how many chunks there are.
    """

    def __init__(self, path_of: Callable[[str], str]) -> None:
        self._path_of = path_of
        self.reset()

    def reset(self) -> None:
        """Start again without chunks."""
        self.num_chunks = 0
        self._lengths: Mapping[str, int] = {}

    def prepare_chunk(self, history: History) -> Callable[[], None] | None:
        """Return what writes the next chunk, if there are enough epochs for one. Later states leave it out."""
        lengths = history.lengths()
        if max(length - self._lengths.get(name, 0) for name, length in lengths.items()) < _CHUNK_EPOCHS:
            return None
        write = archive.prepare_write(self._path(self.num_chunks), history.record(self._lengths))
        self.num_chunks, self._lengths = self.num_chunks + 1, lengths
        return write

    @contextmanager
    def leave_out(self, history: History) -> Iterator[None]:
        """Let `history.state_dict` leave the chunks out."""
        history.stored_lengths = self._lengths
        try:
            yield
        finally:
            history.stored_lengths = {}

    @contextmanager
    def put_back(self, history: History, num_chunks: int) -> Iterator[None]:
        """Let `history.load_state_dict` put this many chunks before the state.

        Raises:
            ValueError: if a chunk is missing or damaged.
        """
        chunks: list[Record] = []
        for number in range(num_chunks):
            if not files.exists(self._path(number)):
                raise ValueError(f"The file {self._path(number)!r} is missing.")
            chunks.append(archive.read(self._path(number)))
        history.stored_records = chunks
        try:
            yield
        finally:
            history.stored_records = ()
        self.num_chunks, self._lengths = num_chunks, _total_lengths(chunks)

    def remove(self) -> None:
        """Delete the files."""
        for number in range(self.num_chunks):
            files.remove(self._path(number))

    def _path(self, number: int) -> str:
        return self._path_of(f"history_{number}.pt")


def _total_lengths(chunks: Iterable[Record]) -> dict[str, int]:
    lengths: dict[str, int] = {}
    for chunk in chunks:
        for name, values in {"": chunk["epoch"], **chunk["history"]}.items():
            lengths[name] = lengths.get(name, 0) + len(values)
    return lengths
