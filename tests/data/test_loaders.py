import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchfit._data.source import as_source

DATA = TensorDataset(torch.arange(5.0), torch.arange(5))


def test_batches_are_those_of_the_loader(batches_of):
    assert batches_of(DataLoader(DATA, batch_size=3)) == [([0, 1, 2], [0, 1, 2]), ([3, 4], [3, 4])]


def test_its_own_collate_function_is_respected(batches_of):
    def collate(samples):
        return {"sum": torch.stack([x + y for x, y in samples])}, torch.zeros(len(samples))

    assert batches_of(DataLoader(DATA, 5, collate_fn=collate)) == [({"sum": [0, 2, 4, 6, 8]}, [0] * 5)]


def test_the_order_is_that_of_a_loop_by_hand(conversion):
    loader = DataLoader(DATA, batch_size=2, shuffle=True)
    torch.manual_seed(3)
    by_hand = [x.tolist() for _ in range(2) for x, _ in loader]
    torch.manual_seed(3)
    batches = as_source(loader, None, None, conversion).batches()
    assert [batch.inputs.tolist() for epoch in range(2) for batch in batches.epoch(epoch)] == by_hand


def test_an_epoch_may_begin_later(conversion):
    batches = as_source(DataLoader(DATA, batch_size=2), None, None, conversion).batches()
    assert batches.steps == 3
    assert [batch.inputs.tolist() for batch in batches.epoch(0, start=2)] == [[4]]


def test_samplers_are_told_the_epoch(conversion):
    sampler = DistributedSampler(DATA, num_replicas=1, rank=0)
    list(as_source(DataLoader(DATA, sampler=sampler), None, None, conversion).batches().epoch(7))
    assert sampler.epoch == 7
