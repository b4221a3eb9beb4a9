"""The callbacks that compare predicted with true classes."""

import copy

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from torchfit.callbacks import BackupAndRestore, ClassificationReport, ConfusionMatrix, EarlyStopping

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(40, 4)).astype("float32")
LABELS = RNG.integers(0, 4, 40)


def matrix(data, module=None, **options):
    confusion = ConfusionMatrix(data, **options)
    confusion.set_model(torchfit.Model(module or nn.Identity(), device="cpu"))
    confusion.on_epoch_end(0, {})
    return confusion.matrix


def expected(labels, predicted, classes=4):
    return reference.confusion_matrix(labels, predicted, labels=range(classes))


DATASET = TensorDataset(torch.tensor(SCORES), torch.tensor(LABELS))
FORMS = {
    "arrays": (SCORES, LABELS),
    "tensors": (torch.tensor(SCORES), torch.tensor(LABELS)),
    "a column": (SCORES, LABELS[:, None]),
    "one-hot targets": (SCORES, np.eye(4)[LABELS]),
    "weights too": (SCORES, LABELS, np.ones(40)),
    "a dataset": DATASET,
    "a loader": DataLoader(DATASET, batch_size=7, shuffle=True),
    "batches": [(SCORES[:25], LABELS[:25]), (SCORES[25:], LABELS[25:])],
}


@pytest.mark.parametrize("form", FORMS)
def test_classes_are_counted_in_every_form_of_data(form, capsys):
    assert np.array_equal(matrix(FORMS[form]), expected(LABELS, SCORES.argmax(1)))


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
@pytest.mark.parametrize(("shift", "threshold"), [(0.0, None), (0.0, 0.25), (5.0, 5.0)])
def test_a_single_output_has_a_threshold(shape, shift, threshold, capsys):
    logits, labels = SCORES[:, 0] + shift, LABELS % 2
    found = matrix((logits.reshape(shape), labels), threshold=threshold)
    assert np.array_equal(found, expected(labels, logits > (threshold or 0), 2))


def test_probabilities_have_their_threshold_at_one_half(capsys):
    probabilities = 1 / (1 + np.exp(-SCORES[:, :1]))
    assert np.array_equal(matrix((probabilities, LABELS % 2)), expected(LABELS % 2, SCORES[:, 0] > 0, 2))


def test_a_threshold_is_that_of_all_batches(capsys):
    logits = np.array([[0.25], [0.5], [-3.0], [3.0]], "float32")
    batches = [(logits[:2], np.array([1, 1])), (logits[2:], np.array([0, 1]))]
    assert matrix(batches).tolist() == [[1, 0], [0, 3]]


@pytest.mark.parametrize(("axis", "permute"), [(None, True), (1, True), (None, False), (-1, False)])
def test_pixels_are_counted(axis, permute, capsys):
    scores = RNG.normal(size=(2, 3, 5, 6)).astype("float32")  # classes first
    labels = RNG.integers(0, 3, (2, 5, 6))
    labels[0, 0, :3], labels[0, 1, :2] = -100, 2
    counted = (labels >= 0) & (labels != 2)
    found = matrix((scores if permute else scores.transpose(0, 2, 3, 1), labels), axis=axis, ignore_class=2)
    assert np.array_equal(found, expected(labels[counted], scores.argmax(1)[counted], 3))


def test_one_of_several_outputs(capsys):
    class Two(nn.Module):
        def forward(self, x):
            return {"other": x[:, :1], "kind": x}

    data = SCORES, {"kind": LABELS, "other": np.zeros(40)}
    assert np.array_equal(matrix(data, Two(), output="kind"), expected(LABELS, SCORES.argmax(1)))


def test_the_matrix_is_printed_with_names(capsys):
    matrix((np.eye(2, dtype="float32"), np.array([0, 0])), class_names=["cat", "dog"])
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 1, confusion matrix (rows: true, columns: predicted):",
        "     cat  dog",
        "cat    1    1",
        "dog    0    0",
    ]


def test_many_classes_are_not_printed(capsys):
    assert matrix((np.eye(30, dtype="float32"), np.arange(30))).trace() == 30
    assert capsys.readouterr().out == ""


WRONG = {
    "several labels": ((SCORES, np.ones((40, 4))), {}, "samples with several labels"),
    "other shapes": ((SCORES, np.zeros((40, 3))), {}, r"shape \(40, 3\) do not fit outputs of shape \(40, 4\)"),
    "a class out of range": ((SCORES, LABELS + 1), {}, "class index 4 is out of range for 4 classes"),
    "too few names": ((SCORES, LABELS), {"class_names": ["a"]}, "class_names: expected 4 names"),
    "no batch": ([], {}, "there is not a single batch"),
    "an iterator": (iter([]), {}, "can be iterated over only once"),
    "a number": (3, {}, r"data: expected \(x, y\)"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_data_are_refused(kind):
    data, options, message = WRONG[kind]
    with pytest.raises(ValueError, match=message):
        matrix(data, **options)


def compiled():
    torch.manual_seed(0)
    model = torchfit.Model(nn.Linear(4, 4), device="cpu")
    model.compile("adam", nn.CrossEntropyLoss(), metrics=["accuracy"])
    return model


def test_matrices_are_kept_by_epoch_and_resumed(tmp_path):
    confusion = ConfusionMatrix((SCORES, LABELS), every=2, verbose=0)
    model = compiled()
    history = model.fit(SCORES, LABELS, epochs=4, verbose=0, callbacks=[confusion])
    plain = compiled().fit(SCORES, LABELS, epochs=4, verbose=0).history
    assert history.history.keys() == plain.keys()
    assert list(confusion.matrices) == [1, 3]
    assert confusion.matrix.sum() == 40
    stop = torchfit.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: raise_at(epoch, 3))
    first = ConfusionMatrix((SCORES, LABELS), every=2, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        compiled().fit(SCORES, LABELS, epochs=4, verbose=0, callbacks=[first, BackupAndRestore(tmp_path), stop])
    second = copy.deepcopy(ConfusionMatrix((SCORES, LABELS), every=2, verbose=0))
    compiled().fit(SCORES, LABELS, epochs=4, verbose=0, callbacks=[second, BackupAndRestore(tmp_path)])
    assert all(np.array_equal(second.matrices[epoch], confusion.matrices[epoch]) for epoch in (1, 3))


def raise_at(epoch, last):
    if epoch == last:
        raise KeyboardInterrupt


def test_the_matrix_is_plotted():
    pytest.importorskip("matplotlib")
    confusion = ConfusionMatrix((SCORES, LABELS), verbose=0)
    with pytest.raises(ValueError, match="Epochs with one: none"):
        confusion.plot()
    confusion.set_model(torchfit.Model(nn.Identity()))
    confusion.on_epoch_end(0)
    axes = confusion.plot(normalize=True).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "3"]
    assert all(0 <= float(text.get_text()) <= 1 for text in axes.texts)


def test_the_report_is_that_of_scikit_learn(capsys):
    report = ClassificationReport((SCORES, LABELS))
    report.set_model(torchfit.Model(nn.Identity()))
    logs = {}
    report.on_epoch_end(0, logs)
    right = reference.classification_report(LABELS, SCORES.argmax(1), output_dict=True, zero_division=0)
    names = {"precision": "precision", "recall": "recall", "f1": "f1-score", "support": "support"}
    for ours, theirs in [
        *((str(index),) * 2 for index in range(4)),
        ("macro", "macro avg"),
        ("weighted", "weighted avg"),
    ]:
        assert report.report[ours] == pytest.approx({name: right[theirs][names[name]] for name in names})
    assert report.report["accuracy"] == pytest.approx(right["accuracy"])
    assert logs["macro_f1"] == pytest.approx(right["macro avg"]["f1-score"])
    assert capsys.readouterr().out.startswith(f"Epoch 1, accuracy {right['accuracy']:.4f}:\n")


def test_classes_that_do_not_occur_do_not_count_in_the_mean():
    report = ClassificationReport((np.eye(3, dtype="float32")[:2], np.array([0, 0])), verbose=0)
    report.set_model(torchfit.Model(nn.Identity()))
    report.on_epoch_end(0)
    right = reference.precision_recall_fscore_support([0, 0], [0, 1], average="macro", zero_division=0)
    assert [report.report["macro"][name] for name in ("precision", "recall", "f1")] == pytest.approx(right[:3])


def test_the_report_can_be_monitored_by_callbacks_before_it():
    stopping = EarlyStopping("macro_f1", patience=1, mode="max")
    report = ClassificationReport((SCORES, LABELS), verbose=0)
    history = compiled().fit(SCORES, LABELS, epochs=2, verbose=0, callbacks=[stopping, report])
    assert stopping.best == max(history.history["macro_f1"])
