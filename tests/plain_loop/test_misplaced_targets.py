# mypy: disable-error-code="arg-type"
"""Samples, batches and dictionaries that carry their targets in a form that is read otherwise are told what to do."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import torchfit
from tests.plain_loop.by_hand import X, Y

FEATURES, LABELS = torch.tensor(X), torch.tensor(Y)


class Records(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return {"x": FEATURES[row], "y": LABELS[row]}


def model(net=None, **options):
    made = torchfit.Model(net or nn.Linear(4, 3), device="cpu", **options)
    made.compile("sgd", nn.CrossEntropyLoss())
    return made


class WithMask(nn.Linear):
    def forward(self, x, mask=None):
        return super().forward(x)


class Anything(nn.Module):
    """Takes whatever it is given, and returns numbers."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, anything):
        return self.linear(FEATURES)


SAMPLES = [*zip(FEATURES, LABELS)]
BATCHES = [(FEATURES[:8], LABELS[:8]), (FEATURES[8:16], LABELS[8:16])]
EITHER = [(FEATURES[:8], LABELS[:8]), (FEATURES[8:], LABELS[8:])]
TABLE = {"x": X, "y": Y}
NAMED = "If 'y' is a target, name it: Model(module, input_names=['x'], label_names=['y'])"
LOADER = "not one sample (x, y): pass torch.utils.data.DataLoader(x, batch_size=32)."
ITERATOR = "not one batch (x, y): pass iter(x), or lambda: iter(x) for several epochs."


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: model().fit(DataLoader([*Records()], batch_size=8), verbose=0), NAMED),
        (lambda: model().fit(Records(), verbose=0), NAMED),
        (lambda: model().predict(Records()), NAMED),
        (lambda: model().evaluate(TABLE, verbose=0), NAMED),
        (lambda: model(Anything()).fit(Records(), verbose=0), NAMED),
        (lambda: model().fit(X, Y, validation_data=TABLE, verbose=0), NAMED),
        (lambda: model().fit(X, Y, validation_data=TABLE, verbose=0), "as the tuple (x, y) in `validation_data`"),
        (lambda: model(WithMask(4, 3)).fit(Records(), verbose=0), "name them: Model(module, label_names=['y'])"),
        (lambda: model().fit(SAMPLES, verbose=0), LOADER),
        (lambda: model().fit([(x, y[None]) for x, y in SAMPLES], verbose=0), LOADER),
        (lambda: model().fit([*Records()], verbose=0), LOADER),
        (lambda: model().evaluate([(x.numpy(), int(y)) for x, y in SAMPLES], verbose=0), LOADER),
        (lambda: model().fit(X, Y, validation_data=SAMPLES, verbose=0), LOADER),
        (lambda: model().fit(BATCHES, verbose=0), ITERATOR),
        (lambda: model().fit(EITHER, verbose=0), ITERATOR),
        (lambda: model().evaluate(BATCHES, verbose=0), ITERATOR),
        (lambda: model(Anything()).evaluate(BATCHES, verbose=0), ITERATOR),
        (lambda: model().fit(X, Y, validation_data=[*BATCHES, *BATCHES], verbose=0), ITERATOR),
        (lambda: model().fit(X, Y, validation_data=BATCHES, verbose=0), "batches (x, y) by an iterator, iter(batches)"),
    ],
)
def test_the_message_says_how_targets_are_passed(call, hint):
    with pytest.raises(ValueError, match=re.escape(hint)):
        call()


def test_what_the_messages_say_is_right():
    for data in (Records(), DataLoader([*Records()], batch_size=8), TABLE):
        history = model(input_names=["x"], label_names=["y"]).fit(data, validation_data=data, epochs=2, verbose=0)
        assert len(history.history["val_loss"]) == 2
    model(WithMask(4, 3), label_names=["y"]).fit(Records(), verbose=0)
    model().fit(DataLoader(SAMPLES, batch_size=32), verbose=0)
    model().fit(iter(BATCHES), validation_data=lambda: iter(BATCHES), verbose=0)
    assert len(model().fit(lambda: iter(BATCHES), epochs=3, verbose=0).history["loss"]) == 3


def test_lists_with_targets_of_their_own_get_no_such_hint():
    with pytest.raises(ValueError, match="All arrays must have the same number of samples") as caught:
        model().fit([(FEATURES, FEATURES), (FEATURES[1:], FEATURES)], LABELS)
    assert "iter(x)" not in str(caught.value)
