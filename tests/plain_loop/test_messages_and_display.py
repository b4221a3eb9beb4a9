"""Mistakes are told in the words of the call, with the way out; progress says what there is, and no half numbers."""

import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from torch import nn

import torchfit
import torchfit.sklearn
from tests.support import Terminal, complaint
from torchfit import callbacks, optimizers

X = np.random.default_rng(0).normal(size=(96, 8)).astype("float32")
Y = np.arange(96) % 3


def compiled(net=None, loss=None, **options):
    model = torchfit.Model(net or nn.Linear(8, 3), device="cpu")
    model.compile(optimizers.SGD(0.01), loss or nn.CrossEntropyLoss(), **options)
    return model


# -- data that do not fit ----------------------------------------------------------------------------------------------


def test_a_class_number_out_of_range_is_told_in_whichever_batch_it_comes():
    y = Y.copy()
    y[90] = 3
    with pytest.raises(ValueError, match=r"class (number|ind)"):
        compiled().fit(X, y, shuffle=False, verbose=0)


def test_a_class_number_out_of_range_is_told_in_the_validation():
    with pytest.raises(ValueError, match=r"class (number|ind)"):
        compiled().fit(X, Y, validation_data=(X, Y + 1), verbose=0)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda model: model.predict(X, Y), "batch_size"),
        (lambda model: model.evaluate(X, Y, X), "batch_size"),
        (lambda model: model.fit(X, Y, X, Y), "batch_size"),
        (lambda model: model.fit(X, Y, epochs=X), "epochs"),
    ],
    ids=["predict", "evaluate", "fit", "epochs"],
)
def test_an_array_in_the_place_of_a_number_is_told_by_the_name_of_the_argument(call, argument):
    with pytest.raises((TypeError, ValueError), match=argument):
        call(compiled())


def test_images_of_bytes_are_trained_on_or_refused_with_the_way_out():
    """An error that names `float32` is as good."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    x = np.zeros((6, 3, 4, 4), "uint8")
    text = complaint(lambda: compiled(net).fit(x, Y[:6], verbose=0))
    assert text == "" or "float32" in text


def test_whole_numbers_as_features_are_trained_on_or_refused_with_the_way_out():
    """An error that names `float32` and how to get it is as good."""
    text = complaint(lambda: compiled().fit(np.ones((6, 8), int), Y[:6], verbose=0))
    assert text == "" or 'astype("float32")' in text or "astype('float32')" in text or ".float()" in text


def test_a_last_batch_of_one_sample_is_trained_on_or_refused_with_the_way_out():
    """An error that names `batch_size` is as good."""
    net = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    text = complaint(lambda: compiled(net).fit(X[:33], Y[:33], batch_size=32, verbose=0))
    assert text == "" or "batch_size" in text


def test_a_mistake_in_the_validation_data_is_told_as_one_there():
    with pytest.raises(ValueError, match="validation_data"):
        compiled().fit(X, Y, validation_data=(X[:10], Y[:9]), verbose=0)


def test_one_sample_without_the_axis_of_a_batch_is_predicted_as_one_or_refused():
    """An error that names the batch axis is as good."""
    results = []
    text = complaint(lambda: results.append(compiled().predict(np.ones(8, "float32"))))
    assert "batch" in text or results[0].shape == (1, 3)


def test_targets_with_missing_values_are_refused_as_such():
    y = pd.Series(Y, dtype="Int64").where(np.arange(96) != 3)
    with pytest.raises(ValueError, match=r"(?s)`y`.*(missing|NaN|NA)|(missing|NaN|NA).*`y`"):
        compiled().fit(X, y, verbose=0)


def test_missing_targets_are_told_to_those_who_passed_a_loss():
    with pytest.raises(ValueError, match=r"target|`y`") as caught:
        compiled().fit(X, verbose=0)
    assert "pass `loss=`" not in str(caught.value)


def test_the_message_about_a_long_list_is_short_and_says_how_to_stack_it():
    with pytest.raises(ValueError, match="stack") as caught:
        compiled().fit([torch.ones(8) for _ in range(300)], np.zeros(300, int), verbose=0)
    assert len(str(caught.value)) < 800


class Result:
    def __init__(self, logits):
        self.logits = logits


def test_an_output_of_an_unknown_class_is_named():
    class Net(nn.Linear):
        def forward(self, x):
            return Result(super().forward(x))

    with pytest.raises((TypeError, ValueError), match="Result"):
        compiled(Net(8, 3)).fit(X, Y, verbose=0)


def test_one_loss_for_two_outputs_is_refused_with_the_way_out():
    class Net(nn.Linear):
        def forward(self, x):
            logits = super().forward(x)
            return logits, logits.softmax(-1)

    with pytest.raises(ValueError, match=r"loss=\[.*None"):
        compiled(Net(8, 3)).fit(X, Y, verbose=0)


def test_a_loss_of_three_tensors_is_refused_with_the_way_to_see_all_outputs():
    with pytest.raises(ValueError, match="add_loss"):
        compiled(loss=nn.TripletMarginLoss())


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_an_object_with_some_methods_of_a_callback_is_one():
    seen = []

    class Own:
        def on_epoch_end(self, epoch, logs=None):
            seen.append((epoch, logs["loss"] > 0))

    compiled().fit(X, Y, epochs=2, callbacks=[Own()], verbose=0)
    assert seen == [(0, True), (1, True)]


@pytest.mark.parametrize(
    ("make", "way_out"),
    [
        (lambda: lambda epoch, logs: None, "LambdaCallback"),
        (
            lambda: torch.optim.lr_scheduler.StepLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1), 1),
            "TorchLRScheduler",
        ),
    ],
    ids=["function", "scheduler"],
)
def test_what_is_no_callback_is_refused_with_the_callback_to_use(make, way_out):
    with pytest.raises(TypeError, match=way_out):
        compiled().fit(X, Y, callbacks=[make()], verbose=0)


def test_pytorchs_name_of_the_rate_is_refused_with_the_name_here_and_not_with_all_names():
    with pytest.raises((TypeError, ValueError), match="learning_rate") as caught:
        optimizers.Adam(lr=0.1)  # type: ignore[call-arg]
    assert "ema_momentum" not in str(caught.value)


def test_keras_way_to_freeze_a_layer_freezes_it_or_is_told_of():
    """A warning or an error that names `requires_grad_` or `freeze` is as good."""
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 3))
    net[0].trainable = False  # type: ignore[assignment]
    before = net[0].weight.detach().clone()
    text = complaint(lambda: compiled(net).fit(X, Y, verbose=0))
    assert torch.equal(net[0].weight, before) or "requires_grad" in text or "freeze" in text  # type: ignore[arg-type]


# -- scikit-learn ------------------------------------------------------------------------------------------------------


def test_the_estimators_are_there_when_torchfit_is_imported():
    code = "import torchfit; torchfit.sklearn.Classifier"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def build(inputs, outputs, hidden=4):
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def test_a_grid_over_arguments_of_the_network_is_searched_or_refused_with_the_way_out():
    """An error that names `module_arguments` is as good."""
    search = GridSearchCV(torchfit.sklearn.Classifier(build, epochs=1, verbose=0), {"module__hidden": [2, 4]}, cv=2)
    text = complaint(lambda: search.fit(X, Y))
    assert "module_arguments" in text or search.best_params_["module__hidden"] in (2, 4)


def test_a_function_that_makes_the_network_without_arguments_is_taken_or_refused_with_the_way_out():
    """An error that says what the function is called with is as good."""
    classifier = torchfit.sklearn.Classifier(lambda: build(8, 3), epochs=1, verbose=0)
    text = complaint(lambda: classifier.fit(X, Y))
    assert text == "" or "inputs" in text or "n_in" in text or "features" in text


# -- progress ----------------------------------------------------------------------------------------------------------


def test_verbose_2_is_one_line_for_each_epoch(capsys):
    compiled().fit(X, Y, epochs=3, verbose=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith("Epoch ")]
    assert len(lines) == 3


def test_what_a_callback_adds_to_the_logs_is_in_the_line_of_the_epoch(capsys):
    class Adds(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["f1"] = 0.5

    compiled().fit(X, Y, callbacks=[Adds()], verbose=2)
    assert "f1: 0.5000" in capsys.readouterr().out


def test_a_moving_bar_cuts_no_number(monkeypatch, stop_clock):
    clock = stop_clock(callbacks.ProgbarLogger)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    model = compiled(nn.Linear(8, 1), "mse", metrics=["mae"])
    model.module.register_forward_hook(lambda *_: clock.advance(1.0))
    model.fit(X, np.full((96, 1), 169.5), batch_size=4, verbose=1)
    drawn = [text for text in re.split(r"[\r\n]", sys.stdout.getvalue()) if "ETA" in text]
    numbers = [number for text in drawn for number in re.findall(r" - (?:loss|mae): ?(\S*)", text)]
    assert numbers
    assert all(re.fullmatch(r"\d+\.\d{4}", number) for number in numbers), numbers
    assert all(len(text.rstrip()) < 80 for text in drawn)


@pytest.mark.slow
def test_bars_of_a_notebook_do_not_stay_behind_as_if_they_had_failed():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    pytest.importorskip("ipykernel")
    source = """
import itertools, sys, numpy as np, torchfit
from torch import nn

moments = itertools.count()  # Each look at the clock is a second after the last one: every step is drawn.
sys.modules[torchfit.callbacks.ProgbarLogger.__module__].perf_counter = lambda: next(moments)

model = torchfit.Model(nn.Linear(8, 1), device="cpu")
model.compile("sgd", "mse")
model.fit(np.zeros((600, 8), "float32"), np.zeros((600, 1), "float32"), epochs=2);
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    client = nbclient.NotebookClient(notebook, timeout=120, store_widget_state=True)
    client.execute()
    bars = [state for state in client.widget_state.values() if state.get("_model_name") == "FloatProgressModel"]
    assert bars
    assert [bar["bar_style"] for bar in bars if bar["bar_style"] == "danger"] == []
