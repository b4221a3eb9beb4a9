import shutil

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


def test_a_file_without_the_columns_is_refused_before_the_first_epoch(drive, tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path), [{"loss": 0.5}])
    with pytest.raises(ValueError, match=r"its columns are \['epoch', 'loss', 'val_loss'\], without \['mae'\]"):
        drive(CSVLogger(path, append=True), [], metrics=["loss", "mae"])


@pytest.mark.parametrize("content", [b"loss,val_loss\r\n0.5,0.5\r\n", b"\x89PNG\r\n\x1a\n"])
def test_another_file_is_refused_before_the_first_epoch(content, drive, tmp_path):
    (tmp_path / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot append to .*log\.csv"):
        drive(CSVLogger(tmp_path / "log.csv", append=True), [])
    assert (tmp_path / "log.csv").read_bytes() == content


def test_appending_keeps_the_columns_of_the_file(drive, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("loss,epoch,val_loss")
    drive(CSVLogger(path, append=True), [{"val_loss": 0.25, "loss": 0.5}, {"loss": 0.75}])
    assert path.read_text().splitlines() == ["loss,epoch,val_loss", "0.5,0,0.25", "0.75,1,NA"]


@pytest.mark.parametrize("append", [False, True])
def test_a_name_that_occurs_later_gets_a_column(append, drive, tmp_path):
    path = tmp_path / "log.csv"
    drive(CSVLogger(path, append=append), [{"loss": 0.5}, {"loss": 0.25, "f1": 0.75}, {"loss": 0.125}])
    expected = ["epoch,loss,val_loss,f1", "0,0.5,NA,NA", "1,0.25,NA,0.75", "2,0.125,NA,NA"]
    assert path.read_text().splitlines() == expected


def test_what_callbacks_add_gets_no_column_for_validation(drive, model, tmp_path):
    model.metrics_names = ["loss"]
    drive(CSVLogger(tmp_path / "log.csv"), [{"loss": 0.5, "learning_rate": 0.1}])
    assert (tmp_path / "log.csv").read_text().splitlines()[0] == "epoch,learning_rate,loss,val_loss"


def test_a_removed_folder_is_created_again(tmp_path):
    logger = CSVLogger(tmp_path / "logs" / "log.csv")
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 0.5})
    shutil.rmtree(tmp_path / "logs")
    logger.on_epoch_end(1, {"loss": 0.25})
    assert (tmp_path / "logs" / "log.csv").read_text().splitlines() == ["epoch,loss,val_loss", "1,0.25,NA"]


def test_rows_that_cannot_be_written_are_a_warning_and_come_later(tmp_path):
    path = tmp_path / "log.csv"
    logger = CSVLogger(path)
    logger.on_train_begin()
    path.unlink()
    path.mkdir()
    with pytest.warns(UserWarning, match=r"could not write .*log\.csv"):
        logger.on_epoch_end(0, {"loss": 0.5})
    path.rmdir()
    logger.on_epoch_end(1, {"loss": 0.25})
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,0.5,NA", "1,0.25,NA"]


def test_a_state_from_before_a_column_was_added_is_resumed(tmp_path):
    path = tmp_path / "log.csv"
    first, second = CSVLogger(path), CSVLogger(path)
    first.on_train_begin()
    first.on_epoch_end(0, {"loss": 0.5})
    state = first.state_dict()
    first.on_epoch_end(1, {"loss": 0.4, "f1": 1.0})
    second.on_train_begin()
    second.load_state_dict(state)
    second.on_epoch_end(1, {"loss": 0.3, "f1": 0.5})
    assert path.read_text().splitlines() == ["epoch,loss,val_loss,f1", "0,0.5,NA,NA", "1,0.3,NA,0.5"]


def test_a_state_of_an_earlier_version_is_resumed(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"epoch,loss,val_loss\r\n0,0.5,NA\r\n1,0.4,NA\r\n")
    logger = CSVLogger(path)
    logger.on_train_begin()
    logger.load_state_dict({"keys": ["loss", "val_loss"], "size": 31})
    logger.on_epoch_end(1, {"loss": 0.3})
    assert path.read_text().splitlines() == ["epoch,loss,val_loss", "0,0.5,NA", "1,0.3,NA"]


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


def test_addresses_of_files_are_local(tmp_path):
    assert CSVLogger(f"file://{tmp_path}/a%20log.csv").filename == f"{tmp_path}/a log.csv"
    with pytest.raises(ValueError, match="CSVLogger: expected a local path"):
        CSVLogger("s3://bucket/log.csv")
