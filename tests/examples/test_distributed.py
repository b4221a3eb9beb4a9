"""The example trains, with one process and with several."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
def test_two_processes_print_what_one_does():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    printed = []
    for launcher in ([], TORCHRUN):
        command = [sys.executable, *launcher, str(EXAMPLE), "--epochs", "4"]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
        printed.append(re.sub(r"- \d.*?/step - ", "", result.stdout))
    assert printed[0].replace("Processes: 1", "Processes: 2") == printed[1]
    assert "Processes: 2" in printed[1]
