"""Models of several inputs and outputs, in every structure that modules return."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import losses, metrics

Pair = namedtuple("Pair", "score kind")
X = np.random.RandomState(0).rand(64, 6).astype("float32")
SCORE = X.sum(1, keepdims=True)
KIND = (X[:, 0] > 0.5).astype("int64")


@dataclass
class Answer:
    score: torch.Tensor
    kind: torch.Tensor


class ModelOutput(OrderedDict):
    """As those of transformers: a dictionary with attributes, where parts that are None are left out."""

    def __init__(self, **parts):
        super().__init__((name, part) for name, part in parts.items() if part is not None)
        self.__dict__.update(parts)

    def __getitem__(self, key):
        return super().__getitem__(key) if isinstance(key, str) else tuple(self.values())[key]


class Two(nn.Module):
    """Gives a score and the logits of two kinds, in the structure that `pack` makes."""

    def __init__(self, pack):
        super().__init__()
        torch.manual_seed(0)
        self.score, self.kind, self.pack = nn.Linear(6, 1), nn.Linear(6, 2), pack

    def forward(self, x):
        return self.pack(self.score(x), self.kind(x))


STRUCTURES: dict[str, Any] = {
    "tuple": lambda score, kind: (score, kind),
    "list": lambda score, kind: [score, kind],
    "dict": lambda score, kind: {"score": score, "kind": kind},
    "named tuple": Pair,
    "dataclass": Answer,
    "model output": lambda score, kind: ModelOutput(loss=None, score=score, kind=kind),
}
CROSSENTROPY = losses.SparseCategoricalCrossentropy(from_logits=True)


def model_of(structure, **compiled):
    names = ["score", "kind"] if structure in ("tuple", "list") else None
    model = torchfit.Model(Two(STRUCTURES[structure]), output_names=names, device="cpu")
    model.compile("sgd", **compiled)
    return model


COMPILED = {
    "lists": {"loss": ["mse", CROSSENTROPY], "metrics": [["mae"], ["accuracy"]], "loss_weights": [2.0, 0.5]},
    "dicts": {
        "loss": {"score": "mse", "kind": CROSSENTROPY},
        "metrics": {"kind": "accuracy", "score": ["mae"]},
        "loss_weights": {"score": 2.0, "kind": 0.5},
    },
}
TARGETS: dict[str, Any] = {"list": [SCORE, KIND], "tuple": (SCORE, KIND), "dict": {"kind": KIND, "score": SCORE}}
NAMES = ["loss", "score_loss", "kind_loss", "score_mae", "kind_accuracy"]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("compiled", COMPILED)
@pytest.mark.parametrize("targets", TARGETS)
def test_every_structure_gives_the_same_names_and_numbers(structure, compiled, targets):
    model = model_of(structure, **COMPILED[compiled])
    found = model.evaluate(X, TARGETS[targets], verbose=0, return_dict=True)
    assert list(found) == model.metrics_names == NAMES
    score, kind = (torch.from_numpy(part) for part in model_of("tuple").predict(X))
    mse = nn.functional.mse_loss(score, torch.from_numpy(SCORE)).item()
    crossentropy = nn.functional.cross_entropy(kind, torch.from_numpy(KIND)).item()
    accuracy = (kind.argmax(1).numpy() == KIND).mean()
    mae = (score - torch.from_numpy(SCORE)).abs().mean().item()
    expected = [2 * mse + 0.5 * crossentropy, mse, crossentropy, mae, accuracy]
    assert list(found.values()) == pytest.approx(expected, rel=1e-4)
    history = model.fit(X, TARGETS[targets], validation_split=0.25, verbose=0).history
    assert list(history) == [*NAMES, *(f"val_{name}" for name in NAMES)]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_predict_returns_the_structure(structure):
    found = model_of(structure).predict(X)
    parts = [found.score, found.kind] if structure in ("named tuple", "dataclass") else None
    parts = parts or (list(found.values()) if isinstance(found, dict) else found)
    assert [part.shape for part in parts] == [(64, 1), (64, 2)]
    assert type(found) is type(STRUCTURES[structure](1, 2))


def test_one_loss_and_one_list_of_metrics_serve_every_output():
    model = torchfit.Model(Two(STRUCTURES["tuple"]), device="cpu")
    model.compile("sgd", "mse", metrics=["mae"])
    model.fit(X, [SCORE, np.zeros((64, 2), "float32")], verbose=0)
    assert model.metrics_names == ["loss", "output_1_loss", "output_2_loss", "output_1_mae", "output_2_mae"]


@pytest.mark.filterwarnings("ignore:There is no gradient")
def test_outputs_without_a_loss_need_no_target():
    for loss in (["mse", None], {"score": "mse"}):
        model = model_of("tuple", loss=loss)
        for y in (SCORE, [SCORE], {"score": SCORE}, [SCORE, None]):
            assert list(model.fit(X, y, verbose=0).history) == ["loss", "score_loss"]


def test_three_outputs_one_loss_one_target():
    class Three(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return y, y + 1, y + 2

    model = torchfit.Model(Three(6, 1), device="cpu")
    model.compile("sgd", loss=["mse", None, None])
    assert list(model.fit(X, SCORE, verbose=0).history) == ["loss", "output_1_loss"]


def test_weights_by_output():
    model = model_of("dict", loss=COMPILED["dicts"]["loss"], weighted_metrics={"score": ["mae"]})
    half = np.repeat([1.0, 0.0], 32)
    by_output = model.evaluate(X, TARGETS["dict"], sample_weight={"score": half}, verbose=0, return_dict=True)
    plain = model.evaluate(X, TARGETS["dict"], verbose=0, return_dict=True)
    assert by_output["kind_loss"] == pytest.approx(plain["kind_loss"])
    assert by_output["score_loss"] < plain["score_loss"]
    first = model.evaluate(X[:32], {k: v[:32] for k, v in TARGETS["dict"].items()}, verbose=0, return_dict=True)
    assert by_output["score_mae"] == pytest.approx(first["score_mae"], rel=1e-5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ({"score": SCORE, "kinds": KIND}, "`y` names the output 'kinds', but the outputs of the model are .*'kind'"),
        ([SCORE, KIND, KIND], r"`y` has 3 parts, but the model has 2 outputs \['score', 'kind'\]"),
        (SCORE, r"2 outputs need one each: \['score', 'kind'\]"),
    ],
)
def test_a_mismatch_says_which_names_exist(y, message):
    model = model_of("dict", loss=COMPILED["dicts"]["loss"])
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, verbose=0)
    model.fit(X, TARGETS["dict"], verbose=0)


class Auxiliary(nn.Module):
    """As Inception: a second output in train mode alone."""

    def __init__(self, pack):
        super().__init__()
        self.main, self.aux, self.pack = nn.Linear(6, 2), nn.Linear(6, 2), pack

    def forward(self, x):
        main = self.main(x)
        return self.pack(main, self.aux(x)) if self.training else main


@pytest.mark.parametrize(
    ("pack", "first", "second"),
    [
        (lambda a, b: (a, b), "output_1", "output_2"),
        (namedtuple("Outputs", "logits aux"), "logits", "aux"),
        (lambda a, b: {"a": a, "b": b}, "a", "b"),
    ],
)
@pytest.mark.parametrize("jit_compile", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_outputs_that_are_there_in_train_mode_alone(pack, first, second, jit_compile):
    model = torchfit.Model(Auxiliary(pack), device="cpu")
    model.compile(
        "sgd", [CROSSENTROPY, CROSSENTROPY], metrics=["accuracy"], loss_weights=[1.0, 0.3], jit_compile=jit_compile
    )
    data = X, [KIND, KIND]
    history = model.fit(*data, validation_data=(X, KIND), batch_size=16, epochs=3, verbose=0).history
    assert list(history) == [
        *("loss", f"{first}_loss", f"{second}_loss", f"{first}_accuracy", f"{second}_accuracy"),
        *("val_loss", f"val_{first}_loss", f"val_{first}_accuracy"),
    ]
    found = model.evaluate(X, KIND, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-5)
    assert model.predict(X).shape == (64, 2)


def test_an_evaluation_may_come_before_the_training():
    model = torchfit.Model(Auxiliary(lambda a, b: {"logits": a, "aux": b}), output_names=["logits"], device="cpu")
    model.compile("sgd", CROSSENTROPY, metrics=["accuracy"])
    assert list(model.evaluate(X, KIND, verbose=0, return_dict=True)) == ["loss", "accuracy"]
    assert "aux_loss" in model.fit(X, {"logits": KIND, "aux": KIND}, verbose=0).history


def test_nested_outputs_and_targets():
    class Nested(Two):
        def forward(self, x):
            return {"main": (self.score(x), self.kind(x)), "extra": [{"twice": 2 * self.score(x)}]}

    model = torchfit.Model(Nested(None), device="cpu")
    model.compile(
        "sgd",
        loss={"main": ["mse", CROSSENTROPY], "extra": [{"twice": "mae"}]},
        metrics={"main_2": ["accuracy", metrics.SparseTopKCategoricalAccuracy(k=1, name="top")]},
    )
    y = {"main": (SCORE, KIND), "extra": [{"twice": 2 * SCORE}]}
    history = model.fit(X, y, verbose=0).history
    assert list(history) == [
        "loss",
        "main_1_loss",
        "main_2_loss",
        "extra_1_twice_loss",
        "main_2_accuracy",
        "main_2_top",
    ]
    flat = {"main_1": SCORE, "main_2": KIND, "extra_1_twice": 2 * SCORE}
    assert model.evaluate(X, flat, verbose=0) == pytest.approx(model.evaluate(X, y, verbose=0))
    assert model.predict(X)["extra"][0]["twice"].shape == (64, 1)


@pytest.mark.filterwarnings("ignore:There is no gradient")
def test_outputs_that_are_no_tensors_are_left_out_of_predictions():
    model = torchfit.Model(Two(lambda score, kind: ModelOutput(score=score, cache=object(), kind=kind)), device="cpu")
    found = model.predict(X, batch_size=16)
    assert (found["score"].shape, found["cache"], found["kind"].shape) == ((64, 1), None, (64, 2))
    model.compile("sgd", {"kind": CROSSENTROPY})
    assert list(model.fit(X, KIND, verbose=0).history) == ["loss", "kind_loss"]


@pytest.mark.filterwarnings("ignore:There is no gradient")
def test_a_model_that_computes_its_own_loss():
    class OwnLoss(Two):
        def forward(self, x, labels=None):
            kind = self.kind(x)
            loss = None if labels is None else nn.functional.cross_entropy(kind, labels)
            return ModelOutput(loss=loss, logits=kind)

    model = torchfit.Model(OwnLoss(None), device="cpu")
    model.add_loss(lambda outputs: outputs.loss, on="")
    model.compile("adam")
    history = model.fit({"x": X, "labels": KIND}, epochs=3, batch_size=16, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert model.predict({"x": X})["logits"].shape == (64, 2)


class Inputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, left, right):
        return self.layer(left - right)


@pytest.mark.parametrize("x", [[X, 2 * X], (X, 2 * X), {"right": 2 * X, "left": X}])
def test_several_inputs(x):
    model = torchfit.Model(Inputs(), device="cpu")
    model.compile(loss="mse")
    np.testing.assert_allclose(
        model.predict(x), model(torch.from_numpy(X), torch.from_numpy(2 * X)).detach(), rtol=1e-5
    )
    model.fit(x, SCORE, validation_split=0.5, verbose=0)


@dataclass
class Named:
    """What models of transformers return: some tensors, and others' things beside them."""

    logits: torch.Tensor
    cache: object
    hidden: tuple


LIKE_TRANSFORMERS = {
    "dict": lambda logits, hidden: {"logits": logits, "cache": object(), "hidden": hidden},
    "named tuple": namedtuple("Named", "logits hidden"),
    "dataclass": lambda logits, hidden: Named(logits, object(), hidden),
    "ordered": lambda logits, hidden: OrderedDict(hidden=hidden, logits=logits),
}


class Logits(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.layer, self.pack = nn.Linear(6, 2), pack

    def forward(self, x):
        logits = self.layer(x)
        return self.pack(logits, (x, 2 * x))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Of the compiler, where a module is no graph.
@pytest.mark.parametrize("kind", LIKE_TRANSFORMERS)
@pytest.mark.parametrize("jit_compile", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_one_loss_and_one_target_are_for_the_logits(kind, jit_compile):
    net = Logits(LIKE_TRANSFORMERS[kind])
    twin = nn.Linear(6, 2)
    twin.load_state_dict(net.layer.state_dict())
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(torch.from_numpy(X)), torch.from_numpy(KIND)).backward()
        optimizer.step()
    model = torchfit.Model(net, device="cpu")
    model.compile(torchfit.optimizers.SGD(0.1), CROSSENTROPY, metrics=["accuracy"], jit_compile=jit_compile)
    history = model.fit(X, KIND, batch_size=64, epochs=3, verbose=0).history
    assert list(history) == ["loss", "logits_loss", "logits_accuracy"]
    torch.testing.assert_close(net.layer.weight, twin.weight)
    shown = model.predict(X, batch_size=16)
    assert type(shown) is type(net(torch.from_numpy(X)))


@pytest.mark.parametrize("pack", [lambda out, aux: {"out": out, "aux": aux}, lambda out, aux: (out, aux)])
def test_outputs_of_one_shape_may_share_a_target(pack):
    class Deep(Two):
        def forward(self, x):
            return pack(self.kind(x), self.kind(2 * x))

    model = torchfit.Model(Deep(None), output_names=["out", "aux"], device="cpu")
    model.compile("sgd", [CROSSENTROPY] * 2, metrics=["accuracy"], loss_weights=[1.0, 0.5])
    shared = model.evaluate(X, KIND, verbose=0, return_dict=True)
    assert shared == pytest.approx(model.evaluate(X, [KIND, KIND], verbose=0, return_dict=True))
    model.compile("sgd", CROSSENTROPY)
    with pytest.raises(ValueError, match=r"each with a loss of its own, share a target"):
        model.fit(X, KIND, verbose=0)


@pytest.mark.parametrize("make", [OrderedDict, lambda parts: defaultdict(list, parts)])
def test_predictions_keep_the_class_of_a_dictionary(make):
    model = torchfit.Model(Two(lambda score, kind: make({"score": score, "kind": kind})), device="cpu")
    found = model.predict(X, batch_size=16)
    assert type(found) is type(make({}))
    assert [part.shape for part in found.values()] == [(64, 1), (64, 2)]
