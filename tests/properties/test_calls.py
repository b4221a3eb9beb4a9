"""Whatever is passed to a model: it is taken, or refused in words of torchfit, and the model trains afterwards.

`TORCHFIT_CALLS=25000 python -m pytest tests/properties/test_calls.py` searches for longer, in another place each time.
"""

import os
import random
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import torchfit
from tests.properties import calls

CALLS = int(os.environ.get("TORCHFIT_CALLS", 500))


@pytest.fixture(autouse=True, scope="module")
def _whole_tracebacks():
    """Keep the frames of torchfit: the innermost one shows who raised an error."""
    torchfit.config.traceback_filtering = False
    yield
    torchfit.config.traceback_filtering = True


@settings(
    max_examples=CALLS,
    deadline=None,
    derandomize="TORCHFIT_CALLS" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**64 - 1))
def test_a_call_is_taken_or_refused_and_the_model_trains_afterwards(seed):
    call = calls.Call(random.Random(seed).choice)
    note(repr(call))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call.run()
        except Exception as error:
            if not calls.is_told(error):
                raise
        loss, has_moved = call.train_afterwards()
    assert np.isfinite(loss)
    assert has_moved
