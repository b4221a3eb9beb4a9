"""The network learns, and each step is that of a loop."""

import copy

import pytest
import torch
from torch.nn import functional as F

from torchfit import optimizers

pytest.importorskip("torch_geometric", reason="the example is one of torch_geometric")
pytestmark = pytest.mark.filterwarnings("ignore")  # Libraries warn of each other.


def test_graphs_are_classified(example):
    assert example.main()["accuracy"] > 0.9


def test_an_epoch_is_that_of_a_loop(example):
    data = example.WithTargets(example.DataLoader(example.make_data(40), batch_size=16))
    model = example.make_model()
    model.compile(optimizers.SGD(0.01), model.loss)
    twin = copy.deepcopy(model.module)
    optimizer = torch.optim.SGD(twin.parameters(), 0.01)
    total = 0.0
    for graphs, labels in data:
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(graphs), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
    history = model.fit(data, verbose=0).history
    assert history["loss"] == [pytest.approx(total / 40, rel=1e-4)]
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
