"""The processes that `torchrun` or `launch` started, connected by `torch.distributed`."""

import atexit
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from torchfit._distribution.options import DataParallel
from torchfit._utils.compat import abort_process_group, default_store
from torchfit._utils.tensors import as_dtype

T = TypeVar("T")
_FAILURE = "torchfit/failure"
_SECONDS_TO_WAIT_FOR_A_REASON = 5.0
_SECONDS_TO_WAIT_FOR_READERS = 2.0
_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_WAIT_FOR_THE_SAME = 1.0
_ENVIRONMENT = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class ProcessFailedError(RuntimeError):
    """Another process failed; the message says which, and with what."""


def connect(options: DataParallel) -> "ProcessGroup":
    """Connect with the other processes, unless the script has done so.

    Raises:
        RuntimeError: If the environment does not say how to reach them.
    """
    if not dist.is_initialized():
        _initialize(options)
        atexit.register(_disconnect)
    return ProcessGroup(options)


def _initialize(options: DataParallel) -> None:
    missing = [name for name in _ENVIRONMENT if name not in os.environ]
    if missing:
        raise RuntimeError(
            f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, so there are several processes, but {', '.join(missing)} "
            "are not set, which say how to reach them. Start the script with `torchrun --nproc-per-node 2 script.py`, "
            "remove WORLD_SIZE from the environment, or call `torchfit.distribution.set_distribution(None)` to let "
            "every process train by itself."
        )
    has_devices = _local_rank() < torch.cuda.device_count()
    if has_devices:
        torch.cuda.set_device(_local_rank())
    backend = "cpu:gloo,cuda:nccl" if has_devices and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=options.timeout))


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_device() -> torch.device:
    """Return the CUDA device of this process: that of its number on this machine.

    Raises:
        RuntimeError: If there are fewer devices than processes.
    """
    index, count = _local_rank(), torch.cuda.device_count()
    if index >= count:
        raise RuntimeError(
            f"Process {index} of this machine has no CUDA device, there being {count}. Start one process for each, "
            '`torchrun --nproc-per-node gpu script.py`, or pass `device="cpu"` to the model.'
        )
    return torch.device("cuda", index)


def _disconnect() -> None:
    if dist.is_initialized():
        with suppress(Exception):
            dist.destroy_process_group()


class ProcessGroup:
    """The processes that train together.

    Args:
        options: What the user chose.

    Attributes:
        rank: The number of this process, from 0.
        size: How many there are.
    """

    def __init__(self, options: DataParallel) -> None:
        self.options = options
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = default_store()
        self._control = dist.new_group(backend="gloo", timeout=timedelta(seconds=options.timeout))
        self._is_guarded = False
        self._failure: str | None = None
        self._num_failures = 0
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            threading.Thread(target=self._watch, daemon=True).start()

    def __deepcopy__(self, memo: dict[int, object]) -> "ProcessGroup":
        return self

    @property
    def reduce_dtype(self) -> torch.dtype | None:
        """The dtype in which gradients are exchanged, `None` for that of the rest."""
        chosen = self.options.reduce_dtype
        return None if chosen is None else as_dtype(chosen)

    # -- exchange ------------------------------------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place, and return it."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def start_sums(self, tensors: Sequence[Tensor]) -> Callable[[], object]:
        """Start to add up tensors over all processes, in place, and return what waits for the end."""
        if tensors[0].device.type != "cpu":
            for tensor in tensors:
                self.sum(tensor)  # On a CUDA device, that only starts it as well.
            return do_nothing
        with self._explained():
            # As `dist.all_reduce` does, but without the Python around it, which is slow outside the processor's caches.
            group: dist.ProcessGroup = dist.group.WORLD  # type: ignore[assignment]  # Not kept: it would outlive its end.
            return partial(self._wait, [group.allreduce([_as_real(tensor)]) for tensor in tensors])

    def _wait(self, works: list[dist.Work]) -> None:
        with self._explained():
            for work in works:
                work.wait()

    def largest(self, tensor: Tensor) -> Tensor:
        """Take the elementwise maximum over all processes, in place, and return it."""
        return self._reduce(tensor, dist.ReduceOp.MAX)

    def _reduce(self, tensor: Tensor, operation: Any) -> Tensor:
        with self._explained():
            if tensor.device.type in ("cpu", "cuda"):
                dist.all_reduce(tensor, operation)
            else:  # A device that torch.distributed does not know, such as Apple's.
                dist.all_reduce(on_host := tensor.cpu(), operation)
                tensor.copy_(on_host)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on some process."""
        value = torch.tensor(float(flag))
        with self._explained():
            dist.all_reduce(value, dist.ReduceOp.MAX, group=self._control)
        return bool(value.item())

    def are_equal(self, number: int) -> bool:
        """Return whether all processes pass the same number."""
        largest, smallest = self.largest(torch.tensor([number, -number])).tolist()
        return bool(largest == -smallest)

    def counts(self, number: int) -> list[int]:
        """Return the numbers that the processes pass, in their order."""
        numbers = torch.zeros(self.size, dtype=torch.int64)
        numbers[self.rank] = number
        with self._explained():
            dist.all_reduce(numbers, group=self._control)
        found: list[int] = numbers.tolist()
        return found

    def share(self, make: Callable[[], T]) -> T:
        """Return what `make` returns on the primary process, on every process."""
        box = [make() if self.rank == 0 else None]
        with self._explained():
            dist.broadcast_object_list(box, src=0, group=self._control)
        shared: Any = box[0]
        return shared  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in their order, on every process."""
        found: list[Any] = [None] * self.size
        with self._explained():
            dist.all_gather_object(found, value, group=self._control)
        return found

    def gather_tensors(self, own: Tensor, shapes: list[torch.Size]) -> Iterator[Tensor]:
        """Yield the tensors of all processes, one after the other, on the host, of these shapes and one dtype."""
        for rank, shape in enumerate(shapes):
            tensor = own.contiguous() if rank == self.rank else torch.empty(shape, dtype=own.dtype)
            if tensor.numel():
                with self._explained():
                    dist.broadcast(tensor.view(-1).view(torch.uint8), src=rank, group=self._control)
            yield tensor

    def share_tensors(self, tensors: list[Tensor]) -> None:
        """Copy tensors of the primary process into those of the others."""
        with torch.no_grad(), self._explained():
            for tensor in tensors:
                if not tensor.numel():
                    continue
                own = tensor.detach().to("cpu").contiguous()
                dist.broadcast(own, src=0, group=self._control)
                if self.rank:
                    tensor.copy_(own)

    # -- failures ------------------------------------------------------------------------------------------

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """End the other processes as well, with the same message, if this one fails."""
        if self._is_guarded:
            yield
            return
        self._check_connected()
        self._is_guarded = True
        try:
            yield
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._is_guarded = False

    def _watch(self) -> None:
        """End exchanges between CUDA devices, which do not notice by themselves that another process failed."""
        with suppress(Exception):
            while self._failure is None and not self._store.check([_FAILURE]):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            if self._failure is None:
                abort_process_group()

    def _check_connected(self) -> None:
        if self._failure is not None:
            raise ProcessFailedError(f"The processes are no longer connected, because {self._failure}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say which process failed, where an exchange ends because of that."""
        self._check_connected()
        try:
            yield
        except (RuntimeError, ValueError) as error:
            raise ProcessFailedError(self._reason(error)) from None

    def _reason(self, error: Exception) -> str:
        """Return what another process said of its failure, or that it said nothing."""
        with suppress(Exception):
            self._store.wait([_FAILURE], timedelta(seconds=_SECONDS_TO_WAIT_FOR_A_REASON))
            reason = self._store.get(_FAILURE).decode()
            self._store.add(f"{_FAILURE}/readers", 1)
            return str(reason)
        return (
            f"a process of {self.size} ended without a message: it was killed, or it ran out of memory, or it left "
            f"the training while the others went on. torch says: {str(error).splitlines()[0]}"
        )

    def _fail(self, error: BaseException) -> None:
        """Tell the others, and the launcher, and leave; all stay if all fail alike, as with a wrong argument."""
        own = f"process {self.rank} of {self.size} failed: {_summary(error)}"
        is_first = not isinstance(error, ProcessFailedError)
        if is_first and isinstance(error, Exception) and self._fail_all_alike(_summary(error)):
            return
        self._failure = own if is_first else str(error)
        if is_first:
            with suppress(Exception):
                self._store.set(_FAILURE, own)
        _record(error)
        with suppress(Exception):
            dist.destroy_process_group()
        if is_first and self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            self._await_readers()  # The store ends with this process.

    def _fail_all_alike(self, summary: str) -> bool:
        """Return whether all processes raise the same error, and so are still at the same place."""
        self._num_failures += 1
        keys = [f"{_FAILURE}/{self._num_failures}/{rank}" for rank in range(self.size)]
        with suppress(Exception):
            self._store.set(keys[self.rank], summary)
            deadline = time.monotonic() + _SECONDS_TO_WAIT_FOR_THE_SAME
            while not self._store.check(keys) and time.monotonic() < deadline:
                time.sleep(0.01)
            return self._store.check(keys) and {self._store.get(key).decode() for key in keys} == {summary}
        return False

    def _await_readers(self) -> None:
        deadline = time.monotonic() + _SECONDS_TO_WAIT_FOR_READERS
        with suppress(Exception):
            while time.monotonic() < deadline and self._store.add(f"{_FAILURE}/readers", 0) < self.size - 1:
                time.sleep(0.01)


def _summary(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _record(error: BaseException) -> None:
    """Write the error where `torchrun` looks for it."""
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(Exception):
            from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

            ErrorHandler().record_exception(error)


def do_nothing(*_: object) -> None:
    """Do nothing, where there is nothing to wait for or to call."""
