"""The detector learns, and its loss is that of a loop."""

import copy

import pytest
import torch

from torchfit import optimizers

pytest.importorskip("torchvision", reason="the example is one of torchvision", exc_type=(ImportError, RuntimeError))  # type: ignore[arg-type]
pytestmark = pytest.mark.filterwarnings("ignore")  # Libraries warn of each other.


@pytest.mark.slow
def test_squares_are_found(example):
    history, overlap = example.main()
    assert history[-1] < history[0] / 2
    assert overlap > 0.5


def test_a_step_is_that_of_a_loop(example):
    loader = example.make_loader(example.make_data(8))
    model = example.make_model()
    model.compile(optimizers.SGD(0.01), model.loss)
    twin = copy.deepcopy(model.module).train()
    (batch,) = loader
    torch.manual_seed(1)
    loss = sum(twin(**batch).values())
    loss.backward()
    torch.optim.SGD(twin.parameters(), 0.01).step()
    torch.manual_seed(1)
    history = model.fit(iter([batch]), verbose=0).history
    assert history["loss"] == [pytest.approx(loss.item(), rel=1e-4)]
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
