"""A subclass of `Model`, and modules inside it, may give their attributes and methods any plain private name."""

import inspect

import numpy as np
import pytest
from torch import nn

import torchfit

WORDS = """
    accumulate active adapter added after args attributes auxiliary backend backward batch batches before begin
    bind bound buffer build bus cache call callback callbacks calls check clear clip close collect compile
    compiled compute config conversion convert copy count course criterion data decay decode device dtype encode
    encoder end engine epoch epochs evaluate evaluator example execution executor fit flags flush forward_fn
    function gather given_names gradients graph graphs head helper history hooks index init inputs iterate
    iterator key kwargs lr layers length load log logger logs loop loss losses make mask match metric metrics
    mode model module names net network norm objective optimizer optimizers options outputs params parts policy
    precision predict prepare process progress read record register release render reset restore result results
    rows run running sample save scale scheduler score seed seen set settings setup shape shapes signature size
    source split start started state stats step steps stop stored structure summary targets task tell template
    test time timer total trace tracked tracker train trained trainer transform unit update updates validate
    validation value values watch weights wrap writer x y
"""
NAMES = [f"_{word}" for word in WORDS.split()]


def wrong(self, *_, **__):
    raise AssertionError("torchfit called a private method of a subclass")


def shadowed(base):
    """Return a subclass of a class with every name as a method that must not be called."""
    return type(base.__name__, (base,), dict.fromkeys(NAMES, wrong))


class Inner(shadowed(nn.Linear)):
    pass


class Mine(shadowed(torchfit.Model)):
    def __init__(self):
        super().__init__(device="cpu")
        self.layer = Inner(3, 1)

    def forward(self, x):
        return self.layer(x)


class WithAttributes(torchfit.Model):
    """Has an attribute of every name in the instance."""

    def __init__(self):
        super().__init__(device="cpu")
        self.layer = nn.Linear(3, 1)
        for name in NAMES:
            setattr(self, name, name)

    def forward(self, x):
        return self.layer(x)


X, Y = np.random.default_rng(0).random((12, 3)).astype("float32"), np.ones((12, 1), "float32")


def test_the_list_is_long():
    assert len(set(NAMES)) >= 120
    assert not {name for name in NAMES if hasattr(nn.Module, name)}


@pytest.mark.parametrize("kind", [Mine, WithAttributes])
def test_such_a_model_trains_evaluates_predicts_saves_and_loads(kind, tmp_path):
    model = kind()
    model.compile("adam", "mse", metrics=["mae"])
    history = model.fit(X, Y, epochs=2, batch_size=4, validation_split=0.25, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    loss = model.evaluate(X, Y, verbose=0)[0]
    model.train_on_batch(X, Y)
    model.test_on_batch(X, Y)
    model.predict_on_batch(X)
    model.summary(print_fn=lambda text: None)
    model.save(tmp_path / "model")
    loaded = torchfit.models.load_model(
        tmp_path / "model", custom_objects={"Mine": Mine, "WithAttributes": kind, "Inner": Inner}
    )
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert np.isfinite(loss)


def test_model_has_one_private_attribute():
    own = {name for name in vars(torchfit.Model(nn.Linear(1, 1))) if name not in vars(nn.Module())}
    assert {name for name in own if name.startswith("_")} == {"_torchfit"}


def test_model_defines_no_private_method():
    private = {
        name
        for kind in torchfit.Model.__mro__
        if kind.__module__.startswith("torchfit")
        for name, value in vars(kind).items()
        if name.startswith("_") and not name.startswith("__") and inspect.isroutine(value)
    }
    assert private == {"_repr_html_"}  # IPython's protocol
