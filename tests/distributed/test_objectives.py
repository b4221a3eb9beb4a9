"""Losses, metrics and optimizers see whole batches, whichever process has their rows."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.distributed.cases import LABELS, ROWS, VALUES, WEIGHTS, X, compiled, network, trained
from torchfit import losses, metrics, optimizers

STEPS = np.random.RandomState(3).randint(0, 3, (ROWS, 5))
STEPS[:, 3:] = np.where(np.random.RandomState(4).rand(ROWS, 2) < 0.7, -1, STEPS[:, 3:])  # Few, and not everywhere.


class Sequences(nn.Module):
    """Gives scores (batch, 5, 3), with a mask if wanted."""

    def __init__(self, is_masked=False, swaps=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.is_masked, self.swaps = nn.Linear(8, 15), is_masked, swaps

    def forward(self, x):
        scores = self.layer(x).reshape(-1, 5, 3)
        if self.swaps:
            return scores.swapaxes(1, 2)
        if self.is_masked:
            scores._keras_mask = x[:, :5] > 0.8
        return scores


def with_loss(name):
    sequences = {
        "ignore_class": lambda: losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
        "mean_with_sample_weight": lambda: losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=-1, reduction="mean_with_sample_weight"
        ),
        "sum": lambda: losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum"),
        "masked": lambda: losses.SparseCategoricalCrossentropy(from_logits=True),
        "torch": lambda: nn.CrossEntropyLoss(torch.tensor([0.2, 1.0, 3.0]), ignore_index=-1),
    }
    module = Sequences(is_masked=name == "masked", swaps=name == "torch")
    targets = np.abs(STEPS) if name == "masked" else STEPS
    weights = {"sample_weight": np.repeat(WEIGHTS[:, None], 5, 1)} if name == "mean_with_sample_weight" else {}
    return trained(compiled(module, loss=sequences[name](), metrics=[]), X, targets, validation_split=0.3, **weights)


@pytest.mark.parametrize("name", ["ignore_class", "mean_with_sample_weight", "sum", "masked", "torch"])
def test_denominators_that_depend_on_data(everywhere, name):
    everywhere(with_loss, name, sizes=(2, 3))


def with_scalar_loss():
    return trained(compiled(network(1), loss=lambda y, p: ((y - p) ** 2).mean(), metrics=["mae"]), X, VALUES)


def test_a_loss_of_the_users_that_is_a_mean_over_rows(everywhere):
    everywhere(with_scalar_loss)


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.scores, self.value = nn.Linear(8, 16), nn.Linear(16, 15), nn.Linear(16, 1)

    def forward(self, x):
        hidden = torch.tanh(self.body(x))
        return {"scores": self.scores(hidden).reshape(-1, 5, 3), "value": self.value(hidden)}


def with_two_outputs(optimizer="adam", microbatch=None):
    loss = {"scores": losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1), "value": "mse"}
    model = torchfit.Model(TwoOutputs(), device="cpu")
    model.compile(
        optimizer,
        loss,
        {"value": ["mae"], "scores": []},
        loss_weights={"scores": 0.3, "value": 2.0},
        microbatch=microbatch,
    )
    return trained(model, X, {"scores": STEPS, "value": VALUES}, validation_split=0.3)


def test_outputs_with_denominators_of_their_own(everywhere):
    everywhere(with_two_outputs, sizes=(2, 3))
    everywhere(with_two_outputs_accumulated, sizes=(2, 3))
    everywhere(with_two_outputs, microbatch=4)


def with_two_outputs_accumulated():
    return with_two_outputs(optimizers.Adam(gradient_accumulation_steps=3))


def with_penalties():
    module = network()
    model = compiled(module)
    model.add_loss(lambda: 0.1 * module[0].weight.square().sum())
    model.add_loss(lambda output: 0.01 * output.square().mean(), on="1")
    model.add_metric(lambda output: output.mean(), "activation", on="1")
    model.add_metric(lambda output: output[:, 0], "first", on="1")
    model.add_metric(lambda output: float(len(output)), "rows", aggregation="sum", on="1")
    return trained(model, validation_split=0.3)


def test_penalties_and_added_metrics(everywhere):
    everywhere(with_penalties, sizes=(2, 3))


def with_microbatch(**settings):
    return trained(compiled(network(), microbatch=3), sample_weight=WEIGHTS, **settings)


def test_microbatches(everywhere):
    everywhere(with_microbatch, sizes=(2, 3))


def with_optimizer(make, **options):
    return trained(compiled(network(), OPTIMIZERS[make](**options), metrics=[]), epochs=1)


RULES = [
    name
    for name in optimizers.__all__
    if isinstance(vars(optimizers)[name], type)
    and issubclass(vars(optimizers)[name], optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
]
OPTIMIZERS = {
    **{name: vars(optimizers)[name] for name in RULES},
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(), initial_scale=4.0),
    "MultiOptimizer": lambda: optimizers.MultiOptimizer({"0.*": optimizers.Adam(), "2.*": optimizers.SGD(0.01)}),
    "torch AdamW": lambda: torch.optim.AdamW,
}


def with_all_optimizers():
    return {name: with_optimizer(name) for name in OPTIMIZERS}


def test_every_optimizer(everywhere):
    everywhere(with_all_optimizers, tolerance=2e-6)


def with_lbfgs():
    optimizer = functools.partial(torch.optim.LBFGS, lr=0.02, max_iter=3)
    return trained(compiled(network(), optimizer), epochs=1)


def test_an_optimizer_that_evaluates_the_loss_itself(everywhere):
    everywhere(with_lbfgs, tolerance=1e-3)  # It divides differences of gradients.


class Clips(torch.optim.SGD):
    """Changes the gradients before the step of its base, to which it passes the closure."""

    def step(self, closure=None):
        torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 0.05)
        return super().step(closure)


class Sharp(torch.optim.SGD):
    """Evaluates the loss again, uphill."""

    @torch.no_grad()
    def step(self, closure=None):
        moves = [(parameter, 0.1 * parameter.grad) for parameter in self.param_groups[0]["params"]]
        for parameter, move in moves:
            parameter.add_(move)
        torch.enable_grad()(closure)()
        for parameter, move in moves:
            parameter.sub_(move)
        super().step()


def with_own_steps():
    kinds = functools.partial(Clips, lr=0.1), functools.partial(Sharp, lr=0.1)
    return [trained(compiled(network(), kind, **options)) for kind in kinds for options in ({}, {"jit_compile": True})]


@pytest.mark.filterwarnings("ignore")
def test_optimizers_of_the_user_with_closures(everywhere):
    everywhere(with_own_steps, tolerance=1e-5)


def with_options():
    options: list[dict[str, Any]] = [
        {"clipnorm": 0.05},
        {"global_clipnorm": 0.05},
        {"clipvalue": 0.01},
        {"use_ema": True, "ema_overwrite_frequency": 3},
        {"weight_decay": 0.1},
        {"gradient_accumulation_steps": 3},
    ]
    return [with_optimizer("SGD", learning_rate=0.1, **each) for each in options]


def test_options_of_optimizers(everywhere):
    everywhere(with_options, sizes=(2, 3))


def with_all_metrics():
    """Update every metric with rows of its kind, as a model does that returns what it gets."""
    from tests.metrics.members import EXTENDED, MEMBERS

    found = {}
    for member in [*MEMBERS, *EXTENDED]:
        if "Correlation" in member.name and member.data.__name__ in ("flat", "column"):
            continue  # Rows are compared with each other: each process sees its own.
        y_true, y_pred = member.data(5)
        torch.manual_seed(0)
        model = torchfit.Model(nn.Identity(), device="cpu")
        metric = vars(metrics)[member.name](**member.arguments)
        model.compile("sgd", None, [metric])
        found[str(member)] = model.evaluate(y_pred, y_true, batch_size=5, verbose=0, return_dict=True)
    return found


def test_every_metric(everywhere):
    everywhere(with_all_metrics)


class Normalizing(nn.Module):
    """A loss with running statistics, which belong to the training data."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)

    def forward(self, outputs, targets):
        return nn.functional.cross_entropy(self.norm(outputs), targets, reduction="none")


def with_normalizing_loss():
    loss = Normalizing()
    model = compiled(network(), optimizers.SGD(0.05), loss)
    found = trained(model, X[:-1], LABELS[:-1], validation_data=(X + 10, LABELS))
    results = [model.evaluate(X + 5, LABELS, verbose=0), model.test_on_batch(X[:5], LABELS[:5])]
    return {**found, "results": results, "mean": loss.norm.running_mean, "batches": loss.norm.num_batches_tracked}


def test_a_loss_with_modules_that_depend_on_the_mode(everywhere):
    everywhere(with_normalizing_loss, sizes=(2, 3))


class Unused(nn.Module):
    """Has a layer for rows of one kind, which some processes may not have, and one for no row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.common, self.rare, self.never = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        chosen = x[:, 0] > 1.2
        scores = self.common(x)
        return scores + chosen[:, None] * self.rare(x) if chosen.any() else scores


@pytest.mark.filterwarnings("ignore:.*gradient")
def test_parameters_without_a_gradient(everywhere):
    everywhere(with_unused, sizes=(2, 3))


def with_unused():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = compiled(Unused(), optimizers.Adam(weight_decay=0.1))
        return trained(model, batch_size=4)
