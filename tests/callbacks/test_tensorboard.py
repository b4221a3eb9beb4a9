import random

import numpy as np
import pytest
import torch

from torchfit.callbacks import CallbackList, TensorBoard

pytest.importorskip("tensorboard")


def events(folder):
    """Return {tag: [(step, value)]} of the scalars, and the tags of everything else."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder)).Reload()
    tags = accumulator.Tags()
    scalars = {
        tag: [(event.step, round(event.value, 4)) for event in accumulator.Scalars(tag)] for tag in tags["scalars"]
    }
    return scalars, tags


def test_scalars_of_epochs(drive, tmp_path):
    drive(TensorBoard(tmp_path), [{"loss": 0.5, "val_loss": 0.25}, {"loss": 0.25, "val_loss": 0.125}])
    assert events(tmp_path / "train")[0] == {
        "epoch_loss": [(0, 0.5), (1, 0.25)],
        "epoch_learning_rate": [(0, 0.1), (1, 0.1)],
    }
    assert events(tmp_path / "validation")[0] == {"epoch_loss": [(0, 0.25), (1, 0.125)]}


@pytest.mark.parametrize(("frequency", "steps"), [("batch", [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6])])
def test_scalars_of_batches(drive, tmp_path, frequency, steps):
    drive(TensorBoard(tmp_path, update_freq=frequency), [{"loss": 0.5}] * 2, steps=3)
    assert events(tmp_path / "train")[0]["batch_loss"] == [(step, 0.5) for step in steps]


def test_results_of_an_evaluation(model, tmp_path):
    board = TensorBoard(tmp_path)
    board.set_model(model)
    board.on_test_end({"loss": 0.5})
    board.release_resources()
    assert events(tmp_path / "validation")[0] == {"evaluation_loss_vs_iterations": [(7, 0.5)]}


def test_speed(drive, tmp_path):
    drive(TensorBoard(tmp_path, write_steps_per_second=True, update_freq="batch"), [{"loss": 0.5}], steps=2)
    scalars, _ = events(tmp_path / "train")
    assert {"epoch_steps_per_second", "batch_steps_per_second"} <= scalars.keys()


def test_weights(drive, tmp_path):
    drive(TensorBoard(tmp_path, histogram_freq=2, write_images=True), [{}] * 3)
    _, tags = events(tmp_path / "train")
    assert tags["histograms"] == ["weight/histogram", "bias/histogram"]
    assert tags["images"] == ["weight/image", "bias/image"]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, index, scale=1.0):
        return {"out": torch.nn.functional.dropout(self.norm(self.words(index)), 0.5) * scale}


def test_the_graph_without_touching_the_model(drive, model, tmp_path):
    model.module = Net()
    board = TensorBoard(tmp_path)
    board.set_model(model)
    callbacks = CallbackList([board])
    callbacks.on_train_begin({})
    callbacks.on_epoch_begin(0, {})
    model.module(torch.tensor([0, 1]), scale=torch.tensor(2.0))
    mean, state = model.module.norm.running_mean.clone(), torch.get_rng_state()
    callbacks.on_epoch_end(0, {})
    callbacks.on_train_end({})
    assert events(tmp_path / "train")[1]["graph"]
    assert torch.equal(model.module.norm.running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.module.training
    assert not model.module._forward_pre_hooks


def test_a_graph_that_cannot_be_drawn_is_a_warning(model, tmp_path):
    class Moody(torch.nn.Module):
        def forward(self, x):
            if self.training:
                return x
            raise RuntimeError("not today")

    model.module = Moody()
    board = TensorBoard(tmp_path)
    board.set_model(model)
    board.on_train_begin()
    board.on_epoch_begin(0)
    model.module(torch.ones(1))
    with pytest.warns(UserWarning, match="graph cannot be drawn: not today"):
        board.on_epoch_end(0, {})
    board.release_resources()


def test_no_hook_stays_behind(drive, model, tmp_path):
    drive(TensorBoard(tmp_path), [{}])
    assert not model.module._forward_pre_hooks


def test_embeddings(drive, model, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text("a\nb\nc\n")
    model.module = Net()
    board = TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata={"words": labels}, write_graph=False)
    drive(board, [{}])
    assert (tmp_path / "train/00000/words/metadata.tsv").read_text() == "a\nb\nc\n"
    assert (tmp_path / "train/projector_config.pbtxt").exists()


def test_a_profile(drive, tmp_path):
    drive(TensorBoard(tmp_path, profile_batch=(2, 3)), [{}], steps=0)
    board = TensorBoard(tmp_path, profile_batch=(2, 3))
    callbacks = CallbackList([board])
    for batch in range(4):
        callbacks.on_train_batch_begin(batch, {})
        torch.ones(2) + 1
        callbacks.on_train_batch_end(batch, {})
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["batches-2-3.pt.trace.json"]


def test_epochs_alone_cost_nothing_per_step(tmp_path):
    callbacks = CallbackList([TensorBoard(tmp_path)])
    assert not callbacks.has_listeners("on_train_batch_end")
    assert not callbacks.has_listeners("on_train_batch_begin")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update_freq": "step"}, "update_freq: expected 'epoch', 'batch' or a positive number"),
        ({"update_freq": 0}, "update_freq: expected"),
        ({"profile_batch": (3, 2)}, "profile_batch: expected a batch"),
        ({"profile_batch": "2"}, "profile_batch: expected a batch"),
    ],
)
def test_wrong_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TensorBoard(**settings)


def test_random_numbers_of_the_program_are_left_alone(drive, tmp_path):
    before = random.getstate(), np.random.get_state()[1].tolist()
    drive(TensorBoard(tmp_path, histogram_freq=1, write_images=True), [{}])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_it_goes_on_from_a_state(drive, model, tmp_path):
    first, second = TensorBoard(tmp_path, update_freq=2), TensorBoard(tmp_path, update_freq=2)
    drive(first, [{}], steps=3)
    second.set_model(model)
    second.on_train_begin()
    second.on_epoch_begin(1)
    second.load_state_dict(first.state_dict() | {"last_batch": -1})
    second.on_train_batch_end(0, {"loss": 0.5})
    second.release_resources()
    assert events(tmp_path / "train")[0]["batch_loss"] == [(4, 0.5)]
