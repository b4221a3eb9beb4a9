"""Processes that stay for all tests of a session and run functions together, as under `torchrun`."""

import functools
import importlib.util
import multiprocessing
import os
import sys
import traceback
from pathlib import Path
from typing import Any

TIMEOUT, PATIENCE = 120, 5  # seconds


class Pool:
    """Several connected processes.

    `run(function, *arguments)` calls a function of a test module in each of them, and returns what it returned.

    Args:
        size: How many there are.
        forks: Whether each call starts new processes, which connect to each other, may fail, and end with the call.
    """

    def __init__(self, size, forks=False):
        self.forks, self.store = forks, None if forks else new_store()
        context = multiprocessing.get_context("spawn")
        self.connections, self.processes = [], []
        for rank in range(size):
            here, there = context.Pipe()
            process = context.Process(target=serve, args=(rank, size, forks, there))
            process.start()
            self.connections.append(here)
            self.processes.append(process)

    def run(self, function, *arguments, **named):
        store = new_store() if self.forks else self.store
        for connection in self.connections:
            connection.send((store.port, function.__code__.co_filename, function.__name__, arguments, named))
        return [self._receive(connection) for connection in self.connections]

    def _receive(self, connection):
        if not connection.poll(TIMEOUT):
            self.close()
            raise TimeoutError("A process did not answer.")
        is_error, answer = connection.recv()
        if is_error:
            self.close()
            raise AssertionError(f"A process failed:\n{answer}")
        return answer

    @property
    def is_open(self):
        return all(process.is_alive() for process in self.processes)

    def close(self):
        """End the processes, by force those that wait for others."""
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.join(PATIENCE)
            process.kill()
            process.join()


def new_store():
    import torch.distributed as dist

    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


def serve(rank, size, forks, connection):
    """Run functions until the tests end."""
    multiprocessing.set_start_method("fork", force=True)  # Of workers that read data, as under torchrun.
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        TORCHELASTIC_USE_AGENT_STORE="True",
        OMP_NUM_THREADS="1",
    )
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            port, file, name, arguments, named = connection.recv()
        except EOFError:
            return
        os.environ["MASTER_PORT"] = str(port)
        function = getattr(load(file), name)
        if not forks:
            connection.send(call(function, arguments, named))
            continue
        here, there = multiprocessing.Pipe()
        process = multiprocessing.Process(target=call_and_send, args=(there, function, arguments, named))
        process.start()
        there.close()
        try:
            connection.send(here.recv())
        except EOFError:  # It was killed.
            connection.send((False, None))
        process.join()


def call(function, arguments, named):
    """Return whether a function failed, and its result or the traceback."""
    try:
        return False, function(*arguments, **named)
    except BaseException:
        return True, traceback.format_exc()


def call_and_send(connection, *what):
    connection.send(call(*what))


@functools.cache
def load(file):
    """Import a file once; the functions of a test module are found by its path."""
    spec: Any = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = sys.modules[Path(file).stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
