import copy
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, optimizers

X = np.random.RandomState(0).rand(48, 4).astype("float32")
Y = X.sum(1, keepdims=True)


class Adds(torchfit.Layer):
    """Adds the mean of what passes to the loss, and logs its largest value and how many rows there were."""

    def forward(self, x):
        self.add_loss(x.mean())
        self.add_metric(x.max(), "largest")
        self.add_metric(torch.tensor(float(len(x))), name="rows", aggregation="sum")
        return x


def network(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), *layers, nn.Linear(3, 1))


def model_of(module, loss="mse", rate=0.1, **options):
    model = torchfit.Model(module, device="cpu")
    model.compile(optimizers.SGD(rate), loss, **options)
    return model


def test_outside_of_a_running_model_nothing_happens():
    torchfit.add_loss(torch.ones(()))
    torchfit.add_metric(1.0, "x")
    assert network(Adds())(torch.zeros(2, 4)).shape == (2, 1)


def test_added_losses_count_like_compiled_ones():
    plain, adds = model_of(network(), rate=0.0), model_of(network(Adds()), rate=0.0)
    extra = plain.module[:2](torch.from_numpy(X)).mean().item()
    for name in ("fit", "evaluate"):
        run = lambda model, name=name: getattr(model, name)(X, Y, batch_size=48, verbose=0)  # noqa: E731
        losses = [run(model) for model in (plain, adds)]
        losses = [loss.history["loss"][0] if name == "fit" else loss for loss in losses]
        losses[1] = losses[1][0] if isinstance(losses[1], list) else losses[1]
        assert losses[1] == pytest.approx(losses[0] + extra, rel=1e-5)


def test_added_metrics_follow_the_compiled_ones_apart_for_training_and_validation():
    model = model_of(network(Adds()), metrics=["mae"])
    history = model.fit(X, Y, batch_size=16, epochs=2, validation_data=(X[:8], Y[:8]), verbose=0).history
    names = ["loss", "mae", "largest", "rows"]
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    assert (history["rows"], history["val_rows"]) == ([48, 48], [8, 8])
    assert model.metrics_names == names


def test_gradients_flow_from_added_losses_alone():
    model = model_of(nn.Sequential(nn.Linear(4, 3), Adds()), loss=None)
    history = model.fit(X, epochs=3, verbose=0).history
    assert history["loss"] == sorted(history["loss"], reverse=True)
    assert model.evaluate(X, verbose=0, return_dict=True)["loss"] < history["loss"][0]


def test_losses_on_submodules_and_weights_need_no_edit_of_the_module():
    net = network()
    model = model_of(net, rate=0.0)
    model.add_loss(lambda: 0.5 * net[0].weight.square().sum())
    model.add_loss(lambda output: output.mean(), on="1")
    model.add_metric(lambda output: output.std(), "spread", on=net[1])
    model.add_metric(lambda: net[0].weight.norm(), "norm")
    with torch.no_grad():
        inner, x = net[:2](torch.from_numpy(X)), torch.from_numpy(X)
        expected = (net(x) - torch.from_numpy(Y)).square().mean() + inner.mean() + 0.5 * net[0].weight.square().sum()
    history = model.fit(X, Y, batch_size=48, verbose=0).history
    assert list(history) == ["loss", "spread", "norm"]
    assert history["loss"][0] == pytest.approx(expected.item(), rel=1e-5)
    assert history["spread"][0] == pytest.approx(inner.std().item(), rel=1e-5)
    assert not net[1]._forward_hooks


def test_losses_lists_those_of_the_last_call():
    model = model_of(network(Adds()))
    model.add_loss(lambda: torch.tensor(2.0))
    model(torch.zeros(2, 4))
    model(torch.ones(2, 4))
    assert [loss.item() for loss in model.losses] == pytest.approx(
        [model.module[:2](torch.ones(2, 4)).mean().item(), 2.0]
    )


def test_nothing_is_left_over_between_steps_or_after_a_failure():
    class Fails(Adds):
        def forward(self, x):
            super().forward(x)
            raise ArithmeticError

    model = model_of(network(Fails()))
    with pytest.raises(ArithmeticError):
        model.fit(X, Y, verbose=0)
    torchfit.add_loss(torch.full((), 1e9))
    good = model_of(network(Adds()))
    good.fit(
        X,
        Y,
        verbose=0,
        callbacks=[callbacks.LambdaCallback(on_train_batch_end=lambda *_: good.module(torch.ones(2, 4)))],
    )
    auxiliary = good._torchfit.state.auxiliary
    assert auxiliary.losses == auxiliary.values == []


def test_evaluations_and_calls_inside_fit_disturb_nothing():
    def fit(*extra):
        model = model_of(network(Adds()), metrics=["mae"])
        inside = [callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs, run=run: run(model)) for run in extra]
        return model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=inside).history

    runs = [
        lambda model: model.evaluate(X[:5], Y[:5], verbose=0),
        lambda model: model.predict(X[:5]),
        lambda model: model.test_on_batch(X[:5], Y[:5]),
        lambda model: model(torch.ones(2, 4)),
        lambda model: model.module(torch.ones(2, 4)),
        lambda model: list(model.predict_iter(X[:5])),
    ]
    assert fit(*runs) == fit()


def test_a_model_inside_a_model_adds_to_the_outer_one():
    inner = torchfit.Model(network(Adds()), device="cpu")
    found = model_of(inner).evaluate(X, Y, verbose=0, return_dict=True)
    assert found == model_of(network(Adds())).evaluate(X, Y, verbose=0, return_dict=True)


def test_threads_gather_apart():
    seen = []
    model = model_of(network(Adds()))
    work = threading.Thread(target=lambda: seen.append(torchfit.add_loss(torch.full((), 1e9))))

    class Waits(Adds):
        def forward(self, x):
            work.start()
            work.join()
            return super().forward(x)

    model = model_of(network(Waits()))
    assert model.evaluate(X, Y, batch_size=48, verbose=0)[0] < 1e6


def test_several_calls_in_an_own_step_keep_their_logged_values():
    class Twice(torchfit.Model):
        def __init__(self):
            super().__init__(device="cpu")
            self.layer = nn.Linear(4, 1)

        def forward(self, x):
            self.add_loss(x.sum())
            self.add_metric(x.sum(), "sum", "sum")
            return self.layer(x)

        def train_step(self, data):
            x, y = data
            self(x)
            loss = self.compute_loss(y=y, y_pred=self(x))
            assert len(self.losses) == 1
            loss.backward()
            return {"loss": loss}

    model = Twice()
    model.compile("sgd", "mse")
    model.fit(X, Y, batch_size=48, verbose=0)
    assert model.get_metrics_result()["sum"].item() == pytest.approx(2 * X.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda model: model.add_loss(len, on="9"), ValueError, "`on` must name a submodule of Sequential"),
        (lambda model: model.add_loss(torch.ones(()), on="1"), TypeError, "a function of the submodule's output"),
        (lambda model: model.add_metric(len, "n", aggregation="best"), ValueError, "`aggregation` must be one of"),
        (lambda model: model.add_metric(len, name=3), ValueError, "`name` must be a string"),
        (lambda model: torchfit.add_metric(1.0, ""), ValueError, "`name` must be a string"),
    ],
)
def test_what_cannot_be_added_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(model_of(network()))


def test_a_value_that_is_no_number_is_refused():
    class Wrong(torchfit.Layer):
        def forward(self, x):
            self.add_loss("much")

    with pytest.raises(TypeError, match="`add_loss` takes a tensor or a number"):
        model_of(Wrong()).evaluate(X, Y, verbose=0)


def test_without_any_loss_there_is_nothing_to_train_but_something_to_evaluate():
    model = model_of(network(), loss=None, metrics=["mae"])
    assert model.evaluate(X, Y, verbose=0)[0] == 0
    with pytest.raises(ValueError, match="There is no loss to compute"):
        model.fit(X, Y, verbose=0)


def test_copies_have_states_of_their_own():
    model = model_of(network(Adds()), metrics=["mae"])
    model.fit(X, Y, verbose=0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.fit(X, Y, verbose=0)
        assert twin.metrics[-1] is not model.metrics[-1]


def test_added_losses_go_through_microbatches():
    whole, parts = (model_of(network(Adds()), microbatch=size) for size in (None, 12))
    found = [model.fit(X, Y, batch_size=24, shuffle=False, verbose=0).history for model in (whole, parts)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-4)
    assert found[0]["rows"] == found[1]["rows"] == [48]


@pytest.mark.graphs
@pytest.mark.slow
def test_they_are_part_of_the_compiled_step(caplog):
    def fit(jit_compile):
        net = network(Adds())
        model = model_of(net, metrics=["mae"], jit_compile=jit_compile)
        model.add_loss(lambda: 0.1 * net[0].weight.square().sum())
        model.add_loss(lambda output: output.mean(), on="1")
        model.add_metric(lambda output: output.std(), "spread", on="1")
        kept = [model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, validation_split=1 / 3, verbose=0).history]
        model.add_loss(lambda: net[3].weight.square().sum())
        kept.append(model.fit(X, Y, batch_size=16, epochs=2, shuffle=False, verbose=0).history)
        return kept

    torch._dynamo.reset()
    for found, expected in zip(fit(True), fit(None)):
        assert list(found) == list(expected)
        for name in expected:
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    assert [record for record in caplog.records if record.name.startswith("torchfit")] == []
