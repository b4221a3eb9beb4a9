"""Tests on a CUDA device, each against the CPU or against the loop by hand; skipped where there is none.

`TORCHFIT_GPU_REHEARSAL=1` runs them with the CPU in its place, as far as they do not ask CUDA itself (`gpu`).
"""

import os

import pytest
import torch

REHEARSAL = os.environ.get("TORCHFIT_GPU_REHEARSAL") == "1"


@pytest.fixture
def device(request):
    """The device under test; products of float32 and convolutions are exact on it."""
    if REHEARSAL:
        if request.node.get_closest_marker("gpu"):
            pytest.skip("cannot be rehearsed on the CPU")
        yield torch.device("cpu")
        return
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield torch.device("cuda", torch.cuda.current_device())
    torch.backends.cudnn.allow_tf32 = allowed
