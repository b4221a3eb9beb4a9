import numpy as np
import pytest

from torchfit.callbacks import EarlyStopping, LambdaCallback


def losses(*values):
    return [{"val_loss": value} for value in values]


def test_it_stops_when_patience_has_run_out(drive, capsys):
    stopping = EarlyStopping(patience=2, verbose=1)
    assert drive(stopping, losses(0.6, 0.5, 0.55, 0.56, 0.4)) == 3
    assert stopping.stopped_epoch == 3
    assert (stopping.best, stopping.best_epoch, stopping.wait) == (0.5, 1, 2)
    assert capsys.readouterr().out == "Epoch 00004: early stopping\n"


@pytest.mark.parametrize("patience", [0, 1])
def test_no_patience_acts_like_one(drive, patience):
    assert drive(EarlyStopping(patience=patience), losses(0.5, 0.6, 0.4)) == 1


def test_the_first_epoch_never_stops(drive):
    assert drive(EarlyStopping(patience=1, baseline=0.1), losses(0.5, 0.6)) == 1


def test_small_improvements_do_not_count(drive):
    assert drive(EarlyStopping(patience=1, min_delta=0.1), losses(0.5, 0.45, 0.3)) == 1


def test_max_goes_the_other_way(drive):
    assert drive(EarlyStopping("gain", mode="max"), [{"gain": 0.1}, {"gain": 0.2}, {"gain": 0.1}]) == 2


def test_auto_asks_the_name(drive):
    assert drive(EarlyStopping("accuracy"), [{"accuracy": 0.1}, {"accuracy": 0.2}, {"accuracy": 0.1}]) == 2


def test_a_baseline_must_be_beaten(drive):
    stopping = EarlyStopping(patience=2, baseline=0.2, restore_best_weights=True)
    assert drive(stopping, losses(0.6, 0.5, 0.4, 0.45)) == 3
    assert stopping.best == 0.4


def test_early_epochs_are_let_pass(drive):
    assert drive(EarlyStopping(start_from_epoch=3), losses(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)) == 4


def test_best_weights_come_back(drive, model, capsys):
    drive(EarlyStopping(patience=2, restore_best_weights=True, verbose=1), losses(0.6, 0.5, 0.55, 0.56))
    assert model.weights == [1.0]
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 00004: early stopping",
        "Restoring model weights from the end of the best epoch: 2.",
    ]


def test_best_weights_come_back_when_training_ends_by_itself(drive, model):
    drive(EarlyStopping(patience=5, restore_best_weights=True), losses(0.5, 0.6))
    assert model.weights == [0.0]


def test_best_weights_come_back_when_somebody_else_stops(drive, model):
    stop = LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1))
    drive([EarlyStopping(patience=5, restore_best_weights=True), stop], losses(0.5, 0.6, 0.7))
    assert model.weights == [0.0]


def test_best_weights_come_back_after_an_interruption(drive, model):
    def interrupt(epoch, logs):
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(
            [EarlyStopping(patience=5, restore_best_weights=True), LambdaCallback(on_epoch_end=interrupt)],
            losses(0.5, 0.6, 0.7),
        )
    assert model.weights == [0.0]


def test_best_weights_are_a_copy(model):
    stopping = EarlyStopping(restore_best_weights=True)
    stopping.set_model(model)
    stopping.on_train_begin()
    stopping.on_epoch_end(0, {"val_loss": 0.5})
    model.weights[0] += 5
    stopping.on_train_end()
    assert model.weights == [-1.0]


def test_nan_never_improves_and_runs_out_of_patience(drive, model):
    nan = float("nan")
    assert drive(EarlyStopping(patience=2, restore_best_weights=True), losses(nan, nan, 0.5)) == 1
    assert model.weights == [0.0]


def test_it_starts_afresh_with_every_training(drive):
    stopping = EarlyStopping()
    drive(stopping, losses(0.1, 0.2))
    assert drive(stopping, losses(0.5, 0.4, 0.5)) == 2


def test_a_monitor_that_cannot_occur_is_refused_before_the_first_epoch(drive):
    with pytest.raises(ValueError, match="EarlyStopping: monitor: 'val_loss' does not occur in the logs"):
        drive(EarlyStopping(), [], metrics=["loss"])


def test_a_name_that_a_callback_of_the_user_writes_can_be_monitored(drive):
    writer = LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(mine=1.0))
    assert drive([writer, EarlyStopping("mine", mode="min")], [{"loss": 0.5}] * 3, metrics=["loss"]) == 1


def test_a_missing_monitor_is_an_error_at_the_end_of_the_epoch(drive):
    with pytest.raises(ValueError, match=r"'val_acc' does not occur in the logs. Names that do: loss."):
        drive(EarlyStopping("val_acc"), [{"loss": 0.5}])


def test_epochs_without_validation_are_skipped(drive):
    stopping = EarlyStopping(patience=1)
    epochs = [{"loss": 1.0}, {"loss": 1.0, "val_loss": 0.5}, {"loss": 1.0}, {"loss": 1.0, "val_loss": 0.6}]
    assert drive(stopping, epochs, metrics=["loss", "val_loss"]) == 3


def test_an_unknown_direction_is_refused(drive):
    with pytest.raises(ValueError, match=r"whether 'score' is better when higher or when lower. Pass mode="):
        drive(EarlyStopping("score"), [{"score": 0.5}])


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"mode: expected 'auto', 'min' or 'max'. Received: 'best'"):
        EarlyStopping(mode="best")


def test_it_goes_on_from_a_state(drive, model):
    first, second = (EarlyStopping(patience=3, restore_best_weights=True) for _ in range(2))
    first.set_model(model)
    second.set_model(model)
    first.on_train_begin()
    first.on_epoch_end(0, {"val_loss": 0.5})
    first.on_epoch_end(1, {"val_loss": 0.6})
    second.on_train_begin()
    second.load_state_dict(first.state_dict())
    assert (second.wait, second.best, second.best_epoch, second.stopped_epoch) == (1, 0.5, 0, 0)
    assert second.best_weights == [np.array([-1.0])]
