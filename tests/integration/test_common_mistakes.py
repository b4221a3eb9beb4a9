"""What users get wrong: done right as Keras does, or refused in words that name the argument and the way out."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from torchfit import Model, callbacks, losses

X, Y = np.random.default_rng(0).random((10, 4)), np.arange(10.0) / 10
CLASSES = np.arange(10) % 3
FROM_LOGITS = losses.SparseCategoricalCrossentropy(from_logits=True)


class Vector(nn.Module):
    """Gives `(batch,)`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x):
        return self.linear(x).squeeze(-1)


def column():
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def compiled(module=None, loss="mse", **options):
    model = Model(module or column(), device="cpu")
    model.compile("sgd", loss, **options)
    return model


def loss_of(y, module=None, loss="mse", x=X, **options):
    torch.manual_seed(0)
    return compiled(module or column(), loss).fit(x, y, verbose=0, shuffle=False, **options).history["loss"]


# -- done right ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "y",
    [Y, Y[:, None], Y.astype("float32"), torch.tensor(Y), Y.tolist(), Y[::-1][::-1]],
    ids=lambda y: type(y).__name__,
)
def test_a_vector_beside_a_column_is_a_column(y):
    expected = ((column()(torch.tensor(X).float()) - torch.tensor(Y[:, None])) ** 2).mean().item()
    assert loss_of(y) == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("y", [Y, Y[:, None]])
def test_a_column_beside_a_vector_is_a_vector(y):
    module = Vector()
    expected = ((module(torch.tensor(X).float()) - torch.tensor(Y)) ** 2).mean().item()
    assert loss_of(y, module) == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize("kind", ["float64", "float32", "int64", "int32", "uint8", "uint16"])
def test_class_numbers_of_any_kind(kind):
    module = nn.Linear(4, 3)
    expected = nn.functional.cross_entropy(module(torch.tensor(X).float()), torch.tensor(CLASSES)).item()
    assert loss_of(CLASSES.astype(kind), module, FROM_LOGITS) == [pytest.approx(expected, rel=1e-5)]


def test_class_numbers_in_a_column():
    assert loss_of(CLASSES[:, None], nn.Linear(4, 3), FROM_LOGITS)[0] < 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_follow_the_dtype_of_the_module(dtype):
    model = compiled(nn.Linear(4, 1, dtype=dtype))
    model.fit(X, Y, verbose=0)
    assert model.predict(X).dtype == (np.float32 if dtype is torch.float32 else np.float64)


def test_integers_stay_integers_for_embeddings():
    assert Model(nn.Embedding(5, 2), device="cpu").predict(np.array([[0, 4]], dtype="int32")).shape == (1, 2, 2)


def test_booleans_are_targets():
    model = compiled(nn.Sequential(column(), nn.Sigmoid()), "bce", metrics=["accuracy"])
    assert model.evaluate(X, Y > 0.4, verbose=0) == pytest.approx(model.evaluate(X, (Y > 0.4) * 1.0, verbose=0))


def test_a_read_only_array_is_taken():
    frozen = X.copy()
    frozen.flags.writeable = False
    assert loss_of(Y, x=frozen) == loss_of(Y)


# -- refused ---------------------------------------------------------------------------------------------------


def fit(*arguments, **options):
    return lambda model: model.fit(*arguments, **{"verbose": 0, **options})


REFUSED = {
    "empty": (fit(X[:0], Y[:0]), ValueError, "`x` has no samples"),
    "lengths": (fit(X, Y[:5]), ValueError, "`x` has 10.* `y` has 5"),
    "length of weights": (fit(X, Y, sample_weight=Y[:3]), ValueError, "`sample_weight` has 3"),
    "no x": (fit(), ValueError, "`x` is missing"),
    "no y": (fit(X), ValueError, "targets `y`"),
    "text": (fit(X.astype(str), Y), ValueError, "`x` must hold numbers.*integers first"),
    "objects": (fit(np.array([[None]] * 10), Y), ValueError, r"`x` must hold numbers.*\(10, 1\)"),
    "a number": (fit(3.0, Y), ValueError, r"`x` must have samples along its first axis.*x\[None\]"),
    "wide targets": (fit(X, X), ValueError, r"y_true.*shape \(10, 4\).*y_pred.*shape \(10, 1\)"),
    "two columns": (fit(X, X[:, :2]), ValueError, r"y_true.*\(10, 2\)"),
    "features": (
        fit(X[:, :3], Y),
        ValueError,
        r"`x` does not fit the model: layer .*Linear\(in_features=4, out_features=1.*shape \(10, 3\)",
    ),
    "no axis of features": (fit(Y, Y), ValueError, r"Linear\(in_features=4.*shape \(10,\)"),
    "integers for a layer of floats": (fit(X.astype(int), Y), ValueError, "Linear.*dtype int64"),
    "features of validation": (fit(X, Y, validation_data=(X[:, :2], Y)), ValueError, r"Linear.*shape \(10, 2\)"),
    "name of an input": (fit({"a": X}, Y), ValueError, r"\['a'\]"),
    "targets for more outputs": (fit(X, [Y, Y]), ValueError, r"`y` has 2 parts, but the model has 1 outputs"),
    "name of an output": (fit(X, {"out": Y}), ValueError, r"`y` names the output 'out'.*\['output_1'\]"),
    "shape of weights": (fit(X, Y, sample_weight=X), ValueError, r"sample_weight.*\(10, 4\)"),
    "batch_size": (fit(X, Y, batch_size=0), ValueError, "`batch_size` must be.*0"),
    "batch_size, a float": (fit(X, Y, batch_size=2.5), ValueError, "`batch_size` must be.*2.5"),
    "epochs": (fit(X, Y, epochs=-1), ValueError, "`epochs` must be.*-1"),
    "epochs, a float": (fit(X, Y, epochs=1.0), ValueError, "`epochs` must be.*1.0"),
    "epochs, nothing": (fit(X, Y, epochs=None), ValueError, "`epochs` must be.*None"),
    "initial_epoch": (fit(X, Y, initial_epoch=-1), ValueError, "`initial_epoch` must be.*-1"),
    "steps_per_epoch": (fit(X, Y, steps_per_epoch=0), ValueError, "`steps_per_epoch`.*0"),
    "validation_split": (fit(X, Y, validation_split=1.0), ValueError, "`validation_split` must.*between 0 and 1"),
    "validation_split, text": (fit(X, Y, validation_split="a"), ValueError, "`validation_split` must.*'a'"),
    "validation_data": (fit(X, Y, validation_data=(X, Y, Y, Y)), ValueError, "`validation_data` must be.*length 4"),
    "validation_freq": (fit(X, Y, validation_data=(X, Y), validation_freq=0), ValueError, "`validation_freq` must be"),
    "verbose": (fit(X, Y, verbose=3), ValueError, "verbose.*3"),
    "callbacks": (fit(X, Y, callbacks=[3]), TypeError, "callbacks.*3"),
    "a class of callbacks": (
        fit(X, Y, callbacks=callbacks.EarlyStopping),
        TypeError,
        r"callbacks.*the class EarlyStopping.*EarlyStopping\(",
    ),
    "predict": (lambda model: model.predict(X[:, :2]), ValueError, r"Linear.*shape \(10, 2\)"),
    "predict nothing": (lambda model: model.predict(X[:0]), ValueError, "`x` has no samples"),
    "predict_on_batch": (lambda model: model.predict_on_batch(X[:, :2]), ValueError, r"Linear.*shape \(10, 2\)"),
    "train_on_batch": (lambda model: model.train_on_batch(X, Y[:2]), ValueError, r"y_true, .* shape \(2, 1\)"),
    "test_on_batch": (lambda model: model.test_on_batch(X[:, :2], Y), ValueError, r"Linear.*shape \(10, 2\)"),
    "optimizer": (lambda model: model.compile("adm", "mse"), ValueError, "Unknown optimizer: 'adm'.*Did you mean"),
    "loss": (lambda model: model.compile("sgd", "mes"), ValueError, "Unknown loss: 'mes'.*Did you mean 'mse'"),
    "metric": (lambda model: model.compile("sgd", "mse", ["acuracy"]), ValueError, "Unknown metric.*Did you mean"),
    "loss, a number": (lambda model: model.compile("sgd", 3), ValueError, "loss.*3"),
    "metric, a number": (lambda model: model.compile("sgd", "mse", [3]), ValueError, "metric.*3"),
    "loss, a metric": (lambda model: model.compile("sgd", "accuracy"), ValueError, "It is the name of a metric"),
    "loss, a rate": (lambda model: model.compile("sgd", 0.01), ValueError, "optimizers.Adam"),
    "inputs and targets in one": (fit((X, Y)), ValueError, r"passed as fit\(x, y\)"),
    "validation by name": (fit(X, Y, validation_data={"x": X, "y": Y}), ValueError, r"tuple \(x, y\) in `validation_"),
    "patience": (
        lambda model: callbacks.EarlyStopping(patience="3"),  # type: ignore[arg-type]
        ValueError,
        "`patience` must be an integer",
    ),
    "a name in a path": (
        fit(X, Y, callbacks=callbacks.ModelCheckpoint("{epochs}.pt")),
        ValueError,
        "{epochs} is not known. Did you mean {epoch}",
    ),
    "lr_find": (lambda model: model.lr_find(X, Y, min_lr=0.1), TypeError, "`lr_find` has no argument.*`start`"),
    "steps_per_execution": (
        lambda model: model.compile("sgd", "mse", steps_per_execution=0),
        ValueError,
        "`steps_per_execution` must be.*0",
    ),
    "steps_per_execution, text": (
        lambda model: model.compile("sgd", "mse", steps_per_execution="a"),
        ValueError,
        "`steps_per_execution` must be.*'a'",
    ),
    "number of weights": (lambda model: model.set_weights([X]), ValueError, r"`weights` must have 2 arrays.*weight"),
    "shape of a weight": (lambda model: model.set_weights([X, Y]), ValueError, r"`weight`, whose shape is \(1, 4\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_the_model_goes_on(case):
    wrong, kind, message = REFUSED[case]
    model = compiled()
    model.module.eval()
    before = model.get_weights()
    with pytest.raises(kind, match=f"(?s){message}"):
        wrong(model)
    assert not model.module.training
    assert model.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]
    assert not np.array_equal(before[0], model.get_weights()[0])


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_not_compiled(method):
    with pytest.raises(RuntimeError, match=rf"compile\(optimizer, loss, metrics\)` before `{method}`"):
        getattr(Model(column(), device="cpu"), method)(X, Y)


def test_not_compiled_inside_of_steps():
    with pytest.raises(RuntimeError, match=r"call `compile\(optimizer, loss, metrics\)` first"):
        Model(column(), device="cpu").compute_loss(X, Y, Y)


def test_prediction_needs_no_compile():
    assert Model(column(), device="cpu").predict(X).shape == (10, 1)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (FROM_LOGITS, np.full(10, 3)),
        (FROM_LOGITS, np.full(10, -1)),
        (losses.SparseCategoricalCrossentropy(), np.full(10, 3)),
    ],
)
def test_class_numbers_without_a_class(loss, y):
    model = compiled(nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), loss)
    with pytest.raises(ValueError, match="`y` holds a class index that the outputs have no class for"):
        model.fit(X, y, verbose=0)


def test_one_hot_and_class_numbers_mixed_up():
    with pytest.raises(ValueError, match="use sparse_categorical_crossentropy"):
        loss_of(CLASSES, nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), "categorical_crossentropy")
    with pytest.raises(ValueError, match="categorical_crossentropy"):
        loss_of(np.eye(3)[CLASSES], nn.Linear(4, 3), FROM_LOGITS)


@pytest.mark.parametrize("module", [3, nn.Linear, None.__class__])
def test_no_module(module):
    with pytest.raises(TypeError, match=r"`module` must be a torch.nn.Module"):
        Model(module)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cuda"][: 3 - torch.cuda.is_available()])
def test_no_such_device(device):
    with pytest.raises(ValueError, match=f"`device` must be.*'{device}'"):
        Model(column(), device=device)


@pytest.mark.parametrize(
    ("units", "loss", "y", "fix"),
    [
        (1, "binary_crossentropy", Y > 0.5, r"BinaryCrossentropy\(from_logits=True\), or end the model with a sigmoid"),
        (3, "sparse_categorical_crossentropy", CLASSES, r"SparseCategoricalCrossentropy\(from_logits=True\).*softmax"),
        (3, "categorical_crossentropy", np.eye(3)[CLASSES], r"CategoricalCrossentropy\(from_logits=True\).*softmax"),
    ],
)
def test_logits_where_probabilities_belong_are_told_once(units, loss, y, fix):
    model = compiled(nn.Linear(4, units), loss)
    with pytest.warns(UserWarning, match=f"expects probabilities.*{fix}"):
        model.fit(X * 50 - 25, y, verbose=0)
    model.fit(X, y, verbose=0)  # a second warning would be an error
    model.evaluate(X, y, verbose=0)


def test_probabilities_are_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(CLASSES, nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1)), "sparse_categorical_crossentropy")


def test_a_warning_is_at_the_line_of_the_user():
    model = Model(nn.Linear(4, 1), device="cpu")
    model.compile("sgd", "binary_crossentropy")
    with pytest.warns(UserWarning, match="expects probabilities") as told:
        model.fit(np.full((4, 4), 9.0), np.ones(4), verbose=0)
    assert told[0].filename == __file__


class Sum(nn.Linear):
    def forward(self, first, second):
        return super().forward(first + second)


class ReturnsNothing(nn.Linear):
    def forward(self, x):
        super().forward(x)


@pytest.mark.parametrize(
    ("module", "metrics", "message"),
    [
        (nn.Linear(4, 1), {"out": ["mae"]}, r"`metrics` names the output 'out', but the outputs .*\['output_1'\]"),
        (Sum(4, 1), None, r"`Sum.forward` takes 2 inputs: \['first', 'second'\]. Pass one array for each"),
        (ReturnsNothing(4, 1), None, "The model returned None.*end without `return`"),
    ],
)
def test_what_does_not_fit_the_module_is_refused(module, metrics, message):
    model = Model(module, device="cpu")
    model.compile("sgd", "mse", metrics=metrics)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, verbose=0)


def test_infinite_inputs_are_found():
    model = Model(nn.Linear(4, 1), device="cpu")
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="`x` has infinite values in column 2 of batch 0"):
        model.fit(np.where(np.arange(4) == 2, np.inf, X), Y, verbose=0)
