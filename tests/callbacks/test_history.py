import sys

import numpy as np
import pytest

from torchfit.callbacks import Callback, History, LambdaCallback


def test_values_and_epochs_are_recorded(drive, model):
    history = History()
    drive(history, [{"loss": 0.5}, {"loss": 0.25, "val_loss": 0.5}], epochs=2)
    assert history.history == {"loss": [0.5, 0.25], "val_loss": [0.5]}
    assert history.epoch == [0, 1]
    assert history.params == {"epochs": 2}
    assert model.history is history


def test_it_sees_what_others_write(drive):
    history = History()
    drive([LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(mine=epoch)), history], [{"loss": 0.5}])
    assert history.history == {"loss": [0.5], "mine": [0]}


def test_it_goes_on_from_a_state(drive):
    history, second = History(), History()
    drive(history, [{"loss": 0.5}])
    second.on_train_begin()
    second.load_state_dict(history.state_dict())
    second.on_epoch_end(1, {"loss": 0.25})
    assert (second.history, second.epoch) == ({"loss": [0.5, 0.25]}, [0, 1])
    assert history.history == {"loss": [0.5]}
    assert isinstance(second, Callback)


def recorded(epochs=4):
    history = History()
    for epoch in range(epochs):
        logs = {"loss": 1 / (epoch + 1), "accuracy": epoch / 10}
        history.on_epoch_end(epoch, logs | ({"val_loss": 0.5 + abs(epoch - 1)} if epoch % 2 else {}))
    return history


def test_the_frame_knows_which_epoch_had_a_value():
    frame = recorded().to_frame()
    assert frame.index.tolist() == [1, 2, 3, 4]
    assert frame["val_loss"].dropna().to_dict() == {2: 0.5, 4: 2.5}


def test_a_frame_after_going_on():
    history, second = recorded(), History()
    second.load_state_dict(history.state_dict())
    assert second.to_frame().equals(history.to_frame())
    second.load_state_dict({"history": {"loss": [0.5, 0.25]}, "epoch": [0, 1]})
    assert second.to_frame()["loss"].tolist() == [0.5, 0.25]


def test_the_picture_has_a_panel_for_each_value():
    loss, accuracy = recorded().plot().axes
    assert (loss.get_xlabel(), loss.get_ylabel(), accuracy.get_ylabel()) == ("epoch", "loss", "accuracy")
    assert [text.get_text() for text in loss.get_legend().get_texts()] == [
        "training",
        "validation",
        "best validation: 0.5, epoch 2",
    ]
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == [
        "training",
        "best training: 0.3, epoch 4",
    ]
    assert loss.lines[1].get_xdata().tolist() == [2, 4]


def test_chosen_panels():
    assert [axes.get_ylabel() for axes in recorded().plot("accuracy").axes] == ["accuracy"]
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        recorded().plot("acuracy")
    with pytest.raises(ValueError, match="no epoch was recorded"):
        History().plot()


def test_values_that_are_no_numbers_are_not_drawn():
    history = History()
    history.on_epoch_end(0, {"loss": float("nan"), "matrix": np.eye(2)})
    assert len(history.plot().axes) == 1
    assert list(history.to_frame()) == ["loss"]


def test_notebooks_show_curves_and_a_table():
    html = recorded()._repr_html_()
    assert html.count("<img") == 1
    assert "<td" in html
    assert "epochs" in History()._repr_html_()


def test_without_matplotlib_there_is_a_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install"):
        recorded().plot()
    assert "<img" not in recorded()._repr_html_()
