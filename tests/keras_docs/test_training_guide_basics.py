"""Keras' guide to training with the built-in methods: losses, metrics and a holdout set, on digits."""

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import losses, metrics, optimizers

PIXELS, CLASSES = 64, 10


def one_hot(y):
    return np.eye(CLASSES, dtype="float32")[y.astype(int)]


def get_uncompiled_model(last=nn.Softmax):
    torch.manual_seed(1)
    return torchfit.Model(
        nn.Sequential(
            nn.Linear(PIXELS, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES), last(dim=-1)
        ),
        device="cpu",
    )


def get_compiled_model():
    model = get_uncompiled_model()
    model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["sparse_categorical_accuracy"])
    return model


def test_a_first_end_to_end_example(digits, capsys):
    (x_train, y_train), validation, (x_test, y_test) = digits
    model = get_uncompiled_model()
    model.compile(
        optimizer=optimizers.RMSprop(),
        loss=losses.SparseCategoricalCrossentropy(),
        metrics=[metrics.SparseCategoricalAccuracy()],
    )
    history = model.fit(x_train, y_train, batch_size=64, epochs=20, validation_data=validation, verbose=1)
    assert list(history.history) == [
        "loss",
        "sparse_categorical_accuracy",
        "val_loss",
        "val_sparse_categorical_accuracy",
    ]
    assert history.history["val_sparse_categorical_accuracy"][-1] > 0.9
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 1/20"
    assert lines[1].startswith("19/19 [==============================] - 0s ")
    assert [part.split(":")[0] for part in lines[1].split(" - ")[2:]] == list(history.history)

    loss, accuracy = model.evaluate(x_test, y_test, batch_size=128, verbose=0)
    assert loss < 0.7
    assert accuracy > 0.85
    predictions = model.predict(x_test[:3])
    assert predictions.shape == (3, 10)
    np.testing.assert_allclose(predictions.sum(1), 1, rtol=1e-5)


def test_strings_are_shortcuts(digits):
    train, _, _ = digits
    by_name, by_object = get_compiled_model(), get_uncompiled_model()
    by_object.compile(
        optimizer=optimizers.RMSprop(learning_rate=1e-3),
        loss=losses.SparseCategoricalCrossentropy(),
        metrics=[metrics.SparseCategoricalAccuracy()],
    )
    first, second = (model.fit(*train, shuffle=False, verbose=0).history for model in (by_name, by_object))
    assert first == second


def custom_mean_squared_error(y_true, y_pred):
    return torch.mean(torch.square(y_true - y_pred))


class CustomMSE(losses.Loss):
    def __init__(self, regularization_factor=0.1, name="custom_mse"):
        super().__init__(name=name)
        self.regularization_factor = regularization_factor

    def call(self, y_true, y_pred):
        mse = torch.mean(torch.square(y_true - y_pred))
        reg = torch.mean(torch.square(0.5 - y_pred))
        return mse + reg * self.regularization_factor


def test_a_custom_loss_is_a_function(digits):
    (x, y), _, _ = digits
    model = get_uncompiled_model()
    model.compile(optimizer=optimizers.Adam(), loss=custom_mean_squared_error)
    history = model.fit(x, one_hot(y), batch_size=64, epochs=3, verbose=0).history
    assert list(history) == ["loss"]
    assert history["loss"][-1] < history["loss"][0] < 0.1


def test_a_custom_loss_is_a_subclass(digits):
    (x, y), _, _ = digits
    model = get_uncompiled_model()
    model.compile(optimizer=optimizers.Adam(), loss=CustomMSE())
    outputs = model.predict(x)
    expected = np.mean((one_hot(y) - outputs) ** 2) + 0.1 * np.mean((0.5 - outputs) ** 2)
    assert model.evaluate(x, one_hot(y), batch_size=1200, verbose=0) == pytest.approx(expected, rel=1e-5)
    first, second = model.fit(x, one_hot(y), batch_size=64, epochs=2, verbose=0).history["loss"]
    assert second < first


class CategoricalTruePositives(metrics.Metric):
    def __init__(self, name="categorical_true_positives", **kwargs):
        super().__init__(name=name, **kwargs)
        self.true_positives = self.add_weight(name="ctp", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = torch.argmax(y_pred, dim=1).reshape(-1, 1)
        values = (y_true.int() == y_pred.int()).float()
        if sample_weight is not None:
            values = values * sample_weight.float()
        self.true_positives.assign_add(torch.sum(values))

    def result(self):
        return self.true_positives

    def reset_state(self):
        self.true_positives.assign(0.0)


def test_a_custom_metric(digits):
    (x, y), _, _ = digits
    model = get_uncompiled_model()
    model.compile(
        optimizer=optimizers.RMSprop(learning_rate=1e-3),
        loss=losses.SparseCategoricalCrossentropy(),
        metrics=[CategoricalTruePositives()],
    )
    counts = model.fit(x, y, batch_size=64, epochs=3, verbose=0).history["categorical_true_positives"]
    assert counts[0] < counts[1] < counts[2] <= len(x)
    right = np.sum(model.predict(x).argmax(1) == y)
    assert model.evaluate(x, y, verbose=0)[1] == right


def test_a_custom_metric_sees_weights_among_the_weighted_ones(digits):
    (x, y), _, _ = digits
    model = get_uncompiled_model()
    model.compile(loss="sparse_categorical_crossentropy", weighted_metrics=[CategoricalTruePositives()])
    weights = np.linspace(0, 2, len(x)).astype("float32")
    right = model.predict(x).argmax(1) == y
    found = model.evaluate(x, y, sample_weight=weights, verbose=0)[1]
    assert found == pytest.approx(np.sum(weights[right]), rel=1e-5)


def test_a_holdout_set_is_split_off(digits):
    (x, y), _, _ = digits
    model = get_compiled_model()
    whole = model.fit(x, y, batch_size=64, validation_split=0.2, epochs=1, verbose=0, shuffle=False).history
    other = get_compiled_model()
    apart = other.fit(
        x[:960], y[:960], validation_data=(x[960:], y[960:]), batch_size=64, shuffle=False, verbose=0
    ).history
    assert whole == apart
