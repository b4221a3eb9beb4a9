"""Wrong calls about data: each raises our error, naming argument and way out, and leaves a usable model."""

from collections import namedtuple
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchfit import Model
from torchfit.utils import DatasetCreator, Sequence

X, Y = np.random.default_rng(0).random((12, 4), "float32"), np.arange(12) % 3
TENSORS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
Pair = namedtuple("Pair", ["x", "y"])


class Samples(Dataset):
    def __init__(self, sample=lambda index: (X[index], Y[index]), length=12):
        self.sample, self.length = sample, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.sample(index)


class NoLength(Dataset):
    def __getitem__(self, index):
        return X[index], Y[index]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


class Batches(Sequence):
    def __init__(self, batch=(X, Y), length=1):
        super().__init__()
        self.batch, self.length = batch, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if isinstance(self.batch, Exception):
            raise self.batch
        return self.batch


def loader(**arguments):
    return DataLoader(TENSORS, **arguments)


def stream(*batches):
    return iter(batches)


def frame(**columns):
    return pd.DataFrame({"a": [1.0, 2.0], **columns})


def failing(index):
    raise OSError("disk gone")


# What is passed to fit, and what the message says.
WRONG: dict[str, Any] = {
    # no data
    "no x": ({}, "`x` is missing"),
    "x of None": ({"x": None, "y": Y}, "`x` is missing"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, "`x` has no samples"),
    "an empty list": ({"x": []}, "`x` .* holds no array"),
    "an empty dictionary": ({"x": {}, "y": Y}, "`x` .* holds no array"),
    "a list of None": ({"x": [None], "y": Y}, "`x` .* holds no array"),
    # no data at all, but something else
    "a string": ({"x": "data.csv"}, "`x` must be arrays, .* 'data.csv'"),
    "bytes": ({"x": b"data"}, "`x` must be arrays"),
    "a set": ({"x": {1, 2}}, "`x` must be arrays"),
    "an object": ({"x": object()}, "`x` must be arrays, .* an object of type object"),
    "a class": ({"x": Samples}, "`x` must be .* the class Samples. Create an object"),
    "a module": ({"x": nn.Linear(1, 1)}, "`x` must be arrays"),
    "a packed batch": ({"x": pack_sequence([torch.ones(2)]), "y": Y[:1]}, "`x` is a PackedSequence.*train_on_batch"),
    "a number": ({"x": 3, "y": Y}, "`x` must have samples along its first axis"),
    "a tensor without axes": ({"x": torch.tensor(1.0), "y": Y}, r"`x` must have samples.*x\[None\]"),
    "a single label": ({"x": X, "y": 1}, "`y` must have samples along its first axis"),
    # what holds no numbers
    "text": ({"x": np.array(["a"] * 12), "y": Y}, "`x` must hold numbers.*Encode"),
    "a list of text": ({"x": X, "y": ["a"] * 12}, r"`y\[0\]` must hold numbers"),
    "objects": ({"x": np.array([object()] * 12), "y": Y}, "`x` must hold numbers"),
    "dates": ({"x": X, "y": np.array(["2020-01-01"] * 12, "datetime64[D]")}, "`y` must hold numbers"),
    "ragged rows": ({"x": [[1.0, 2.0], [3.0]], "y": [0, 1]}, "`x` is a nested list .* differ in length"),
    "ragged objects": ({"x": np.array([[1], [1, 2]], dtype=object), "y": Y}, "`x` must hold numbers"),
    "text inside a dictionary": ({"x": {"a": np.array(["b"])}}, r"`x\['a'\]` must hold numbers"),
    "a sparse tensor with dense axes": (
        {"x": torch.eye(12).reshape(12, 3, 4).to_sparse(2), "y": Y},
        r"`x` is .* sparse tensor with dense axes.*to_dense",
    ),
    "weights of text": ({"x": X, "y": Y, "sample_weight": np.array(["a"] * 12)}, "`sample_weight` must hold numbers"),
    # frames
    "a column of text": ({"x": frame(color=["r", "g"]), "y": Y[:2]}, "`x` .* no numbers: 'color'.*get_dummies"),
    "a column of categories": (
        {"x": frame(kind=pd.Categorical(["r", "g"])), "y": Y[:2]},
        r"`x` .* 'kind' \(category\).*get_dummies",
    ),
    "a column of dates": (
        {"x": frame(day=pd.to_datetime(["2020-01-01", "2020-01-02"])), "y": Y[:2]},
        "`x` .* no numbers: 'day'",
    ),
    "a series of text": ({"x": X[:2], "y": pd.Series(["a", "b"], name="label")}, "`y` .* 'label'"),
    "a frame without columns": ({"x": pd.DataFrame(index=[0, 1]), "y": Y[:2]}, "`x` .* no columns"),
    # lengths
    "fewer targets": ({"x": X, "y": Y[:-1]}, "`x` has 12, `y` has 11"),
    "fewer weights": ({"x": X, "y": Y, "sample_weight": np.ones(3)}, "`sample_weight` has 3"),
    "inputs of different lengths": ({"x": {"a": X, "b": X[1:]}, "y": Y}, r"`x\['a'\]` has 12, `x\['b'\]` has 11"),
    # data that carry their own targets
    "a loader and y": ({"x": loader(), "y": Y}, "`y` is not used with a DataLoader"),
    "a loader and weights": ({"x": loader(), "sample_weight": Y}, "`sample_weight` is not used with a DataLoader"),
    "a loader and batch_size": ({"x": loader(), "batch_size": 8}, "`batch_size` is not used with a DataLoader"),
    "a loader and a split": ({"x": loader(), "validation_split": 0.2}, "`validation_split` .*random_split"),
    "a loader and workers": ({"x": loader(), "workers": 4}, "`workers` is not used .* `num_workers`"),
    "a Dataset and y": ({"x": Samples(), "y": Y}, "`y` is not used with a Dataset"),
    "tensors in a Dataset and y": ({"x": TENSORS, "y": Y}, "`y` is not used with a Dataset"),
    "a Sequence and y": ({"x": Batches(), "y": Y}, "`y` is not used with a Sequence"),
    "a Sequence and batch_size": ({"x": Batches(), "batch_size": 8}, "`batch_size` is not used with a Sequence"),
    "a Sequence and a split": ({"x": Batches(), "validation_split": 0.5}, "`validation_split` is not used with a Seq"),
    "a generator and y": ({"x": stream((X, Y)), "y": Y}, "`y` is not used with a generator"),
    "a generator and batch_size": ({"x": stream((X, Y)), "batch_size": 2}, "`batch_size` is not used with a generator"),
    "a generator and a split": ({"x": stream((X, Y)), "validation_split": 0.5}, "`validation_split` is not used"),
    "a stream and a split": ({"x": Stream(), "validation_split": 0.5}, "`validation_split` is not used with an iter"),
    # what streams yield
    "a named tuple": ({"x": stream(Pair(X, Y))}, "named tuple, Pair.*yield a plain tuple"),
    "named tuples as samples": ({"x": Samples(lambda index: Pair(X[index], Y[index]))}, "named tuple, Pair"),
    "four parts": ({"x": stream((X, Y, Y, Y))}, r"must give \(x,\), \(x, y\) or \(x, y, sample_weight\)"),
    "no parts": ({"x": stream(())}, r"must give \(x,\), \(x, y\)"),
    "a batch of None": ({"x": stream((None, Y))}, "`x` is None"),
    "a batch of text": ({"x": stream((["a", "b"], Y))}, "`x` does not fit the model.* a list of length 2"),
    "parts of different lengths": ({"x": stream((X, Y[:3]))}, r"y_true must be .*\(12,\).*\(3,\)"),
    "an empty batch": ({"x": stream((X[:0], Y[:0]))}, "a batch without samples"),
    "a scalar batch": ({"x": stream((1.0, 2.0))}, "`x` does not fit the model.* was called with 1.0"),
    "no batch": ({"x": stream()}, "`x` gave no batch"),
    "an empty Sequence": ({"x": Batches(length=0)}, "`x` gave no batch"),
    "an empty Dataset": ({"x": Samples(length=0)}, "without samples"),
    "a Dataset without length": ({"x": NoLength()}, "without a length.*IterableDataset"),
    "a length that lies": ({"x": Samples(length=20)}, r"sample 1\d of the Dataset, whose length is 20"),
    "samples of different shapes": ({"x": Samples(lambda index: np.zeros(index + 1))}, "cannot be joined .*collate_fn"),
    "a failing Dataset": ({"x": Samples(failing)}, "(?s)disk gone.*sample .* of the Dataset"),
    "a failing Sequence": ({"x": Batches(OSError("disk gone"))}, "(?s)disk gone.*batch 0 of the Sequence"),
    "a Sequence that stops": ({"x": Batches(StopIteration())}, "StopIteration .batch 0 of the Sequence"),
    "a function that returns nothing": ({"x": lambda: None}, "`x` is missing"),
    "a function of two arguments": ({"x": lambda a, b: a}, "`x` .* needs 2 arguments.*functools.partial"),
    "a creator of nothing": ({"x": DatasetCreator(lambda context: None)}, "`x` is missing"),
    # arguments
    "batch_size of 0": ({"x": X, "y": Y, "batch_size": 0}, "`batch_size` must be a positive integer"),
    "batch_size of 1.5": ({"x": X, "y": Y, "batch_size": 1.5}, "`batch_size` must be a positive integer"),
    "batch_size of text": ({"x": X, "y": Y, "batch_size": "8"}, "`batch_size` must be a positive integer"),
    "batch_size of True": ({"x": X, "y": Y, "batch_size": True}, "`batch_size` must be a positive integer"),
    "epochs of text": ({"x": X, "y": Y, "epochs": "2"}, "`epochs` must be an integer of at least 0"),
    "initial_epoch below 0": ({"x": X, "y": Y, "initial_epoch": -1}, "`initial_epoch` must be an integer"),
    "shuffle of text": ({"x": X, "y": Y, "shuffle": "batches"}, "`shuffle` must be True, False or 'batch'"),
    "steps_per_epoch of 0": ({"x": X, "y": Y, "steps_per_epoch": 0}, "`steps_per_epoch` must be a positive"),
    "steps_per_epoch of 2.5": ({"x": X, "y": Y, "steps_per_epoch": 2.5}, "`steps_per_epoch` must be a positive"),
    "workers below 0": ({"x": Batches(), "workers": -1}, "`workers` must be an integer of at least 0"),
    "workers of text": ({"x": Batches(), "workers": "4"}, "`workers` must be an integer"),
    "max_queue_size below 0": ({"x": Batches(), "max_queue_size": -1}, "`max_queue_size` must be an integer"),
    "use_multiprocessing of text": ({"x": X, "y": Y, "use_multiprocessing": "no"}, "`use_multiprocessing` must be"),
    # validation
    "validation_split of 1": ({"x": X, "y": Y, "validation_split": 1.0}, "`validation_split` must be a number between"),
    "validation_split below 0": ({"x": X, "y": Y, "validation_split": -0.1}, "`validation_split` must be a number"),
    "validation_split of text": ({"x": X, "y": Y, "validation_split": "0.2"}, "`validation_split` must be a number"),
    "a split that leaves nothing": ({"x": X[:1], "y": Y[:1], "validation_split": 0.5}, "leaves one side empty"),
    "four parts of validation": ({"x": X, "y": Y, "validation_data": (X, Y, Y, Y)}, "`validation_data` must be"),
    "a named tuple of validation": ({"x": X, "y": Y, "validation_data": Pair(X, Y)}, "`validation_data` must be"),
    "fewer targets of validation": (
        {"x": X, "y": Y, "validation_data": (X, Y[1:])},
        "In `validation_data`: .*`y` has 11",
    ),
    "validation_freq of 0": ({"x": X, "y": Y, "validation_data": (X, Y), "validation_freq": 0}, "`validation_freq`"),
    "validation_steps of 0": ({"x": X, "y": Y, "validation_data": (X, Y), "validation_steps": 0}, "`validation_steps`"),
    "validation_batch_size of a loader": (
        {"x": X, "y": Y, "validation_data": loader(), "validation_batch_size": 4},
        "`validation_batch_size` is not used with a DataLoader",
    ),
    "validation_batch_size of 0": (
        {"x": X, "y": Y, "validation_data": (X, Y), "validation_batch_size": 0},
        "`validation_batch_size` must be a positive integer",
    ),
    "an empty generator of validation": (
        {"x": X, "y": Y, "validation_data": stream()},
        "`validation_data` gave no batch",
    ),
    # weights by class
    "class_weight of a list": ({"x": X, "y": Y, "class_weight": [1, 2, 3]}, "`class_weight` must be a dictionary"),
    "class_weight of a word": ({"x": X, "y": Y, "class_weight": "balance"}, "`class_weight` must be .*'balanced'"),
    "class_weight of names": ({"x": X, "y": Y, "class_weight": {"cat": 1}}, "`class_weight` must name classes by"),
    "class_weight of halves": ({"x": X, "y": Y, "class_weight": {0.5: 1}}, "`class_weight` must name classes by"),
    "class_weight below 0": ({"x": X, "y": Y, "class_weight": {0: -1}}, "`class_weight` must give each class"),
    "class_weight of None": ({"x": X, "y": Y, "class_weight": {0: None}}, "`class_weight` must give each class"),
    "class_weight without y": ({"x": X, "class_weight": {0: 1}}, "`class_weight` needs .* `y`"),
    "class_weight of pixels": ({"x": X, "y": np.zeros((12, 2, 2)), "class_weight": {0: 1}}, "`class_weight` needs one"),
    "balanced streams": ({"x": loader(), "class_weight": "balanced"}, "`class_weight='balanced'` needs the labels"),
}

# The few whose type is that of an exception of the user, or of the wrong type passed.
TYPES = (ValueError, TypeError, OSError, IndexError, RuntimeError)


@pytest.fixture
def model():
    model = Model(nn.Linear(4, 3))
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:.*softmax|.*probabilit|.*logits")
def test_a_wrong_call_is_refused_by_name_and_the_model_stays_usable(case, model):
    arguments, message = WRONG[case]
    with pytest.raises(TYPES, match=f"(?s){message}"):
        model.fit(**{"verbose": 0, **arguments})
    assert len(model.fit(X, Y, verbose=0).history["loss"]) == 1


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("evaluate", {"x": loader(), "y": Y}, "`y` is not used with a DataLoader"),
        ("evaluate", {"x": X, "y": Y, "steps": 0}, "`steps` must be a positive integer"),
        ("evaluate", {"x": X, "y": Y[1:]}, "`y` has 11"),
        ("evaluate", {"x": stream()}, "`x` gave no batch"),
        ("predict", {"x": None}, "`x` is missing"),
        ("predict", {"x": loader(), "batch_size": 3}, "`batch_size` is not used with a DataLoader"),
        ("predict", {"x": X, "batch_size": -1}, "`batch_size` must be a positive integer"),
        ("train_on_batch", {"x": loader()}, "`x` must be the arrays of one batch"),
        ("train_on_batch", {"x": X, "y": Y, "class_weight": 3}, "`class_weight` must be a dictionary"),
        ("train_on_batch", {"x": X, "y": Y[1:]}, r"y_true must be .*\(12,\).*\(11,\)"),
        ("predict_on_batch", {"x": Batches()}, "`x` must be the arrays of one batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*softmax|.*probabilit|.*logits")
def test_wrong_calls_of_other_methods(method, arguments, message, model):
    with pytest.raises(ValueError, match=message):
        getattr(model, method)(**arguments)


ARRAYS = [X, torch.from_numpy(X), pd.DataFrame(X)]


@pytest.mark.parametrize("data", ARRAYS, ids=lambda data: type(data).__name__)
@pytest.mark.parametrize(
    "call",
    [
        lambda model, data: model.predict(X, data),
        lambda model, data: model.evaluate(X, Y, data),
        lambda model, data: model.fit(X, Y, data, data),
        lambda model, data: model.fit(X, Y, (data, data)),
        lambda model, data: model.fit(X, Y, [data, data]),
    ],
    ids=["predict", "evaluate", "fit", "tuple", "list"],
)
def test_data_in_the_place_of_the_batch_size_are_told_with_the_names_for_them(data, call):
    with pytest.raises(ValueError, match=r"`batch_size` must be a positive integer.*validation_data=.*sample_weight="):
        call(_compiled(), data)


@pytest.mark.parametrize("data", ARRAYS, ids=lambda data: type(data).__name__)
@pytest.mark.parametrize(
    "argument",
    ["epochs", "initial_epoch", "verbose", "validation_split", "steps_per_epoch", "validation_freq", "shuffle"],
)
def test_an_array_in_the_place_of_a_number_is_told_by_the_name_of_the_argument(data, argument):
    with pytest.raises(ValueError, match=argument):
        _compiled().fit(X, Y, **{argument: data})


def test_an_array_in_the_place_of_a_flag_is_told_by_the_name_of_the_argument():
    with pytest.raises(ValueError, match="`reset_metrics` must be True or False"):
        _compiled().train_on_batch(X, Y, reset_metrics=X)


@pytest.mark.parametrize(
    "y", [np.array(["a", "b"] * 6), ["a", "b"] * 6, np.array(["a", "b"] * 6, object), np.array([b"a", b"b"] * 6)]
)
@pytest.mark.parametrize("are_batches", [False, True], ids=["arrays", "batches"])
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), "sparse_categorical_crossentropy"], ids=["torch", "ours"])
def test_targets_of_text_are_refused_as_such(y, are_batches, loss):
    model = _compiled(loss)
    with pytest.raises(ValueError, match=r"`y(\[0\])?` must hold numbers.*Encode text"):
        model.fit(iter([(X, y)]) if are_batches else X, None if are_batches else y, verbose=0)


def test_a_loss_of_ones_own_may_take_text():
    def loss(y_true, y_pred):
        return y_pred.mean() * len(y_true)

    class Own(Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return loss(y, y_pred)

    model = Own(nn.Linear(4, 3), device="cpu")
    model.compile("sgd")
    history = model.fit(iter([(X, np.array(["a", "b"] * 6))]), verbose=0).history
    assert np.isfinite(history["loss"]).all()


class Result:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrap", [Result, lambda out: {"a": Result(out)}, lambda out: (Result(out), out)])
def test_an_output_of_an_unknown_class_is_named(wrap):
    class Net(nn.Linear):
        def forward(self, x):
            return wrap(super().forward(x))

    model = Model(Net(4, 3), device="cpu")
    model.compile("sgd", [nn.CrossEntropyLoss(), None] if isinstance(wrap(X), tuple) else nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="an object of type Result, but losses and metrics need tensors"):
        model.fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("wrap", "way_out"),
    [
        (lambda out: (out, out), r"loss=\[loss, None\]"),
        (lambda out: (out, out, out), r"loss=\[loss, None, None\]"),
        (lambda out: {"score": out, "attention": out}, r"loss=\{'score': loss\}"),
    ],
    ids=["two", "three", "dictionary"],
)
def test_one_target_for_several_outputs_is_refused_with_the_loss_to_pass(wrap, way_out):
    class Net(nn.Linear):
        def forward(self, x):
            return wrap(super().forward(x))

    model = Model(Net(4, 3), device="cpu")
    model.compile("sgd", nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=way_out):
        model.fit(X, Y, verbose=0)


def _compiled(loss=None):
    model = Model(nn.Linear(4, 3), device="cpu")
    model.compile("sgd", loss or nn.CrossEntropyLoss())
    return model
