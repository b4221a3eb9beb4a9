"""The network learns, and each step is that of a loop."""

import copy

import pytest
import torch
from torch.nn import functional as F

from torchfit import optimizers

pytest.importorskip("torchvision", reason="the example is one of torchvision", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
pytestmark = pytest.mark.filterwarnings("ignore")  # Libraries warn of each other.


@pytest.mark.slow
def test_squares_are_found(example):
    history = example.main()
    assert history["mean_io_u"][0] < 0.6
    assert history["mean_io_u"][-1] > 0.85


def test_a_step_is_that_of_a_loop(example):
    images, masks = example.make_data(4)
    model = example.make_model()
    model.compile(optimizers.SGD(0.01), model.loss)
    twin = copy.deepcopy(model.module).train()
    torch.manual_seed(1)
    loss = F.cross_entropy(twin(images)["out"], masks)
    loss.backward()
    torch.optim.SGD(twin.parameters(), 0.01).step()
    torch.manual_seed(1)
    history = model.fit(images, masks, batch_size=4, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(loss.item(), rel=1e-4)]
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
