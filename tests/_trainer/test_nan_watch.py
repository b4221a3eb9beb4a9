"""A loss that is no number is explained once, without a look at the steps."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchfit
from torchfit import callbacks, optimizers

X = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
Y = X.sum(axis=1, keepdims=True)
WAY_OUT = "callbacks.TerminateOnNaN() stops training at the first batch whose loss is not a number."
FROM_THE_MODEL = (
    "so it comes from the model: try a lower learning rate, `clipnorm=1.0`, or a loss with `from_logits=True`."
)


def with_nan(values, *place):
    values = values.copy()
    values[place] = np.nan
    return values


BAD_X, BAD_Y = with_nan(X, 40, 2), with_nan(Y, 70)


def make_model(net=None, loss="mse", rate=0.01):
    torch.manual_seed(0)
    model = torchfit.Model(net or nn.Linear(4, 1), device="cpu")
    model.compile(optimizers.SGD(rate), loss)
    return model


def warnings_of(run):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    return [str(warning.message) for warning in caught]


def warnings_of_fit(*data, epochs=3, **arguments):
    return warnings_of(lambda: make_model().fit(*data, epochs=epochs, verbose=0, **arguments))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ((BAD_X, Y), "`x` has NaN in column 2 of batch 1"),
        ((torch.from_numpy(BAD_X), Y), "`x` has NaN in column 2 of batch 1"),
        ((pd.DataFrame(BAD_X, columns=list("abcd")), Y), "`x` has NaN in the column 'c' of batch 1"),
        (({"input": BAD_X}, Y), "`x['input']` has NaN in column 2 of batch 1"),
        ((X, BAD_Y), "`y` has NaN in batch 2"),
        ((X, pd.Series(BAD_Y[:, 0])), "`y` has NaN in batch 2"),
    ],
)
def test_the_batch_and_the_part(data, found):
    assert warnings_of_fit(*data, shuffle=False) == [
        f"The loss `loss` is nan after epoch 1. {found} (counted from 0). {WAY_OUT}"
    ]


def test_the_batch_of_a_shuffled_epoch():
    seen = []

    class Net(nn.Linear):
        def forward(self, x):
            seen.append(bool(x.isnan().any()))
            return super().forward(x)

    model = make_model(Net(4, 1))
    (text,) = warnings_of(lambda: model.fit(BAD_X, Y, epochs=2, batch_size=8, verbose=0))
    assert f"`x` has NaN in column 2 of batch {seen.index(True)} (counted from 0)" in text


def test_the_batch_of_an_epoch_that_begins_in_the_middle_of_the_data():
    (text,) = warnings_of_fit(BAD_X, Y, steps_per_epoch=1, shuffle=False)
    assert "after epoch 2. `x` has NaN in column 2 of batch 0" in text


def test_weights_of_samples():
    (text,) = warnings_of_fit(X, Y, sample_weight=with_nan(np.ones(96), 3), shuffle=False)
    assert "`sample_weight` has NaN in batch 0" in text


def test_a_training_that_diverges():
    model = make_model(rate=1e30)
    (text,) = warnings_of(lambda: model.fit(X, Y, epochs=3, verbose=0))
    assert text == f"The loss `loss` is nan after epoch 1. No NaN was found in the data, {FROM_THE_MODEL} {WAY_OUT}"


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


def log_loss(y_true, y_pred):
    return (y_pred - y_pred.detach() - 1).log().mean()


def test_the_loss_of_an_output():
    model = make_model(TwoOutputs(), {"a": "mse", "b": log_loss})
    (text,) = warnings_of(lambda: model.fit(X, {"a": Y, "b": Y}, epochs=2, verbose=0))
    assert text.startswith("The loss `b_loss` is nan after epoch 1. No NaN was found in the data")


def test_validation_and_evaluation():
    (text,) = warnings_of_fit(X, Y, validation_data=(BAD_X, Y))
    assert text.startswith(
        "The loss `val_loss` is nan after epoch 1. `x` has NaN in column 2 of batch 1 (counted from 0) of "
        "`validation_data`."
    )
    (text,) = warnings_of(lambda: make_model().evaluate(X, BAD_Y, verbose=0))
    assert text.startswith("The loss `loss` is nan in the evaluation. `y` has NaN in batch 2 (counted from 0).")


class Samples(Dataset):
    def __init__(self, x, y):
        self.x, self.y, self.read = x, y, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.read += 1
        return self.x[index], self.y[index]


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: DataLoader(data, 32)], ids=["Dataset", "DataLoader"])
def test_data_that_are_read_once_are_looked_at_in_the_next_epoch(wrap):
    data = Samples(X, BAD_Y)
    (text,) = warnings_of_fit(wrap(data), shuffle=False)
    assert text == (
        f"The loss `loss` is nan after epoch 1. In the next epoch, `y` has NaN in batch 2 (counted from 0). {WAY_OUT}"
    )
    assert data.read == 3 * len(data)
    (text,) = warnings_of_fit(Samples(X, BAD_Y), epochs=1)
    assert "Look for NaN in the data. If they have none, it comes from the model" in text


def test_a_training_that_ends_before_the_next_epoch():
    stops = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True))
    model = make_model()
    (text,) = warnings_of(lambda: model.fit(Samples(X, BAD_Y), epochs=3, callbacks=[stops], verbose=0))
    assert "Look for NaN in the data. If they have none, it comes from the model" in text


def test_data_that_are_read_once_and_have_no_nan():
    model = make_model(rate=1e30)
    (text,) = warnings_of(lambda: model.fit(Samples(X, Y), epochs=3, verbose=0))
    assert text == f"The loss `loss` is nan after epoch 1. No NaN was found in the data, {FROM_THE_MODEL} {WAY_OUT}"


def test_who_terminates_on_nan_knows():
    assert warnings_of_fit(BAD_X, Y, callbacks=[callbacks.TerminateOnNaN()]) == []


def test_values_that_the_loss_ignores_are_no_problem():
    class Net(nn.Linear):
        def forward(self, x):
            return super().forward(x.nan_to_num())

    assert warnings_of(lambda: make_model(Net(4, 1)).fit(BAD_X, Y, verbose=0)) == []
