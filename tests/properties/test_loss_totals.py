"""A loss is a total and a denominator: parts of a batch make the whole, and the whole is what a loop would compute."""

import functools
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from torchfit import losses
from torchfit.losses.identifiers import resolve_loss

CLASSES, LABELS_TO_IGNORE = 3, -1
SEED = st.integers(0, 2**32 - 1)
REDUCTIONS = ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum"]


def over_last(values):
    """The mean over the values of a sample; of a vector, every entry is a sample."""
    return values.mean(-1) if values.dim() > 1 else values


def bce(t, p):
    return over_last(-(t * p.log() + (1 - t) * (1 - p).log()))


# Each loss, and what it is per sample, in plain PyTorch. Targets and outputs are between 0 and 1.
ELEMENTWISE = {
    losses.MeanSquaredError: lambda t, p: over_last((p - t) ** 2),
    losses.MeanAbsoluteError: lambda t, p: over_last((p - t).abs()),
    losses.MeanAbsolutePercentageError: lambda t, p: over_last(100 * (p - t).abs() / t),
    losses.MeanSquaredLogarithmicError: lambda t, p: over_last(((1 + p).log() - (1 + t).log()) ** 2),
    losses.Huber: lambda t, p: over_last(F.huber_loss(p, t, reduction="none")),
    losses.LogCosh: lambda t, p: over_last((p - t).cosh().log()),
    losses.Poisson: lambda t, p: over_last(p - t * (p + 1e-7).log()),
    losses.BinaryCrossentropy: bce,
    losses.BinaryFocalCrossentropy: lambda t, p: over_last(
        (t * (1 - p) + (1 - t) * p) ** 2 * F.binary_cross_entropy(p, t, reduction="none")
    ),
    losses.Hinge: lambda t, p: over_last((1 - t * p).relu()),
    losses.SquaredHinge: lambda t, p: over_last((1 - t * p).relu() ** 2),
}
OF_VECTORS = {
    losses.CosineSimilarity: lambda t, p: -F.cosine_similarity(t, p, dim=-1),
    losses.KLDivergence: lambda t, p: (t * (t / p).log()).sum(-1),
    losses.CategoricalHinge: lambda t, p: (((1 - t) * p).amax(-1) - (t * p).sum(-1) + 1).relu(),
    losses.CategoricalCrossentropy: lambda t, p: -(t * (p / p.sum(-1, keepdim=True)).log()).sum(-1),
    functools.partial(losses.CategoricalCrossentropy, from_logits=True, label_smoothing=0.2): lambda t, p: (
        -((0.8 * t + 0.2 / t.shape[-1]) * p.log_softmax(-1)).sum(-1)
    ),
    functools.partial(losses.Dice, axis=-1): lambda t, p: 1 - 2 * (t * p).sum(-1) / (t.sum(-1) + p.sum(-1) + 1e-7),
}
OF_LABELS = {
    functools.partial(losses.SparseCategoricalCrossentropy, from_logits=True): lambda y, p: (
        -p.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    ),
    losses.SparseCategoricalCrossentropy: lambda y, p: (
        -(p / p.sum(-1, keepdim=True)).log().gather(-1, y[..., None])[..., 0]
    ),
    losses.CategoricalGeneralizedCrossEntropy: lambda y, p: (1 - p.gather(-1, y[..., None])[..., 0] ** 0.5) / 0.5,
}


def reduced(values, weight, valid, reduction):
    """What a loop would write: weighted values that count, over their number or the sum of their weights."""
    weight = torch.ones_like(values) if weight is None else spread(weight, values)
    valid = torch.ones_like(values, dtype=torch.bool) if valid is None else spread(valid, values)
    total = (values * weight)[valid].sum()
    if reduction == "sum":
        return total, 1.0
    divisor = weight[valid].sum() if reduction == "mean_with_sample_weight" else valid.sum()
    return (total / divisor if divisor != 0 else torch.zeros(())), divisor


def spread(part, values):
    if part.dim() > values.dim():
        part = part.squeeze(-1)
    return part.reshape(part.shape + (1,) * (values.dim() - part.dim())).expand_as(values)


def sizes_of(draw, shape):
    """Draw the shape of weights or of a mask for values of a shape, or `None`."""
    leading = draw(st.integers(1, len(shape)))
    column = (shape[0], 1) if len(shape) == 1 else (shape[0], *(1 for _ in shape[1:]))
    return draw(st.sampled_from([None, shape[:leading], shape, column]))


@st.composite
def batches(draw, shapes, takes_labels=False, takes_ignored=False):
    """Draw targets, outputs, weights, a mask, and where to cut the batch."""
    rng = np.random.default_rng(draw(SEED))
    rows = draw(st.integers(1, 6))
    shape = (rows, *draw(st.sampled_from(shapes)))
    y_pred = torch.tensor(rng.uniform(0.05, 0.95, shape))
    values = shape[:1] if len(shape) == 1 else shape[:-1]
    if takes_labels:
        y_true = torch.tensor(rng.integers(LABELS_TO_IGNORE if takes_ignored else 0, shape[-1], values))
    else:
        y_true = torch.tensor(rng.uniform(0.05, 0.95, shape))
    weight_shape, mask_shape = sizes_of(draw, values), sizes_of(draw, values)
    weight = None if weight_shape is None else torch.tensor(rng.integers(0, 4, weight_shape) / 2)
    mask = None if mask_shape is None else torch.tensor(rng.random(mask_shape) < draw(st.sampled_from([0.7, 0.2])))
    cuts = sorted(draw(st.sets(st.integers(1, max(rows - 1, 1)), max_size=3)) | {0, rows})
    return y_true, y_pred, weight, mask, [slice(*ends) for ends in itertools.pairwise(cuts)]


def masked(y_pred, mask):
    y_pred = y_pred.clone()
    if mask is not None:
        y_pred._keras_mask = mask
    return y_pred


def part(values, rows):
    return None if values is None else values[rows]


def assert_parts_make_the_whole(loss, batch):
    """Compare the loss of a batch with the totals and denominators of its parts; return it with its denominator."""
    y_true, y_pred, weight, mask, cuts = batch
    whole, denominator = loss.with_denominator(y_true, masked(y_pred, mask), weight)
    pairs = [
        loss.with_denominator(y_true[rows], masked(y_pred[rows], part(mask, rows)), part(weight, rows)) for rows in cuts
    ]
    counted = [value * count for value, count in pairs if float(count)]
    total, divisor = sum(counted, torch.zeros(())), sum(float(count) for _, count in pairs)
    if loss.is_sum:
        torch.testing.assert_close(torch.as_tensor(total), whole)
        assert all(count == 1.0 for _, count in pairs)
    else:
        assert divisor == pytest.approx(float(denominator))
        if divisor:
            torch.testing.assert_close(total / divisor, whole)
    if weight is None and mask is None:
        assert torch.equal(loss(y_true, y_pred).nan_to_num(7.0), whole.nan_to_num(7.0))
    return whole, denominator


def law(members, **options):
    """Run a law for every member, on drawn batches."""

    def decorate(test):
        @pytest.mark.parametrize("member", members, ids=lambda member: getattr(member, "func", member).__name__)
        @settings(max_examples=40, deadline=None, derandomize=True)
        @given(data=st.data())
        def run(member, data):
            test(member, data.draw(batches(**options)), data.draw)

        return run

    return decorate


def check(make, reference, batch, draw, valid=None):
    reduction = draw(st.sampled_from(REDUCTIONS))
    y_true, y_pred, weight, mask, _ = batch
    loss = make(reduction=reduction, dtype="float64")
    whole, denominator = assert_parts_make_the_whole(loss, batch)
    values = reference(y_true, y_pred)
    counted = None if mask is None else spread(mask, values)
    if valid is not None:
        counted = valid if counted is None else counted & valid
    expected, divisor = reduced(values, weight, counted, reduction)
    torch.testing.assert_close(whole, expected.double())
    assert float(denominator) == pytest.approx(float(divisor))


@law(ELEMENTWISE, shapes=[(), (1,), (3,), (2, 3), (2, 2, 2)])
def test_losses_of_numbers(make, batch, draw):
    if make in (losses.Hinge, losses.SquaredHinge):
        batch = (torch.where(batch[0] > 0.5, 2.0, -1.0), *batch[1:])
    check(make, ELEMENTWISE[make], batch, draw)


@law(OF_VECTORS, shapes=[(2,), (3,), (2, 3), (2, 2, 2)])
def test_losses_of_vectors(make, batch, draw):
    check(make, OF_VECTORS[make], batch, draw)


@law(OF_LABELS, shapes=[(CLASSES,), (2, CLASSES), (2, 2, CLASSES)], takes_labels=True)
def test_losses_of_labels(make, batch, draw):
    check(make, OF_LABELS[make], batch, draw)


SPARSE = functools.partial(losses.SparseCategoricalCrossentropy, from_logits=True, ignore_class=LABELS_TO_IGNORE)


@law([SPARSE], shapes=[(CLASSES,), (2, CLASSES), (2, 2, CLASSES)], takes_labels=True, takes_ignored=True)
def test_labels_that_are_ignored(make, batch, draw):
    reference = next(iter(OF_LABELS.values()))
    check(make, lambda y, p: reference(y.clamp(min=0), p), batch, draw, valid=batch[0] != LABELS_TO_IGNORE)


@law([SPARSE], shapes=[(CLASSES,), (2, CLASSES)], takes_labels=True)
def test_what_is_masked_may_be_anything(make, batch, draw):
    y_true, y_pred, weight, mask, _ = batch
    if mask is None:
        return
    everywhere = spread(mask, y_true)
    spoilt = torch.where(everywhere, y_true, 99), torch.where(everywhere[..., None], y_pred, torch.nan)
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    gradients = []
    for labels, outputs in ((y_true, y_pred), spoilt):
        outputs = outputs.clone().requires_grad_()
        value = loss(labels, masked(outputs, mask), weight)
        gradients.append(torch.autograd.grad(value, outputs)[0])
    assert torch.equal(*gradients)


# -- losses of torch ---------------------------------------------------------------------------------------------------

CLASS_WEIGHT = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
TORCH_OF_NUMBERS = [
    nn.L1Loss,
    nn.MSELoss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
    nn.HingeEmbeddingLoss,
    nn.KLDivLoss,
]
TORCH_OF_LABELS = {
    "CrossEntropyLoss": nn.CrossEntropyLoss,
    "ignored": functools.partial(nn.CrossEntropyLoss, ignore_index=LABELS_TO_IGNORE),
    "weighted": functools.partial(nn.CrossEntropyLoss, CLASS_WEIGHT, ignore_index=LABELS_TO_IGNORE),
    "smoothed": functools.partial(
        nn.CrossEntropyLoss, CLASS_WEIGHT, ignore_index=LABELS_TO_IGNORE, label_smoothing=0.1
    ),
    "NLLLoss": functools.partial(nn.NLLLoss, ignore_index=LABELS_TO_IGNORE),
    "weighted NLLLoss": functools.partial(nn.NLLLoss, CLASS_WEIGHT, ignore_index=LABELS_TO_IGNORE),
}
TORCH_REDUCTIONS = st.sampled_from(["mean", "sum"])


def check_torch(make, batch, reduction, counts=None):
    """Compare with torch itself where nothing is weighted, else with its unreduced values."""
    y_true, y_pred, weight, mask, _ = batch
    loss = resolve_loss(make(reduction=reduction))
    assert loss.is_separable
    whole, denominator = assert_parts_make_the_whole(loss, batch)
    values = make(reduction="none")(y_pred, y_true)
    counts = torch.ones_like(values) if counts is None else counts
    valid = torch.ones_like(values, dtype=torch.bool) if mask is None else spread(mask, values)
    by = 1.0 if weight is None else spread(weight, values)
    total, divisor = (values * by)[valid].sum(), 1.0 if reduction == "sum" else counts[valid].sum()
    if divisor:
        torch.testing.assert_close(whole, total / divisor)
    else:
        assert whole == 0.0 or whole.isnan()
    assert float(denominator) == pytest.approx(float(divisor))
    if weight is None and mask is None and divisor:
        torch.testing.assert_close(whole, make(reduction=reduction)(y_pred, y_true))


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@law(TORCH_OF_NUMBERS, shapes=[(), (1,), (3,), (2, 3)])
def test_torchs_losses_of_numbers(make, batch, draw):
    check_torch(make, batch, draw(TORCH_REDUCTIONS))


@pytest.mark.parametrize("name", TORCH_OF_LABELS)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_torchs_losses_of_labels(name, data):
    make = TORCH_OF_LABELS[name]
    takes_ignored = name != "CrossEntropyLoss"
    shapes = [(CLASSES,), (2, CLASSES), (2, 2, CLASSES)]
    y_true, y_pred, *rest = data.draw(batches(shapes, takes_labels=True, takes_ignored=takes_ignored))
    y_pred = y_pred.movedim(-1, 1).contiguous()
    is_valid = y_true != LABELS_TO_IGNORE if takes_ignored else torch.ones_like(y_true, dtype=torch.bool)
    by = CLASS_WEIGHT[y_true.clamp(min=0)] if name in ("weighted", "smoothed", "weighted NLLLoss") else 1.0
    check_torch(make, (y_true, y_pred, *rest), data.draw(TORCH_REDUCTIONS), is_valid * by)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_torchs_crossentropy_of_soft_labels(data):
    y_true, y_pred, *rest = data.draw(batches([(CLASSES,), (2, CLASSES)]))
    make = functools.partial(nn.CrossEntropyLoss, CLASS_WEIGHT)
    batch = y_true.movedim(-1, 1), y_pred.movedim(-1, 1), *rest
    check_torch(make, batch, data.draw(TORCH_REDUCTIONS))


@law([nn.MultiMarginLoss, nn.MultiLabelSoftMarginLoss, nn.MultiLabelMarginLoss], shapes=[(CLASSES,)])
def test_torchs_losses_of_rows(make, batch, draw):
    y_true, *rest = batch
    if make is nn.MultiMarginLoss:
        y_true = y_true.argmax(-1)
    elif make is nn.MultiLabelMarginLoss:
        y_true = torch.where(y_true > 0.5, y_true.argsort(-1), -1)
    check_torch(make, (y_true, *rest), draw(TORCH_REDUCTIONS))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_torchs_divergence_by_rows(data):
    y_true, y_pred, weight, _, cuts = data.draw(batches([(CLASSES,), (2, CLASSES)]))
    loss = resolve_loss(nn.KLDivLoss(reduction="batchmean"))
    whole, denominator = assert_parts_make_the_whole(loss, (y_true, y_pred, weight, None, cuts))
    assert denominator == len(y_true)
    if weight is None:
        torch.testing.assert_close(whole, nn.KLDivLoss(reduction="batchmean")(y_pred, y_true))


# -- losses that are no sums -------------------------------------------------------------------------------------------


def root(y_true, y_pred):
    return (y_true - y_pred).square().mean().sqrt()


@pytest.mark.parametrize("loss", [losses.Dice(), losses.Tversky(), root], ids=["Dice", "Tversky", "own"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_number_for_a_batch_counts_by_rows(loss, data):
    y_true, y_pred, *_ = data.draw(batches([(), (1,), (3,), (2, 3)]))
    loss = resolve_loss(loss)
    _, denominator = loss.with_denominator(y_true, y_pred)
    assert denominator == len(y_true)
    assert not loss.is_separable or len(y_true) == 1  # of a function, a single row tells nothing
