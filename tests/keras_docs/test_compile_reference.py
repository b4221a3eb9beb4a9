"""What Keras' reference promises of `compile`, sentence by sentence: each test names the one it holds."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.keras_docs.reference import KIND, X, Y, model_of, net
from torchfit import callbacks, losses, metrics, optimizers


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = net(), net(2)

    def forward(self, x):
        return {"output_a": self.a(x), "output_b": torch.softmax(self.b(x), -1)}


TARGETS = {"output_a": Y, "output_b": np.eye(2, dtype="float32")[KIND]}


def two(**options):
    return model_of(Two(), **{"loss": "mse", **options})


class TestSignatures:
    """The arguments, their order and their defaults are those of the reference."""

    @pytest.mark.parametrize(
        ("method", "arguments"),
        {
            "compile": "optimizer='rmsprop', loss=None, metrics=None, loss_weights=None, weighted_metrics=None, "
            "run_eagerly=None, steps_per_execution=None",
            "fit": "x=None, y=None, batch_size=None, epochs=1, verbose='auto', callbacks=None, validation_split=0.0, "
            "validation_data=None, shuffle=True, class_weight=None, sample_weight=None, initial_epoch=0, "
            "steps_per_epoch=None, validation_steps=None, validation_batch_size=None, validation_freq=1, "
            "max_queue_size=10, workers=1, use_multiprocessing=False",
            "evaluate": "x=None, y=None, batch_size=None, verbose=1, sample_weight=None, steps=None, callbacks=None, "
            "max_queue_size=10, workers=1, use_multiprocessing=False, return_dict=False",
            "predict": "x, batch_size=None, verbose=0, steps=None, callbacks=None, max_queue_size=10, workers=1, "
            "use_multiprocessing=False",
            "train_on_batch": "x, y=None, sample_weight=None, class_weight=None, reset_metrics=True, return_dict=False",
            "test_on_batch": "x, y=None, sample_weight=None, reset_metrics=True, return_dict=False",
            "predict_on_batch": "x",
        }.items(),
    )
    def test_arguments(self, method, arguments):
        parameters = list(inspect.signature(getattr(torchfit.Model, method)).parameters.values())[1:]
        positional = [p.replace(annotation=p.empty) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [(p.name, p.default) for p in positional] == signature_of(arguments)


def signature_of(arguments):
    function = eval(f"lambda {arguments}: None")
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


class TestCompile:
    def test_the_example_with_an_optimizer_a_loss_and_two_metrics(self):
        model = torchfit.Model(nn.Sequential(net(), nn.Sigmoid()), device="cpu")
        model.compile(
            optimizer=optimizers.Adam(learning_rate=1e-3),
            loss=losses.BinaryCrossentropy(),
            metrics=[metrics.BinaryAccuracy(), metrics.FalseNegatives()],
        )
        history = model.fit(X, KIND.astype("float32"), verbose=0).history
        assert list(history) == ["loss", "binary_accuracy", "false_negatives"]

    @pytest.mark.parametrize("optimizer", ["adam", optimizers.Adam()])
    def test_the_optimizer_is_a_name_or_an_instance(self, optimizer):
        model = torchfit.Model(net())
        model.compile(optimizer)
        assert type(model.optimizer) is optimizers.Adam

    @pytest.mark.parametrize("loss", ["mse", losses.MeanSquaredError(), lambda t, p: (t - p).square().mean(-1)])
    def test_the_loss_is_a_name_an_instance_or_any_function_of_targets_and_predictions(self, loss):
        expected = np.mean((model_of().predict(X) - Y) ** 2)
        assert model_of(loss=loss).evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-5)

    def test_sparse_losses_take_targets_with_one_axis_less(self):
        model = model_of(net(3), losses.SparseCategoricalCrossentropy(from_logits=True))
        assert np.isfinite(model.evaluate(X, KIND, verbose=0))

    def test_a_loss_without_reduction_returns_a_value_per_sample_and_one_with_it_a_scalar(self):
        y = torch.zeros(5, 3, 2)
        assert losses.MeanSquaredError(reduction=None)(y, y).shape == (5, 3)
        assert losses.MeanSquaredError()(y, y).shape == ()

    def test_several_outputs_may_have_different_losses_and_their_sum_is_minimised(self):
        for loss in (["mae", "mse"], {"output_a": "mae", "output_b": "mse"}):
            found = two(loss=loss).evaluate(X, TARGETS, verbose=0, return_dict=True)
            assert found["loss"] == pytest.approx(found["output_a_loss"] + found["output_b_loss"], rel=1e-6)

    @pytest.mark.parametrize(
        "metric", ["mae", metrics.MeanAbsoluteError(name="mae"), lambda t, p: (t - p).abs().mean()]
    )
    def test_a_metric_is_a_name_an_instance_or_a_function(self, metric):
        found = model_of(metrics=[metric]).evaluate(X, Y, batch_size=96, verbose=0)[1]
        assert found == pytest.approx(np.abs(model_of().predict(X) - Y).mean(), rel=1e-5)

    @pytest.mark.parametrize(
        "given",
        [
            {"output_a": "accuracy", "output_b": ["accuracy", "mse"]},
            [["accuracy"], ["accuracy", "mse"]],
            ["accuracy", ["accuracy", "mse"]],
        ],
    )
    def test_metrics_by_output_in_a_dictionary_or_lists(self, given):
        found = two(metrics=given).evaluate(X, TARGETS, verbose=0, return_dict=True)
        assert list(found)[3:] == ["output_a_accuracy", "output_b_accuracy", "output_b_mse"]

    @pytest.mark.parametrize("name", ["accuracy", "acc", "crossentropy", "ce"])
    def test_accuracy_and_crossentropy_follow_the_loss_and_the_shape_of_the_output(self, name):
        cases = [
            (nn.Sequential(net(), nn.Sigmoid()), "binary_crossentropy", KIND[:, None].astype("float32"), "Binary"),
            (nn.Sequential(net(2), nn.Softmax(-1)), "categorical_crossentropy", TARGETS["output_b"], "Categorical"),
            (nn.Sequential(net(2), nn.Softmax(-1)), "sparse_categorical_crossentropy", KIND, "SparseCategorical"),
        ]
        kind = "Accuracy" if name.startswith("acc") else "Crossentropy"
        for module, loss, y, prefix in cases:
            model = model_of(module, loss, metrics=[name])
            model.evaluate(X, y, verbose=0)
            assert type(model.metrics[1]).__name__ == prefix + kind
            assert model.metrics_names == ["loss", name]

    @pytest.mark.parametrize("weights", [[2.0, 0.25], {"output_a": 2.0, "output_b": 0.25}])
    def test_loss_weights_give_a_weighted_sum(self, weights):
        found = two(loss_weights=weights).evaluate(X, TARGETS, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(2 * found["output_a_loss"] + 0.25 * found["output_b_loss"], rel=1e-6)

    def test_weighted_metrics_are_weighted_by_sample_and_class_weight_and_metrics_are_not(self):
        half = np.repeat([1.0, 0.0], 48)
        model = model_of(metrics=["mae"], weighted_metrics=["mae"])
        plain, weighted = model.evaluate(X, Y, sample_weight=half, verbose=0)[1:]
        error = np.abs(model.predict(X) - Y)
        assert (plain, weighted) == (pytest.approx(error.mean(), rel=1e-5), pytest.approx(error[:48].mean(), rel=1e-5))
        history = model_of(
            net(2), losses.SparseCategoricalCrossentropy(from_logits=True), rate=0.0, weighted_metrics=["accuracy"]
        )
        options = {"class_weight": {0: 0.0, 1: 1.0}, "verbose": 0}
        found = history.fit(X, KIND, **options).history["accuracy"][0]
        assert found == pytest.approx((history.predict(X).argmax(1)[KIND == 1] == 1).mean(), rel=1e-5)

    def test_steps_per_execution_runs_several_batches_between_the_batch_hooks_and_at_most_an_epoch(self):
        told = []
        hooks = callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: told.append(("begin", batch)),
            on_train_batch_end=lambda batch, logs: told.append(("end", batch)),
        )
        model_of(steps_per_execution=2).fit(X, Y, verbose=0, callbacks=[hooks])
        assert told == [("begin", 0), ("end", 1), ("begin", 2), ("end", 2)]
        told.clear()
        model_of(steps_per_execution=100).fit(X, Y, epochs=2, verbose=0, callbacks=[hooks])
        assert told == [("begin", 0), ("end", 2)] * 2

    @pytest.mark.parametrize("wrong", [{"optimizer": "adm"}, {"loss": "msee"}, {"metrics": ["acuracy"]}])
    def test_invalid_arguments_raise_value_errors(self, wrong):
        with pytest.raises(ValueError, match="Did you mean"):
            torchfit.Model(net()).compile(**wrong)

    def test_run_eagerly_can_be_read_and_set(self):
        model = model_of(run_eagerly=True)
        assert model.run_eagerly is True
        model.run_eagerly = False
        assert model.run_eagerly is False
        assert model_of().run_eagerly is False
