import pytest
import torch
from torch import nn

from torchfit import Model
from torchfit._trainer.summary import readable_size, zeros_for_shape


def table_of(net, **options):
    lines = []
    Model(net, device="cpu").summary(print_fn=lines.append, **options)
    return "\n".join(lines).splitlines()


def net():
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def test_the_table_reads_like_keras():
    assert table_of(net(), input_shape=(784,)) == [
        'Model: "sequential"',
        "_________________________________________________________________",
        "Layer (type)                    Output Shape            Param #",
        "=================================================================",
        "0 (Linear)                      (None, 64)              50,240",
        "1 (ReLU)                        (None, 64)              0",
        "2 (Linear)                      (None, 10)              650",
        "=================================================================",
        "Total params: 50,890 (198.79 KB)",
        "Trainable params: 50,890 (198.79 KB)",
        "Non-trainable params: 0 (0.00 B)",
    ]


def test_shapes_are_unknown_before_data_were_seen():
    assert [line.split()[2] for line in table_of(net())[4:7]] == ["?", "?", "?"]


def test_shapes_come_from_the_data_seen_last():
    model, lines = Model(net(), device="cpu"), []
    model.predict(torch.ones(3, 784))
    model.summary(print_fn=lines.append)
    assert "(None, 64)" in lines[0]


def test_options():
    nested = nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 1))
    nested[1].requires_grad_(False)
    rows = table_of(nested, expand_nested=True, show_trainable=True, line_length=80)
    assert len(rows[1]) == 80
    assert [line.split()[0] for line in rows[4:7]] == ["0", "0.0", "1"]
    assert [line.split()[-1] for line in rows[4:7]] == ["Y", "Y", "N"]


def test_several_inputs_and_outputs():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(2, 1), nn.Linear(3, 1)

        def forward(self, left, right):
            return self.left(left), self.right(right)

    rows = table_of(Pair(), input_shape={"right": (3,), "left": (2,)})
    assert [line.split()[:2] for line in rows[4:6]] == [["left", "(Linear)"], ["right", "(Linear)"]]
    assert table_of(Pair(), input_shape=[(2,), (3,)]) == rows


def test_a_summary_changes_nothing():
    model = Model(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), device="cpu")
    before = model.get_weights()
    model.module[1].eval()
    model.summary(input_shape=(2,), print_fn=str)
    assert [layer.training for layer in model.module] == [True, False]  # type: ignore[attr-defined]
    assert all((weight == old).all() for weight, old in zip(model.get_weights(), before))
    assert not model.module[0]._forward_hooks


def test_lazy_layers_are_told():
    assert table_of(nn.Sequential(nn.LazyLinear(3)))[-3] == "Total params: 0 and lazy ones (0.00 B)"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.00 B"), (1023, "1023.00 B"), (1024, "1.00 KB"), (3 << 20, "3.00 MB"), (5 << 30, "5.00 GB")],
)
def test_sizes(size, text):
    assert readable_size(size) == text


def test_example_batches():
    assert zeros_for_shape((None, 3)).shape == (1, 1, 3)
    assert {name: part.shape for name, part in zeros_for_shape({"a": (2,)}).items()} == {"a": (1, 2)}


def test_a_range_of_layers():
    assert [line.split()[0] for line in table_of(net(), layer_range=["1", "2"])[4:6]] == ["1", "2"]
    with pytest.raises(ValueError, match="matches no layer with 'head'"):
        table_of(net(), layer_range=["0", "head"])
    with pytest.raises(ValueError, match="two patterns"):
        table_of(net(), layer_range="0")


def test_columns_at_positions():
    relative = table_of(net(), positions=[0.5, 0.8, 1.0], line_length=40)
    assert relative == table_of(net(), positions=[20, 32, 40], line_length=40)
    assert relative[2].index("Output") == 20
    with pytest.raises(ValueError, match="each of the 3 columns"):
        table_of(net(), positions=[0.5])


def test_what_the_optimizer_holds():
    model, lines = Model(nn.Linear(2, 1), device="cpu"), []
    model.compile("adam", "mse")
    model.fit(torch.ones(4, 2), torch.ones(4, 1), verbose=0)
    model.summary(print_fn=lines.append)
    assert "Optimizer params: 8 (" in lines[0]


def test_notebooks_show_a_table():
    html = Model(nn.Sequential(nn.Linear(2, 1)), device="cpu", name="a<b")._repr_html_()
    assert "a&lt;b" in html
    assert "0 (Linear)" in html


def test_a_summary_draws_no_random_numbers():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.randn(1)

    model = Model(Noisy(2, 1), device="cpu")
    before = torch.get_rng_state()
    model.summary(input_shape=(2,), print_fn=str)
    assert torch.equal(before, torch.get_rng_state())
