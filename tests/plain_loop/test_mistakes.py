"""The mistakes of everyday use, each as the lines that somebody types, and what the message must say.

A message names the argument and the rule, describes what came by type and shape, and says what to write instead. The
traceback fits on a screen, in Python and in IPython.
"""

import re
import sys
import traceback
import warnings

import pytest

import torchfit

SETUP = """
import numpy as np, pandas as pd, torch, types
import torchfit
import torchfit.sklearn
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchfit import callbacks, losses, metrics, optimizers, utils

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(100, 8)).astype("float32"), np.arange(100) % 3
B, R = np.arange(100) % 2, X[:, :1]
IMAGES, SEQUENCES, IDS = np.zeros((20, 3, 16, 16), "float32"), np.zeros((20, 5, 8), "float32"), np.full((20, 5), 10)

def net(outputs=3, inputs=8):
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))

def conv(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))

def ids():
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 3))

def model(module=None, loss=None, optimizer="adam", **arguments):
    made = torchfit.Model(module or net(), device="cpu")
    made.compile(optimizer, loss or nn.CrossEntropyLoss(), **arguments)
    return made

def loader(*arrays):
    return DataLoader(TensorDataset(*map(torch.as_tensor, arrays)), batch_size=10)

def batches(number):
    for _ in range(number):
        yield X[:10], Y[:10]

class NoLength(Dataset):
    def __getitem__(self, index):
        return X[index], Y[index]

class Ragged(Dataset):
    def __len__(self):
        return 10
    def __getitem__(self, index):
        return torch.zeros(3 + index % 2), 0

class Own(nn.Linear):
    def forward(self, x):
        return types.SimpleNamespace(logits=super().forward(x))

class Careless(torchfit.Model):
    def __init__(self):
        self.units = 3

class CarelessModule(nn.Module):
    def __init__(self):
        self.units = 3

class Scaled(torchfit.Model):
    def forward(self, x):
        return 100 + self.module(x)

class Named(torchfit.Model):
    def __init__(self, name, part):
        super().__init__()
        setattr(self, name, part)
    def forward(self, x):
        return x

class Stepped(torchfit.Model):
    def train_step(self, batch):
        return self.logs

def stepped(logs):
    made = Stepped(net(), device="cpu")
    made.logs = logs
    made.compile("adam", nn.CrossEntropyLoss())
    return made

PROBABILITIES = nn.Sequential(net(1), nn.Sigmoid())
SPARSE = losses.SparseCategoricalCrossentropy(from_logits=True)
ONE_HOT = losses.CategoricalCrossentropy(from_logits=True)
"""

MISTAKES = [
    # -- data and shapes --
    ("model().fit(X[:, :5], Y)", "`x`", "layer `0`, Linear", r"\(32, 5\)", "number and order of features"),
    ("model(conv()).fit(IMAGES.transpose(0, 2, 3, 1), Y[:20])", "`x`", "3 channels", r"x\.transpose\(0, 3, 1, 2\)"),
    ("model(conv(1)).fit(IMAGES[:, 0], Y[:20])", "`x`", r"\(20, 16, 16\)", r"x\[:, None\]"),
    ("model(conv()).fit(IMAGES[:, 0], Y[:20])", "`x`", r"\(20, 16, 16\)", r"x\[:, None\]\.repeat\(3, 1\)"),
    ("model(conv()).fit(IMAGES.astype('uint8'), Y[:20])", "`x`", "uint8", r'x\.astype\("float32"\)', "255"),
    ("model(conv()).evaluate(IMAGES.astype(int), Y[:20])", "`x`", "int64", r'x\.astype\("float32"\)'),
    ("model().fit(X.astype(int), Y)", "`x`", "int64", r'x\.astype\("float32"\)'),
    ("model().fit(pd.DataFrame(X.astype(int)), Y)", "`x`", "int64", r'x\.astype\("float32"\)'),
    ("model(nn.GRU(8, 3)).fit(SEQUENCES.astype(int), Y[:20])", "`x`", "int64", r'x\.astype\("float32"\)'),
    ("model(ids()).fit(IDS.astype('float32'), Y[:20])", "`x`", "Embedding", r'x\.astype\("int64"\)'),
    ("model(ids()).fit(IDS, Y[:20])", "`x`", "Embedding", "from 0 to 9", "num_embeddings"),
    ("model().fit(X, Y[:90])", "`x` has 100, `y` has 90", "same number of samples"),
    ("model().fit(X)", "`x`", "without targets `y`", "loss was compiled", r"\(inputs, targets\)"),
    ("model().fit(loader(X))", "`x`", "without targets `y`", "loss was compiled", r"\(inputs, targets\)"),
    ("model().evaluate(X)", "`x`", "without targets `y`", "loss was compiled"),
    ("model().fit(X, Y, validation_data=X)", "`validation_data`", "without targets `y`"),
    ("model().fit(X, Y, validation_data=[X])", "`validation_data`", "without targets `y`"),
    ("model().fit(X, Y, validation_data=(X[:10], Y[:9]))", "In `validation_data`", "`x` has 10, `y` has 9"),
    ("model().fit(X, Y, validation_data=(X[:, :7], Y))", "`x` in `validation_data`", r"\(32, 7\)", "features"),
    ("model().fit(X, Y, validation_split=20)", "`validation_split`", "between 0 and 1", "Received: 20"),
    ("model().fit(loader(X, Y), validation_split=0.2)", "`validation_split`", "random_split", "`validation_data`"),
    ("model().fit(X, Y, sample_weight=np.ones(50))", "`sample_weight` has 50", "same number of samples"),
    ("model().fit(X, Y, class_weight=[1, 2, 3])", "`class_weight`", r"\{class: weight\}", "list of length 3"),
    ("model().fit(X[:0], Y[:0])", "`x` has no samples"),
    ("model().fit(NoLength())", "`x`", "NoLength", "`__len__`", "IterableDataset"),
    ("model().fit(batches(5), epochs=2, steps_per_epoch=5)", "`x` ended", "`steps_per_epoch`", "new generator"),
    ("model().fit(batches(5), steps_per_epoch=10)", "`x` ended after 5 of 10", "`steps_per_epoch`"),
    ("model().fit(loader(X, Y), Y)", "`y`", "DataLoader", r"tuples \(x, y\)", r"\(100,\)"),
    ("model().fit(loader(X, Y), batch_size=5)", "`batch_size`", "DataLoader", "its own `batch_size`"),
    ("model().fit(Ragged())", "Dataset", "joined into a batch", "`collate_fn`"),
    ("model().fit(DataLoader(Ragged(), batch_size=5))", "DataLoader", "joined into a batch", "`collate_fn`", "pad"),
    ("model().fit(np.array([[1] * (i % 3 + 1) for i in range(20)], object), Y[:20])", "`x`", "object", "one shape"),
    ("model().fit([X, X], Y)", "`x`", "several parts", r"np\.concatenate"),
    ("model().fit([{'a': X[:5], 'labels': Y[:5]}], Y)", "`x`|samples"),
    ("model().predict(X[0])", "`x`", r"\(8,\)", "axis", r"x\[None\]"),
    ("model().fit(pd.DataFrame(X).assign(t='a'), Y)", "`x`", "'t'", "hold no numbers", "get_dummies"),
    ("model().fit(pd.DataFrame(X).assign(t=pd.Timestamp('2020-01-01')), Y)", "`x`", "'t'", r"datetime64", "drop"),
    ("model().fit(pd.DataFrame(X).where(X < 2), Y)", "NaN", "`x`", "column 3", "TerminateOnNaN"),
    ("model(net(1), 'mse').fit(X, np.where(R > 1, np.nan, R))", "NaN", "`y`", "TerminateOnNaN"),
    ("model(net(1), 'mse', optimizers.SGD(1e10)).fit(X, R, epochs=4)", "NaN", "learning rate", "clipnorm"),
    # -- targets and losses --
    ("model(loss=SPARSE).fit(X, Y + 1)", "`y`", "class ind", "from 1 to 3", "from 0 to 2", "Renumber"),
    ("model().fit(X, Y + 1)", "`y`", "class ind", "from 1 to 3", "from 0 to 2", "Renumber"),
    ("model().fit(X, np.where(np.arange(100) > 95, 3, Y), shuffle=False)", "`y`", "class ind", "renumber"),
    ("model().fit(X, Y, validation_data=(X, Y + 1))", "`y` in `validation_data`", "class ind", "renumber"),
    ("model().evaluate(X, Y + 1)", "`y`", "class ind", "renumber"),
    ("model(net(1), SPARSE).fit(X, Y)", "`y`", "from 0 to 2", "one class", "more units"),
    ("model(PROBABILITIES, 'binary_crossentropy').fit(X, B * 2 - 1)", "`y`", "from 0 to 1", "Rescale"),
    ("model().fit(X, np.array(['a', 'b'] * 50))", "`y`", "must hold numbers", "<U1", "integers first"),
    ("model().fit(X, ['dog', 'cat'] * 50)", r"`y", "must hold numbers", "text", "integers first"),
    ("model(nn.Sequential(net(), nn.Softmax(-1)), SPARSE).fit(X, Y)", "expects logits", "softmax", "Remove it"),
    ("model(nn.Sequential(net(), nn.Softmax(-1))).fit(X, Y)", "expects logits", "softmax", "Remove it"),
    ("model(loss='sparse_categorical_crossentropy').fit(X, Y)", "probabilities", "from_logits=True"),
    ("model(net(1), 'binary_crossentropy').fit(X, B)", "probabilities", "from_logits=True", "sigmoid"),
    ("model(loss=ONE_HOT).fit(X, Y)", "y_true", "one-hot", r"\(32,\)", "sparse_categorical_crossentropy"),
    ("model(loss=SPARSE).fit(X, np.eye(3)[Y])", "y_true", "class ind", r"\(32, 3\)", "categorical_crossentropy"),
    (
        "model(loss='mse').fit(X, Y)",
        "y_true",
        r"\(32,\)",
        r"\(32, 3\)",
        "sparse_categorical_crossentropy",
        "one output",
    ),
    ("model(loss=nn.MSELoss()).fit(X, Y)", "y_true", r"\(32, 3\)", "sparse_categorical_crossentropy"),
    ("model(loss={'cls': 'mse'}).fit(X, Y)", "`loss`", "'cls'", "output_1"),
    ("model(loss=['mse', 'mse']).fit(X, Y)", "`loss`", "2 parts", "one part for each"),
    ("model(loss=types.SimpleNamespace())", "loss", "expected a name", "SimpleNamespace"),
    (
        "model(loss=lambda t, p: (p - t[:, None]).detach().mean()).fit(X, Y)",
        "loss",
        "no trainable parameter",
        "`detach",
    ),
    ("model(loss=lambda t, p: np.mean(p.numpy())).fit(X, Y)", "loss", "NumPy", r"torch\.mean"),
    ("model(loss=lambda t, p: None).fit(X, Y)", "loss", "returned None", "`return`"),
    ("model(loss=lambda t, p: 'a').fit(X, Y)", "loss", "must return a tensor"),
    ("model(loss=nn.TripletMarginLoss())", "triplet_margin_loss", "add_loss"),
    ("model(metrics=[lambda t, p: None]).fit(X, Y)", "metric", "returned None", "`return`"),
    ("model(metrics=[metrics.F1Score()]).fit(X, Y)", "y_true", r"\(32,\)", "to_categorical"),
    ("model(Own(8, 3)).fit(X, Y)", "output", "SimpleNamespace", "Return a tensor"),
    # -- names and arguments --
    ("model(metrics=['acuracy'])", "metric", "'acuracy'", "'accuracy'"),
    ("model(metrics=['roc_auc'])", "metric", "'roc_auc'", "(?i)'auc'"),
    ("model(metrics=['bleu'])", "metric", "'bleu'", r"torchfit\.metrics"),
    ("model(optimizer='adamm')", "optimizer", "'adamm'", "(?i)'adam'"),
    ("model(optimizer=3)", "optimizer", "3", "name such as 'adam'"),
    ("model(optimizer=torch.optim.Adam(net().parameters())).fit(X, Y)", "optimizer", r"model\.parameters\(\)"),
    ("model(lr=0.1)", "`compile`", "`lr`", r"learning_rate=…"),
    ("model(metric=['accuracy'])", "`compile`", "`metric`", "`metrics`"),
    ("model().fit(X, Y, epoch=3)", "`fit`", "`epoch`", "'epochs'"),
    ("model().fit(X, Y, num_epochs=3)", "`fit`", "`num_epochs`", "`epochs`"),
    ("model().evaluate(X, Y, batchsize=3)", "`evaluate`", "`batchsize`", "'batch_size'"),
    ("model().predict(X, batchsize=3)", "`predict`", "`batchsize`", "'batch_size'"),
    ("torchfit.Model(inputs=1, outputs=2)", "`Model`", "`inputs`", r"Model\(module\)"),
    ("optimizers.Adam(lr=0.1)", "Adam", "`lr`", "`learning_rate`"),
    ("model().optimizer.lr = 1e-4", "Adam", "'lr'", "`learning_rate`"),
    ("model().optimizer.lr", "Adam", "'lr'", "`learning_rate`"),
    ("model(optimizer=torch.optim.SGD).optimizer.lr = 1e-4", "TorchOptimizer", "'lr'", "`learning_rate`"),
    (
        "optimizers.MultiOptimizer({'0.*': torch.optim.SGD})",
        "'0",
        r"torchfit\.optimizers\.SGD",
        "`compile`",
        "class SGD",
    ),
    ("optimizers.MultiOptimizer({'0.*': 'sgd'}, 'sparseadam')", "default", "torch.optim", "`compile`", "'sparseadam'"),
    ("model(optimizer='multioptimizer')", "MultiOptimizer needs arguments", r"MultiOptimizer\(…\)"),
    ("model().fit(X, Y, batch_size=0)", "`batch_size`", "positive integer", "0"),
    ("model().fit(X, Y, epochs='5')", "`epochs`", "integer", "'5'"),
    ("model().fit(X, Y, verbose='yes')", "verbose", "'auto', 0", "'yes'"),
    ("model().predict(X, Y)", "`batch_size`", r"\(100,\)", "`predict` takes inputs alone"),
    ("model().evaluate(X, Y, X)", "`batch_size`", r"\(100, 8\)", "by name"),
    ("model().fit(X, Y, X, Y)", "`batch_size`", r"\(100, 8\)", r"validation_data=\(x, y\)"),
    ("model().fit(X, Y, epochs=X)", "`epochs`", "integer", r"\(100, 8\)"),
    ("model().fit(X, Y, validation_freq=X)", "`validation_freq`", "integer", r"\(100, 8\)"),
    ("model().fit(X, Y, steps_per_epoch=X)", "`steps_per_epoch`", "integer", r"\(100, 8\)"),
    ("model().fit(X, Y, shuffle=X)", "`shuffle`", "True, False", r"\(100, 8\)"),
    ("model(microbatch=X)", "`microbatch`", "positive integer", r"\(100, 8\)"),
    ("model(jit_compile='yes')", "`jit_compile`", "'auto'", "'yes'"),
    ("torchfit.Model(net(), device='gpu')", "`device`", "'cpu'", "'gpu'"),
    ("torchfit.Model(net(), device='xpu:7')", "`device`", "'cpu'", "'xpu:7'"),
    ("torchfit.Model(net(), device='cpu').to('xpu:7')", "`device`", "'cpu'", "'xpu:7'"),
    ("torchfit.Model(nn.Linear)", "`module`", "the class Linear", r"Linear\(…\)"),
    ("torchfit.Model([nn.Linear(8, 3)])", "`module`", "list of length 1", r"nn\.Sequential"),
    ("torchfit.Model(net(), device='cpu').fit(X, Y)", "`compile", "before `fit`"),
    ("torchfit.Model(net(), device='cpu').evaluate(X, Y)", "`compile", "before `evaluate`"),
    # -- layers and training --
    (
        "model(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))).fit(X[:33], Y[:33])",
        r"\(1, 4\)",
        "`batch_size`",
        "drop_",
    ),
    ("model(nn.InstanceNorm1d(8)).fit(np.zeros((10, 8, 1)), Y[:10])", r"\(10, 8, 1\)", "nn.LayerNorm"),
    (
        "model(nn.Sequential(nn.GRU(8, 16), nn.Linear(16, 3))).fit(SEQUENCES, Y[:20])",
        "tuple of length 2",
        "state",
        "picks",
    ),
    (
        "model(nn.Sequential(nn.LSTM(8, 16), nn.Flatten())).fit(SEQUENCES, Y[:20])",
        "tuple of length 2",
        "state",
        "picks",
    ),
    ("model(nn.Sequential(nn.Dropout(), net())).fit(X.astype(int), Y)", "`x`", "int64", r'x\.astype\("float32"\)'),
    (
        "model(conv(1)).fit(np.zeros((20, 256)), Y[:20])",
        "`x`",
        r"\(20, 256\)",
        r"x\.reshape\(len\(x\), 1, height, width\)",
    ),
    ("model(ids()).fit(IDS.astype('uint8'), Y[:20])", "`x`", "Embedding", "uint8", r'x\.astype\("int64"\)'),
    ("model(loss=lambda p: p.mean())", "loss", r"\(y_true, y_pred\)", r"takes \(p\)"),
    ("model(metrics=[lambda a, b, c: a]).fit(X, Y)", "metric", r"\(y_true, y_pred\)", r"takes \(a, b, c\)"),
    ("model().summary(input_shape=(7,))", "`input_shape`", "layer `0`, Linear", r"\(1, 7\)"),
    ("model(net().requires_grad_(False)).fit(X, Y)", "no trainable parameters", r"utils\.unfreeze\(model\)"),
    ("made = model(); made.trainable = False; made.fit(X, Y)", "no trainable parameters", r"utils\.unfreeze"),
    ("n = net(); n[0].trainable = False; model(n).fit(X, Y)", "trainable = False", r"utils\.freeze\(model, '0'\)"),
    # -- callbacks and files --
    (
        "model().fit(X, Y, callbacks=[callbacks.EarlyStopping])",
        "callbacks",
        "class EarlyStopping",
        r"EarlyStopping\(…?",
    ),
    ("model().fit(X, Y, callbacks=[print])", "callbacks", "print", "LambdaCallback"),
    (
        "model().fit(X, Y, callbacks=[torch.optim.lr_scheduler.StepLR(torch.optim.SGD(net().parameters()), 1)])",
        "callbacks",
        "StepLR",
        r"TorchLRScheduler\(scheduler\)",
    ),
    ("model().fit(X, Y, callbacks=[callbacks.EarlyStopping()])", "monitor", "'val_loss'", "validation_data"),
    (
        "model(metrics=['accuracy']).fit(X, Y, validation_split=0.2, callbacks=[callbacks.EarlyStopping('val_acc')])",
        "monitor",
        "'val_acc'",
        "'val_accuracy'",
    ),
    ("model().fit(X, Y, callbacks=[callbacks.ModelCheckpoint(FILE + '/m')])", "filepath", "not a folder"),
    ("model().fit(X, Y, callbacks=[callbacks.CSVLogger(FILE + '/m')])", "filename", "not a folder"),
    ("model().fit(X, Y, callbacks=[callbacks.TensorBoard(FILE + '/m')])", "log_dir", "not a folder"),
    ("model().fit(X, Y, callbacks=[callbacks.BackupAndRestore(FILE + '/m')])", "backup_dir", "not a folder"),
    ("torchfit.models.load_model(FILE[:-1])", "No such file", "file.txt"),
    ("model().load_weights(FILE[:-1])", "No such file", "file.txt"),
    ("torchfit.models.load_model(FILE)", "refused", "file.txt"),
    (
        "model(net(1), 'mse').save_weights(FILE + 'w'); model().load_weights(FILE + 'w')",
        "do not fit",
        r"\(1, 16\) in the file, \(3, 16\) here",
        "skip_mismatch",
    ),
    (
        "model().save_weights(FILE + 'w'); torchfit.models.load_model(FILE + 'w')",
        "no torchfit model",
        r"load_weights",
    ),
    (
        "n = net(); n[0].register_forward_hook(id); model(n).save(FILE + 'h'); torchfit.models.load_model(FILE + 'h')",
        "Linear: it has hooks",
        r"\nBuild the module yourself and pass it: load_model\(.*h', module=\.\.\.\)\.",
    ),
    ("utils.plot_model(model())", "no data yet", "`input_shape=`"),
    # -- classes of the user --
    ("Careless().fit(X, Y)", r"`Careless\.__init__` must call `super\(\)\.__init__\(\)`"),
    ("torchfit.Model(CarelessModule())", r"`CarelessModule\.__init__` must call `super\(\)\.__init__\(\)`"),
    (
        "Scaled(net()).fit(X, Y)",
        "Scaled defines `forward`",
        "wraps a module",
        r"`super\(\)\.__init__\(\)`",
        r"self\.net = ",
    ),
    ("Named('module', net()).fit(X, Y)", "`module`", "Named wraps none", "defines `forward`", "another name"),
    ("Named('metrics', net()).fit(X, Y)", "`metrics`", "every Model has", "another name"),
    ("Named('weights', nn.Parameter(torch.ones(3)))", "`weights`", "every Model has", "parameter", "another name"),
    ("Named('loss', nn.MSELoss()).fit(X, Y)", "`loss`", "every Model has", "another name"),
    ("stepped(None).fit(X, Y)", "`train_step` must return the logs", "get_metrics_result", "returned None"),
    ("stepped(0.5).train_on_batch(X, Y)", "`train_step` must return the logs", "returned 0.5"),
    # -- attributes of other libraries' models --
    ("model().layers", "'layers'", r"named_children\(\)"),
    ("model().get_layer('a')", "'get_layer'", r"get_submodule"),
    ("model().fit_generator(batches(3))", "'fit_generator'", "`fit` takes generators"),
    ("model().predict_classes(X)", "'predict_classes'", r"argmax\(-1\)"),
    ("model().predict_proba(X)", "'predict_proba'", r"predict\(x\)", r"torchfit\.sklearn"),
    ("model().score(X, Y)", "'score'", r"evaluate\(x, y\)"),
    ("model().training_step", "'training_step'", "`train_step`"),
    ("model().configure_optimizers()", "'configure_optimizers'", "`compile`"),
    ("model().trainer", "'trainer'", "`fit`"),
    ("model().to_onnx('a')", "'to_onnx'", r'export\(path, format="onnx"\)'),
    ("model().fit_one_cycle(1)", "'fit_one_cycle'", "OneCycleLR", "TorchLRScheduler"),
    ("model().freeze()", "'freeze'", r"utils\.freeze\(model\)"),
    ("model().in_features", "'in_features'"),
    ("torchfit.Model(nn.Linear(8, 3)).in_features", "'in_features'", r"model\.module\.in_features"),
    ("model().sumary()", "'sumary'", "'summary'"),
    ("torchfit.layers.Dense(3)", "'layers'", r"torch\.nn"),
]

WORKS = [
    "model().fit(X, Y, epochs=0)",
    "model().fit(X[:5], Y[:5], batch_size=32)",
    "model().fit(X, Y.astype(float))",
    "model(loss=SPARSE).fit(X, Y.astype('float32'))",
    "model(net(1), nn.BCEWithLogitsLoss()).fit(X, B)",
    "model(net(1), nn.MSELoss()).fit(X, X[:, 0])",
    "model(nn.Sequential(net(), nn.LogSoftmax(-1)), nn.NLLLoss()).fit(X, Y)",
    "model(optimizer=torch.optim.Adam).fit(X, Y)",
    "model().fit([X], Y)",
    "model().fit(X.tolist(), Y.tolist())",
    "model().fit(X.astype('float64'), Y)",
    "model().fit(lambda: batches(5), epochs=2)",
    "model().fit(X, pd.DataFrame({'label': Y}))",
    "model(net(1), losses.BinaryCrossentropy(from_logits=True)).fit(X, B > 0)",
    "model(metrics=[lambda t, p: np.float32(0.5)]).fit(X, Y)",
    "model(loss='CrossEntropyLoss').fit(X, Y)",
    "model(loss='cross_entropy').fit(X, Y)",
    "model(net(1), 'bce_with_logits').fit(X, B)",
    "model(net(1), 'l1').fit(X, R)",
    "model(net(1), 'smooth_l1_loss').fit(X, R)",
    "model(nn.Sequential(net(), nn.LogSoftmax(-1)), 'nll_loss').fit(X, Y)",
    "model(optimizer='radam').fit(X, Y)",
    "assert model()(X).shape == (100, 3)",
    "assert not hasattr(model(), 'predict_proba')",
    "model(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))).fit(X[:33], Y[:33], batch_size=11)",
    "model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))).fit(IMAGES[:5], "
    "Y[:5], batch_size=2)",
]


@pytest.fixture
def namespace(tmp_path):
    (tmp_path / "file.txt").write_text("no model")
    names = {"FILE": str(tmp_path / "file.txt")}
    exec(SETUP, names)
    return names


def quiet(code):
    """Return the code with `verbose=0` in each `fit` and `evaluate`, which has nothing to do with the mistake."""
    return re.sub(r"(?<=\.)((?:fit|evaluate)\((?!.*verbose=))(.*)\)", r"\1\2, verbose=0)", code, count=1)


def told(code, names):
    """Return the texts of the error and of the warnings of some code, and its error."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        error = None
        try:
            exec(compile(quiet(code), "<cell>", "exec"), names)
        except Exception as caught:
            error = caught
    return " ".join(map(str, [error or "", *(warning.message for warning in seen)])), error


@pytest.mark.parametrize(("code", *["words"]), [(code, words) for code, *words in MISTAKES])
def test_a_mistake_is_told_with_the_argument_the_rule_and_the_way_out(code, words, namespace):
    text, error = told(code, namespace)
    assert [word for word in words if not re.search(word, text)] == [], text
    if error is not None:
        lines = "".join(traceback.format_exception(error)).splitlines()
        assert len(lines) <= 30, "\n".join(lines)


@pytest.mark.parametrize("code", WORKS)
def test_what_is_no_mistake_works_without_a_word(code, namespace):
    assert told(code, namespace) == ("", None)


# IPython 8, the newest for Python 3.10, shows the lines around the first ones of a function too.
SCREEN = 30 if sys.version_info >= (3, 11) else 33


@pytest.fixture(scope="module")
def shell():
    interactiveshell = pytest.importorskip("IPython.core.interactiveshell")
    config = pytest.importorskip("traitlets.config").Config()
    config.HistoryManager.enabled = False
    made = interactiveshell.InteractiveShell(config=config)
    made.colors = "nocolor"
    return made


@pytest.mark.parametrize("code", [code for code, *_ in MISTAKES])
def test_the_traceback_fits_on_a_screen_in_ipython(code, namespace, shell, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shell.user_ns.update(namespace)
        result = shell.run_cell(quiet(code))
    lines = capsys.readouterr().out.splitlines()
    assert result.error_in_exec is None or 0 < len(lines) <= SCREEN, "\n".join(lines)


class Fails(torchfit.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        {}["missing"]


@pytest.mark.parametrize(("filtered", "shown"), [(True, ["fit", "on_epoch_end"]), (False, ["train_loop"])])
def test_the_frames_of_the_user_stay_and_those_of_torchfit_go_unless_all_are_wanted(filtered, shown, monkeypatch):
    names = {}
    exec(SETUP, names)
    monkeypatch.setattr(torchfit.config, "traceback_filtering", filtered)
    with pytest.raises(KeyError) as caught:
        names["model"]().fit(names["X"], names["Y"], callbacks=[Fails()], verbose=0)
    functions = [entry.name for entry in caught.traceback]
    assert functions[1:] == shown if filtered else set(shown) <= set(functions)


def test_the_line_of_the_users_forward_is_shown(namespace):
    code = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x)
model(Net()).fit(X, Y)
"""
    _, error = told(code, namespace)
    assert [entry.name for entry in traceback.extract_tb(error.__traceback__)][1:] == ["<module>", "fit", "forward"]
    assert error.__cause__ is None
    assert isinstance(error.__context__, RuntimeError)
