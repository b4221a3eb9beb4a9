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
