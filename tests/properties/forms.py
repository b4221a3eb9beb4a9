"""Arguments and data in every form, meant or mistaken: for each kind a function that makes it, by name."""

import array
import math
from collections import OrderedDict, deque, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from torchfit import callbacks, losses, metrics, optimizers
from torchfit._utils import tree
from torchfit.utils import Sequence

ROWS = 6
X = np.random.RandomState(0).normal(size=(ROWS, 4)).astype("float32")
LABELS = np.arange(ROWS) % 3
VALUES = X[:, :1].copy()

Point = namedtuple("Point", "a b")


@dataclass
class Pair:
    a: object
    b: object


class Samples(Dataset):
    def __init__(self, *parts, pack=tuple):
        self.parts, self.pack = parts, pack

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, index):
        sample = self.pack(part[index] for part in self.parts)
        return sample if len(self.parts) > 1 or self.pack is not tuple else sample[0]


class Stream(IterableDataset):
    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        return iter(zip(*self.parts))


class Batches(Sequence):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(part[3 * index : 3 * index + 3] for part in self.parts)


class Thing:
    """An object that is nothing that anybody expects."""


def arrays(base):
    """Return forms of one array, by name; those that do not fit are mistakes."""
    frame = pd.DataFrame(base.reshape(len(base), -1))
    return {
        "numpy": lambda: base.copy(),
        "float64": lambda: base.astype("float64"),
        "float16": lambda: base.astype("float16"),
        "int64": lambda: base.astype("int64"),
        "int8": lambda: base.astype("int8"),
        "uint8": lambda: abs(base).astype("uint8"),
        "uint16": lambda: abs(base).astype("uint16"),
        "bool": lambda: base > 0,
        "complex": lambda: base.astype("complex64"),
        "longdouble": lambda: base.astype("longdouble"),
        "big endian": lambda: base.astype(">f4"),
        "object": lambda: base.astype(object),
        "text": lambda: base.astype(str),
        "bytes array": lambda: base.astype(str).astype("S"),
        "dates": lambda: base.astype("int64").astype("datetime64[s]"),
        "record": lambda: np.zeros(len(base), dtype=[("a", "f4"), ("b", "i4")]),
        "nan": lambda: np.full_like(base, math.nan, dtype="float32"),
        "infinite": lambda: np.full_like(base, math.inf, dtype="float32"),
        "huge": lambda: np.full_like(base, 1e30, dtype="float32"),
        "negative": lambda: -abs(base) - 1,
        "masked": lambda: np.ma.masked_array(base, base > 0),
        "matrix": lambda: np.asmatrix(base.reshape(len(base), -1)),
        "reversed": lambda: base[::-1],
        "fortran": lambda: np.asfortranarray(base),
        "strided": lambda: np.repeat(base, 2, axis=0)[::2],
        "read only": lambda: _read_only(base),
        "scalar array": lambda: np.array(1.0, dtype="float32"),
        "no rows": lambda: base[:0],
        "no columns": lambda: base.reshape(len(base), -1)[:, :0],
        "one row": lambda: base[:1],
        "one sample": lambda: base[0],
        "more rows": lambda: np.concatenate([base, base]),
        "flat": lambda: base.reshape(-1),
        "column": lambda: base.reshape(len(base), -1)[:, :1],
        "three axes": lambda: base.reshape(len(base), -1)[:, None],
        "one hot": lambda: np.eye(3, dtype="float32")[LABELS],
        "tensor": lambda: torch.from_numpy(base.copy()),
        "tensor with grad": lambda: torch.from_numpy(base.astype("float32")).requires_grad_(),
        "no leaf": lambda: torch.from_numpy(base.astype("float32")).requires_grad_() * 2,
        "half tensor": lambda: torch.from_numpy(base.copy()).half(),
        "bfloat16 tensor": lambda: torch.from_numpy(base.copy()).bfloat16(),
        "sparse tensor": lambda: torch.from_numpy(base.astype("float32")).to_sparse(),
        "csr tensor": lambda: torch.from_numpy(base.reshape(len(base), -1).astype("float32")).to_sparse_csr(),
        "meta tensor": lambda: torch.from_numpy(base.copy()).to("meta"),
        "conjugate": lambda: torch.from_numpy(base.astype("complex64")).conj(),
        "quantized": lambda: torch.quantize_per_tensor(torch.from_numpy(base.astype("float32")), 0.1, 0, torch.qint8),
        "nested tensor": lambda: torch.nested.nested_tensor(list(torch.from_numpy(base.astype("float32")))),
        "parameter": lambda: nn.Parameter(torch.from_numpy(base.astype("float32"))),
        "empty tensor": lambda: torch.empty(0),
        "number tensor": lambda: torch.tensor(1.0),
        "frame": frame.copy,
        "named frame": lambda: frame.rename(columns=str).rename(columns={"0": "x"}),
        "text frame": lambda: frame.astype(str),
        "categories": lambda: pd.Series(list("abcabc")).astype("category"),
        "nullable": lambda: frame.astype("Float64"),
        "missing": lambda: frame.where(frame > 0),
        "no columns frame": lambda: frame[[]],
        "series": lambda: frame[0],
        "index": lambda: pd.Index(frame[0]),
        "dates series": lambda: pd.Series(pd.date_range("2020", periods=len(base))),
        "csr": lambda: scipy.sparse.csr_matrix(base.reshape(len(base), -1)),
        "coo": lambda: scipy.sparse.coo_array(base.reshape(len(base), -1)),
        "dok": lambda: scipy.sparse.dok_matrix(base.reshape(len(base), -1)),
        "lists": base.tolist,
        "tuples": lambda: tuple(map(tuple, base.reshape(len(base), -1).tolist())),
        "ragged": lambda: [[1.0], *base.reshape(len(base), -1).tolist()],
        "list of arrays": lambda: list(base),
        "list of tensors": lambda: list(torch.from_numpy(base.copy())),
        "list of one": lambda: [base],
        "two in a list": lambda: [base, base],
        "two in a tuple": lambda: (base, base),
        "nested lists": lambda: [[base], [base]],
        "different lengths": lambda: [base, base[:2]],
        "list with None": lambda: [base, None],
        "list of text": lambda: ["a"] * len(base),
        "mixed list": lambda: [1, "a", None],
        "dict": lambda: {"x": base},
        "dict by output": lambda: {"output_1": base},
        "dict of two": lambda: {"a": base, "b": base},
        "dict with None": lambda: {"x": base, "b": None},
        "dict of numbers": lambda: {1: base},
        "ordered dict": lambda: OrderedDict(x=base),
        "named tuple": lambda: Point(base, base),
        "dataclass": lambda: Pair(base, base),
        "packed": lambda: pack_sequence([torch.ones(3, 4), torch.ones(2, 4)]),
        "array module": lambda: array.array("f", base.reshape(-1).tolist()),
        "memory view": lambda: memoryview(base.copy()),
        "range": lambda: range(len(base)),
        "deque": lambda: deque(base),
    }


def _read_only(base):
    copy = base.copy()
    copy.setflags(write=False)
    return copy


NOTHING = {
    "None": lambda: None,
    "number": lambda: 3,
    "float": lambda: 2.5,
    "word": lambda: "data.csv",
    "bytes": lambda: b"data",
    "set": lambda: {1, 2},
    "frozen set": lambda: frozenset([1.0]),
    "empty list": list,
    "empty tuple": tuple,
    "empty dict": dict,
    "list of None": lambda: [None],
    "nested nothing": lambda: [[], {}],
    "thing": Thing,
    "class": lambda: Thing,
    "array class": lambda: np.ndarray,
    "module": lambda: nn.Linear(4, 1),
    "dtype": lambda: torch.float32,
    "ellipsis": lambda: ...,
    "path": lambda: Path("data"),
    "exception": lambda: ValueError("x"),
    "function of nothing": lambda: lambda: None,
    "function of arguments": lambda: lambda a, b: a,
    "size": lambda: torch.Size([3]),
    "slice": lambda: slice(3),
    "complex number": lambda: 1j,
}


def streams(x, y):
    """Return data that carry their targets, by name."""
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    halves = [(x[:3], y[:3]), (x[3:], y[3:])]
    return {
        "list of batches": lambda: [(x[:3], y[:3]), (x[3:], y[3:])],
        "iterator": lambda: iter(halves * 4),
        "generator": lambda: (batch for batch in halves * 4),
        "short generator": lambda: (batch for batch in halves[:1]),
        "empty generator": lambda: iter(()),
        "generator of inputs": lambda: iter([x[:3], x[3:]]),
        "generator of tuples of one": lambda: iter([(x[:3],)]),
        "generator of four": lambda: iter([(x, y, y, y)]),
        "generator of dicts": lambda: iter([{"x": x, "y": y}]),
        "generator of None": lambda: iter([None]),
        "generator of (x, None)": lambda: iter([(x, None)]),
        "generator of (None, y)": lambda: iter([(None, y)]),
        "generator of text": lambda: iter(["a", "b"]),
        "generator of numbers": lambda: iter([1, 2]),
        "generator of empty batches": lambda: iter([(x[:0], y[:0])]),
        "generator of weights": lambda: iter([(x, y, np.ones(ROWS))]),
        "generator of wrong weights": lambda: iter([(x, y, np.ones(ROWS - 1))]),
        "generator of text weights": lambda: iter([(x, y, "a")]),
        "generator of wrong targets": lambda: iter([(x, y[:2])]),
        "generator of objects": lambda: iter([(Thing(), y)]),
        "generator of named tuples": lambda: iter([Point(x, y)]),
        "generator of changing widths": lambda: iter([(x, y), (x[:, :3], y)]),
        "zip": lambda: zip([x], [y]),
        "map": lambda: map(tuple, halves),
        "dict values": lambda: {"a": (x, y)}.values(),
        "function": lambda: lambda: iter(halves),
        "function of arrays": lambda: lambda: (x, y),
        "loader": lambda: DataLoader(TensorDataset(*tensors), batch_size=4),
        "loader of samples": lambda: DataLoader(TensorDataset(*tensors), batch_size=None),
        "shuffling loader": lambda: DataLoader(TensorDataset(*tensors), batch_size=4, shuffle=True, drop_last=True),
        "loader of dicts": lambda: DataLoader([{"x": row, "y": label} for row, label in zip(x, y)], batch_size=3),  # type: ignore[arg-type]
        "loader of lists": lambda: DataLoader(
            list(zip(*tensors)),  # type: ignore[arg-type]
            batch_size=3,
            collate_fn=lambda rows: tuple(map(list, zip(*rows))),
        ),
        "loader of nothing": lambda: DataLoader(TensorDataset(tensors[0][:0], tensors[1][:0])),
        "tensor dataset": lambda: TensorDataset(*tensors),
        "tensor dataset of one": lambda: TensorDataset(tensors[0]),
        "tensor dataset of four": lambda: TensorDataset(*tensors, *tensors),
        "subset": lambda: Subset(TensorDataset(*tensors), [0, 2, 4]),
        "empty subset": lambda: Subset(TensorDataset(*tensors), []),
        "samples": lambda: Samples(x, y),
        "samples of x": lambda: Samples(x),
        "samples of lists": lambda: Samples(x, y, pack=list),
        "samples of dicts": lambda: Samples(x, y, pack=lambda parts: dict(zip("ab", parts))),
        "samples of four": lambda: Samples(x, y, x, y),
        "samples of text": lambda: Samples(["a"] * ROWS, y),
        "samples of objects": lambda: Samples([Thing()] * ROWS, y),
        "samples of different sizes": lambda: Samples([x[0, : i % 3] for i in range(ROWS)], y),
        "no samples": lambda: Samples(x[:0], y[:0]),
        "stream": lambda: Stream(x, y),
        "stream of batches": lambda: Stream([x, x], [y, y]),
        "empty stream": lambda: Stream(x[:0], y[:0]),
        "sequence": lambda: Batches(x, y),
        "sequence of x": lambda: Batches(x),
    }


NUMBERS = {
    "None": lambda: None,
    "0": lambda: 0,
    "1": lambda: 1,
    "2": lambda: 2,
    "-1": lambda: -1,
    "-2": lambda: -2,
    "2.0": lambda: 2.0,
    "0.5": lambda: 0.5,
    "2.5": lambda: 2.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "True": lambda: True,
    "False": lambda: False,
    "word": lambda: "two",
    "auto": lambda: "auto",
    "digits": lambda: "2",
    "empty word": lambda: "",
    "bytes": lambda: b"2",
    "int64": lambda: np.int64(2),
    "int8": lambda: np.int8(2),
    "float32": lambda: np.float32(0.5),
    "bool_": lambda: np.bool_(True),
    "array of no axes": lambda: np.array(2),
    "array of one": lambda: np.array([2]),
    "array": lambda: np.array([1, 2]),
    "array of text": lambda: np.array(["a", "b"]),
    "tensor of no axes": lambda: torch.tensor(2),
    "tensor of one": lambda: torch.tensor([1]),
    "tensor": lambda: torch.tensor([1, 2]),
    "list": lambda: [1],
    "empty list": list,
    "list of words": lambda: ["a"],
    "list of lists": lambda: [[1], [2]],
    "tuple": lambda: (1, 2),
    "set": lambda: {1},
    "dict": lambda: {1: 2},
    "empty dict": dict,
    "named dict": lambda: {"a": 1},
    "series": lambda: pd.Series([1, 2]),
    "frame": lambda: pd.DataFrame({"a": [1]}),
    "range": lambda: range(1, 3),
    "class": lambda: int,
    "thing": Thing,
    "function": lambda: lambda: 2,
    "complex": lambda: 2j,
    "fraction": lambda: Fraction(1, 2),
    "decimal": lambda: Decimal(2),
    "huge": lambda: 2**70,
    "minus huge": lambda: -(2**70),
    "ellipsis": lambda: ...,
    "NA": lambda: pd.NA,
    "NaT": lambda: pd.NaT,
    "generator": lambda: iter([1]),
}
FEW = {name: make for name, make in NUMBERS.items() if name != "huge"}  # That would be a long training.
_TWO = ("2", "int64", "int8", "array of no axes", "tensor of no axes", "huge")
WORKERS = {name: make for name, make in NUMBERS.items() if name not in _TWO}  # No processes and threads without end.

CLASS_WEIGHTS = {
    **NUMBERS,
    "balanced": lambda: "balanced",
    "dict of classes": lambda: {0: 1.0, 1: 2.0, 2: 0.5},
    "by output": lambda: {"output_1": {0: 1.0, 1: 2.0}},
    "of text": lambda: {"a": "b"},
    "of None": lambda: {0: None},
    "of arrays": lambda: {0: np.ones(3)},
    "of nan": lambda: {0: math.nan},
    "negative class": lambda: {-1: 2.0},
    "float classes": lambda: {0.5: 1.0},
    "array of weights": lambda: np.ones(3),
}
CALLBACKS = {
    **NUMBERS,
    "early stopping": lambda: callbacks.EarlyStopping("loss"),
    "unknown monitor": lambda: [callbacks.EarlyStopping("val_nothing")],
    "list of None": lambda: [None],
    "callback class": lambda: [callbacks.EarlyStopping],
    "history": lambda: [callbacks.History()],
    "lambda": lambda: [callbacks.LambdaCallback()],
}
VALIDATION_DATA = {
    **NUMBERS,
    "arrays": lambda: (X, LABELS),
    "of values": lambda: (X, VALUES),
    "list": lambda: [X, LABELS],
    "weights": lambda: (X, LABELS, np.ones(ROWS)),
    "x": lambda: X,
    "x in a tuple": lambda: (X,),
    "four": lambda: (X, LABELS, LABELS, LABELS),
    "lengths": lambda: (X, LABELS[:3]),
    "widths": lambda: (X[:, :3], LABELS),
    "text": lambda: (X, np.array(list("abcabc"))),
    "no x": lambda: (None, LABELS),
    "dict": lambda: {"x": X},
    "dataset": lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)),
    "loader": lambda: DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(LABELS)), batch_size=4),
    "generator": lambda: iter([(X, LABELS)]),
    "empty": lambda: (X[:0], LABELS[:0]),
}
OPTIMIZERS = {
    **NUMBERS,
    "sgd": lambda: "sgd",
    "unknown": lambda: "sdg",
    "instance": lambda: optimizers.SGD(0.01),
    "class of torch": lambda: torch.optim.SGD,
    "optimizer of others": lambda: torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1),
    "config": lambda: {"class_name": "SGD", "config": {"learning_rate": 0.1}},
    "broken config": lambda: {"class_name": "SGD", "config": {"lr": 0.1}},
    "config without name": lambda: {"config": {}},
    "function of nothing": lambda: lambda parameters: None,
    "module": lambda: nn.Linear(1, 1),
}
LOSSES = {
    **NUMBERS,
    "mse": lambda: "mse",
    "sparse": lambda: losses.SparseCategoricalCrossentropy(from_logits=True),
    "of torch": nn.CrossEntropyLoss,
    "class of torch": lambda: nn.MSELoss,
    "class": lambda: losses.MeanSquaredError,
    "function of torch": lambda: nn.functional.l1_loss,
    "function": lambda: lambda y_true, y_pred: (y_true.reshape(-1)[0] - y_pred).square().mean(),
    "of None": lambda: lambda y_true, y_pred: None,
    "of text": lambda: lambda y_true, y_pred: "a",
    "unknown": lambda: "msee",
    "list": lambda: ["mse"],
    "list of two": lambda: ["mse", "mse"],
    "by name": lambda: {"output_1": "mse"},
    "by unknown name": lambda: {"b": "mse"},
    "over outputs": lambda: losses.OverOutputs(lambda outputs: tree.leaves(outputs)[0].square().mean()),
    "module": lambda: nn.Linear(1, 1),
    "metric": lambda: metrics.MeanAbsoluteError(),
    "binary": lambda: "binary_crossentropy",
    "categorical": lambda: "categorical_crossentropy",
    "hinge": lambda: nn.HingeEmbeddingLoss(),
    "triplet": nn.TripletMarginLoss,
    "nll": nn.NLLLoss,
    "kl": nn.KLDivLoss,
    "poisson": lambda: "poisson",
    "dice": lambda: "dice",
    "ctc": lambda: "ctc",
    "circle": lambda: "circle",
    "tversky": lambda: "tversky",
    "cosine": lambda: "cosine_similarity",
    "focal": lambda: "categorical_focal_crossentropy",
}
METRICS = {
    **NUMBERS,
    "accuracy": lambda: ["accuracy"],
    "name": lambda: "mae",
    "instance": lambda: [metrics.MeanAbsoluteError()],
    "class": lambda: [metrics.MeanAbsoluteError],
    "unknown": lambda: ["acuracy"],
    "of None": lambda: [None],
    "function": lambda: [lambda y_true, y_pred: y_pred.mean(-1) * 2],
    "of nothing": lambda: [lambda y_true, y_pred: None],
    "by name": lambda: {"output_1": ["mae"]},
    "by unknown name": lambda: {"b": ["mae"]},
    "nested": lambda: [["mae"]],
    "loss": lambda: [losses.MeanSquaredError()],
    "loss of torch": lambda: [nn.MSELoss()],
    "auc": lambda: [metrics.AUC(from_logits=True)],
    "precision": lambda: ["precision"],
    "iou": lambda: [metrics.MeanIoU(3)],
    "top k": lambda: [metrics.SparseTopKCategoricalAccuracy(k=2)],
    "r2": lambda: ["r2_score"],
    "pearson": lambda: [metrics.PearsonCorrelation()],
    "f1": lambda: [metrics.F1Score()],
}
