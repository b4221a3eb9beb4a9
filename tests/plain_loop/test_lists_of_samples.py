# mypy: disable-error-code="arg-type"
"""A list with an entry for each sample is one input, however few samples a batch has; a list of inputs is not."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import torchfit
from tests.plain_loop.by_hand import assert_same, compiled, trained_by_hand, twins


class OfSamples(nn.Module):
    """Takes any sequence of samples, one number of each of which it looks at; the second parameter is an option."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.seen = []

    def forward(self, samples, normalize=False):
        assert normalize is False
        self.seen.append(samples)
        return self.linear(torch.tensor([[number_of(sample)] for sample in samples]))


def number_of(sample):
    if isinstance(sample, dict):
        return number_of(next(iter(sample.values())))
    return sample.mean().item() if isinstance(sample, torch.Tensor) else float(len(sample))


LABELS = [0, 1, 1, 0]
IMAGES = [torch.full((3, 4 + row, 5), float(row)) for row in range(4)]
SAMPLES: dict[str, list[Any]] = {
    "texts": ["hello", "hi", "worlds", "a"],
    "images of different sizes": IMAGES,
    "gray images of different sizes": [image[0] for image in IMAGES],
    "records": [{"image": image, "name": f"image {row}"} for row, image in enumerate(IMAGES)],
    "records of tensors": [{"image": image, "size": torch.tensor(image.shape)} for image in IMAGES],
    "NumPy arrays": [image.numpy() for image in IMAGES],
}


def apart(samples):
    return [each for each, _ in samples], torch.tensor([label for _, label in samples])


def batches_of(kind, size):
    return DataLoader(list(zip(SAMPLES[kind], LABELS)), batch_size=size, collate_fn=apart)


@pytest.fixture(params=[1, 2, 3, 4])
def size(request):
    return request.param


@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if kind != "NumPy arrays"])
@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"run_eagerly": True}])
def test_training_is_that_of_the_loop(kind, size, options):
    net, other = twins(OfSamples)
    model = torchfit.Model(net, device="cpu")
    model.compile(torch.optim.SGD(net.parameters(), 0.1), nn.CrossEntropyLoss(), **options)
    model.fit(batches_of(kind, size), validation_data=batches_of(kind, 1), verbose=0)
    assert_same(net.state_dict(), trained_by_hand(other, batches_of(kind, size), nn.CrossEntropyLoss(), 0.1))
    assert {type(samples) for samples in net.seen} == {list}


@pytest.mark.parametrize("kind", SAMPLES)
def test_evaluation_and_prediction_are_those_of_the_loop(kind, size):
    net = OfSamples()
    samples = [torch.as_tensor(each) if isinstance(each, np.ndarray) else each for each in SAMPLES[kind]]
    outputs = net(samples)
    model = compiled(net, nn.CrossEntropyLoss())
    assert torch.allclose(torch.as_tensor(model.predict(batches_of(kind, size))), outputs)
    right = F.cross_entropy(outputs, torch.tensor(LABELS)).item()
    assert model.evaluate(batches_of(kind, size), verbose=0) == pytest.approx(right, rel=1e-5)


def test_the_tuples_of_texts_that_torch_collates_arrive_as_they_are(size):
    net, data = OfSamples(), list(zip(SAMPLES["texts"], LABELS))
    torchfit.Model(net, device="cpu").predict(DataLoader(data, batch_size=size))
    assert net.seen == [texts for texts, _ in DataLoader(data, batch_size=size)]


@pytest.mark.parametrize("kind", ["texts", "records"])
def test_a_loader_of_single_samples_has_no_targets(kind, size):
    net, samples = OfSamples(), SAMPLES[kind]
    loader = DataLoader(samples, batch_size=size, collate_fn=list)
    assert torch.allclose(torch.as_tensor(torchfit.Model(net, device="cpu").predict(loader)), net(samples))


def test_a_single_batch_of_one_sample_is_a_list():
    net = OfSamples()
    model = compiled(net, nn.CrossEntropyLoss())
    right = F.cross_entropy(net(IMAGES[:1]), torch.tensor([1])).item()
    assert model.train_on_batch(IMAGES[:1], torch.tensor([1])) == pytest.approx(right, rel=1e-5)
    assert model.predict_on_batch(IMAGES[:1]) == pytest.approx(net(IMAGES[:1]).detach().numpy(), rel=1e-5)
    assert model.predict_on_batch(["one"]).shape == model(["one"]).shape == (1, 2)


def test_a_list_stays_one_input_in_a_custom_step():
    class Custom(torchfit.Model):
        def train_step(self, batch):
            images, targets = batch
            loss = F.cross_entropy(self(images), targets)
            return {"loss": loss.detach()}

    net = OfSamples()
    model = Custom(net, device="cpu")
    model.compile("sgd")
    model.fit(batches_of("images of different sizes", 1), verbose=0)
    assert [len(images) for images in net.seen] == [1, 1, 1, 1]


# -- lists of inputs ---------------------------------------------------------------------------------------------------


class OneOrTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, one, other=None):
        return self.linear(one if other is None else one + other)


X, Y = torch.randn(5, 4), torch.randn(5, 1)


@pytest.mark.parametrize("number", [1, 2])
def test_lists_with_one_array_for_each_input_are_arguments(number):
    net = OneOrTwo()
    model, right = compiled(net, "mse"), net(*[X] * number).detach().numpy()
    samples = [((row,) * number, target) for row, target in zip(X, Y)]
    right_loss = float(np.square(right - Y.numpy()).mean())
    for data in (([X] * number, Y), (DataLoader(samples, batch_size=2),), (DataLoader(samples, batch_size=1),)):
        assert model.evaluate(*data, batch_size=2 if len(data) > 1 else None, verbose=0) == pytest.approx(right_loss)
        assert model.fit(*data, verbose=0).history["loss"] == pytest.approx([right_loss])
        assert model.predict(data[0]) == pytest.approx(right, abs=1e-6)
    assert model.predict_on_batch([X[:1]] * number) == pytest.approx(right[:1], abs=1e-6)


def test_sequences_by_time_and_their_states_are_arguments():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(4, 4)

        def forward(self, x, state=None):
            return self.rnn(x, state)[0][-1]

    net, x, state, y = Recurrent(), torch.randn(6, 2, 4), torch.randn(1, 2, 4), torch.randn(2, 4)
    right = F.mse_loss(net(x, state), y).item()
    assert compiled(net, "mse").evaluate(iter([([x, state], y)]), verbose=0) == pytest.approx(right, rel=1e-5)


def test_texts_are_no_arguments():
    class Pair(nn.Module):
        def forward(self, first, second):
            """Take two inputs."""

    with pytest.raises(ValueError, match=r"`x` is a list of length 2.*takes 2 inputs: \['first', 'second'\]"):
        torchfit.Model(Pair(), device="cpu").predict_on_batch(["one", "other"])


def test_lists_that_are_passed_in_both_ways_are_refused():
    class OneOfThree(OneOrTwo):
        def forward(self, one, other=None, third=None):
            return super().forward(one, other)

    batches = [([X, X], Y), ([X, X, X, X], Y)]
    with pytest.raises(ValueError, match=r"`x` is a list of length 4, more entries than .*annotate the parameter"):
        compiled(OneOfThree(), "mse").evaluate(iter(batches), verbose=0)
