"""The classifier learns, and each step is that of a loop."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from torchfit import optimizers

pytest.importorskip("transformers", reason="the example is one of transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # Libraries warn of each other.


@pytest.mark.slow
def test_sentences_are_classified(example):
    assert example.main()["logits_accuracy"] > 0.9


def test_an_epoch_is_that_of_a_loop(example):
    loader, model = DataLoader(example.make_data(48), batch_size=16), example.make_model()
    model.compile(optimizers.SGD(0.1))
    twin = copy.deepcopy(model.module)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    losses = []
    for batch in loader:
        optimizer.zero_grad()
        losses.append(twin(**batch).loss)
        losses[-1].backward()
        optimizer.step()
    history = model.fit(loader, verbose=0).history
    assert history["loss"] == [pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)]
    torch.testing.assert_close(model.module.classifier.weight, twin.classifier.weight)
