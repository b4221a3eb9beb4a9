"""The processes of the frameworks, as objects that take requests."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.frameworks import ENVIRONMENTS, MODULES

TIMEOUT_SECONDS = 300.0  # Seconds without an answer after which a framework is left out.

# Whether glibc returns memory between two steps, to be faulted in again, depends on what lies at the end of the heap,
# and affects large activations more than the framework does. With these options it keeps the memory, for all alike.
MALLOC_OPTIONS = {name: str(2**30) for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")}


class LeftOutError(Exception):
    """A framework cannot continue, for the given reason."""


class WorkerProcess:
    """One framework in its own process."""

    def __init__(self, name: str, processor: int, folder: Path) -> None:
        """Start the process, pinned to a processor unless that is -1; it writes into `folder`."""
        self.name = name
        self._folder = folder
        self._caches = 0
        self._log = folder / "log.txt"
        folder.mkdir()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", name, str(processor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                env=os.environ | MALLOC_OPTIONS | ENVIRONMENTS.get(MODULES[name], {}),
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        if request["do"] in ("first", "run"):
            self._caches += 1
            request["cache"] = str(self._folder / f"cache-{self._caches}")
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError as error:
            raise LeftOutError("its process ended") from error
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Wait for an answer.

        Raises:
            LeftOutError: If there is none, or it is an error.
        """
        output = self._process.stdout
        if output is None or not select.select([output], [], [], TIMEOUT_SECONDS)[0]:
            raise LeftOutError(f"no answer within {TIMEOUT_SECONDS:.0f} seconds")
        line = output.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            raise LeftOutError(answer["error"])
        return answer

    def compile_messages(self) -> list[str]:
        """Return what torchfit logged about compilation."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return sorted({line for line in lines if "jit_compile:" in line})

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
