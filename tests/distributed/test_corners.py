"""Other ways to train, each with several processes as with one."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import torchfit
from tests.distributed.cases import CROSSENTROPY, LABELS, ROWS, VALUES, X, compiled, network, trained
from torchfit import callbacks, losses, metrics, optimizers


def several_steps_in_a_call():
    return trained(compiled(network(), steps_per_execution=3), validation_split=0.3)


def compiled_automatically():
    return trained(compiled(network(), jit_compile="auto"))


def lazy_layers():
    torch.manual_seed(0)
    module = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.LazyLinear(3))
    return trained(compiled(module, "sgd"), batch_size=40)


class Named(nn.Module):
    """Takes inputs by name: rows of words, of which it trains vectors, and numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(11, 4, sparse=True), nn.Linear(12, 3)

    def forward(self, words, numbers):
        return self.head(torch.cat([self.words(words).mean(1), numbers], 1))


def sparse_gradients_and_named_inputs():
    inputs = {"numbers": X, "words": np.random.RandomState(2).randint(0, 11, (ROWS, 3))}
    return trained(compiled(Named(), optimizers.SGD(0.1)), inputs)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def tied_weights():
    return trained(compiled(Tied(), loss="mse", metrics=["mae"]), X, X)


def frozen_and_unfrozen():
    model = compiled(network())
    model.module[0].requires_grad_(False)

    def unfreeze(epoch, logs):
        model.module[0].requires_grad_(epoch == 1)

    return trained(model, callbacks=[callbacks.LambdaCallback(on_epoch_begin=unfreeze)])


def loops_in_callbacks():
    model, seen = compiled(network(), optimizers.Adam(use_ema=True)), []

    def look(epoch, logs):
        seen.append([model.evaluate(X[:50], LABELS[:50], verbose=0), model.predict(X[:5]).tolist()])

    found = trained(
        model,
        validation_split=0.3,
        callbacks=[
            callbacks.LambdaCallback(on_epoch_end=look),
            callbacks.ConfusionMatrix((X, LABELS), verbose=0),
            callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True),
            callbacks.ReduceLROnPlateau("loss", patience=0),
            callbacks.SwapEMAWeights(),
        ],
    )
    return found, seen


def batch_by_batch():
    model, found = compiled(network()), []
    for start in range(0, ROWS, 20):
        rows = slice(start, start + 20)
        found.append(model.train_on_batch(X[rows], LABELS[rows], class_weight={0: 3.0}))
        found.append(model.test_on_batch(X[rows], LABELS[rows]))
    return found, [array.astype("float64") for array in model.get_weights()]


def a_loss_with_parameters():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, targets):
            return (self.scale.exp() * (outputs - targets)).square().mean(-1) - self.scale

    loss = Scaled()
    found = trained(compiled(network(1), loss=loss, metrics=["mae"]), X, VALUES)
    return found, float(loss.scale.detach())


def a_dataset():
    data = TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS))
    return trained(compiled(network()), data, None, validation_split=0.3, class_weight="balanced")


def averaged_weights():
    torch.manual_seed(0)
    model = compiled(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), "sgd")
    averaging = callbacks.StochasticWeightAveraging(1, batch_norm_data=X)
    return trained(model, epochs=4, batch_size=40, callbacks=[averaging])


def schedule():
    rate = optimizers.schedules.CosineDecay(0.01, 16)
    return trained(compiled(network(), optimizers.Adam(rate, use_ema=True)), validation_split=0.3)


def a_large_mean():
    return trained(compiled(network(1), loss="mse", metrics=[metrics.R2Score()]), X, VALUES + 1000, epochs=1)


def mixed_precision(policy):
    torch.manual_seed(0)
    model = torchfit.Model(network(), device="cpu", dtype_policy=policy)
    model.compile("adam", CROSSENTROPY, ["accuracy"])
    return trained(model)


def frames_and_columns():
    import pandas as pd

    frame, labels = pd.DataFrame(X, columns=list("abcdefgh")), pd.Series(LABELS)
    by_name = {"words": pd.Series(LABELS).to_frame(), "numbers": frame.copy()}
    return trained(compiled(network()), frame, labels), trained(compiled(Named(), optimizers.SGD(0.1)), by_name, labels)


def sparse_arrays():
    import scipy.sparse

    return trained(compiled(network()), scipy.sparse.csr_matrix(X), LABELS)


def several_fits():
    model = compiled(network())
    first, second = trained(model, validation_split=0.3), trained(model, X[:50], LABELS[:50])
    return first, second, model.evaluate(X, LABELS, verbose=0)


def numbers_that_are_none():
    import warnings

    x = X.copy()
    x[70, 2] = np.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = compiled(network())
        model.fit(x, LABELS, shuffle=False, batch_size=16, verbose=0)
        model.evaluate(x, LABELS, verbose=0)
    return [str(warning.message) for warning in caught]


class Squeezes(nn.Linear):
    """Gives a scalar for a batch of one row."""

    def forward(self, x):
        return super().forward(x).squeeze()


def last_rows_that_are_squeezed():
    torch.manual_seed(0)
    model = torchfit.Model(Squeezes(X.shape[1], 1))
    model.compile("sgd", "mse")
    rows = X[:33]
    history = model.fit(rows, rows[:, 0], batch_size=16, verbose=0).history
    return history, model.predict(rows, batch_size=16), model.predict(rows, batch_size=8)


FUNCTIONS = [
    last_rows_that_are_squeezed,
    several_steps_in_a_call,
    compiled_automatically,
    lazy_layers,
    sparse_gradients_and_named_inputs,
    tied_weights,
    frozen_and_unfrozen,
    loops_in_callbacks,
    batch_by_batch,
    a_loss_with_parameters,
    a_dataset,
    averaged_weights,
    schedule,
    a_large_mean,
    several_fits,
    frames_and_columns,
    sparse_arrays,
    numbers_that_are_none,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_as_with_one_process(everywhere, function):
    everywhere(function, tolerance=2e-6)


class Extrapolating(torch.optim.Optimizer):
    """Keeps the gradients of the step before, as they are."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            before = self.state[parameter].get("before", parameter.grad)
            parameter.add_(2 * parameter.grad - before, alpha=-self.param_groups[0]["lr"])
            self.state[parameter]["before"] = parameter.grad


def an_optimizer_that_keeps_gradients():
    return trained(compiled(network(), Extrapolating))


class Rotating(nn.Module):
    """Multiplies by complex numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.factors, self.head = nn.Parameter(torch.randn(8, dtype=torch.complex64)), nn.Linear(8, 3)

    def forward(self, x):
        return self.head((x * self.factors).real)


def complex_parameters():
    module = Rotating()
    history = compiled(module, "sgd").fit(X, LABELS, batch_size=16, epochs=2, verbose=0, shuffle=False)
    return history.history, torch.view_as_real(module.factors).detach().numpy()


def evaluations_in_and_outside_of_inference_mode():
    model = compiled(network())
    found = trained(model)
    with torch.inference_mode():
        inside = model.evaluate(X[:40], LABELS[:40], verbose=0)
    return found, inside, model.evaluate(X, LABELS, verbose=0)


@pytest.mark.parametrize(
    "function",
    [an_optimizer_that_keeps_gradients, complex_parameters, evaluations_in_and_outside_of_inference_mode],
)
def test_what_outlives_an_exchange(everywhere, function):
    everywhere(function, tolerance=2e-6)


def test_half_precision(everywhere):
    everywhere(mixed_precision, "mixed_bfloat16", tolerance=2e-2)
    everywhere(mixed_precision, "mixed_float16", tolerance=2e-2)


def with_torchmetrics(rows):
    import torchmetrics

    module = nn.Sequential(network(), nn.Softmax(1))
    found = [torchmetrics.classification.MulticlassAUROC(3), torchmetrics.classification.MulticlassAccuracy(3)]
    model = compiled(module, loss=losses.SparseCategoricalCrossentropy(), metrics=found)
    x, y = X[:rows], np.arange(rows) % 3
    found = trained(model, x, y, validation_data=(x, y), verbose=1, batch_size=16)
    return found, model.evaluate(x, y, verbose=0)


@pytest.mark.parametrize("rows", [ROWS, 4])
def test_metrics_of_torchmetrics_in_training(everywhere, rows):
    everywhere(with_torchmetrics, rows, sizes=(2, 3))


def torchmetrics_with_two_rows():
    import torchmetrics

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())
    model = compiled(module, "sgd", "binary_crossentropy", [torchmetrics.classification.BinaryAUROC()])
    return trained(model, X[:2], np.array([[0], [1]])), model.evaluate(X[:2], np.array([[0], [1]]), verbose=0)


def test_torchmetrics_in_a_process_without_rows(everywhere):
    everywhere(torchmetrics_with_two_rows, sizes=(3,))
