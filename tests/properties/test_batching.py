"""Numbers do not depend on how the data are cut into batches: those of all data at once, whatever the loss counts.

The second oracle: for losses of torch, the number is what `loss(net(x), y)` gives on all data.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchfit import Model, losses, optimizers

CLASSES, STEPS = 3, 4
pytestmark = pytest.mark.filterwarnings("ignore:.*expects:UserWarning")


class Reshaped(nn.Module):
    """A linear layer whose output has a shape `(batch, …)`."""

    def __init__(self, *shape):
        super().__init__()
        self.linear, self.shape = nn.Linear(5, int(np.prod(shape or (1,)))), shape

    def forward(self, x):
        return self.linear(x).reshape(len(x), *self.shape)


class Masked(Reshaped):
    """Masks every output whose input is negative."""

    def forward(self, x):
        output = super().forward(x)
        output._keras_mask = x[:, 0] > -0.5
        return output


class Pair(nn.Module):
    """Two outputs, whose losses have denominators of their own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Reshaped(2), Reshaped(STEPS, CLASSES)

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


def values(random, *shape):
    return random.normal(size=shape).astype("float32")


def indices(random, *shape):
    return random.integers(0, CLASSES, shape)


def ignored(random, *shape):
    labels = random.integers(0, CLASSES, shape)
    return np.where(random.random(shape) < 0.3, -100, labels)


REDUCTIONS = ["sum_over_batch_size", "mean_with_sample_weight", "sum"]


def ours(name):
    return lambda reduction: getattr(losses, name)(reduction=reduction)


def from_logits(name, **options):
    return lambda reduction: getattr(losses, name)(from_logits=True, reduction=reduction, **options)


# Name -> (shape of the outputs, targets, loss of a reduction, shapes of weights beside `(n,)`).
OURS = {
    "flat regression": ((), lambda r, n: values(r, n), ours("MeanSquaredError"), [(1,)]),
    "column": ((1,), lambda r, n: values(r, n, 1), ours("Huber"), [(1,)]),
    "vectors": ((3,), lambda r, n: values(r, n, 3), ours("MeanAbsoluteError"), [(1,)]),
    "sequences": ((STEPS, 2), lambda r, n: values(r, n, STEPS, 2), ours("LogCosh"), [(1,), (STEPS,)]),
    "images": ((3, 2, 2), lambda r, n: values(r, n, 3, 2, 2), ours("MeanSquaredError"), [(3, 2)]),
    "flat binary": ((), lambda r, n: r.integers(0, 2, n).astype("float32"), from_logits("BinaryCrossentropy"), [(1,)]),
    "focal": ((2,), lambda r, n: r.integers(0, 2, (n, 2)), from_logits("BinaryFocalCrossentropy"), []),
    "classes": ((CLASSES,), lambda r, n: indices(r, n), from_logits("SparseCategoricalCrossentropy"), [(1,)]),
    "tokens": (
        (STEPS, CLASSES),
        lambda r, n: ignored(r, n, STEPS),
        from_logits("SparseCategoricalCrossentropy", ignore_class=-100),
        [(STEPS,)],
    ),
    "channels first": (
        (CLASSES, STEPS),
        lambda r, n: ignored(r, n, STEPS),
        from_logits("SparseCategoricalCrossentropy", ignore_class=-100, axis=1),
        [(STEPS,)],
    ),
}

WEIGHTED = torch.tensor([1.0, 2.0, 5.0])
TORCH = {
    "mse": ((2,), lambda r, n: values(r, n, 2), nn.MSELoss),
    "smooth l1, flat": ((), lambda r, n: values(r, n), nn.SmoothL1Loss),
    "l1 of sequences": ((STEPS, 2), lambda r, n: values(r, n, STEPS, 2), nn.L1Loss),
    "bce": ((2,), lambda r, n: r.integers(0, 2, (n, 2)).astype("float32"), nn.BCEWithLogitsLoss),
    "ce": ((CLASSES,), lambda r, n: indices(r, n), nn.CrossEntropyLoss),
    "ce, ignored": ((CLASSES,), lambda r, n: ignored(r, n), nn.CrossEntropyLoss),
    "ce, weighted": (
        (CLASSES, STEPS),
        lambda r, n: ignored(r, n, STEPS),
        lambda reduction: nn.CrossEntropyLoss(weight=WEIGHTED, reduction=reduction),
    ),
    "ce, smoothed": (
        (CLASSES,),
        lambda r, n: ignored(r, n),
        lambda reduction: nn.CrossEntropyLoss(label_smoothing=0.2, weight=WEIGHTED, reduction=reduction),
    ),
    "poisson": ((2,), lambda r, n: r.integers(0, 5, (n, 2)).astype("float32"), nn.PoissonNLLLoss),
    "margins": ((CLASSES,), lambda r, n: indices(r, n), nn.MultiMarginLoss),
}


def compiled(net, loss, rate=0.0, **options):
    """Return a compiled copy of a network."""
    twin = type(net)(*getattr(net, "shape", ()))
    twin.load_state_dict(net.state_dict())
    model = Model(twin, device="cpu")
    accumulated = options.pop("gradient_accumulation_steps", None)
    model.compile(optimizers.SGD(rate, gradient_accumulation_steps=accumulated), loss, **options)
    return model


def check_evaluation(net, loss, data, sizes, **weights):
    """Check that `evaluate` and the logs of `fit` with a rate of 0 are the same for every batch size."""
    n = len(data[0])
    expected = compiled(net, loss).evaluate(*data, batch_size=n, verbose=0, **weights)
    for size in sizes:
        found = compiled(net, loss).evaluate(*data, batch_size=size, verbose=0, **weights)
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
    logged = compiled(net, loss).fit(*data, batch_size=sizes[0], verbose=0, **weights).history["loss"]
    np.testing.assert_allclose(logged[0], np.ravel(expected)[0], rtol=2e-5, atol=1e-5)
    return expected


def check_updates(net, loss, data, size, **weights):
    """Check that microbatches and accumulated gradients make the update of the whole batch."""
    n = len(data[0])
    size = min(size, n - 1)
    accumulated = {"gradient_accumulation_steps": -(-n // size)}
    found = []
    for batch_size, options in ((n, {}), (n, {"microbatch": size}), (size, accumulated)):
        model = compiled(net, loss, 0.1, **options)
        model.fit(*data, batch_size=batch_size, shuffle=False, verbose=0, **weights)
        found.append(np.concatenate([weight.ravel() for weight in model.get_weights()]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4, atol=2e-5)


seeds = st.integers(0, 2**32 - 1)
rows = st.integers(2, 9)
sizes = st.lists(st.integers(1, 6), min_size=1, max_size=2)


def weights_of(random, n, shapes, kind):
    """Draw no weights, weights of the samples, or of the first dimensions of their values; some are 0."""
    if kind == 0:
        return {}
    shape = (n,) if kind == 1 or not shapes else (n, *shapes[kind % len(shapes)])
    return {"sample_weight": (random.random(shape) * (random.random(shape) > 0.2)).astype("float32")}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(OURS)), st.sampled_from(REDUCTIONS), seeds, rows, sizes, st.integers(0, 3))
def test_our_losses(name, reduction, seed, n, sizes, kind):
    shape, targets, loss, shapes = OURS[name]
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    data, weights = (values(random, n, 5), targets(random, n)), weights_of(random, n, shapes, kind)
    check_evaluation(Reshaped(*shape), loss(reduction), data, sizes, **weights)
    check_updates(Reshaped(*shape), loss(reduction), data, sizes[0], **weights)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(TORCH)), st.sampled_from(["mean", "sum"]), seeds, rows, sizes, st.booleans())
def test_losses_of_torch(name, reduction, seed, n, sizes, is_weighted):
    shape, targets, make = TORCH[name]
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net, data = Reshaped(*shape), (values(random, n, 5), targets(random, n))
    weights = weights_of(random, n, [], int(is_weighted))
    found = check_evaluation(net, make(reduction=reduction), data, sizes, **weights)
    check_updates(net, make(reduction=reduction), data, sizes[0], **weights)
    if not weights:
        with torch.no_grad():
            by_hand = make(reduction=reduction)(*(net(torch.tensor(data[0])), torch.tensor(data[1])))
        np.testing.assert_allclose(found, np.nan_to_num(by_hand.item()), rtol=2e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(REDUCTIONS), seeds, rows, sizes, st.booleans())
def test_masks(reduction, seed, n, sizes, is_weighted):
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    data = values(random, n, 5), values(random, n, STEPS, 2)
    weights = weights_of(random, n, [], int(is_weighted))
    check_evaluation(Masked(STEPS, 2), losses.MeanSquaredError(reduction=reduction), data, sizes, **weights)
    check_updates(Masked(STEPS, 2), losses.MeanSquaredError(reduction=reduction), data, sizes[0], **weights)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(REDUCTIONS), seeds, rows, sizes)
def test_outputs_with_denominators_of_their_own(reduction, seed, n, sizes):
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    loss = {"a": losses.MeanSquaredError(reduction=reduction), "b": OURS["tokens"][2](reduction)}
    data = values(random, n, 5), {"a": values(random, n, 2), "b": ignored(random, n, STEPS)}
    check_evaluation(Pair(), loss, data, sizes)
    check_updates(Pair(), loss, data, sizes[0])


@settings(max_examples=10, deadline=None)
@given(seeds, rows, sizes)
def test_class_weights(seed, n, sizes):
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    data = values(random, n, 5), indices(random, n)
    for loss in (losses.SparseCategoricalCrossentropy(from_logits=True), nn.CrossEntropyLoss()):
        found = []
        for size in (n, sizes[0]):
            model = compiled(Reshaped(CLASSES), loss)
            torch.manual_seed(seed)
            model.module.linear.reset_parameters()
            found += model.fit(*data, batch_size=size, class_weight={0: 1, 1: 3, 2: 0}, verbose=0).history["loss"]
        np.testing.assert_allclose(found[0], found[1], rtol=2e-5, atol=1e-5)
