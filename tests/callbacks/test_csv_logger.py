import numpy as np
import pytest

from torchfit.callbacks import CSVLogger


def test_a_row_for_each_epoch(drive, tmp_path):
    path = tmp_path / "new" / "log.csv"
    drive(CSVLogger(path), [{"loss": 0.5, "acc": 0.75, "val_loss": 0.6, "val_acc": 0.5}] * 2)
    assert path.read_bytes() == (b"epoch,acc,loss,val_acc,val_loss\r\n0,0.75,0.5,0.5,0.6\r\n1,0.75,0.5,0.5,0.6\r\n")


def test_columns_for_validation_are_always_there(drive, tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path), [{"loss": 0.5}, {"loss": 0.25, "val_loss": 0.6}])
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,0.5,NA", "1,0.25,0.6"]


def test_a_file_is_replaced(drive, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("old\n")
    drive(CSVLogger(path, separator=";"), [{"loss": 0.5}])
    assert path.read_text().splitlines() == ["epoch;loss;val_loss", "0;0.5;NA"]


def test_a_file_is_gone_on_with(drive, tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(2):
        drive(CSVLogger(path, append=True), [{"loss": 0.5}])
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,0.5,NA", "0,0.5,NA"]


def test_other_columns_are_refused(drive, tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path), [{"loss": 0.5}])
    with pytest.raises(ValueError, match=r"cannot append to .* its columns are \['epoch', 'loss', 'val_loss'\]"):
        drive(CSVLogger(path, append=True), [{"mae": 0.5}])


def test_arrays_stand_in_brackets(drive, tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path, separator=";"), [{"loss": np.array([1.0, 2.0]), "val_loss": np.array(3.0)}])
    assert path.read_text().splitlines()[1] == '0;"""[1.0, 2.0]""";3.0'


def test_a_row_is_there_when_training_breaks_off(tmp_path):
    path = tmp_path / "log.csv"
    logger = CSVLogger(path)
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 0.5})
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,0.5,NA"]


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(IsADirectoryError):
        CSVLogger(tmp_path).on_train_begin()


@pytest.mark.parametrize("append", [False, True])
def test_it_goes_on_from_a_state_without_later_rows(tmp_path, append):
    path = tmp_path / "log.csv"
    first, second = CSVLogger(path, append=append), CSVLogger(path, append=append)
    first.on_train_begin()
    first.on_epoch_end(0, {"loss": 0.5})
    state = first.state_dict()
    first.on_epoch_end(1, {"loss": 0.4})
    second.on_train_begin()
    second.load_state_dict(state)
    second.on_epoch_end(1, {"loss": 0.3})
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,0.5,NA", "1,0.3,NA"]
