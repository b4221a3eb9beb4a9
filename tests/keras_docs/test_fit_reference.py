"""What Keras' reference promises of `fit`, `evaluate`, `predict` and `*_on_batch`: each test names its sentence."""

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchfit
from tests.keras_docs.reference import KIND, X, Y, model_of, net
from torchfit import callbacks, losses
from torchfit.utils import DatasetCreator, Sequence


def counted(**options):
    """Return the inputs of the batches that a training gets, and the history."""
    model, seen = model_of(), []
    model.train_step, step = lambda data: [seen.append(data[0].numpy().copy()), step(data)][1], model.train_step
    history = model.fit(verbose=0, **options)
    return seen, history


class Batches(Sequence):
    def __init__(self):
        super().__init__()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        rows = slice(32 * index, 32 * index + 32)
        return X[rows], Y[rows]


def generator(weights=False, passes=1):
    for _ in range(passes):
        for start in range(0, 96, 32):
            rows = slice(start, start + 32)
            yield (X[rows], Y[rows], np.ones(32)) if weights else (X[rows], Y[rows])


def loader():
    return DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 32)


FORMS = {
    "arrays": lambda: {"x": X, "y": Y},
    "array-likes": lambda: {"x": X.tolist(), "y": Y.tolist()},
    "a list of arrays": lambda: {"x": [X], "y": [Y]},
    "tensors": lambda: {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)},
    "a dictionary": lambda: {"x": {"input": X}, "y": Y},
    "a DataFrame": lambda: {"x": pd.DataFrame(X), "y": pd.DataFrame(Y)},
    "a dataset": lambda: {"x": loader()},
    "a generator": lambda: {"x": generator()},
    "a generator with weights": lambda: {"x": generator(weights=True)},
    "a Sequence": lambda: {"x": Batches()},
    "a DatasetCreator": lambda: {"x": DatasetCreator(lambda context: loader())},
}


class TestFit:
    @pytest.mark.parametrize("form", FORMS)
    def test_x_and_y_may_come_in_every_form(self, form):
        expected = model_of().fit(X, Y, shuffle=False, verbose=0).history["loss"]
        assert model_of().fit(**FORMS[form](), shuffle=False, verbose=0).history["loss"] == pytest.approx(expected)

    @pytest.mark.parametrize("data", [loader, generator, Batches])
    def test_data_that_carry_targets_take_no_y_no_batch_size_no_split_and_no_sample_weight(self, data):
        for wrong in ({"y": Y}, {"sample_weight": np.ones(96)}, {"batch_size": 3}, {"validation_split": 0.5}):
            with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
                model_of().fit(data(), verbose=0, **wrong)

    def test_the_batch_size_defaults_to_32(self):
        assert [len(batch) for batch in counted(x=X, y=Y)[0]] == [32, 32, 32]

    def test_epochs_is_the_final_epoch_and_an_epoch_goes_over_all_data(self):
        seen, history = counted(x=X, y=Y, epochs=5, initial_epoch=3)
        assert history.epoch == [3, 4]
        assert sum(map(len, seen)) == 2 * 96

    @pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (2, 4)])
    def test_verbose_0_is_silent_and_2_writes_a_line_for_each_epoch(self, verbose, lines, capsys):
        model_of().fit(X, Y, epochs=2, verbose=verbose)
        found = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  time")]
        assert len(found) == lines

    def test_history_and_progress_need_not_be_passed(self, capsys):
        history = model_of().fit(X, Y, verbose=1)
        assert isinstance(history, callbacks.History)
        assert "3/3" in capsys.readouterr().out

    def test_validation_split_takes_the_last_samples_before_shuffling_and_does_not_train_on_them(self):
        seen, history = counted(x=X, y=Y, validation_split=0.25)
        assert sorted(map(tuple, np.concatenate(seen))) == sorted(map(tuple, X[:72]))
        assert "val_loss" in history.history

    def test_validation_data_overrides_the_split_and_is_evaluated_at_the_end_of_each_epoch(self):
        seen, history = counted(x=X, y=Y, validation_split=0.5, validation_data=(X[:8], Y[:8]), epochs=2)
        assert sum(map(len, seen)) == 2 * 96
        assert len(history.history["val_loss"]) == 2

    def test_the_validation_loss_is_not_affected_by_dropout(self):
        model = model_of(nn.Sequential(nn.Dropout(0.9), net()), rate=0.0)
        found = model.fit(X, Y, validation_data=(X, Y), verbose=0).history["val_loss"][0]
        assert found == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-6)

    @pytest.mark.parametrize(
        "data", [(X, Y), (X, Y, np.ones(96)), loader(), Batches(), (torch.from_numpy(X), torch.from_numpy(Y))]
    )
    def test_forms_of_validation_data(self, data):
        model = model_of(rate=0.0)
        found = model.fit(X, Y, validation_data=data, verbose=0).history["val_loss"][0]
        assert found == pytest.approx(model.evaluate(X, Y, verbose=0), rel=1e-5)
        assert "val_loss" in model.fit(X, Y, validation_data=generator(), verbose=0).history

    def test_shuffle_draws_a_new_order_for_each_epoch(self):
        seen, _ = counted(x=X, y=Y, epochs=2, batch_size=96)
        assert not np.array_equal(seen[0], seen[1])
        assert sorted(map(tuple, seen[0])) == sorted(map(tuple, X))
        kept, _ = counted(x=X, y=Y, shuffle=False, batch_size=96)
        np.testing.assert_array_equal(kept[0], X)

    def test_shuffle_batch_keeps_neighbours_together(self):
        seen, _ = counted(x=X, y=Y, shuffle="batch")
        assert {tuple(batch[0]) for batch in seen} == {tuple(X[start]) for start in (0, 32, 64)}

    def test_shuffle_has_no_effect_with_steps_per_epoch_and_on_generators(self):
        for data in ({"x": X, "y": Y, "steps_per_epoch": 3}, {"x": generator(), "shuffle": True}):
            np.testing.assert_array_equal(np.concatenate(counted(**data)[0]), X)

    def test_class_weight_maps_classes_to_weights_in_training_only(self):
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
        options = {"rate": 0.0, "loss": loss}
        plain, doubled = model_of(net(2), **options), model_of(net(2), **options)
        expected = plain.fit(X, KIND, validation_data=(X, KIND), verbose=0).history
        found = doubled.fit(X, KIND, class_weight={0: 2.0, 1: 2.0}, validation_data=(X, KIND), verbose=0).history
        assert found["loss"][0] == pytest.approx(2 * expected["loss"][0], rel=1e-5)
        assert found["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-6)

    def test_sample_weight_is_flat_or_one_for_each_step_of_a_sequence(self):
        x, y = np.random.rand(8, 5, 4).astype("float32"), np.zeros((8, 5, 1), "float32")
        flat, steps = np.arange(8.0), np.repeat(np.arange(8.0)[:, None], 5, axis=1)
        found = [model_of().fit(x, y, sample_weight=weight, verbose=0).history["loss"] for weight in (flat, steps)]
        assert found[0] == pytest.approx(found[1], rel=1e-5)

    def test_steps_per_epoch_cuts_epochs_and_without_it_they_last_until_the_data_end(self):
        assert [len(counted(x=loader(), **more)[0]) for more in ({}, {"steps_per_epoch": 2})] == [3, 2]
        seen, history = counted(x=generator(passes=2), epochs=3, steps_per_epoch=2)
        assert (len(seen), history.epoch) == (6, [0, 1, 2])

    def test_steps_per_epoch_of_minus_one_goes_on_and_on(self):
        model = model_of()
        stop = callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: setattr(model, "stop_training", batch == 20)
        )
        model.fit(generator(passes=10**6), steps_per_epoch=-1, callbacks=[stop], verbose=0)
        assert model.optimizer.iterations == 21

    def test_validation_steps_cut_the_validation_from_the_start_of_the_data_each_time(self):
        model = model_of(rate=0.0)
        history = model.fit(X, Y, epochs=2, validation_data=loader(), validation_steps=1, verbose=0).history
        expected = model.evaluate(X[:32], Y[:32], verbose=0)
        assert history["val_loss"] == pytest.approx([expected, expected], rel=1e-6)

    @pytest.mark.parametrize(("given", "rows"), [({}, 16), ({"validation_batch_size": 8}, 8)])
    def test_validation_batch_size_defaults_to_the_batch_size(self, given, rows):
        model, seen = model_of(), []
        model.test_step, step = lambda data: [seen.append(len(data[0])), step(data)][1], model.test_step
        model.fit(X, Y, batch_size=16, validation_data=(X, Y), verbose=0, **given)
        assert set(seen) == {rows}

    @pytest.mark.parametrize(("frequency", "times"), [(1, 4), (2, 2), ([1, 2, 10], 2), ((4,), 1)])
    def test_validation_freq_is_a_number_of_epochs_or_a_container_of_them(self, frequency, times):
        history = model_of().fit(X, Y, epochs=4, validation_data=(X, Y), validation_freq=frequency, verbose=0).history
        assert len(history["val_loss"]) == times

    @pytest.mark.parametrize("options", [{"workers": 2}, {"max_queue_size": 2}])
    def test_workers_and_queue_size_are_for_sequences_and_generators(self, options):
        assert len(counted(x=Batches(), **options)[0]) == 3

    @pytest.mark.parametrize("data", [lambda: iter([X[:32]]), lambda: iter([(X[:32],)])])
    def test_what_is_no_tuple_is_x_alone(self, data):
        assert model_of().predict(data()).shape == (32, 1)

    def test_dictionaries_stand_in_the_tuple_and_are_not_searched_for_targets(self):
        batch = ({"input": X}, Y)
        assert np.isfinite(model_of().fit(iter([batch]), verbose=0).history["loss"][0])
        with pytest.raises(ValueError, match=r"`x`|target"):
            model_of().fit(iter([{"x": X, "y": Y}]), verbose=0)

    @pytest.mark.parametrize("fields", [("y", "x"), ("x", "y", "z")])
    def test_named_tuples_are_refused_with_the_remedy(self, fields):
        batch = namedtuple("Batch", fields)(*[X[:32]] * len(fields))
        with pytest.raises(ValueError, match="tuple"):
            model_of().fit(iter([batch]), verbose=0)

    def test_the_history_holds_losses_and_metrics_of_successive_epochs(self):
        history = model_of(metrics=["mae"]).fit(X, Y, epochs=3, validation_split=0.5, verbose=0).history
        assert list(history) == ["loss", "mae", "val_loss", "val_mae"]
        assert {len(values) for values in history.values()} == {3}

    @pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
    def test_a_model_that_was_not_compiled_raises_a_runtime_error(self, method):
        with pytest.raises(RuntimeError, match="compile"):
            getattr(torchfit.Model(net()), method)(X, Y)

    @pytest.mark.parametrize("x", [X[:0], X[:, :3]])
    def test_data_that_do_not_fit_or_are_empty_raise_value_errors(self, x):
        with pytest.raises(ValueError, match="`x`"):
            model_of().fit(x, Y[: len(x)], verbose=0)


class TestEvaluate:
    @pytest.mark.parametrize("form", FORMS)
    def test_x_and_y_may_come_in_every_form(self, form):
        expected = np.mean((model_of().predict(X) - Y) ** 2)
        assert model_of().evaluate(**FORMS[form](), verbose=0) == pytest.approx(expected, rel=1e-5)

    def test_it_runs_in_test_mode_and_in_batches_of_32(self):
        modes = []

        class Looks(nn.Linear):
            def forward(self, x):
                modes.append((self.training, len(x)))
                return super().forward(x)

        model_of(Looks(4, 1)).evaluate(X, Y, verbose=0)
        assert modes == [(False, 32)] * 3

    @pytest.mark.parametrize("verbose", [0, 1])
    def test_verbose_is_silent_or_a_bar(self, verbose, capsys):
        model_of().evaluate(X, Y, verbose=verbose)
        assert ("3/3" in capsys.readouterr().out) == bool(verbose)

    def test_sample_weight_weights_the_loss(self):
        half = np.repeat([2.0, 0.0], 48)
        model = model_of()
        expected = model.evaluate(X[:48], Y[:48], verbose=0)
        assert model.evaluate(X, Y, sample_weight=half, verbose=0) == pytest.approx(expected, rel=1e-5)

    def test_steps_end_the_round_and_none_goes_on_until_the_data_end(self):
        model = model_of()
        assert model.evaluate(generator(passes=9), steps=1, verbose=0) == model.evaluate(X[:32], Y[:32], verbose=0)

    def test_callbacks_are_applied(self):
        told = []
        hook = callbacks.LambdaCallback(
            on_test_begin=told.append, on_test_batch_end=lambda batch, _: told.append(batch)
        )
        model_of().evaluate(X, Y, callbacks=[hook], verbose=0)
        assert told[1:] == [0, 1, 2]

    def test_the_result_is_a_scalar_a_list_in_the_order_of_metrics_names_or_a_dictionary(self):
        assert isinstance(model_of().evaluate(X, Y, verbose=0), float)
        model = model_of(metrics=["mae"])
        values, named = (model.evaluate(X, Y, verbose=0, return_dict=given) for given in (False, True))
        assert dict(zip(model.metrics_names, values)) == named


class TestPredict:
    @pytest.mark.parametrize("form", FORMS)
    def test_inputs_are_understood_as_by_fit(self, form):
        found = model_of().predict(FORMS[form]()["x"])
        np.testing.assert_allclose(found, model_of().predict(X), rtol=1e-5)

    def test_it_returns_numpy_arrays_and_the_batch_size_changes_nothing(self):
        found = [model_of().predict(X, batch_size=size) for size in (None, 1, 96)]
        assert all(isinstance(part, np.ndarray) for part in found)
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
        np.testing.assert_allclose(found[2], found[0], rtol=1e-5)

    def test_calling_the_model_does_the_same_for_few_samples(self):
        model = torchfit.Model(nn.Sequential(net(), nn.Dropout(0.9)), device="cpu")
        found = model(torch.from_numpy(X), training=False).detach().numpy()
        np.testing.assert_allclose(found, model.predict(X), rtol=1e-5)

    def test_steps_and_callbacks(self):
        told = []
        hook = callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: told.append(logs["outputs"].shape))
        assert model_of().predict(loader(), steps=2, callbacks=[hook]).shape == (64, 1)
        assert told == [(32, 1), (32, 1)]

    def test_inputs_that_do_not_fit_raise_value_errors(self):
        with pytest.raises(ValueError, match="`x`"):
            model_of().predict(X[:, :3])


class TestOnBatch:
    def test_train_on_batch_makes_one_update(self):
        model = model_of()
        before = model.get_weights()[0]
        loss = model.train_on_batch(X, Y)
        assert isinstance(loss, float)
        assert model.optimizer.iterations == 1
        assert not np.array_equal(before, model.get_weights()[0])

    @pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
    def test_results_are_of_this_batch_alone_unless_metrics_are_not_reset(self, method):
        model = model_of(rate=0.0)
        run = getattr(model, method)
        first, second = run(X[:32], Y[:32]), run(X[32:64], Y[32:64])
        assert run(X[:32], Y[:32], reset_metrics=False) == pytest.approx((first + second) / 2, rel=1e-5)

    @pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch"])
    def test_results_are_a_list_or_a_dictionary(self, method):
        model = model_of(rate=0.0, metrics=["mae"])
        values, named = (getattr(model, method)(X, Y, return_dict=given) for given in (False, True))
        assert dict(zip(model.metrics_names, values)) == named

    def test_weights_of_samples_and_classes(self):
        model = model_of(net(2), losses.SparseCategoricalCrossentropy(from_logits=True), rate=0.0)
        plain = model.train_on_batch(X, KIND)
        assert model.train_on_batch(X, KIND, sample_weight=np.full(96, 3.0)) == pytest.approx(3 * plain, rel=1e-5)
        assert model.train_on_batch(X, KIND, class_weight={0: 3.0, 1: 3.0}) == pytest.approx(3 * plain, rel=1e-5)
        assert model.test_on_batch(X, KIND, sample_weight=np.full(96, 3.0)) == pytest.approx(3 * plain, rel=1e-5)

    @pytest.mark.parametrize("x", [X, [X], {"input": X}, torch.from_numpy(X)])
    def test_forms_of_a_batch(self, x):
        model = model_of(rate=0.0)
        assert model.train_on_batch(x, Y) == pytest.approx(model.test_on_batch(x, Y), rel=1e-6)
        np.testing.assert_array_equal(model.predict_on_batch(x), model.predict(X, batch_size=96))

    def test_wrong_arguments_raise_value_errors(self):
        with pytest.raises(ValueError, match="`x`"):
            model_of().train_on_batch(loader())
        with pytest.raises(ValueError, match="y_true"):
            model_of().test_on_batch(X, Y[:5])
