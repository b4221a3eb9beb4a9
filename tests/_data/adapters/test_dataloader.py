import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from torchfit._data.adapters.dispatch import get_data_adapter

DATA = TensorDataset(torch.arange(5.0), torch.arange(5))


def test_batches_are_those_of_the_loader(batches_of):
    assert batches_of(DataLoader(DATA, batch_size=3)) == [([0, 1, 2], [0, 1, 2]), ([3, 4], [3, 4])]


def test_its_own_collate_function_is_respected(batches_of):
    def collate(samples):
        return {"sum": torch.stack([x + y for x, y in samples])}, torch.zeros(len(samples))

    assert batches_of(DataLoader(DATA, 5, collate_fn=collate)) == [({"sum": [0, 2, 4, 6, 8]}, [0] * 5)]


def test_the_order_is_that_of_a_loop_by_hand(batch_spec):
    loader = DataLoader(DATA, batch_size=2, shuffle=True)
    torch.manual_seed(3)
    by_hand = [x.tolist() for _ in range(2) for x, _ in loader]
    torch.manual_seed(3)
    batches = get_data_adapter(loader, None, None, batch_spec).batches()
    assert [batch.inputs.tolist() for epoch in range(2) for batch in batches.epoch(epoch)] == by_hand


def test_an_epoch_may_begin_later(batch_spec):
    batches = get_data_adapter(DataLoader(DATA, batch_size=2), None, None, batch_spec).batches()
    assert batches.steps == 3
    assert [batch.inputs.tolist() for batch in batches.epoch(0, start=2)] == [[4]]


def test_samplers_are_told_the_epoch(batch_spec):
    sampler = DistributedSampler(DATA, num_replicas=1, rank=0)
    list(get_data_adapter(DataLoader(DATA, sampler=sampler), None, None, batch_spec).batches().epoch(7))
    assert sampler.epoch == 7
