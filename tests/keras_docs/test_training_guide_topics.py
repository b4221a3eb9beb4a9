"""Keras' guide to training with the built-in methods: from layers with losses to TensorBoard, on digits."""

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from torchfit import callbacks, losses, metrics, optimizers
from torchfit.utils import Sequence

PIXELS, CLASSES = 64, 10


@pytest.fixture(scope="module")
def train(digits):
    return digits[0]


def layers_of(*inserted, last=()):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(PIXELS, 64), nn.ReLU(), *inserted, nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES), *last
    )


def get_compiled_model():
    model = torchfit.Model(layers_of(last=[nn.Softmax(dim=-1)]), device="cpu")
    model.compile(optimizer="rmsprop", loss="sparse_categorical_crossentropy", metrics=["sparse_categorical_accuracy"])
    return model


def compile_from_logits(model):
    model.compile(
        optimizer=optimizers.RMSprop(learning_rate=1e-3),
        loss=losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


# Handling losses and metrics that don't fit the standard signature


class ActivityRegularizationLayer(torchfit.Layer):
    def forward(self, inputs):
        self.add_loss(torch.sum(inputs) * 0.1)
        return inputs  # Pass-through layer.


def test_activity_regularization_raises_the_displayed_loss(train):
    plain = compile_from_logits(torchfit.Model(layers_of(), device="cpu"))
    model = compile_from_logits(torchfit.Model(layers_of(ActivityRegularizationLayer()), device="cpu"))
    without = plain.fit(*train, batch_size=64, epochs=1, verbose=0).history["loss"][0]
    history = model.fit(*train, batch_size=64, epochs=1, verbose=0).history
    assert list(history) == ["loss"]
    assert history["loss"][0] > without + 1


class MetricLoggingLayer(torchfit.Layer):
    def forward(self, inputs):
        # The values of the batches are averaged over each epoch.
        self.add_metric(torch.std(inputs), name="std_of_activation", aggregation="mean")
        return inputs  # Pass-through layer.


def test_a_layer_logs_a_metric(train):
    model = compile_from_logits(torchfit.Model(layers_of(MetricLoggingLayer()), device="cpu"))
    history = model.fit(*train, batch_size=64, epochs=1, verbose=0).history
    assert list(history) == ["loss", "std_of_activation"]
    assert 0.05 < history["std_of_activation"][0] < 2


def test_a_model_is_given_a_loss_and_a_metric_without_an_edit(train):
    model = torchfit.Model(layers_of(), device="cpu")
    model.add_loss(lambda x1: torch.sum(x1) * 0.1, on="1")
    model.add_metric(lambda x1: torch.std(x1), name="std_of_activation", aggregation="mean", on="1")
    compile_from_logits(model)
    history = model.fit(*train, batch_size=64, epochs=1, verbose=0).history
    same = compile_from_logits(torchfit.Model(layers_of(ActivityRegularizationLayer()), device="cpu"))
    assert list(history) == ["loss", "std_of_activation"]
    assert history["loss"][0] == pytest.approx(same.fit(*train, batch_size=64, verbose=0).history["loss"][0], rel=0.1)


class LogisticEndpoint(torchfit.Layer):
    def __init__(self, name=None):
        super().__init__(name=name)
        self.loss_fn = losses.BinaryCrossentropy(from_logits=True)
        self.accuracy_fn = metrics.BinaryAccuracy()

    def forward(self, targets, logits, sample_weights=None):
        self.add_loss(self.loss_fn(targets, logits, sample_weights))
        acc = self.accuracy_fn(targets, logits, sample_weights)
        self.add_metric(acc, name="accuracy")
        return torch.softmax(logits, dim=-1)  # The inference-time prediction tensor, for predict().


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.predictions = nn.Linear(3, 10), LogisticEndpoint(name="predictions")

    def forward(self, inputs, targets):
        return self.predictions(targets, self.dense(inputs))


def test_an_endpoint_layer_needs_no_loss_in_compile():
    model = torchfit.Model(TwoInputs(), device="cpu")
    model.compile(optimizer="adam")  # No loss argument!
    data = {"inputs": np.random.random((3, 3)), "targets": np.random.random((3, 10))}
    history = model.fit(data, epochs=20, verbose=0).history
    assert list(history) == ["loss", "binary_accuracy", "accuracy"]
    assert history["loss"][-1] < history["loss"][0] < 2
    assert model.predict(data).shape == (3, 10)


# Training & evaluation from datasets


def dataset(*arrays, batch_size=64, shuffle=False):
    return DataLoader(TensorDataset(*map(torch.from_numpy, arrays)), batch_size=batch_size, shuffle=shuffle)


def test_fit_evaluate_and_predict_on_datasets(digits):
    model = get_compiled_model()
    train_dataset, test_dataset = dataset(*digits[0], shuffle=True), dataset(*digits[2])
    history = model.fit(train_dataset, epochs=15, verbose=0).history
    assert history["sparse_categorical_accuracy"][-1] > 0.95
    result = model.evaluate(test_dataset, verbose=0)
    named = dict(zip(model.metrics_names, result))
    assert list(named) == ["loss", "sparse_categorical_accuracy"]
    assert named["sparse_categorical_accuracy"] > 0.8
    assert model.predict(test_dataset).shape == (len(digits[2][0]), 10)


def test_a_number_of_steps_goes_on_through_the_dataset(train):
    model = get_compiled_model()
    history = model.fit(dataset(*train, shuffle=True), epochs=3, steps_per_epoch=6, verbose=0)
    assert history.epoch == [0, 1, 2]
    assert history.params["steps"] == 6
    assert model.fit(dataset(*train), epochs=3, steps_per_epoch=10, verbose=0).epoch == [
        0,
        1,
        2,
    ]  # The loader restarts.
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(iter(dataset(*train)), epochs=3, steps_per_epoch=10, verbose=0)


def test_a_validation_dataset(digits):
    model = get_compiled_model()
    history = model.fit(dataset(*digits[0]), epochs=1, validation_data=dataset(*digits[1]), verbose=0).history
    assert list(history)[2:] == ["val_loss", "val_sparse_categorical_accuracy"]
    expected = model.evaluate(*digits[1], verbose=0)[0]
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)


def test_validation_steps_begin_anew_each_time(digits):
    model = get_compiled_model()
    (x_val, y_val), steps = digits[1], 2
    validation = dataset(x_val, y_val)
    history = model.fit(dataset(*digits[0]), epochs=2, validation_data=validation, validation_steps=steps, verbose=0)
    expected = model.evaluate(x_val[: 64 * steps], y_val[: 64 * steps], verbose=0)[0]
    assert history.history["val_loss"][-1] == pytest.approx(expected, rel=1e-5)


# Using a Sequence object as input


class FileSequence(Sequence):
    def __init__(self, filenames, labels, batch_size):
        super().__init__()
        self.filenames, self.labels = filenames, labels
        self.batch_size = batch_size
        self.epochs = 0

    def __len__(self):
        return int(np.ceil(len(self.filenames) / float(self.batch_size)))

    def __getitem__(self, idx):
        batch_x = self.filenames[idx * self.batch_size : (idx + 1) * self.batch_size]
        batch_y = self.labels[idx * self.batch_size : (idx + 1) * self.batch_size]
        return np.array([np.load(filename) for filename in batch_x]), np.array(batch_y)

    def on_epoch_end(self):
        self.epochs += 1


def test_a_sequence_reads_files(train, tmp_path):
    x, labels = train[0][:100], train[1][:100]
    filenames = [tmp_path / f"{index}.npy" for index in range(len(x))]
    for filename, image in zip(filenames, x):
        np.save(filename, image)
    sequence = FileSequence(filenames, labels, 16)
    model = get_compiled_model()
    history = model.fit(sequence, epochs=10, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert sequence.epochs == 10


# Using sample weighting and class weighting


def test_class_weight_and_sample_weight_give_one_class_more_importance(train):
    x_train, y_train = train
    class_weight = {number: 2.0 if number == 5 else 1.0 for number in range(10)}
    sample_weight = np.ones(shape=(len(y_train),))
    sample_weight[y_train == 5] = 2.0
    options = {"batch_size": 64, "epochs": 1, "shuffle": False, "verbose": 0}
    by_class = get_compiled_model().fit(x_train, y_train, class_weight=class_weight, **options).history
    by_sample = get_compiled_model().fit(x_train, y_train, sample_weight=sample_weight, **options).history
    plain = get_compiled_model().fit(x_train, y_train, **options).history
    in_dataset = dataset(x_train, y_train, sample_weight)
    by_dataset = get_compiled_model().fit(in_dataset, epochs=1, verbose=0).history
    assert by_class["loss"] == pytest.approx(by_sample["loss"], rel=1e-6)
    assert by_class["loss"] == pytest.approx(by_dataset["loss"], rel=1e-6)
    assert by_class["loss"][0] > plain["loss"][0]


# Passing data to multi-input, multi-output models


class MultiInputAndOutput(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.conv_2d, self.conv_1d = nn.Conv2d(3, 3, 3), nn.Conv1d(10, 3, 3)
        self.score_output, self.class_output = nn.Linear(6, 1), nn.Linear(6, 5)

    def forward(self, img_input, ts_input):
        x1 = self.conv_2d(img_input.movedim(-1, 1)).amax(dim=(2, 3))
        x2 = self.conv_1d(ts_input.movedim(-1, 1)).amax(dim=2)
        x = torch.cat([x1, x2], dim=1)
        return {"score_output": self.score_output(x), "class_output": self.class_output(x)}


@pytest.fixture
def multi():
    return torchfit.Model(MultiInputAndOutput(), device="cpu")


@pytest.fixture(scope="module")
def dummy_data():
    random = np.random.RandomState(0)
    inputs = {"img_input": random.random_sample((100, 32, 32, 3)), "ts_input": random.random_sample((100, 20, 10))}
    classes = nn.functional.one_hot(torch.arange(100) % 5, 5).numpy().astype("float32")
    return inputs, {"score_output": random.random_sample((100, 1)), "class_output": classes}


def crossentropy():
    return losses.CategoricalCrossentropy(from_logits=True)


LOSSES_BY_NAME = {"score_output": losses.MeanSquaredError(), "class_output": crossentropy()}


def metrics_by_name():
    return {
        "score_output": [metrics.MeanAbsolutePercentageError(), metrics.MeanAbsoluteError()],
        "class_output": [metrics.CategoricalAccuracy()],
    }


def test_plot_model(multi, dummy_data, tmp_path):
    pytest.importorskip("torchview")
    pytest.importorskip("pygraphviz")
    multi.predict(dummy_data[0])
    torchfit.utils.plot_model(multi, str(tmp_path / "multi_input_and_output_model.png"), show_shapes=True)
    assert (tmp_path / "multi_input_and_output_model.png").stat().st_size > 1000


def test_losses_in_a_list(multi, dummy_data):
    inputs, targets = dummy_data
    multi.compile(optimizer=optimizers.RMSprop(1e-3), loss=[losses.MeanSquaredError(), crossentropy()])
    on_lists = multi.fit(list(inputs.values()), list(targets.values()), batch_size=32, epochs=1, verbose=0).history
    on_dicts = multi.fit(inputs, targets, batch_size=32, epochs=1, verbose=0).history
    assert list(on_lists) == list(on_dicts) == ["loss", "score_output_loss", "class_output_loss"]
    for history in (on_lists, on_dicts):
        total = history["score_output_loss"][0] + history["class_output_loss"][0]
        assert history["loss"][0] == pytest.approx(total, rel=1e-5)
    assert on_dicts["loss"] < on_lists["loss"]


@pytest.mark.parametrize("by_name", [True, False])
def test_metrics_and_loss_weights_in_lists_and_dicts(multi, dummy_data, by_name):
    as_given = (lambda parts: parts) if by_name else (lambda parts: list(parts.values()))
    multi.compile(
        optimizer=optimizers.RMSprop(1e-3),
        loss=as_given(LOSSES_BY_NAME),
        metrics=as_given(metrics_by_name()),
        loss_weights=as_given({"score_output": 2.0, "class_output": 1.0}),
    )
    found = multi.evaluate(*dummy_data, verbose=0, return_dict=True)
    assert list(found) == [
        *("loss", "score_output_loss", "class_output_loss", "score_output_mean_absolute_percentage_error"),
        *("score_output_mean_absolute_error", "class_output_categorical_accuracy"),
    ]
    assert found["loss"] == pytest.approx(2 * found["score_output_loss"] + found["class_output_loss"], rel=1e-5)


@pytest.mark.filterwarnings("ignore:There is no gradient for the parameters")
@pytest.mark.parametrize("loss", [[None, crossentropy()], {"class_output": crossentropy()}])
def test_no_loss_for_some_outputs(multi, dummy_data, loss):
    inputs, targets = dummy_data
    multi.compile(optimizer=optimizers.RMSprop(1e-3), loss=loss)
    history = multi.fit(inputs, {"class_output": targets["class_output"]}, verbose=0).history
    assert list(history) == ["loss", "class_output_loss"]


class Rows(torch.utils.data.Dataset):
    """A dataset of tuples of dictionaries."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def __len__(self):
        return len(next(iter(self.inputs.values())))

    def __getitem__(self, index):
        return tuple({name: part[index] for name, part in nest.items()} for nest in (self.inputs, self.targets))


def test_a_dataset_of_dicts(multi, dummy_data):
    multi.compile(optimizer=optimizers.RMSprop(1e-3), loss=LOSSES_BY_NAME)
    train_dataset = DataLoader(Rows(*dummy_data), batch_size=64, shuffle=True)
    assert list(multi.fit(train_dataset, epochs=1, verbose=0).history) == [
        *("loss", "score_output_loss", "class_output_loss")
    ]


# Using callbacks


def test_early_stopping(train, capsys):
    model = get_compiled_model()
    stopping = callbacks.EarlyStopping(monitor="val_loss", min_delta=1e-2, patience=2, verbose=1)
    x_train, y_train = train
    history = model.fit(
        x_train, y_train, epochs=60, batch_size=32, callbacks=[stopping], validation_split=0.2, verbose=0
    )
    assert 3 < len(history.epoch) < 60
    assert "early stopping" in capsys.readouterr().out


class LossHistory(callbacks.Callback):
    def on_train_begin(self, logs):
        self.per_batch_losses = []

    def on_batch_end(self, batch, logs):
        self.per_batch_losses.append(logs.get("loss"))


def test_a_callback_saves_the_loss_of_every_batch(train):
    told = LossHistory()
    get_compiled_model().fit(*train, batch_size=64, callbacks=[told], verbose=0)
    assert len(told.per_batch_losses) == 19
    assert all(isinstance(loss, float) for loss in told.per_batch_losses)


# Checkpointing models


def test_checkpoints_of_the_best_models(train, tmp_path, capsys):
    checkpoint = callbacks.ModelCheckpoint(
        filepath=str(tmp_path / "mymodel_{epoch}"), save_best_only=True, monitor="val_loss", verbose=1
    )
    options = {"epochs": 2, "batch_size": 64, "callbacks": [checkpoint], "validation_split": 0.2, "verbose": 0}
    get_compiled_model().fit(*train, **options)
    assert sorted(os.listdir(tmp_path)) == ["mymodel_1", "mymodel_2"]
    assert "val_loss improved from inf to" in capsys.readouterr().out


def test_training_restarts_from_the_last_checkpoint(train, tmp_path):
    checkpoint_dir = str(tmp_path / "ckpt")
    os.makedirs(checkpoint_dir)

    def make_or_restore_model():
        checkpoints = [checkpoint_dir + "/" + name for name in os.listdir(checkpoint_dir)]
        if checkpoints:
            return torchfit.models.load_model(max(checkpoints, key=os.path.getctime))
        return get_compiled_model()

    model = make_or_restore_model()
    saving = [callbacks.ModelCheckpoint(filepath=checkpoint_dir + "/ckpt-loss={loss:.2f}", save_freq=10)]
    model.fit(*train, epochs=1, callbacks=saving, verbose=0)
    assert len(os.listdir(checkpoint_dir)) == 3
    restored = make_or_restore_model()
    assert restored.optimizer.iterations == 30
    assert restored.evaluate(*train, verbose=0)[0] < get_compiled_model().evaluate(*train, verbose=0)[0]


# Using learning rate schedules


def test_a_schedule_as_learning_rate(train):
    schedule = optimizers.schedules.ExponentialDecay(0.1, decay_steps=100000, decay_rate=0.96, staircase=True)
    optimizer = optimizers.RMSprop(learning_rate=schedule)
    model = torchfit.Model(layers_of(), device="cpu")
    model.compile(optimizer, losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*train, verbose=0)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_a_callback_reduces_the_learning_rate_on_a_plateau(train):
    model = get_compiled_model()
    plateau = callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.1, patience=1, min_delta=100)
    model.fit(*train, epochs=3, validation_split=0.2, callbacks=[plateau], verbose=0)
    assert float(model.optimizer.learning_rate) < 1e-3


# Visualizing loss and metrics during training


def test_tensorboard(train, tmp_path):
    pytest.importorskip("tensorboard")
    board = callbacks.TensorBoard(log_dir=str(tmp_path), histogram_freq=0, embeddings_freq=0, update_freq="epoch")
    get_compiled_model().fit(*train, validation_split=0.2, callbacks=[board], verbose=0)
    assert {"train", "validation"} <= set(os.listdir(tmp_path))
