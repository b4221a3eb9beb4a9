"""Training, evaluation and prediction against Keras on the torch backend: same weights, data and order."""

from typing import Any

import numpy as np
import pytest
from torch import nn

import torchfit

keras = pytest.importorskip("keras")

ROWS, FEATURES = 41, 6  # batches of 16, the last one ragged
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}
random = np.random.default_rng(7)
X = random.normal(size=(ROWS, FEATURES)).astype("float32")
X_VAL = random.normal(size=(23, FEATURES)).astype("float32")
WEIGHT = random.uniform(0.2, 3.0, ROWS).astype("float32")


def labels(x, kinds):
    return (np.abs(x).sum(1) * 3).astype("int64") % kinds


def classes(x):
    return labels(x, 3)


def one_hot(x):
    return np.eye(3, dtype="float32")[labels(x, 3)]


def yes_or_no(x):
    return labels(x, 2).reshape(-1, 1).astype("float32")


def amounts(x):
    return np.stack([x[:, 0] - x[:, 1], x[:, 2] * x[:, 3]], 1)


# name: (units of the output, its activation, targets, loss in either library, metrics)
TASKS: dict[str, Any] = {
    "squares": (2, None, amounts, lambda at: "mse", ["mae"]),
    "distances": (2, None, amounts, lambda at: "mae", ["mse"]),
    "a vector of targets": (1, None, lambda x: x[:, 0], lambda at: "mse", ["mae"]),
    "yes or no": (1, "sigmoid", yes_or_no, lambda at: "binary_crossentropy", ["accuracy"]),
    "yes or no, logits": (
        1,
        None,
        yes_or_no,
        lambda at: at.losses.BinaryCrossentropy(from_logits=True),
        lambda at: ["acc"] if at is torchfit else [at.metrics.BinaryAccuracy("acc", threshold=0.0)],
    ),
    "one-hot": (3, "softmax", one_hot, lambda at: "categorical_crossentropy", ["accuracy"]),
    "one-hot, logits": (
        3,
        None,
        one_hot,
        lambda at: at.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        ["accuracy"],
    ),
    "classes": (3, "softmax", classes, lambda at: "sparse_categorical_crossentropy", ["accuracy"]),
    "classes, logits": (
        3,
        None,
        classes,
        lambda at: at.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy"],
    ),
}
SUM = (2, None, amounts, lambda at: at.losses.MeanSquaredError(reduction="sum"), [])
OPTIMIZERS = {
    "SGD": {"learning_rate": 0.05, "momentum": 0.9},
    "RMSprop": {},
    "Adam": {"learning_rate": 0.01},
    "AdamW": {"learning_rate": 0.01, "weight_decay": 0.1},
}
ACTIVATIONS = {None: nn.Identity, "sigmoid": nn.Sigmoid, "softmax": lambda: nn.Softmax(-1)}


def twins(units, activation):
    """Return a Keras model and ours with the same weights."""
    theirs = keras.Sequential(
        [
            keras.layers.Input((FEATURES,)),
            keras.layers.Dense(5, activation="relu"),
            keras.layers.Dense(units, activation=activation),
        ]
    )
    net = nn.Sequential(nn.Linear(FEATURES, 5), nn.ReLU(), nn.Linear(5, units), ACTIVATIONS[activation]())
    ours = torchfit.Model(net, device="cpu")
    ours.set_weights([weight.T for weight in theirs.get_weights()])
    return theirs, ours


def compiled_twins(task, optimizer="RMSprop", **options):
    units, activation, targets, loss, metrics = TASKS.get(task, SUM)
    pair = twins(units, activation)
    # The gradient of a sum is many times that of a mean: training would diverge, and amplify rounding.
    rate = {"learning_rate": 0.002} if task not in TASKS and optimizer == "SGD" else {}
    for model, at in zip(pair, (keras, torchfit)):
        chosen = getattr(at.optimizers, optimizer)(**OPTIMIZERS[optimizer] | rate)
        model.compile(chosen, loss(at), metrics=metrics(at) if callable(metrics) else list(metrics), **options)
    return (*pair, targets)


def assert_same_results(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], **CLOSE, err_msg=name)


def assert_same_weights(ours, theirs):
    for mine, their in zip(ours.get_weights(), theirs.get_weights()):
        np.testing.assert_allclose(mine, their.T, **CLOSE)


def fit_both(theirs, ours, targets, **arguments):
    arguments = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0} | arguments
    return [
        model.fit(X, targets(X), validation_data=(X_VAL, targets(X_VAL)), **arguments).history
        for model in (ours, theirs)
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", TASKS)
def test_three_epochs(task, optimizer):
    theirs, ours, targets = compiled_twins(task, optimizer)
    mine, expected = fit_both(theirs, ours, targets)
    assert_same_results(mine, expected)
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sum_trains_alike_and_is_reported_as_the_sum_over_all_data(optimizer):
    theirs, ours, targets = compiled_twins("a sum", optimizer)
    fit_both(theirs, ours, targets)
    assert_same_weights(ours, theirs)
    total = ((theirs.predict(X, verbose=0) - targets(X)) ** 2).mean(-1).sum()
    assert ours.evaluate(X, targets(X), batch_size=16, verbose=0) == pytest.approx(total, rel=1e-5)


WEIGHTED = {"squares": "mae", "yes or no": "mse", "one-hot, logits": "mse", "classes": "acc"}


@pytest.mark.parametrize("task", WEIGHTED)
def test_sample_weight_and_weighted_metrics(task):
    theirs, ours, targets = compiled_twins(task, weighted_metrics=[WEIGHTED[task]])
    mine, expected = fit_both(theirs, ours, targets, sample_weight=WEIGHT)
    assert_same_results(mine, expected)
    assert_same_weights(ours, theirs)


def test_validation_weights():
    theirs, ours, targets = compiled_twins("squares", weighted_metrics=["mse"])
    held_out = (X_VAL, targets(X_VAL), WEIGHT[: len(X_VAL)])
    mine, expected = (
        model.fit(X, targets(X), validation_data=held_out, shuffle=False, verbose=0).history for model in (ours, theirs)
    )
    assert_same_results(mine, expected)


def test_validation_split():
    theirs, ours, targets = compiled_twins("classes")
    arguments = {"validation_split": 0.3, "epochs": 3, "shuffle": False, "verbose": 0, "validation_batch_size": 5}
    mine, expected = (model.fit(X, targets(X), **arguments).history for model in (ours, theirs))
    assert_same_results(mine, expected)


@pytest.mark.parametrize("task", TASKS)
def test_evaluate_and_predict(task):
    theirs, ours, targets = compiled_twins(task)
    arguments = {"batch_size": 16, "verbose": 0, "sample_weight": WEIGHT}
    assert_same_results(
        ours.evaluate(X, targets(X), return_dict=True, **arguments),
        theirs.evaluate(X, targets(X), return_dict=True, **arguments),
    )
    np.testing.assert_allclose(
        ours.evaluate(X, targets(X), **arguments), theirs.evaluate(X, targets(X), **arguments), **CLOSE
    )
    np.testing.assert_allclose(ours.predict(X, batch_size=16), theirs.predict(X, batch_size=16, verbose=0), **CLOSE)


@pytest.mark.parametrize("task", ["squares", "classes", "yes or no"])
def test_single_batches(task):
    theirs, ours, targets = compiled_twins(task, "Adam")
    x, y, weight = X[:8], targets(X[:8]), WEIGHT[:8]
    for method in ("train_on_batch", "test_on_batch"):
        for arguments in ({}, {"sample_weight": weight}):
            np.testing.assert_allclose(
                getattr(ours, method)(x, y, **arguments), getattr(theirs, method)(x, y, **arguments), **CLOSE
            )
    np.testing.assert_allclose(ours.predict_on_batch(x), theirs.predict_on_batch(x), **CLOSE)
    assert_same_weights(ours, theirs)


def recorder(base):
    """Return a callback of either library that notes every event with the names in its logs."""

    class Recorder(base):  # type: ignore[valid-type]
        def __init__(self):
            super().__init__()
            self.events = []

    def note(event):
        def batch_hook(self, batch, logs=None):
            self.events.append((event, batch, sorted(logs or {})))

        def hook(self, logs=None):
            self.events.append((event, sorted(logs or {})))

        return batch_hook if "batch" in event or "epoch" in event else hook

    phases = ("train", "test", "predict")
    events = [f"on_{phase}_{edge}" for phase in phases for edge in ("begin", "end")]
    events += [f"on_{phase}_batch_{edge}" for phase in phases for edge in ("begin", "end")]
    for event in (*events, "on_epoch_begin", "on_epoch_end"):
        setattr(Recorder, event, note(event))
    return Recorder()


def events_of_both(theirs, ours, run):
    pair = recorder(torchfit.callbacks.Callback), recorder(keras.callbacks.Callback)
    for model, callback in zip((ours, theirs), pair):
        run(model, callback)
    return [callback.events for callback in pair]


def test_events_of_fit():
    theirs, ours, targets = compiled_twins("classes")
    mine, expected = events_of_both(
        theirs,
        ours,
        lambda model, callback: model.fit(
            X,
            targets(X),
            batch_size=16,
            epochs=2,
            verbose=0,
            validation_data=(X_VAL, targets(X_VAL)),
            validation_batch_size=16,
            callbacks=[callback],
        ),
    )
    assert mine == expected


@pytest.mark.parametrize(
    "run",
    [
        lambda model, callback, y: model.evaluate(X, y, batch_size=16, verbose=0, callbacks=[callback]),
        lambda model, callback, y: model.predict(X, batch_size=16, verbose=0, callbacks=[callback]),
    ],
    ids=["evaluate", "predict"],
)
def test_events_of_evaluate_and_predict(run):
    theirs, ours, targets = compiled_twins("classes")
    mine, expected = events_of_both(theirs, ours, lambda model, callback: run(model, callback, targets(X)))
    assert mine == expected


def test_values_in_the_logs_of_batches():
    """Batch logs hold the means over the epoch so far, in Keras and here."""
    theirs, ours, targets = compiled_twins("classes")
    seen = []
    for model, at in ((ours, torchfit), (theirs, keras)):
        values = []
        note = at.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, values=values: values.append(dict(logs))
        )
        model.fit(X, targets(X), batch_size=16, shuffle=False, verbose=0, callbacks=[note])
        seen.append(values)
    for mine, expected in zip(*seen, strict=True):
        assert_same_results(mine, expected)


def test_several_outputs():
    """Per-output losses and metrics: Keras' numbers, with Keras 2's names."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.amount, self.kind = nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 3)

        def forward(self, x):
            return {"amount": self.amount(x), "kind": self.kind(x).softmax(-1)}

    inputs = keras.Input((FEATURES,))
    outputs = {
        "amount": keras.layers.Dense(1, name="amount")(inputs),
        "kind": keras.layers.Dense(3, activation="softmax", name="kind")(inputs),
    }
    theirs, ours = keras.Model(inputs, outputs), torchfit.Model(Two(), device="cpu")
    ours.set_weights([weight.T for weight in theirs.get_weights()])
    y = {"amount": X[:, :1], "kind": classes(X)}
    histories = []
    for model in (ours, theirs):
        model.compile(
            "rmsprop",
            {"amount": "mse", "kind": "sparse_categorical_crossentropy"},
            metrics={"amount": ["mae"], "kind": ["accuracy"]},
            loss_weights={"amount": 0.3, "kind": 2.0},
        )
        histories.append(model.fit(X, y, epochs=3, batch_size=16, shuffle=False, verbose=0).history)
    assert list(histories[0]) == ["loss", "amount_loss", "kind_loss", "amount_mae", "kind_accuracy"]
    assert_same_results(*histories)
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("ModelCheckpoint", "on_train_end"),
        ("ModelCheckpoint", "on_train_batch_end"),
        ("BackupAndRestore", "on_train_batch_end"),
        ("ProgbarLogger", "on_train_batch_end"),
    ],
)
@pytest.mark.filterwarnings("ignore:The file .* is written in the format of torchfit:UserWarning")
def test_hooks_of_subclasses_of_callbacks_are_called_as_often(tmp_path, name, hook):
    theirs, ours, _ = compiled_twins("squares")
    counts = []
    for library, model in ((keras, theirs), (torchfit, ours)):
        base = getattr(library.callbacks, name)
        calls = []

        def count(self, *arguments, base=base, calls=calls, **logs):
            calls.append(hook)
            getattr(base, hook)(self, *arguments, **logs)

        path = str(tmp_path / f"{library.__name__}.keras")
        own = type("Own", (base,), {hook: count})(*([] if name == "ProgbarLogger" else [path]))
        model.fit(X, amounts(X), batch_size=16, epochs=2, verbose=0, callbacks=[own])
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


def centralized(gradients):
    return [gradient if gradient is None or gradient.ndim < 2 else gradient - gradient.mean() for gradient in gradients]


@pytest.mark.parametrize("steps", [None, 3])
def test_an_overridden_apply_is_called_as_often_with_the_same_gradients(steps):
    theirs, ours, _ = compiled_twins("squares")
    seen = []
    for library, model in ((keras, theirs), (torchfit, ours)):
        base = library.optimizers.SGD

        def apply(self, grads, trainable_variables=None, base=base):
            seen.append((len(grads), len(trainable_variables), sum(float(each.abs().sum()) for each in grads)))
            base.apply(self, centralized(grads), trainable_variables)

        own = type("Centralized", (base,), {"apply": apply})
        model.compile(own(0.1, gradient_accumulation_steps=steps), "mse")
        model.fit(X[:36], amounts(X)[:36], batch_size=12, epochs=2, shuffle=False, verbose=0)
    half = len(seen) // 2
    assert [each[:2] for each in seen[:half]] == [each[:2] for each in seen[half:]]
    assert [each[2] for each in seen[:half]] == pytest.approx([each[2] for each in seen[half:]], rel=1e-4)
    assert_same_weights(ours, theirs)
