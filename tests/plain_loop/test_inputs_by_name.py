"""Dictionaries of inputs and inputs that `forward` takes by keyword reach the module as in a plain loop."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import torchfit
from tests.plain_loop.by_hand import X, Y, assert_same, compiled, twins
from tests.support import complaint

MASK = (np.arange(4) < 2).astype("float32") * np.ones_like(X)
ROWS = np.arange(24)
BATCHES = [slice(start, start + 8) for start in range(0, 24, 8)]


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x, mask=None, shift=None):
        x = x if mask is None else x * mask
        return self.head(x if shift is None else x + shift)


class MaskedOrNothing(Masked):
    def forward(self, x=None, mask=None, shift=None):
        return super().forward(x, mask, shift)


class ByPosition(Masked):
    def forward(self, x, mask=None, shift=None, /):
        return super().forward(x, mask, shift)


class ByPositions(Masked):
    def forward(self, x, *others):
        return super().forward(x, *others)


class ByKeyword(Masked):
    def forward(self, *, pixel_values, scale=1.0):
        return self.head(pixel_values * scale)


class ByKeywords(Masked):
    def forward(self, *, x, mask, shift=None):
        return super().forward(x, mask, shift)


class NothingRequired(Masked):
    def forward(self, *, x=None, mask=None):
        return super().forward(x, mask)


class AnyKeyword(Masked):
    def forward(self, **inputs):
        return super().forward(**inputs)


class Mixed(Masked):
    def forward(self, x, *, mask):
        return super().forward(x, mask)


class ManyFeatures(Masked):
    def forward(self, features):
        return super().forward(features["x"], features["mask"])


class OwnLoss(Masked):
    def forward(self, x, mask=None, labels=None):
        logits = super().forward(x, mask)
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def assert_trained_as(make, inputs, by_hand, **options):
    """Train on inputs, and compare with a loop that calls the module with what `by_hand` returns for a batch."""
    net, twin = twins(make)
    model = compiled(net, nn.CrossEntropyLoss(), 0.1, **options)
    model.fit(inputs, Y, batch_size=8, shuffle=False, verbose=0)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for rows in BATCHES:
        optimizer.zero_grad()
        F.cross_entropy(by_hand(twin, rows), torch.tensor(Y[rows])).backward()
        optimizer.step()
    assert_same(twin.state_dict(), net.state_dict())
    outputs = by_hand(twin, slice(None)).detach()
    np.testing.assert_allclose(model.predict(inputs), outputs, atol=1e-5)
    np.testing.assert_allclose(model.predict_on_batch(inputs), outputs, atol=1e-5)


def rows_of(array, rows):
    return torch.tensor(array[rows])


# -- keys that `forward` does not know ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Masked, MaskedOrNothing])
def test_an_unknown_key_is_refused_with_a_way_out(make):
    message = complaint(lambda: torchfit.Model(make(), device="cpu").predict({"x": X, "mask": MASK, "id": ROWS}))
    assert f"the keys ['id'], which `{make.__name__}.forward` does not take" in message
    assert "input_names=['x', 'mask', 'shift']" in message


def test_a_misspelt_key_is_refused_with_the_right_one():
    message = complaint(lambda: torchfit.Model(Masked(), device="cpu").predict({"x": X, "masks": MASK}))
    assert "['masks']" in message
    assert "Did you mean 'mask'?" in message


def test_keys_that_are_no_input_names_are_ignored():
    inputs = {"x": X, "mask": MASK, "id": ROWS}
    by_hand = lambda net, rows: net(rows_of(X, rows), rows_of(MASK, rows))  # noqa: E731
    assert_trained_as(Masked, inputs, by_hand, input_names=["x", "mask", "shift"])
    assert_trained_as(Masked, inputs, lambda net, rows: net(rows_of(X, rows)), input_names=["x"])


def test_a_dictionary_is_the_only_input_as_a_whole():
    inputs = {"x": X, "mask": MASK}
    by_hand = lambda net, rows: net({"x": rows_of(X, rows), "mask": rows_of(MASK, rows)})  # noqa: E731
    assert_trained_as(ManyFeatures, inputs, by_hand)


def test_a_dictionary_of_one_key_has_no_several_parts():
    message = complaint(lambda: torchfit.Model(Masked(), device="cpu").predict({"X": X}))
    assert "several parts" not in message
    assert "pass the array itself" in message


@pytest.mark.parametrize("input_names", [None, ["x"]])
def test_targets_among_the_inputs_of_a_module_with_its_own_loss(input_names):
    net, twin = twins(OwnLoss)
    model = torchfit.Model(net, device="cpu", label_names=["labels"], input_names=input_names)
    model.compile(torch.optim.SGD(net.parameters(), 0.1))
    data = {"x": X, "labels": Y} if input_names is None else {"x": X, "labels": Y, "id": ROWS}
    model.fit(data, batch_size=8, shuffle=False, verbose=0)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for rows in BATCHES:
        optimizer.zero_grad()
        twin(rows_of(X, rows), labels=rows_of(Y, rows))["loss"].backward()
        optimizer.step()
    assert_same(twin.state_dict(), net.state_dict())
    np.testing.assert_allclose(model.predict(data), twin(torch.tensor(X)).detach(), atol=1e-5)


# -- names with a gap --------------------------------------------------------------------------------------------------


def test_an_input_after_a_missing_one_keeps_its_parameter():
    inputs = {"a": X, "c": MASK}
    by_hand = lambda net, rows: net(rows_of(X, rows), shift=rows_of(MASK, rows))  # noqa: E731
    assert_trained_as(Masked, inputs, by_hand, input_names=["a", "b", "c"])


@pytest.mark.parametrize("make", [ByPosition, ByPositions])
def test_a_gap_among_inputs_by_position_is_refused(make):
    model = torchfit.Model(make(), device="cpu", input_names=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"cannot take 'c' as input 3 of \['a', 'b', 'c'\].*without gaps"):
        model.predict({"a": X, "c": MASK})
    with pytest.raises(ValueError, match="cannot take 'c' as input 3"):
        model.predict({"a": X, "c": MASK, "id": ROWS})


@pytest.mark.parametrize("make", [ByPosition, ByPositions])
def test_inputs_by_position_without_a_gap(make):
    by_hand = lambda net, rows: net(rows_of(X, rows), rows_of(MASK, rows))  # noqa: E731
    assert_trained_as(make, {"b": MASK, "a": X}, by_hand, input_names=["a", "b", "c"])


def test_parameters_by_position_have_names_for_dictionaries():
    assert_trained_as(ByPosition, {"mask": MASK, "x": X}, lambda net, rows: net(rows_of(X, rows), rows_of(MASK, rows)))


def test_a_missing_required_input_is_named_as_the_user_named_it():
    model = torchfit.Model(Masked(), device="cpu", input_names=["a", "b"])
    with pytest.raises(ValueError, match=r"without \['a'\], but `Masked.forward` takes the inputs \['a', 'b'\]"):
        model.predict({"b": X})


def test_more_names_than_parameters_are_refused():
    model = torchfit.Model(ManyFeatures(), device="cpu", input_names=["a", "b"])
    with pytest.raises(ValueError, match="cannot take 'b' as input 2"):
        model.predict({"a": X, "b": MASK})


# -- parameters that are keywords --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [X, [X], {"pixel_values": X}], ids=["array", "list", "dictionary"])
def test_the_only_required_keyword_takes_the_array(inputs):
    assert_trained_as(ByKeyword, inputs, lambda net, rows: net(pixel_values=rows_of(X, rows)))


def test_keywords_may_have_other_names():
    by_hand = lambda net, rows: net(x=rows_of(X, rows), mask=rows_of(MASK, rows))  # noqa: E731
    assert_trained_as(ByKeywords, {"a": X, "b": MASK}, by_hand, input_names=["a", "b"])
    assert_trained_as(Mixed, {"a": X, "b": MASK}, by_hand, input_names=["a", "b"])
    assert_trained_as(Mixed, {"mask": MASK, "x": X}, by_hand)


@pytest.mark.parametrize("inputs", [X, [X], [X, MASK]], ids=["array", "list of one", "list"])
@pytest.mark.parametrize("make", [ByKeywords, NothingRequired, AnyKeyword, Mixed])
def test_inputs_by_name_are_asked_for(make, inputs):
    with pytest.raises(ValueError, match=f"`{make.__name__}.forward` takes its inputs by name: pass a dictionary"):
        torchfit.Model(make(), device="cpu").predict(inputs)


def test_a_missing_keyword_is_refused():
    with pytest.raises(ValueError, match=r"takes the inputs \['x', 'mask', 'shift'\]"):
        torchfit.Model(ByKeywords(), device="cpu").predict({"x": X})
