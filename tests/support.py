"""What tests of several packages use: modules that return what a test chose, models, interruptions, stand-ins."""

import io
import os
import sys
import warnings

import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, optimizers

copies_deep_modules = pytest.mark.xfail(
    sys.version_info[:2] == (3, 12),
    reason="once torch.compile has failed in the process, Python 3.12 refuses calls nested as deeply",
    raises=RecursionError,
    strict=False,
)


def calls_with(x, y):
    """What calls the methods of a model that take data, by their names."""
    return {
        "fit": lambda model: model.fit(x, y, verbose=0),
        "evaluate": lambda model: model.evaluate(x, y, verbose=0),
        "predict": lambda model: model.predict(x),
        "predict_iter": lambda model: list(model.predict_iter(x)),
        "train_on_batch": lambda model: model.train_on_batch(x, y),
        "test_on_batch": lambda model: model.test_on_batch(x, y),
        "predict_on_batch": lambda model: model.predict_on_batch(x),
    }


class Echo(nn.Module):
    """Returns its input, so that a test chooses the outputs itself."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x + 0 * self.unused


class Masked(Echo):
    """Returns its input, with a mask that leaves out the steps that are all zero."""

    def forward(self, x):
        y = super().forward(x)
        y._keras_mask = x.abs().sum(-1) > 0
        return y


class InterruptedHereError(Exception):
    pass


class Interrupt(callbacks.Callback):
    """Ends a run at the beginning of an epoch, with an error."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise InterruptedHereError


def compiled(net, loss, optimizer=None, **options):
    """Return a model, compiled with an optimizer that changes nothing unless one is given."""
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizer or optimizers.SGD(0.0), loss, **options)
    return model


def complaint(call, errors=(TypeError, ValueError)):
    """Return the texts of the error and of the warnings of a call, in one string."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            call()
        except errors as error:
            return " ".join([str(error), *(str(warning.message) for warning in seen)])
    return " ".join(str(warning.message) for warning in seen)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, witness):
        self.command = f"touch {witness}"

    def __reduce__(self):
        return os.system, (self.command,)


class Terminal(io.StringIO):
    """A standard output that looks like a terminal."""

    def isatty(self):
        return True
