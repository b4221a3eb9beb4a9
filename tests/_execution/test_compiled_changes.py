"""What changes between compiled steps is seen, and steps that cannot be compiled (any more) run as ordinary Python."""

import gc
import logging
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import Model, callbacks, losses, optimizers

pytestmark = [
    pytest.mark.graphs,
    pytest.mark.filterwarnings("ignore"),  # torch's compiler uses what torch deprecates
    pytest.mark.usefixtures("traced_only"),
]

X = torch.tensor(np.random.default_rng(0).normal(size=(64, 4)).astype("float32"))
Y = X.sum(1, keepdim=True)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))


def compiled(net, jit_compile, optimizer=None, loss="mse", **options):
    model = Model(net, device="cpu")
    made = optimizer() if optimizer is not None else optimizers.SGD(0.01, momentum=0.9)
    model.compile(made, loss, jit_compile=jit_compile, **options)
    torch.manual_seed(1)
    return model


def fit(model, x=X, y=Y, epochs=1, **options):
    return model.fit(x, y, **{"batch_size": 16, "epochs": epochs, "verbose": 0, **options}).history


def assert_compiled_is_plain(train):
    """`train(jit_compile)` returns a module and numbers, which are the same in both ways."""
    (plain, expected), (quick, found) = train(False), train(True)
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-5, abs=1e-5)
    for one, other in zip(plain.state_dict().values(), quick.state_dict().values()):
        assert torch.allclose(one, other, atol=1e-5)


def graphs_of(model, mode="train"):
    return model._torchfit.execution._steps[mode]._graphs


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "torchfit"]


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [64, 48])
def test_a_second_fit_trains_on_its_own_data(rows):
    def train(jit_compile):
        model = compiled(network(), jit_compile)
        return model.module, fit(model)["loss"] + fit(model, X[:rows] * 2, Y[:rows] - 1, epochs=2)["loss"]

    assert_compiled_is_plain(train)


def test_data_of_another_size_are_indexed_outside_of_one_more_graph():
    model = compiled(network(), True)
    for rows in (64, 60, 56, 52, 56, 64):
        fit(model, X[:rows], Y[:rows])
    assert len(graphs_of(model)) == 1 + 1


def test_a_fit_inside_of_a_fit_leaves_the_outer_one_its_data():
    def train(jit_compile):
        model = compiled(network(), jit_compile)
        inner = lambda batch, logs: fit(model, X * 3, Y + 1) if batch == 2 else None  # noqa: E731
        return model.module, fit(model, epochs=2, callbacks=[callbacks.LambdaCallback(on_train_batch_end=inner)])[
            "loss"
        ]

    assert_compiled_is_plain(train)


# -- modules that change themselves ------------------------------------------------------------------------------------


class Counts(nn.Linear):
    """Depends on the number of its calls, which is a Python number."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls / 10)


class Remembers(nn.Linear):
    """Keeps a tensor from call to call, in a new one every time."""

    last = torch.zeros(())

    def forward(self, x):
        outputs = super().forward(x) + self.last
        self.last = outputs.detach().mean()
        return outputs


class Collects(nn.Linear):
    """Keeps the outputs of every call in a list."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.kept = []

    def forward(self, x):
        outputs = super().forward(x)
        self.kept.append(outputs.detach())
        return outputs + len(self.kept) / 10


class Accumulates(nn.Linear):
    """Changes a buffer in place."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x):
        self.total += 0.1  # type: ignore[assignment]
        return super().forward(x) + self.total


MODULES = [Counts, Remembers, Collects, Accumulates]


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_state_of_a_module_is_that_of_every_call_before(kind, steps):
    def train(jit_compile):
        torch.manual_seed(0)
        model = compiled(kind(4, 1), jit_compile, steps_per_execution=steps)
        numbers = fit(model, epochs=2, validation_data=(X, Y), batch_size=8)
        return model.module, [*numbers["loss"], *numbers["val_loss"], *model.predict(X, batch_size=16).ravel()]

    assert_compiled_is_plain(train)


def test_a_number_that_changes_with_every_call_is_named(caplog):
    with caplog.at_level(logging.WARNING, "torchfit"):
        fit(compiled(Counts(4, 1), True), epochs=3)
    expected = "jit_compile: the train step runs without a graph: it was compiled 4 times, because `{}` changes"
    assert messages(caplog) == [expected.format("model.module.calls")]


@pytest.mark.parametrize("event", ["on_predict_batch_begin", "on_predict_batch_end"])
def test_a_change_between_the_batches_of_predict_takes_effect(event):
    class Scaled(nn.Linear):
        scale = 1.0

        def forward(self, x):
            return super().forward(x) * self.scale

    def predict(jit_compile):
        torch.manual_seed(0)
        model = compiled(Scaled(4, 1), jit_compile)
        change = lambda batch, logs: setattr(model.module, "scale", 2.0 if batch >= 5 else 1.0)  # noqa: E731
        outputs = model.predict(X, batch_size=8, callbacks=[callbacks.LambdaCallback(**{event: change})])
        return model.module, outputs.ravel()

    assert_compiled_is_plain(predict)


# -- fallbacks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [None, 2])
def test_nothing_of_a_run_that_failed_is_kept(accumulation, traced_only, monkeypatch, caplog):
    """The compiled code draws, updates weights, slots, buffers and metrics, and then fails."""

    def fails_at_its_end(module, examples, **options):
        run = compile_fx_inner(module, examples, **options)

        def code(inputs):
            run(inputs)
            raise RuntimeError("out of luck")

        code._boxed_call = True  # type: ignore[attr-defined]
        return code

    def train(jit_compile):
        optimizer = lambda: optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=accumulation)  # noqa: E731
        model = compiled(network(), jit_compile, optimizer, metrics=["mae"])
        history = fit(model, epochs=2, validation_split=0.25, batch_size=8)
        return model.module, [value for values in history.values() for value in values]

    compile_fx_inner = traced_only.compile_fx_inner
    monkeypatch.setattr(traced_only, "compile_fx_inner", staticmethod(fails_at_its_end))
    with caplog.at_level(logging.WARNING, "torchfit"):
        assert_compiled_is_plain(train)
    reasons = [
        f"jit_compile: the {kind} step runs without a graph: RuntimeError: out of luck" for kind in ("train", "test")
    ]
    assert messages(caplog) == reasons


def test_an_error_of_the_data_is_raised_where_the_graph_has_run_before():
    class Checked(nn.Linear):
        def forward(self, x):
            torch._assert_async((x < 100).all(), "too large")
            return super().forward(x)

    x = torch.cat([X, X * 1000])
    model = compiled(Checked(4, 1), True)
    with pytest.raises(RuntimeError, match="too large"):
        fit(model, x, x.sum(1, keepdim=True), shuffle=False)


@pytest.mark.parametrize("optimizer", [lambda: torch.optim.Adam, lambda: "adam"], ids=["torch", "torchfit"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_callback_may_compile_the_model(optimizer, steps):
    def train(jit_compile):
        class Compile(callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if batch == 2:
                    self.model.compile(optimizer(), "mae", jit_compile=jit_compile, steps_per_execution=steps)

        model = compiled(network(), jit_compile, optimizer, steps_per_execution=steps)
        return model.module, fit(model, epochs=3, callbacks=[Compile()])["loss"]

    assert_compiled_is_plain(train)


def test_the_step_after_compile_in_a_callback_is_a_graph_again():
    def recompile(epoch, logs):
        if epoch == 1:
            model.compile(optimizers.SGD(0.01), "mae", jit_compile=True)
            after.append(running._graphs)

    model, after = compiled(network(), True), []
    fit(model)
    running = model._torchfit.execution._steps["train"]
    fit(model, epochs=3, callbacks=[callbacks.LambdaCallback(on_epoch_begin=recompile)])
    assert any(graph is not None for graph in running._graphs.values())


def test_unfreezing_makes_graphs_of_a_model_that_had_nothing_to_train():
    model = compiled(network(), True)
    model.trainable = False
    fit(model)
    model.trainable = True
    fit(model, epochs=2)
    assert graphs_of(model)


# -- optimizers of torch -----------------------------------------------------------------------------------------------


class Partly(nn.Module):
    """Has a layer that is not used, and one that is frozen."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.unused, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 1)
        self.first.bias.requires_grad_(False)

    def forward(self, x):
        return self.last(self.first(x).relu())


TORCH_OPTIMIZERS = [
    torch.optim.Adam,
    lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    lambda parameters: torch.optim.AdamW(parameters, 0.01, amsgrad=True),
]


@pytest.mark.parametrize("optimizer", TORCH_OPTIMIZERS)
@pytest.mark.parametrize("module", [network, Partly])
def test_a_torch_optimizer_updates_with_the_gradients_of_a_graph(optimizer, module, caplog):
    def train(jit_compile):
        model = compiled(module(), jit_compile, lambda: optimizer, metrics=["mae"], steps_per_execution=2)
        history = fit(model, epochs=3)
        assert not jit_compile or graphs_of(model)
        assert model.optimizer.iterations == 12
        return model.module, history["loss"] + history["mae"]

    with caplog.at_level(logging.WARNING, "torchfit"):
        assert_compiled_is_plain(train)
    assert messages(caplog) == []


def test_an_optimizer_that_evaluates_the_loss_itself_runs_without_a_graph(caplog):
    model = compiled(network(), True, lambda: torch.optim.LBFGS)
    with caplog.at_level(logging.WARNING, "torchfit"):
        fit(model)
    expected = "jit_compile: the train step runs without a graph: the optimizer evaluates the loss itself"
    assert messages(caplog) == [expected]


class Penalized(Model):
    """Adds a penalty of the gradient with respect to the inputs, which takes second derivatives."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            slope = torch.autograd.grad(self.module(x).sum(), x, create_graph=True)[0]
        return super().compute_loss(x, y, y_pred, sample_weight, training) + 0.1 * slope.square().sum()


@pytest.mark.parametrize("optimizer", [lambda: torch.optim.SGD, lambda: "sgd"], ids=["torch", "torchfit"])
def test_second_derivatives_train_with_every_optimizer(optimizer):
    def train(jit_compile):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        model = Penalized(net, device="cpu")
        model.compile(optimizer(), "mse", jit_compile=jit_compile)
        return net, fit(model, epochs=2, shuffle=False)["loss"]

    assert_compiled_is_plain(train)


# -- one call for each batch -------------------------------------------------------------------------------------------


class Noisy(Counts):
    """Counts its calls, draws random numbers, and adds a loss and a metric."""

    def forward(self, x):
        outputs = super().forward(x)
        torchfit.add_loss(outputs.square().mean() * 0.01)
        torchfit.add_metric(outputs.mean(), "level")
        return outputs + torch.rand_like(outputs)


@pytest.mark.parametrize("jit_compile", [False, True, "auto"])
@pytest.mark.parametrize("rows", [16, 64, 60])
def test_a_module_is_called_once_for_each_batch(jit_compile, rows):
    model = compiled(Noisy(4, 1), jit_compile)
    for run in (lambda: model.evaluate(X[:rows], Y[:rows], 8, verbose=0), lambda: model.predict(X[:rows], 8)):
        before = model.module.calls
        run()
        assert model.module.calls - before == -(-rows // 8)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_predict_calls_no_function_that_was_added(jit_compile):
    def refuse(outputs):
        raise AssertionError("predict needs no loss")

    model = compiled(nn.Linear(4, 1), jit_compile)
    model.add_loss(refuse, on="")
    model.add_metric(refuse, "refused", on="")
    assert model.predict(X, batch_size=8).shape == (64, 1)


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_model_is_freed_with_its_last_name(jit_compile):
    model = compiled(network(), jit_compile)
    fit(model, epochs=2, validation_data=(X, Y))
    model.predict(X)
    parts = [weakref.ref(model), weakref.ref(model.module), weakref.ref(model.optimizer)]
    gc.collect()
    gc.disable()
    try:
        del model
        assert [part() for part in parts] == [None, None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("accumulation", [None, 2])
def test_a_loss_may_be_annealed(accumulation):
    class Annealed(losses.Loss):
        weight = 0.0

        def call(self, y_true, y_pred):
            return (y_true - y_pred).square().mean(-1) + self.weight * y_pred.abs().mean(-1)

    def train(jit_compile):
        loss = Annealed()
        optimizer = lambda: optimizers.SGD(0.01, gradient_accumulation_steps=accumulation)  # noqa: E731
        model = compiled(network(), jit_compile, optimizer, loss)
        anneal = callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(loss, "weight", epoch / 10))
        return model.module, fit(model, epochs=8, callbacks=[anneal])["loss"]

    assert_compiled_is_plain(train)
