"""Every framework runs, on a handful of samples."""

import numpy as np
import pytest

from benchmarks.cases import CASES
from benchmarks.frameworks import MODULES, REFERENCE, load, matching_names

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own

NEEDS = {
    "Keras on torch": "keras",
    "Poutyne": "poutyne",
    "skorch": "skorch",
    "Lightning": "lightning",
    "ignite": "ignite",
    "accelerate": "accelerate",
}
PLAIN = [name for name in MODULES if "compile" not in name and name != "Keras on JAX"]  # JAX needs a process of its own


def run_all(name, case):
    runs = load(name)(case)
    for run in runs.values():
        run()
    return runs


@pytest.mark.parametrize("name", PLAIN)
def test_a_framework_trains_evaluates_and_predicts(name):
    pytest.importorskip(NEEDS.get(name, "torch"))
    runs = run_all(name, CASES["tiny"].of(64))
    assert runs.keys() <= {"train", "evaluate", "predict"}
    if "predict" in runs:
        assert np.shape(runs["predict"]()) == (64, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODULES if "compile" in name])
def test_a_compiled_framework_trains_evaluates_and_predicts(name):
    runs = run_all(name, CASES["tiny"].of(512))
    assert np.shape(runs["predict"]()) == (512, 2)


@pytest.mark.parametrize("name", ["loop tuned by hand", "loop of the tutorials", "torchfit"])
def test_networks_learn_the_same_data(name):
    case = CASES["convnet"].of(128)
    assert np.shape(load(name)(case)["predict"]()) == (128, 10)  # type: ignore[call-overload]


def test_names_are_found_by_words_and_the_reference_is_always_there():
    assert matching_names(["poutyne"]) == [REFERENCE, "Poutyne"]
