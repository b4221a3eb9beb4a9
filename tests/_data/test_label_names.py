"""Targets among the inputs, in data that are one dictionary."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import torchfit

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = np.arange(12) % 3


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.seen = []

    def forward(self, x, labels=None):
        self.seen.append(labels is not None)
        logits = self.layer(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Samples(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, row):
        return {"x": X[row], "labels": int(Y[row])}


def model_of(loss=None, **arguments):
    torch.manual_seed(0)
    model = torchfit.Model(Classifier(), device="cpu", label_names=["labels"], **arguments)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


DATA = {
    "arrays": lambda: {"x": X, "labels": Y},
    "dataset": Samples,
    "loader": lambda: DataLoader(Samples(), batch_size=4),
    "loader of tuples": lambda: DataLoader(Samples(), batch_size=4, collate_fn=lambda rows: (collate(rows),)),
    "generator": lambda: iter([{"x": X[:8], "labels": Y[:8]}, {"x": X[8:], "labels": Y[8:]}] * 2),
    "function": lambda: lambda: {"x": X, "labels": Y},
}


def collate(rows):
    return torch.utils.data.default_collate(rows)


@pytest.mark.parametrize("kind", DATA)
def test_one_dictionary_holds_inputs_and_targets(kind):
    expected = model_of(nn.CrossEntropyLoss()).evaluate({"x": X}, Y, verbose=0)
    model = model_of(nn.CrossEntropyLoss())
    assert model.evaluate(DATA[kind](), verbose=0) == pytest.approx(expected, rel=1e-5)
    assert not any(model.module.seen)
    assert np.isfinite(model.fit(DATA[kind](), steps_per_epoch=1, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("kind", DATA)
def test_labels_stay_inputs_of_a_module_that_computes_its_own_loss(kind):
    model = model_of()
    found = model.evaluate(DATA[kind](), verbose=0, return_dict=True)
    with torch.no_grad():
        right = model.module(torch.from_numpy(X), torch.from_numpy(Y))
    assert found["loss"] == pytest.approx(right["loss"].item(), rel=1e-5)
    accuracy = (right["logits"].argmax(1).numpy() == Y).mean()
    assert found["logits_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("kind", DATA)
def test_predictions_do_without_labels(kind):
    model = model_of()
    predictions = model.predict(DATA[kind]())
    assert not any(model.module.seen)
    assert list(predictions) == ["logits"]


def test_single_batches_hold_labels_as_well():
    model = model_of(nn.CrossEntropyLoss())
    batch = {"x": X, "labels": Y}
    expected = model.test_on_batch({"x": X}, Y)
    assert model.test_on_batch(batch) == pytest.approx(expected)
    assert model.train_on_batch(batch) == pytest.approx(expected)
    assert list(model.predict_on_batch(batch)) == ["logits"]


def test_balanced_class_weights_and_a_split_find_the_labels():
    model = model_of(nn.CrossEntropyLoss())
    history = model.fit(Samples(), class_weight="balanced", validation_split=0.25, verbose=0).history
    assert list(history) == ["loss", "accuracy", "val_loss", "val_accuracy"]


def test_columns_of_a_frame_are_targets():
    frame = pd.DataFrame(X, columns=list("abcd")).assign(label=Y)
    model = torchfit.Model(nn.Linear(4, 3), device="cpu", label_names="label")
    model.compile("sgd", nn.CrossEntropyLoss())
    assert model.evaluate(frame, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
    assert model.predict(frame).shape == (12, 3)


class Span(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x):
        start, end = self.layer(x).chunk(2, -1)
        return {"start_logits": start, "end_logits": end}


def test_several_targets_belong_to_the_outputs_of_their_names():
    data = {"x": X, "start": Y, "end": Y[::-1].copy()}
    names = {"start_logits": "start", "end_logits": "end"}
    model = torchfit.Model(Span(), device="cpu", label_names=names)
    model.compile("sgd", nn.CrossEntropyLoss())
    found = model.evaluate(data, verbose=0, return_dict=True)
    expected = model.evaluate(
        {"x": X}, {"start_logits": data["start"], "end_logits": data["end"]}, verbose=0, return_dict=True
    )
    assert found == pytest.approx(expected)


def test_a_module_keeps_the_labels_that_it_needs():
    class Needy(nn.Linear):
        def forward(self, x, labels):
            return super().forward(x) + F.one_hot(labels, 3)

    model = torchfit.Model(Needy(4, 3), device="cpu", label_names=["labels"])
    model.compile("sgd", nn.CrossEntropyLoss())
    assert np.isfinite(model.evaluate({"x": X, "labels": Y}, verbose=0))
    assert model.predict({"x": X, "labels": Y}).shape == (12, 3)


def test_the_names_are_in_the_file_of_a_model(tmp_path):
    model = torchfit.Model(nn.Linear(4, 3), device="cpu", label_names={"output_1": "label"})
    model.save(tmp_path / "model.torchfit")
    again = torchfit.models.load_model(tmp_path / "model.torchfit")
    again.compile("sgd", nn.CrossEntropyLoss())
    frame = pd.DataFrame(X, columns=list("abcd")).assign(label=Y)
    assert np.isfinite(again.evaluate(frame, verbose=0))


@pytest.mark.parametrize("names", [3, [3], {"a": 1}, {3: "a"}, object()])
def test_names_are_strings(names):
    with pytest.raises(TypeError, match="`label_names` must be a list of the keys of targets"):
        torchfit.Model(nn.Linear(4, 3), label_names=names)


def test_without_names_the_way_is_told():
    model = torchfit.Model(Classifier(), device="cpu")
    model.compile("sgd", nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match=r"label_names=\["):
        model.fit(DataLoader(Samples(), batch_size=4), verbose=0)


@pytest.mark.parametrize("weights", [{"sample_weight": np.ones(12)}, {"class_weight": {0: 2.0}}])
def test_weights_do_not_reach_the_loss_of_a_module_and_are_refused(weights):
    with pytest.raises(ValueError, match=r"`class_weight`\) does not go with the loss that the module"):
        model_of().fit({"x": X, "labels": Y}, verbose=0, **weights)
    model = model_of(nn.CrossEntropyLoss())
    expected = torchfit.Model(Classifier().layer, device="cpu")
    expected.module.load_state_dict(model.module.layer.state_dict())
    expected.compile("sgd", nn.CrossEntropyLoss())
    found = model.fit({"x": X, "labels": Y}, verbose=0, shuffle=False, **weights).history["loss"]
    assert found == pytest.approx(expected.fit(X, Y, verbose=0, shuffle=False, **weights).history["loss"])


def test_accumulation_with_the_loss_of_a_module_says_that_it_is_taken_for_a_mean():
    model = model_of()
    model.compile(torchfit.optimizers.SGD(gradient_accumulation_steps=2))
    with pytest.warns(UserWarning, match="`gradient_accumulation_steps`: the loss that the module returns") as told:
        model.fit({"x": X, "labels": Y}, batch_size=4, epochs=2, verbose=0)
    assert len(told) == 1
    model.compile("sgd", microbatch=2)
    with pytest.warns(UserWarning, match="`microbatch`: the loss that the module returns"):
        model.fit({"x": X, "labels": Y}, batch_size=4, verbose=0)


def test_a_validation_without_the_loss_of_the_module_is_told_once():
    model = model_of()
    with pytest.warns(UserWarning, match="`loss` is 0: the module returned none here") as told:
        model.fit({"x": X, "labels": Y}, validation_data=({"x": X}, Y), epochs=2, verbose=0)
    assert len(told) == 1
