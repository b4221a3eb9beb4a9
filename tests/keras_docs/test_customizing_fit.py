"""Steps that users write: the examples of Keras' guide to customizing `fit`, for torch modules."""

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit import callbacks, losses, metrics, optimizers

X, Y = np.random.RandomState(0).rand(1000, 32).astype("float32"), np.random.RandomState(1).rand(1000, 1)


class Dense(torchfit.Model):
    """A model with one layer, to be given steps of its own."""

    def __init__(self, **kwargs):
        super().__init__(device="cpu", **kwargs)
        torch.manual_seed(0)
        self.dense = nn.Linear(32, 1)

    def forward(self, x):
        return self.dense(x)


class OwnTrainStep(Dense):
    def train_step(self, data):
        x, y = data
        y_pred = self(x, training=True)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        self.zero_grad()
        loss.backward()
        gradients = [v.grad for v in self.trainable_weights]
        with torch.no_grad():
            self.optimizer.apply(gradients, self.trainable_weights)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


def test_a_first_example_equals_the_built_in_step():
    found = []
    for cls in (OwnTrainStep, Dense):
        model = cls()
        model.compile(optimizer="adam", loss="mse", metrics=["mae"])
        found.append(model.fit(X, Y, batch_size=50, epochs=3, shuffle=False, verbose=0).history)
    assert list(found[0]) == ["loss", "mae"]
    for name in found[0]:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-6)


class LowLevel(Dense):
    def __init__(self):
        super().__init__()
        self.loss_tracker = metrics.Mean(name="loss")
        self.mae_metric = metrics.MeanAbsoluteError(name="mae")
        self.loss_fn = losses.MeanSquaredError()

    def train_step(self, data):
        x, y = data
        y_pred = self(x, training=True)
        loss = self.loss_fn(y, y_pred)
        self.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.optimizer.apply([v.grad for v in self.trainable_weights])
        self.loss_tracker.update_state(loss)
        self.mae_metric.update_state(y, y_pred)
        return {"loss": self.loss_tracker.result(), "mae": self.mae_metric.result()}

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae_metric]


def test_lower_level_with_own_metrics_reset_each_epoch():
    model = LowLevel()
    model.compile(optimizer="adam")
    history = model.fit(X, Y, epochs=5, verbose=0).history
    assert list(history) == ["loss", "mae"]
    assert history["loss"][-1] < history["loss"][0]
    model.reset_metrics()
    assert float(model.loss_tracker.result()) == 0


def test_metrics_in_attributes_are_no_weights():
    model = LowLevel()
    assert list(model.state_dict()) == ["dense.weight", "dense.bias"]
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    assert model.get_weights()[1] == [1]


class Weighted(Dense):
    def train_step(self, data):
        if len(data) == 3:
            x, y, sample_weight = data
        else:
            sample_weight = None
            x, y = data
        y_pred = self(x, training=True)
        loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        self.zero_grad()
        loss.backward()
        with torch.no_grad():
            self.optimizer.apply_gradients((v.grad, v) for v in self.trainable_variables)
        self.metrics[0].update_state(loss, len(x))
        for metric in self.metrics[1:]:
            metric.update_state(y, y_pred, sample_weight=sample_weight)
        return self.get_metrics_result()


def test_sample_and_class_weights_reach_an_own_step():
    model, other = Weighted(), Dense()
    weights = np.random.rand(1000)
    for each in (model, other):
        each.compile(optimizer="sgd", loss="mse", weighted_metrics=["mae"])
    found = model.fit(X, Y, sample_weight=weights, epochs=2, shuffle=False, verbose=0).history
    expected = other.fit(X, Y, sample_weight=weights, epochs=2, shuffle=False, verbose=0).history
    assert list(found) == ["loss", "mae"]
    for name in found:
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
    assert list(model.fit(X, Y, verbose=0).history) == ["loss", "mae"]


class OwnEvaluation(Dense):
    def test_step(self, data):
        x, y = data
        y_pred = self(x, training=False)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, len(x))
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


def test_own_evaluation():
    model = OwnEvaluation()
    model.compile(loss="mse", metrics=["mae"])
    found = model.evaluate(X, Y, verbose=0)
    other = Dense()
    other.compile(loss="mse", metrics=["mae"])
    assert found == pytest.approx(other.evaluate(X, Y, verbose=0), rel=1e-5)
    assert "val_mae" in model.fit(X, Y, validation_split=0.2, verbose=0).history


class GAN(torchfit.Model):
    def __init__(self, discriminator, generator, latent_dim):
        super().__init__(device="cpu")
        self.discriminator, self.generator, self.latent_dim = discriminator, generator, latent_dim
        self.d_loss_tracker, self.g_loss_tracker = metrics.Mean(name="d_loss"), metrics.Mean(name="g_loss")
        self.seen = []

    def compile(self, d_optimizer, g_optimizer, loss_fn):
        super().compile()
        self.d_optimizer, self.g_optimizer, self.loss_fn = d_optimizer, g_optimizer, loss_fn

    @property
    def metrics(self):
        return [self.d_loss_tracker, self.g_loss_tracker]

    def forward(self, noise):
        return self.generator(noise)

    def train_step(self, real_images):
        self.seen.append(type(real_images))
        size = real_images.shape[0]
        generated = self.generator(torch.randn(size, self.latent_dim))
        images = torch.cat([generated.detach(), real_images])
        labels = torch.cat([torch.ones(size, 1), torch.zeros(size, 1)])
        self.zero_grad()
        d_loss = self.loss_fn(labels, self.discriminator(images))
        d_loss.backward()
        with torch.no_grad():
            parameters = list(self.discriminator.parameters())
            self.d_optimizer.apply([p.grad for p in parameters], parameters)
        self.zero_grad()
        g_loss = self.loss_fn(
            torch.zeros(size, 1), self.discriminator(self.generator(torch.randn(size, self.latent_dim)))
        )
        g_loss.backward()
        with torch.no_grad():
            parameters = list(self.generator.parameters())
            self.g_optimizer.apply([p.grad for p in parameters], parameters)
        self.d_loss_tracker.update_state(d_loss)
        self.g_loss_tracker.update_state(g_loss)
        return {"d_loss": self.d_loss_tracker.result(), "g_loss": self.g_loss_tracker.result()}


def make_gan():
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    gan = GAN(discriminator, nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), 4)
    gan.compile(
        d_optimizer=optimizers.Adam(learning_rate=0.003),
        g_optimizer=optimizers.Adam(learning_rate=0.003),
        loss_fn=losses.BinaryCrossentropy(from_logits=True),
    )
    return gan


def test_a_gan_with_two_optimizers_and_its_own_compile(tmp_path, capsys):
    gan = make_gan()
    before = [parameter.detach().clone() for parameter in gan.parameters()]
    real = np.random.normal([2.0, -1.0], 0.1, size=(256, 2)).astype("float32")
    path = str(tmp_path / "gan.{epoch}.pt")
    told = []
    history = gan.fit(
        real,
        epochs=2,
        verbose=2,
        callbacks=[
            callbacks.ModelCheckpoint(path, save_weights_only=True),
            callbacks.CSVLogger(tmp_path / "log.csv"),
            callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: told.append(logs["d_loss"])),
        ],
    )
    assert list(history.history) == ["d_loss", "g_loss"]
    assert len(told) == 16
    assert all(isinstance(loss, float) for loss in told)
    assert all(not torch.equal(a, b) for a, b in zip(before, gan.parameters()))
    assert gan.d_optimizer.iterations == gan.g_optimizer.iterations == 16
    assert (tmp_path / "gan.2.pt").exists()
    assert (tmp_path / "log.csv").read_text().startswith("epoch,d_loss,g_loss")
    assert "d_loss: " in capsys.readouterr().out
    assert gan.predict(np.zeros((3, 4), "float32")).shape == (3, 2)


def test_inputs_alone_come_as_they_are():
    gan = make_gan()
    gan.fit(np.zeros((4, 2), "float32"), verbose=0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4, 2)))
    gan.fit(loader, verbose=0)
    assert set(gan.seen) == {torch.Tensor}


def test_an_override_may_call_the_built_in_steps():
    class Calls(Dense):
        def train_step(self, data):
            return {**dict(super().train_step(data)), "extra": 1.0}

        def predict_step(self, data):
            return super().predict_step(data) + 100

    model = Calls()
    model.compile("sgd", "mse")
    history = model.fit(X, Y, verbose=0).history
    assert list(history) == ["loss", "extra"]
    assert model.predict(X[:2]).min() > 50
    assert model.predict_on_batch(X[:2]).min() > 50
    assert model.train_on_batch(X, Y, return_dict=True)["extra"] == 1


@pytest.mark.parametrize("takes_training", [True, False])
def test_compute_loss_may_be_overridden_with_and_without_training(takes_training):
    modes = []

    class WithMode(Dense):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            modes.append(training)
            return 2 * super().compute_loss(x, y, y_pred, sample_weight)

    class WithoutMode(Dense):
        def compute_loss(self, x, y, y_pred, sample_weight):
            return 2 * super().compute_loss(x, y, y_pred, sample_weight)

    model, plain = (WithMode if takes_training else WithoutMode)(), Dense()
    for each in (model, plain):
        each.compile("sgd", "mse")
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(2 * plain.evaluate(X, Y, verbose=0))
    model.fit(X, Y, verbose=0)
    assert set(modes) == ({True, False} if takes_training else set())


def test_compute_metrics_may_be_overridden():
    class Extra(Dense):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            results = dict(super().compute_metrics(x, y, y_pred, sample_weight))
            return {**results, "twice": 2 * results["mae"]}

    model = Extra()
    model.compile("sgd", "mse", metrics=["mae"])
    history = model.fit(X, Y, validation_split=0.5, verbose=0).history
    assert history["twice"] == pytest.approx(2 * np.array(history["mae"]))
    assert history["val_twice"] == pytest.approx(2 * np.array(history["val_mae"]))


def test_metrics_in_attributes_and_lists_are_logged_and_reset():
    class Tracks(Dense):
        def __init__(self):
            super().__init__()
            self.norm = metrics.Mean(name="norm")
            self.others = [metrics.Mean(name="largest"), metrics.Sum(name="rows")]

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            self.norm.update_state(y_pred.detach().norm())
            self.others[0].update_state(y_pred.detach().max())
            self.others[1].update_state(float(len(y_pred)))
            return super().compute_loss(x, y, y_pred, sample_weight)

    model = Tracks()
    model.compile("sgd", "mse", metrics=["mae"])
    assert [metric.name for metric in model.metrics] == ["loss", "norm", "largest", "rows"]
    history = model.fit(X, Y, epochs=2, validation_data=(X[:10], Y[:10]), verbose=0).history
    assert list(history)[:5] == ["loss", "mae", "norm", "largest", "rows"]
    assert history["rows"] == [1000, 1000]
    assert history["val_rows"] == [10, 10]
    assert not any("norm" in key for key in model.state_dict())


def test_a_step_written_for_keras_2():
    class Old(Dense):
        def train_step(self, data):
            x, y = data
            y_pred = self(x, training=True)
            loss = self.compiled_loss(y, y_pred, regularization_losses=self.losses)
            self.zero_grad()
            loss.backward()
            with torch.no_grad():
                self.optimizer.apply_gradients(
                    zip([v.grad for v in self.trainable_variables], self.trainable_variables)
                )
            self.compiled_metrics.update_state(y, y_pred)
            return {m.name: m.result() for m in self.metrics}

    model = Old()
    model.compile("sgd", "mse", metrics=["mae"])
    assert list(model.fit(X, Y, verbose=0).history) == ["loss", "mae"]


def test_early_stopping_and_steps_per_execution_with_own_steps():
    model = OwnTrainStep()
    model.compile("sgd", "mse", metrics=["mae"], steps_per_execution=4, jit_compile=None)
    history = model.fit(X, Y, epochs=50, verbose=0, callbacks=[callbacks.EarlyStopping("loss", min_delta=1)]).history
    assert len(history["loss"]) < 5


def test_added_losses_reach_own_steps():
    class Adds(OwnTrainStep):
        def forward(self, x):
            self.add_loss(7.0)
            return super().forward(x)

    with_loss, without = Adds(), OwnTrainStep()
    for each in (with_loss, without):
        each.compile(optimizers.SGD(0.0), "mse")
    found = with_loss.fit(X, Y, shuffle=False, verbose=0).history["loss"][0]
    assert found == pytest.approx(without.fit(X, Y, shuffle=False, verbose=0).history["loss"][0] + 7)
