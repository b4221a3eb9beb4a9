"""Runs that are killed at random moments end exactly like uninterrupted runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork processes")

SCRIPT = Path(__file__).with_name("killed.py")
SEED = 20


def killed(scenario, kills, folder):
    command = [sys.executable, str(SCRIPT), scenario, str(kills), str(SEED), str(folder / "runs")]
    environment = {"PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def check(seen, kills):
    assert kills <= seen["kills"] <= 3 * kills
    assert seen["equal"] == [dict.fromkeys(seen["equal"][0], True)] * seen["rounds"]
    assert sorted(seen["left"]) == ["log.csv", "outcome.pt"], "the backup is deleted, and nothing else was left"
    assert seen["rates"] > 1, "the learning rate was changed by a callback or a schedule"


def check_callbacks(seen):
    assert seen["epochs"] < 12, "training stopped early"


@pytest.mark.parametrize(
    ("scenario", "kills"),
    [
        ("arrays", 12),
        ("loader with 2 workers", 10),
        ("dataset with 2 workers", 8),
    ],
)
def test_a_killed_training_ends_bitwise_equal(scenario, kills, tmp_path):
    seen = killed(scenario, kills, tmp_path)
    check(seen, kills)
    check_callbacks(seen)
    assert seen["torn"] >= 1, "none of the kills came while a file was written"


@pytest.mark.parametrize("scenario", ["layers that are unfrozen", "a loss with parameters"])
def test_what_is_trained_is_resumed_with_all_that_it_depends_on(scenario, tmp_path):
    check(killed(scenario, 2, tmp_path), 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    ["groups with rates of their own", "accumulated gradients", "several optimizers", "an optimizer with a closure"],
)
def test_every_kind_of_optimizer_is_resumed(scenario, tmp_path):
    check(killed(scenario, 5, tmp_path), 5)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["arrays and epochs of their own length", "several steps in a call", "compiled"])
def test_more_killed_trainings(scenario, tmp_path):
    seen = killed(scenario, 8, tmp_path)
    check(seen, 8)
    check_callbacks(seen)
