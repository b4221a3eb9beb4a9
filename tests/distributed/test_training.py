"""Training with several processes gives the numbers of one."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from tests.distributed.cases import LABELS, WEIGHTS, X, compiled, network, trained
from tests.distributed.compare import assert_same
from torchfit import distribution, losses, metrics, optimizers


def history(data=None, settings=None, compile_arguments=None):
    return trained(compiled(network(), **(compile_arguments or {})), *(data or ()), **(settings or {}))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shuffle": False},
        {"shuffle": "batch"},
        {"batch_size": 1, "steps_per_epoch": 20},
        {"batch_size": 3},
        {"steps_per_epoch": 5},
        {"validation_split": 0.3},
        {"validation_data": (X[:33], LABELS[:33])},
        {"class_weight": {0: 0.2, 1: 3.0, 2: 1.0}},
        {"class_weight": "balanced"},
        {"sample_weight": WEIGHTS},
    ],
    ids=str,
)
def test_arguments_of_fit(everywhere, settings):
    everywhere(history, None, settings, sizes=(2, 3))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fewer_rows_than_processes(everywhere, rows):
    everywhere(history, (X[:rows], LABELS[:rows]), sizes=(3,))


def test_four_processes(everywhere):
    everywhere(history, None, {"validation_split": 0.3, "sample_weight": WEIGHTS}, sizes=(4,))


def with_float64(**settings):
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    same = metrics.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    model = compiled(network(dtype=torch.float64), loss=loss, metrics=[same])
    found = trained(model, X.astype("float64"), **settings)
    del found["history"]["loss"]  # Which is logged in float32.
    return found


def test_float64_is_exact(everywhere):
    everywhere(with_float64, shuffle=False, sample_weight=WEIGHTS.astype("float64"), sizes=(2, 3), tolerance=1e-12)
    everywhere(with_float64, batch_size=27, epochs=4, tolerance=1e-12)  # Parts of 13 rows, and of 2 and 3.


def many_steps():
    model = compiled(network(), optimizers.RMSprop(0.01, momentum=0.9))
    model.fit(X[:63], LABELS[:63], batch_size=63, epochs=200, verbose=0)  # 31 and 32 rows.
    return [array.astype("float64") for array in model.get_weights()]


def test_replicas_stay_equal_to_the_bit(pools):
    first, second = pools(2).run(many_steps)
    for one, other in zip(first, second):
        assert np.array_equal(one, other)


ALONE = """
import sys
import numpy as np, torch, torchfit
model = torchfit.Model(torch.nn.Linear(2, 1), device="cpu")
model.compile("sgd", "mse")
model.fit(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"), verbose=0)
assert torchfit.distribution.world_size() == 1
ours = [name for name in sys.modules if name.startswith("torchfit.")]
print([name for name in ours if "_distribution." in name or "replica" in name])
print(torch.distributed.is_initialized())
"""


def test_one_process_loads_nothing_of_this():
    result = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True, env=alone())
    loaded = "['torchfit._distribution.options', 'torchfit._distribution.processes']"
    assert result.stdout == f"{loaded}\nFalse\n"


def test_a_world_that_cannot_be_reached_is_refused():
    environment = {**alone(), "WORLD_SIZE": "4"}
    result = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, env=environment)
    assert result.returncode != 0
    assert "WORLD_SIZE is 4, so there are several processes, but RANK, MASTER_ADDR, MASTER_PORT" in result.stderr


def alone():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_set_distribution():
    with pytest.raises(RuntimeError, match="DataParallel needs several processes, but this one was started alone"):
        distribution.set_distribution(distribution.DataParallel())
    with pytest.raises(ValueError, match="must be a `DataParallel` or None"):
        distribution.set_distribution("data")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`batch_norm` must be 'global' or 'local'"):
        distribution.DataParallel(batch_norm="none")


def test_the_default_is_data_parallel():
    program = "from torchfit import distribution as given; assert given.distribution() == given.DataParallel()"
    subprocess.run([sys.executable, "-c", program], env=alone(), check=True)


def with_layers():
    torch.manual_seed(0)
    layers = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3)
    return trained(compiled(nn.Sequential(*layers), "sgd"), batch_size=40)


def with_choices(**choices):
    distribution.set_distribution(distribution.DataParallel(**choices) if choices else None)
    return with_layers(), distribution.world_size()


def test_choices(pools):
    whole = with_layers()
    (alone, size), _ = pools(2, forks=True).run(with_choices)
    assert_same(alone, whole, 1e-6)
    assert size == 1
    for choices in ({"batch_norm": "local"}, {"randomness": "local"}):
        (first, _), (second, _) = pools(2, forks=True).run(with_choices, **choices)
        assert first["history"] == second["history"]
        assert first["history"] != whole["history"]
