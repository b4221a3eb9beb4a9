"""Random calls of a model's methods, with arguments and data from `forms`."""

import linecache
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

import torchfit
from tests.properties.forms import (
    CALLBACKS,
    CLASS_WEIGHTS,
    FEW,
    LABELS,
    LOSSES,
    METRICS,
    NOTHING,
    NUMBERS,
    OPTIMIZERS,
    ROWS,
    VALIDATION_DATA,
    VALUES,
    WORKERS,
    Thing,
    X,
    arrays,
    streams,
)
from torchfit import optimizers

ROOT = Path(torchfit.__file__).parent
MODULES = {
    "classifier": lambda: nn.Linear(4, 3),
    "regressor": lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1)),
    "flat": lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
    "normed": lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)),
    "named": lambda: Named(),
    "two": lambda: TwoOutputs(),
}


class Named(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x):
        return {"logits": super().forward(x), "hidden": x, "cache": Thing()}


class TwoOutputs(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, x):
        return super().forward(x), x


def loss_and_targets(kind):
    """Return a loss and the targets with which a module of a kind is trained."""
    if kind in ("regressor", "flat"):
        return "mse", VALUES
    if kind == "two":
        return [nn.CrossEntropyLoss(), None], LABELS
    return nn.CrossEntropyLoss(), LABELS


def arguments_of(method, y):
    """Return what may be passed to a method: for each argument the forms of it, by name."""
    data = {**arrays(X), **streams(X, y), **NOTHING}
    targets = {**arrays(y), **NOTHING}
    weights = {**arrays(np.ones(ROWS, "float32")), **NOTHING}
    batches = {"batch_size": NUMBERS, "workers": WORKERS, "max_queue_size": NUMBERS, "use_multiprocessing": _NO_PROCESS}
    shown = {"verbose": NUMBERS, "callbacks": CALLBACKS}
    return {
        "fit": {
            "x": data,
            "y": targets,
            "sample_weight": weights,
            **batches,
            **shown,
            "epochs": FEW,
            "validation_split": NUMBERS,
            "validation_data": VALIDATION_DATA,
            "shuffle": NUMBERS,
            "class_weight": CLASS_WEIGHTS,
            "initial_epoch": NUMBERS,
            "steps_per_epoch": FEW,
            "validation_steps": NUMBERS,
            "validation_batch_size": NUMBERS,
            "validation_freq": NUMBERS,
        },
        "evaluate": {
            "x": data,
            "y": targets,
            "sample_weight": weights,
            **batches,
            **shown,
            "steps": NUMBERS,
            "return_dict": NUMBERS,
        },
        "predict": {
            "x": data,
            **batches,
            **shown,
            "steps": NUMBERS,
            "out": {**arrays(X), **NUMBERS},
            "pad_value": NUMBERS,
        },
        "predict_iter": {"x": data, **batches, "steps": NUMBERS},
        "train_on_batch": {
            "x": data,
            "y": targets,
            "sample_weight": weights,
            "class_weight": CLASS_WEIGHTS,
            "reset_metrics": NUMBERS,
            "return_dict": NUMBERS,
        },
        "test_on_batch": {
            "x": data,
            "y": targets,
            "sample_weight": weights,
            "reset_metrics": NUMBERS,
            "return_dict": NUMBERS,
        },
        "predict_on_batch": {"x": data},
        "compile": {
            "optimizer": OPTIMIZERS,
            "loss": LOSSES,
            "metrics": METRICS,
            "weighted_metrics": METRICS,
            "loss_weights": NUMBERS,
            "run_eagerly": NUMBERS,
            "steps_per_execution": NUMBERS,
            "jit_compile": _NO_COMPILER,
            "auto_scale_loss": NUMBERS,
            "microbatch": NUMBERS,
        },
        "Model": {
            "input_names": NUMBERS,
            "output_names": NUMBERS,
            "label_names": NUMBERS,
            "device": NUMBERS,
            "dtype_policy": NUMBERS,
            "name": NUMBERS,
        },
    }[method]


_NO_PROCESS = {name: make for name, make in NUMBERS.items() if name not in ("True", "bool_", "1")}
_NO_COMPILER = {name: make for name, make in NUMBERS.items() if name not in ("True", "auto")}
MEANT = {
    *("None", "0", "1", "2", "3", "True", "False", "auto", "int64", "0.5", "word", "list of words", "numpy"),
    *("float64", "float16", "int8", "uint8", "bool", "big endian", "masked", "matrix", "reversed", "strided"),
    *("read only", "one row", "more rows", "flat", "column", "one hot", "tensor", "tensor with grad"),
    *("half tensor", "sparse tensor", "frame", "named frame", "nullable", "series", "csr", "coo", "dok"),
    *("lists", "tuples", "list of one", "dict", "list of tensors", "two in a list", "dict by output"),
    *("named tuple", "dataclass", "packed", "deque", "missing", "list of batches", "iterator", "generator"),
    *("generator of weights", "function", "loader", "loader of samples", "loader of lists", "tensor dataset"),
    *("subset", "samples", "samples of lists", "stream", "sequence", "infinite", "balanced", "dict of classes"),
    *("by output", "early stopping", "lambda", "arrays", "weights", "dataset", "nan", "sgd", "instance", "mse"),
    *("sparse", "of torch", "function of torch", "by name", "over outputs", "accuracy", "name", "loss", "auc"),
    *("nested", "top k", "iou", "huge", "generator of inputs", "no columns"),
}
METHODS = ["fit", "fit", "evaluate", "predict", "predict_iter", "train_on_batch", "test_on_batch"]
METHODS += ["predict_on_batch", "compile", "compile", "Model"]
MOST_ARGUMENTS = 3


def _meant_or_any(forms, choose):
    """Return the names of all forms, or, two times of three, of those that are not obviously mistakes."""
    meant = [name for name in sorted(forms) if name in MEANT]
    return meant if meant and choose(range(3)) else sorted(forms)


class Call:
    """A call that is drawn at random; `choose(options)` returns one of a list."""

    def __init__(self, choose):
        self.kind, self.method = choose(sorted(MODULES)), choose(METHODS)
        self.loss, self.y = loss_and_targets(self.kind)
        forms = arguments_of(self.method, self.y)
        names = {choose(sorted(forms)) for _ in range(choose(range(1, MOST_ARGUMENTS + 1)))}
        self.forms = {name: choose(_meant_or_any(forms[name], choose)) for name in sorted(names)}
        self._make = {name: forms[name][form] for name, form in self.forms.items()}

    def __repr__(self):
        return f"{self.kind}: {self.method}({', '.join(f'{name}=<{form}>' for name, form in self.forms.items())})"

    def run(self):
        """Make the call, and return the model."""
        given = {name: make() for name, make in self._make.items()}
        module = MODULES[self.kind]()
        self.model = torchfit.Model(module, device="cpu")
        self.model.compile(optimizers.SGD(0.01), self.loss)
        if self.method == "Model":
            model = torchfit.Model(module, **given)
            model.compile(optimizers.SGD(0.01), self.loss)
            model.fit(X, self.y, verbose=0)
        elif self.method == "compile":
            self.model.compile(**{"optimizer": "sgd", "loss": self.loss, **given})
            self.model.fit(X, self.y, verbose=0)
        else:
            self._call_method(given)

    def _call_method(self, given):
        has_targets = self.method in ("fit", "evaluate", "train_on_batch", "test_on_batch")
        usual = {"x": X} if "x" not in given else {}
        if has_targets and "y" not in given and ("x" not in given or self.forms["x"] in arrays(X)):
            usual["y"] = self.y
        if self.method in ("fit", "evaluate"):
            usual["verbose"] = 0  # type: ignore[assignment]
        result = getattr(self.model, self.method)(**{**usual, **given})
        if self.method == "predict_iter":
            list(result)

    def train_afterwards(self):
        """Train the model on data that are right, and return the loss and whether the weights moved."""
        module = MODULES[self.kind]()
        self.model.module.load_state_dict(module.state_dict())
        if self.method == "compile":
            self.model.compile(optimizers.SGD(0.01), self.loss)
        before = [parameter.detach().clone() for parameter in self.model.module.parameters()]
        history = self.model.fit(X, self.y, batch_size=4, epochs=1, verbose=0).history
        moved = any(not torch.equal(a, b) for a, b in zip(before, self.model.module.parameters()))
        return history["loss"][0], moved


def is_told(error):
    """Return whether torchfit raised an error itself, and it did not come from the inside of something."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno).strip()  # type: ignore[arg-type]
    is_ours = Path(last.filename).is_relative_to(ROOT) and line.startswith("raise")
    return is_ours and isinstance(error, (ValueError, TypeError, RuntimeError))
