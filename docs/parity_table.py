"""Write docs/parity.md: how far each loss, metric, optimizer and schedule is from installed Keras.

    KERAS_BACKEND=torch python docs/parity_table.py

The members, their options and their data are those of the tests in `tests/parity/`.
"""

import os
import runpy
import sys
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import torchfit  # noqa: E402
from torchfit import losses, metrics, optimizers  # noqa: E402
from torchfit.optimizers import schedules  # noqa: E402

HEAD = """\
# Numbers

torchfit's losses, metrics, optimizers and schedules compute what Keras computes. The tests compare them with an
installed Keras, option by option; this table says how far apart they are at most.

- **Checked against** Keras {keras} on its PyTorch backend, with PyTorch {torch}, float32, on a CPU.
- **Cases** are combinations of options, inputs, weights and masks. Among the inputs are edges: zeros, empty classes,
  perfect predictions, huge logits, NaN.
- **Largest difference** is the largest of |ours − Keras'| / max(1, |Keras'|) over all cases and all values. One unit in
  the last place of a float32 is 1.2e-7. `0` means equal bit for bit.

The page is written by `docs/parity_table.py` from the lists in `tests/parity/` and `tests/metrics/members.py`. What the
tests check beyond it: gradients, shapes, dtypes, names, configs and signatures.
"""
NOTES = """
Optimizers take 20 steps, then all weights are compared. Adam and its kin differ most at large learning rates: Keras
computes `1 - beta**step` in float32, which leaves few digits in the first steps. `ScheduleFreeAdamW` is compared with
Keras' formula; as it stands, Keras on PyTorch updates the momentum in place before it reads "the old one".
"""
DIFFERENCES = """
## Where torchfit differs

The loss and the metrics of an epoch, of `evaluate` and of validation are those of all data at once, whatever the batch
size. Where the mean over batches is something else, torchfit and Keras differ; the weights after training on the same
batches do not. Besides, targets are required wherever a loss was compiled, where Keras' `test_on_batch` reports 0.
"""
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight", "none")


def cases_of(path):
    """Run a test module for its lists of members."""
    return runpy.run_path(str(ROOT / "tests" / path))


def difference(ours, theirs):
    """Return the largest difference relative to max(1, |theirs|); what is not finite must be the same."""
    ours, theirs = (np.asarray(torch.as_tensor(value).detach(), dtype="float64") for value in (ours, theirs))
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return float(np.where(same, 0, np.nan_to_num(apart, nan=np.inf)).max(initial=0))


def loss_differences():
    """Yield the name of a loss and a difference for every case."""
    tests = cases_of("parity/test_losses.py")
    for member in tests["MEMBERS"]:
        inputs = member.inputs()
        for reduction in REDUCTIONS:
            makers = getattr(losses, member.name), partial(tests["of_keras"], member.name)
            pair = [make(reduction=reduction, **member.arguments) for make in makers]
            left_out = tests["NOT_WITH_A_MASK_IN_KERAS"] if tests["has_own_mask"](member) else ()
            if reduction == "mean_with_sample_weight":
                left_out = tests["NOT_WITH_A_WEIGHTED_MEAN_IN_KERAS"]
            for y_true, y_pred in inputs:
                yield member.name, difference(*(loss(torch.tensor(y_true), torch.tensor(y_pred)) for loss in pair))
            y_true, y_pred = (torch.tensor(array) for array in inputs[0])
            shape = tests["_value_shape"](member, *inputs[0])
            for kind, weight in tests["WEIGHTS"].items():
                if kind not in left_out:
                    given = weight(shape)
                    yield member.name, difference(*(loss(y_true, y_pred, given) for loss in pair))
            if member.name not in ("Dice", "Tversky"):
                y_pred._keras_mask = torch.tensor(np.random.random(shape) > 0.4)
                yield member.name, difference(*(loss(y_true, y_pred) for loss in pair))


def metric_differences():
    """Yield the name of a metric and a difference for every case, after each of three batches."""
    tests = cases_of("parity/test_metrics.py")
    for member in tests["MEMBERS"]:
        for weighted in (False, True):
            pair = tests["pair"](member)
            for seed in range(3):
                y_true, y_pred = member.data(seed)
                weights = tests["_weights"](member, y_true, seed) if weighted else None
                for metric in pair:
                    metric.update_state(y_true, y_pred, weights)
                yield member.name, difference(*(metric.result() for metric in pair))
    for name in ("Mean", "Sum"):
        for weighted in (False, True):
            pair = [getattr(family, name)() for family in (metrics, keras.metrics)]
            for _ in range(3):
                values = np.random.standard_normal((8, 4)).astype("float32")
                weights = np.random.random((8, 1)).astype("float32") if weighted else None
                for metric in pair:
                    metric.update_state(values, weights)
                yield name, difference(*(metric.result() for metric in pair))


def optimizer_differences():
    """Yield the name of an optimizer and the difference of all weights after twenty steps, for every option."""
    tests = cases_of("parity/test_optimizers.py")
    for case in tests["CASES"]:
        name, options = case.values
        ours = tests["run_ours"](getattr(optimizers, name)(**options))
        theirs = tests["run_keras"](tests["of_keras"](name, **options))
        yield name, max(difference(left, right) for left, right in zip(ours, theirs, strict=True))
    ours = tests["run_ours"](optimizers.LossScaleOptimizer(optimizers.SGD(), initial_scale=64.0))
    theirs = tests["run_keras"](keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=64.0))
    yield "LossScaleOptimizer", max(difference(left, right) for left, right in zip(ours, theirs, strict=True))


def schedule_differences():
    """Yield the name of a schedule and its largest difference over a thousand steps."""
    for name, arguments in cases_of("parity/test_optimizers.py")["SCHEDULES"]:
        ours, theirs = (getattr(f, name)(**arguments) for f in (schedules, keras.optimizers.schedules))
        steps = range(1001)
        yield name, difference([ours(step) for step in steps], [float(theirs(step)) for step in steps])


def evaluate_both(make_loss, y_true, y_pred, batch_size=2, **options):
    """Return the results of `evaluate` for a model that returns its inputs, of torchfit and of Keras."""
    ours = torchfit.Model(torch.nn.Identity(), device="cpu")
    theirs = keras.Sequential([keras.layers.Input(y_pred.shape[1:]), keras.layers.Identity()])
    results = []
    for model, at in ((ours, torchfit), (theirs, keras)):
        model.compile("sgd", make_loss(at), metrics=list(options.get("metrics", ())))
        weights = options.get("sample_weight")
        results.append(model.evaluate(y_pred, y_true, batch_size=batch_size, sample_weight=weights, verbose=0))
    return results


def documented_differences():
    """Yield `(case, our number, that of Keras, why)` where torchfit computes something else on purpose."""
    amounts, zeros = np.array([[1.0], [2.0], [3.0], [4.0], [10.0]], "float32"), np.zeros((5, 1), "float32")
    yield (
        '`reduction="sum"`, 5 samples in batches of 2',
        *evaluate_both(lambda at: at.losses.MeanSquaredError(reduction="sum"), zeros, amounts),
        "The sum over all data; Keras averages the sums of batches, which depends on `batch_size`.",
    )
    labels = np.array([0, -1, -1, -1, 1])
    scores = np.array([[2, 0], [0, 0], [0, 0], [0, 0], [3, 0]], "float32")
    yield (
        "`ignore_class=-1`, 2 of 5 labels count",
        *evaluate_both(
            lambda at: at.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), labels, scores
        ),
        "The mean over the values that count; Keras weighs batches by samples that do not count as well.",
    )
    yield (
        '`reduction="mean_with_sample_weight"`, weights 1, 1, 1, 1, 9',
        *evaluate_both(
            lambda at: at.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
            zeros,
            amounts,
            sample_weight=np.array([1, 1, 1, 1, 9], "float32"),
        ),
        "The mean over all weights; Keras averages the means of batches by their samples.",
    )
    ones = torch.ones(2, 3, 1), torch.zeros(2, 3, 1), torch.tensor([[1.0], [3.0]])
    yield (
        '`losses.MeanSquaredError("mean_with_sample_weight")`, errors of 1, 2 × 3 values, weights `(2, 1)`',
        *(at.losses.MeanSquaredError(reduction="mean_with_sample_weight")(*ones).item() for at in (torchfit, keras)),
        "The weights of all values; Keras divides by the sum of the weights as they were given.",
    )
    answers, logits = np.array([[1.0], [1.0], [1.0], [0.0]], "float32"), np.array([[0.3], [0.4], [2], [-1]], "float32")
    (_, ours), (_, theirs) = evaluate_both(
        lambda at: at.losses.BinaryCrossentropy(from_logits=True), answers, logits, metrics=["accuracy"]
    )
    yield (
        '`"accuracy"` beside `BinaryCrossentropy(from_logits=True)`, logits 0.3, 0.4, 2, -1',
        ours,
        theirs,
        "The metric follows the loss: logits are positive above 0; Keras compares them with 0.5.",
    )
    masks = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    yield (
        "`Tversky(alpha=0.9, beta=0.1)`, 2 false positives, 1 false negative",
        *(at.losses.Tversky(alpha=0.9, beta=0.1)(*masks).item() for at in (torchfit, keras)),
        "`alpha` weighs false positives, as documented, and as Keras computes from 3.16 on.",
    )


def differences_section():
    """Return the section about what differs on purpose."""
    head = "| case | torchfit | Keras | why |\n|---|--:|--:|---|"
    rows = [f"| {case} | {ours:.4g} | {theirs:.4g} | {why} |" for case, ours, theirs, why in documented_differences()]
    return "\n".join([DIFFERENCES, head, *rows, ""])


def table(title, module, differences):
    """Return a section: a row for each name, in alphabetical order."""
    found = defaultdict(list)
    for name, value in differences:
        found[name].append(value)
    rows = [f"| `{name}` | `{module}.{name}` | {len(v)} | {shown(max(v))} |" for name, v in sorted(found.items())]
    head = "| torchfit | Keras | cases | largest difference |\n|---|---|--:|--:|"
    return "\n".join([f"\n## {title}\n", head, *rows, ""])


def shown(value):
    """Write a difference with one digit."""
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-")


def main():
    """Compare everything and write the page."""
    np.random.seed(0)
    torch.manual_seed(0)
    versions = {"keras": keras.__version__, "torch": torch.__version__.partition("+")[0]}
    warnings.simplefilter("ignore")
    sections = [
        table("Losses", "keras.losses", loss_differences()),
        table("Metrics", "keras.metrics", metric_differences()),
        table("Optimizers", "keras.optimizers", optimizer_differences()),
        NOTES,
        table("Schedules", "keras.optimizers.schedules", schedule_differences()),
        differences_section(),
    ]
    (ROOT / "docs" / "parity.md").write_text(HEAD.format(**versions) + "".join(sections), encoding="utf-8")
    print(f"docs/parity.md: torchfit {torchfit.__version__} against Keras {versions['keras']}")


if __name__ == "__main__":
    main()
