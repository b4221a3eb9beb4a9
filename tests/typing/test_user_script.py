import inspect
import runpy
from pathlib import Path

import torchfit

SCRIPT = Path(__file__).parent / "user_script.py"


def test_the_typed_script_of_a_user_runs(capsys):
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out.startswith('Model: "typed"')


def test_completion_shows_the_arguments_of_keras():
    assert list(inspect.signature(torchfit.Model.fit).parameters)[1:] == [
        "x", "y", "batch_size", "epochs", "verbose", "callbacks", "validation_split", "validation_data", "shuffle",
        "class_weight", "sample_weight", "initial_epoch", "steps_per_epoch", "validation_steps",
        "validation_batch_size", "validation_freq", "max_queue_size", "workers", "use_multiprocessing",
    ]  # fmt: skip
