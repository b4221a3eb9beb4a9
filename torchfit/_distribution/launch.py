"""Start processes from Python, for notebooks and scripts without a launcher."""

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from torchfit._utils import validation
from torchfit._utils.errors import describe

Result = TypeVar("Result")


def launch(function: Callable[[], Result], processes: int = 2) -> Result:
    """Do what `torchfit.distribution.launch` says."""
    processes = validation.integer("processes", processes, min_value=1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise RuntimeError(
            "CUDA is in use in this process, whose memory the new processes would lack. Call `launch` before anything "
            "is on the device: restart the notebook, and make the model inside of the function."
        )
    payload = _pickled(function)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        arguments = payload, processes, store.port, str(result)
        try:
            start_processes(_run, arguments, processes, start_method="spawn")  # type: ignore[no-untyped-call]
        except ProcessExitedException as error:
            raise RuntimeError(_ending(error, processes)) from None
        except ProcessRaisedException as error:
            raise RuntimeError(_reason(str(error), error.error_index, processes)) from error
        returned: Result = pickle.loads(result.read_bytes())
    return returned


def _pickled(function: Callable[[], object]) -> bytes:
    if not callable(function):
        raise ValueError(f"`function` must be a function without arguments. Received: {describe(function)}.")
    target = getattr(function, "func", function)
    if getattr(target, "__module__", None) == "__main__" or "<" in getattr(target, "__qualname__", ""):
        try:
            import cloudpickle
        except ImportError:
            raise ValueError(
                "`function` is defined in a notebook, in the main script or inside of a function, where new processes "
                "do not find it. Install cloudpickle, or move it to a module and import it."
            ) from None
        return bytes(cloudpickle.dumps(function))
    try:
        return pickle.dumps(function)
    except Exception as error:
        raise ValueError(f"`function` cannot be sent to another process: {error}.") from error


def _run(rank: int, payload: bytes, processes: int, port: int, result: str) -> None:
    """Run in the new process."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    found = pickle.loads(payload)()
    if rank == 0:
        Path(result).write_bytes(pickle.dumps(found))


def _ending(error: ProcessExitedException, processes: int) -> str:
    """Return how a process ended that raised nothing: by a signal, or before the function was called."""
    if error.exit_code != 1:
        return f"process {error.error_index} of {processes} was killed: {error}"
    return (
        f"process {error.error_index} of {processes} ended with exit code 1. New processes import the main script, so "
        'in a script call `launch` under `if __name__ == "__main__":`.'
    )


def _reason(text: str, rank: int, processes: int) -> str:
    """Return what failed first: a process that ended because of another one says so itself."""
    last = text.strip().splitlines()[-1]
    marker = last.find(f" of {processes} failed: ")
    return last[last.find("process ") :] if marker >= 0 else f"process {rank} of {processes} failed: {last}"
