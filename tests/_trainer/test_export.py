import numpy as np
import pytest
import torch
from torch import nn

import torchfit

X = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, image, table):
        return self.left(image) + self.right(table), image.mean(-1)


class Own(torchfit.Model):
    def __init__(self):
        super().__init__(device="cpu")
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)


class Branches(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def dropout_net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def run_torch(path, *inputs):
    with torch.no_grad():
        return torch.export.load(path).module()(*map(torch.as_tensor, inputs))


def run_torchscript(path, *inputs):
    with torch.no_grad():
        return torch.jit.load(path)(*map(torch.as_tensor, inputs))


def run_onnx(path, *inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    outputs = session.run(None, {given.name: value for given, value in zip(session.get_inputs(), inputs)})
    return outputs if len(outputs) > 1 else outputs[0]


FORMATS = [("model.pt2", run_torch), ("model.ts", run_torchscript), ("model.onnx", run_onnx)]


@pytest.fixture(params=FORMATS, ids=["torch", "torchscript", "onnx"])
def kind(request, tmp_path):
    name, run = request.param
    if name.endswith("onnx"):
        pytest.importorskip("onnxscript")
    return str(tmp_path / name), run


@pytest.mark.parametrize("make", [dropout_net, lambda: nn.Linear(4, 3), Own], ids=["net", "layer", "subclass"])
def test_an_exported_model_predicts_the_same_for_batches_of_any_size(make, kind):
    path, run = kind
    if run is run_onnx and make is dropout_net and torch.__version__ < "2.7":
        pytest.skip("the exporter of torch 2.6 cannot translate BatchNorm with newer versions of onnxscript")
    model = make() if make is Own else torchfit.Model(make(), device="cpu")
    model.predict(X)
    model.export(path)
    for rows in (1, 2, 7):
        np.testing.assert_allclose(np.asarray(run(path, X[:rows])), model.predict(X[:rows]), rtol=1e-5, atol=1e-6)


def test_several_inputs_and_outputs(kind):
    path, run = kind
    model = torchfit.Model(TwoInputs(), device="cpu")
    model.export(path, input_shape=[(4,), (2,)])
    for got, expected in zip(run(path, X, X[:, :2]), model.predict([X, X[:, :2]]), strict=True):
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-5, atol=1e-6)


def test_the_mode_and_the_weights_stay(tmp_path):
    model = torchfit.Model(dropout_net(), device="cpu").train()
    before = model.get_weights()
    model.export(tmp_path / "model.pt2", input_shape=(4,))
    assert model.training
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights()))


def test_the_inputs_have_their_names_in_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = torchfit.Model(TwoInputs(), device="cpu")
    model.predict({"image": X, "table": X[:, :2]})
    model.export(tmp_path / "model.onnx")
    assert [given.name for given in onnx.load(tmp_path / "model.onnx").graph.input] == ["image", "table"]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("model.h5", {}, r"`format` must be 'torch', 'onnx' or 'torchscript'.*model\.h5"),
        ("model", {"format": "keras"}, r"`format` must be .*'keras'"),
    ],
)
def test_other_formats_are_refused(path, options, message):
    with pytest.raises(ValueError, match=message):
        torchfit.Model(nn.Linear(4, 3), device="cpu").export(path, input_shape=(4,), **options)


def test_a_model_without_data_needs_a_shape():
    with pytest.raises(ValueError, match="`input_shape=`"):
        torchfit.Model(nn.Linear(4, 3), device="cpu").export("model.pt2")


def test_a_module_that_branches_on_values_is_refused_with_the_way_out(tmp_path):
    model = torchfit.Model(Branches(4, 3), device="cpu")
    with pytest.raises(ValueError, match=r'could not export Branches.*format="torchscript"'):
        model.export(tmp_path / "model.pt2", input_shape=(4,))
    assert list(tmp_path.iterdir()) == []
