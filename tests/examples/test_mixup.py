"""The classifier learns from blended images, and each step is that of a loop."""

import copy

import pytest
import torch
from torch.nn import functional as F

from torchfit import optimizers

pytest.importorskip("timm", reason="the example is one of timm", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore")  # Libraries warn of each other.


@pytest.mark.slow
def test_images_are_classified(example):
    assert example.main()["val_accuracy"][-1] > 0.9


def test_an_epoch_is_that_of_a_loop(example):
    images, labels = example.make_data(32)
    batches = list(example.make_loader(images, labels))
    model = example.make_model()
    model.compile(optimizers.SGD(0.01), model.loss)
    twin = copy.deepcopy(model.module).train()
    optimizer = torch.optim.SGD(twin.parameters(), 0.01)
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    model.fit(iter(batches), verbose=0)
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
