"""What threads may do with one model: what they do at the same time is right, or refused with one clear line."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from tests.support import calls_with
from torchfit._trainer.model_lock import ModelLock
from torchfit._utils.modules import training_mode
from torchfit.callbacks import Callback
from torchfit.models import load_model

THREADS = 16
X = np.random.default_rng(0).normal(size=(512, 8)).astype("float32")
Y = X[:, :3]


class Net(nn.Module):
    """A network whose outputs tell in which mode it ran, and which notes the modes in which it was trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
        self.trained_in = set()

    def forward(self, x):
        if torch.is_grad_enabled():
            self.trained_in |= {layer.training for layer in self.layers}
        return self.layers(x)


def make_model(kind=torchfit.Model, **options):
    torch.manual_seed(0)
    model = kind(Net(), device="cpu")
    model.compile("sgd", "mse", metrics=["mae"], **options)
    return model


@pytest.fixture(autouse=True)
def _frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def waiting(monkeypatch):
    """An event that is set as soon as one thread waits for another."""
    event, wait = threading.Event(), ModelLock._wait_for_change
    monkeypatch.setattr(ModelLock, "_wait_for_change", lambda lock: (event.set(), wait(lock)))
    return event


def in_threads(function, arguments):
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, arguments))


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def modes_of(model):
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("method", ["predict", "predict_on_batch", "predict_iter", "__call__"])
@pytest.mark.parametrize("origin", ["compiled", "trained", "loaded"])
def test_predictions_from_16_threads_are_right_and_leave_no_trace(method, origin, tmp_path):
    model = make_model()
    if origin != "compiled":
        model.fit(X, Y, verbose=0)
    if origin == "loaded":
        model.save(tmp_path / "model")
        model = load_model(tmp_path / "model", custom_objects={"Net": Net}, module=Net())
    rows = [slice(start, start + 4) for start in range(0, 508, 4)]
    with torch.no_grad():
        twin = copy.deepcopy(model.module).eval()
        expected = {part.start: twin(torch.from_numpy(X[part])).numpy() for part in rows}
    modes, state = modes_of(model), state_of(model)

    def predict(part):
        if method == "__call__":
            return model(torch.from_numpy(X[part]), training=False).detach().numpy()
        outputs = getattr(model, method)(X[part])
        return np.concatenate(list(outputs)) if method == "predict_iter" else outputs

    parts = rows * 4
    outputs = in_threads(predict, parts)
    for part, output in zip(parts, outputs):
        np.testing.assert_allclose(output, expected[part.start], atol=1e-6)
    assert modes_of(model) == modes
    torch.testing.assert_close(state_of(model), state, rtol=0, atol=0)


def test_two_models_that_share_a_network():
    encoder = nn.Sequential(nn.Linear(8, 4), nn.Dropout())
    models = [torchfit.Model(encoder, device="cpu"), torchfit.Model(nn.Sequential(encoder, nn.Dropout()), device="cpu")]
    expected = models[0].predict(X)
    for output in in_threads(lambda number: models[number % 2].predict(X), range(200)):
        np.testing.assert_array_equal(output, expected)
    assert all(map(all, map(modes_of, models)))


class Dropping(torchfit.Model):
    """Predicts with dropout."""

    def predict_step(self, data):
        return self(data, training=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"jit_compile": True}, {"steps_per_execution": 3}])
def test_predictions_of_compiled_steps(options):
    model = make_model(**options)
    expected = model.predict(X, batch_size=64)
    for output in in_threads(lambda _: model.predict(X, batch_size=64), range(40)):
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_predictions_of_a_custom_step_wait_for_each_other():
    model = make_model(Dropping)
    modes = modes_of(model)
    outputs = in_threads(lambda _: model.predict(X[:64]), range(100))
    assert all((output != outputs[0]).any() for output in outputs[1:])
    assert modes_of(model) == modes


class Stops(Callback):
    def on_predict_batch_end(self, batch, logs=None):
        self.model.stop_predicting = True


def test_a_callback_stops_its_own_prediction_alone():
    model = make_model()
    model.predict(X)

    def predict(number):
        return len(model.predict(X, batch_size=8, callbacks=[Stops()] if number % 2 else None))

    assert in_threads(predict, range(100)) == [512, 8] * 50


class Runs(Callback):
    """Calls a function in another thread in the middle of a loop, and keeps what it raised or returned."""

    def __init__(self, function):
        self.function, self.result = function, None

    def on_train_batch_end(self, batch, logs=None):
        if self.result is None:
            self.result = self.run()

    on_test_batch_end = on_train_batch_end

    def run(self):
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(self.function, self.model)
            return future.exception(timeout=60) or future.result()


CALLS = {
    **calls_with(X, Y),
    "__call__": lambda model: model(torch.from_numpy(X), training=False),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_collides_with_a_training_is_refused(call):
    expected = make_model().fit(X, Y, epochs=2, shuffle=False, verbose=0).history
    beside = make_model()
    runs = Runs(CALLS[call])
    assert beside.fit(X, Y, epochs=2, shuffle=False, callbacks=[runs], verbose=0).history == expected
    assert type(runs.result) is RuntimeError
    assert str(runs.result) == (
        f"`{call}` was called while `fit` of the same model runs in another thread. Call it when `fit` has returned, "
        "from a callback, or of a copy of the model made before."
    )
    assert beside.module.trained_in == {True}
    CALLS[call](beside)  # Nothing is locked afterwards.


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_what_collides_with_an_evaluation_is_refused(call):
    model = make_model()
    expected = model.evaluate(X, Y, verbose=0)
    runs = Runs(CALLS[call])
    assert model.evaluate(X, Y, callbacks=[runs], verbose=0) == expected
    assert f"`{call}` was called while `evaluate` of the same model" in str(runs.result)


@pytest.mark.parametrize("call", ["predict", "predict_iter", "predict_on_batch", "__call__"])
def test_predictions_beside_an_evaluation(call):
    model = make_model()
    expected = model.evaluate(X, Y, verbose=0), model.predict(X)
    runs = Runs(CALLS[call])
    assert model.evaluate(X, Y, callbacks=[runs], verbose=0) == expected[0]
    result = runs.result.detach().numpy() if call == "__call__" else runs.result
    np.testing.assert_allclose(np.reshape(result, expected[1].shape), expected[1], atol=1e-6)  # type: ignore[arg-type]


def test_single_batches_wait_for_each_other():
    alone, shared = make_model(), make_model()
    for _ in range(200):
        alone.train_on_batch(X[:32], Y[:32])
    in_threads(lambda _: shared.train_on_batch(X[:32], Y[:32]), range(200))
    assert shared.optimizer.iterations == 200
    for module in (alone.module, shared.module):
        module.eval()
    batch_norms = [module.layers[1] for module in (alone.module, shared.module)]
    assert batch_norms[0].num_batches_tracked == batch_norms[1].num_batches_tracked == 200
    assert shared.module.trained_in == {True}


def test_predictions_beside_single_batches_are_right():
    model = make_model()
    model.optimizer.learning_rate = 0.0
    model.module.layers[1].momentum = 0.0
    expected = model.predict(X[:8])

    def work(number):
        if number % 4 == 0:
            model.train_on_batch(X[:32], Y[:32])
        return model.predict(X[:8])

    for output in in_threads(work, range(400)):
        np.testing.assert_array_equal(output, expected)


def test_a_training_waits_for_predictions_that_run(waiting):
    model = make_model()
    started, events = threading.Event(), []

    class Slow(Callback):
        def on_predict_end(self, logs=None):
            started.set()
            assert waiting.wait(60)
            events.append("predicted")

    class Notes(Callback):
        def on_train_begin(self, logs=None):
            events.append("training")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(model.predict, X, callbacks=[Slow()])
        assert started.wait(60)
        model.fit(X, Y, callbacks=[Notes()], verbose=0)
        future.result()
    assert events == ["predicted", "training"]


def test_trainings_of_two_models_beside_each_other():
    expected = make_model().fit(X, Y, shuffle=False, verbose=0).history["loss"]
    models = [make_model() for _ in range(2)]
    for model in models:
        model.module.layers[3].p = 0.0  # Random numbers are drawn from one generator.
    single = make_model()
    single.module.layers[3].p = 0.0
    expected = single.fit(X, Y, shuffle=False, verbose=0).history["loss"]
    found = in_threads(lambda model: model.fit(X, Y, shuffle=False, verbose=0).history["loss"], models)
    assert found == [expected] * 2


def test_a_copy_made_in_a_callback_is_free():
    copies = []

    class Copies(Callback):
        def on_epoch_end(self, epoch, logs=None):
            copies.append(copy.deepcopy(self.model))

    make_model().fit(X, Y, callbacks=[Copies()], verbose=0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(copies[0].predict, X).result().shape == (512, 3)


def test_what_would_wait_for_itself_is_refused(waiting):
    """A prediction that others wait for cannot wait for them."""
    lock = ModelLock()

    def train():
        with lock.owned("train_on_batch", is_loop=False, is_alone=True):
            return "trained"

    with ThreadPoolExecutor(1) as pool:
        with lock.shared("predict"):
            future = pool.submit(train)
            assert waiting.wait(60)
            with pytest.raises(RuntimeError, match="`evaluate` was called while `train_on_batch`"):  # noqa: SIM117
                with lock.owned("evaluate", is_loop=True, is_alone=False):
                    pass
        assert future.result(60) == "trained"


def test_modes_are_restored_by_the_last_to_exit():
    module = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    first, second = training_mode(module, False), training_mode(module, False)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert modes_of(module) == [False, False, False]
    second.__exit__(None, None, None)
    assert modes_of(module) == [True, True, False]


def test_modes_inside_of_each_other():
    module = nn.Sequential(nn.Dropout())
    with training_mode(module, False):
        with training_mode(module, True):
            with training_mode(module, False):
                assert modes_of(module) == [False, False]
            assert modes_of(module) == [True, True]
        assert modes_of(module) == [False, False]
    assert modes_of(module) == [True, True]


def test_added_terms_count_after_predictions_in_threads():
    """Predictions leave hooks and the collection of added losses as they were."""
    model = make_model()
    model.add_loss(lambda output: 0 * output.sum() + 1.0, on="layers.0")
    expected = model.evaluate(X, Y, verbose=0)
    in_threads(lambda _: model.predict(X[:16]), range(200))
    assert model.evaluate(X, Y, verbose=0) == expected
    assert not model.module.layers[0]._forward_hooks
