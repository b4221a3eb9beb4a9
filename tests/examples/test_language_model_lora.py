"""The adapters learn, nothing else changes, and each step is that of a loop."""

import copy

import pytest
import torch
from torch.nn import functional as F

from torchfit import optimizers

pytest.importorskip("transformers", reason="the example is one of transformers")
pytest.importorskip("peft", reason="the example uses adapters of peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # Libraries warn of each other.


@pytest.mark.slow
def test_words_are_foreseen(example):
    before, after = example.main()
    assert before["accuracy"] < 0.3
    assert after["accuracy"] > 0.9


def test_an_epoch_is_that_of_a_loop(example):
    inputs, targets = example.make_data(32)
    model = example.make_model()
    model.compile(optimizers.SGD(0.1), model.loss)
    twin = copy.deepcopy(model.module)
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    for ids, following in zip(inputs.split(16), targets.split(16)):
        optimizer.zero_grad()
        F.cross_entropy(twin(input_ids=ids).logits.movedim(-1, 1), following).backward()
        optimizer.step()
    model.fit({"input_ids": inputs}, targets, batch_size=16, shuffle=False, verbose=0)
    for one, other in zip(model.module.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
