import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from torchfit._data.adapters.arrays import ArrayBatches
from torchfit._data.adapters.datasets import shown_labels
from torchfit._data.adapters.dispatch import get_data_adapter
from torchfit._data.workers import LoaderConfig

PROCESSES = LoaderConfig(workers=2, use_multiprocessing=True)


class Squares(Dataset):
    def __init__(self, length=7):
        self.length = length
        self.targets = [0] * length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return np.float64(index), index**2


class Failing(Squares):
    def __getitem__(self, index):
        if index == 5:
            raise KeyError("no such picture")
        return super().__getitem__(index)


class Random(Squares):
    def __getitem__(self, index):
        return torch.rand(()), float(np.random.rand())


def test_samples_are_collated(batches_of):
    assert batches_of(Squares(), batch_size=4) == [([0, 1, 2, 3], [0, 1, 4, 9]), ([4, 5, 6], [16, 25, 36])]


def test_workers_give_the_same_batches(batches_of):
    assert batches_of(Squares(), batch_size=4, loader_config=PROCESSES) == batches_of(Squares(), batch_size=4)


def test_workers_stay_from_epoch_to_epoch(batch_spec):
    batches = get_data_adapter(Squares(), None, None, batch_spec).batches(4, shuffle=True, loader_config=PROCESSES)
    assert [sorted(x for batch in batches.epoch(epoch) for x in batch.inputs.tolist()) for epoch in (0, 1)] == [
        list(range(7)),
        list(range(7)),
    ]


def test_an_epoch_may_begin_at_any_batch(batch_spec):
    batches = get_data_adapter(Squares(20), None, None, batch_spec).batches(3, shuffle=True)
    whole = [batch.inputs.tolist() for batch in batches.epoch(2)]
    assert [batch.inputs.tolist() for batch in batches.epoch(2, start=4)] == whole[4:]


def test_randomness_in_workers_is_that_of_the_batch_whatever_the_number_of_workers(batch_spec):
    found = []
    for workers in (1, 2):
        loader_config = LoaderConfig(workers, use_multiprocessing=True)
        batches = get_data_adapter(Random(8), None, None, batch_spec).batches(2, loader_config=loader_config)
        batches.seed = 1
        found.append([(batch.inputs.tolist(), batch.targets.tolist()) for batch in batches.epoch(0)])
    assert found[0] == found[1]
    assert len({value for batch in found[0] for value in batch[0]}) == 8


def test_randomness_in_workers_changes_from_epoch_to_epoch(batch_spec):
    batches = get_data_adapter(Random(4), None, None, batch_spec).batches(4, loader_config=PROCESSES)
    assert next(batches.epoch(0)).inputs.tolist() != next(batches.epoch(1)).inputs.tolist()


@pytest.mark.parametrize("loader_config", [None, PROCESSES])
def test_an_exception_keeps_its_type_and_tells_the_index(loader_config, batches_of):
    with pytest.raises(KeyError, match=r"(?s)no such picture.*sample 5 of the Dataset"):
        batches_of(Failing(), batch_size=2, loader_config=loader_config)


def test_a_dataset_whose_length_lies(batches_of):
    class Lying(Squares):
        def __getitem__(self, index):
            return [1.0, 2.0][index]

    with pytest.raises(IndexError, match="sample 2 of the Dataset, whose length is 7"):
        batches_of(Lying())


def test_samples_of_different_shapes_are_refused(batches_of):
    class Ragged(Squares):
        def __getitem__(self, index):
            return torch.zeros(index + 1)

    with pytest.raises(ValueError, match=r"cannot be joined into a batch.*collate_fn"):
        batches_of(Ragged())


def test_a_dataset_of_tensors_is_taken_as_arrays(batch_spec):
    dataset = TensorDataset(torch.arange(6.0), torch.arange(6))
    adapter = get_data_adapter(Subset(dataset, [4, 2]), None, None, batch_spec)
    assert isinstance(adapter.batches(), ArrayBatches)
    assert [part.tolist() for part in next(adapter.batches().epoch(0))] == [[4, 2], [4, 2]]


def test_the_last_samples_are_split_off(batch_spec):
    first, last = get_data_adapter(Squares(10), None, None, batch_spec).split(0.3)
    assert next(last.batches().epoch(0)).inputs.tolist() == [7, 8, 9]
    assert first.batches().samples == 7


class Labelled(Squares):
    """Shows labels, of which a sample has what a transform makes of them, and counts how often samples are read."""

    def __init__(self, labels, transform=lambda label: label):
        super().__init__(len(labels))
        self.labels, self.transform, self.read = labels, transform, 0
        self.targets = None  # type: ignore[assignment]

    def __getitem__(self, index):
        self.read += 1
        return np.zeros(2), self.transform(self.labels[index])


def balanced(dataset, batch_spec):
    adapter = get_data_adapter(dataset, None, None, batch_spec).with_class_weight("balanced")
    return next(adapter.batches(100).epoch(0)).sample_weight.tolist()


def test_labels_that_a_dataset_shows_are_balanced_without_reading_it(batch_spec):
    dataset = Labelled([0] * 600 + [1] * 200)
    get_data_adapter(dataset, None, None, batch_spec).with_class_weight("balanced")
    assert dataset.read < 20
    assert balanced(dataset, batch_spec)[0] == pytest.approx(2 / 3)


def test_labels_are_those_of_the_samples_if_they_differ(batch_spec):
    labels = [0, 0, 2, 1]
    assert balanced(Labelled(labels, lambda label: label % 2), batch_spec) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])


def test_labels_of_parts_of_a_dataset_are_those_of_the_part(batch_spec):
    dataset = Labelled([0, 0, 0, 1, 1, 1])
    assert balanced(Subset(dataset, [0, 1, 2, 4]), batch_spec) == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2])
    assert balanced(Subset(Subset(dataset, [5, 4, 0]), [0, 2]), batch_spec) == [1, 1]
    assert balanced(ConcatDataset([dataset, Labelled([0, 1])]), batch_spec) == [1] * 8


def test_labels_by_output(batch_spec):
    dataset = Labelled([0, 1, 1, 1], lambda label: {"a": label, "b": 1 - label})
    adapter = get_data_adapter(dataset, None, None, batch_spec).with_class_weight({"b": "balanced"})
    assert next(adapter.batches().epoch(0)).sample_weight["b"].tolist() == pytest.approx([2, 2 / 3, 2 / 3, 2 / 3])


def test_counting_labels_draws_no_random_numbers(batch_spec):
    class Noisy(Labelled):
        def __getitem__(self, index):
            torch.rand(()), np.random.rand()
            return super().__getitem__(index)

    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    get_data_adapter(Noisy([0, 1]), None, None, batch_spec).with_class_weight("balanced")
    assert torch.rand(()) == expected


def test_samples_without_targets_cannot_be_balanced(batch_spec):
    class Inputs(Squares):
        def __getitem__(self, index):
            return torch.zeros(2)

    with pytest.raises(ValueError, match=r"`class_weight` needs the classes .* return \(x, y\)"):
        get_data_adapter(Inputs(), None, None, batch_spec).with_class_weight("balanced")


@pytest.mark.parametrize(
    "labels",
    [
        ["cat", "dog"] * 4,
        [None] * 8,
        [{"boxes": []}] * 8,
        [torch.zeros(index % 2 + 1, 4) for index in range(8)],
        dict.fromkeys(range(8), 1),
        "abcdefgh",
    ],
    ids=["names", "nothing", "records", "boxes", "dictionary", "text"],
)
def test_labels_that_are_no_numbers_are_left_aside(labels, batch_spec):
    dataset = Labelled(labels, lambda _: 0)
    assert shown_labels(dataset) is None
    first, last = get_data_adapter(dataset, None, None, batch_spec).split(0.25)
    assert (first.batches().samples, last.batches().samples) == (6, 2)


def test_sorted_labels_give_a_warning(batch_spec):
    with pytest.warns(UserWarning, match="class 0 is among the first samples only"):
        get_data_adapter(Labelled([0] * 40 + [1] * 40), None, None, batch_spec).split(0.2)


class PlainFormat(Squares):
    """Gives lists, as Datasets of Hugging Face do in plain format."""

    __module__ = "datasets.arrow_dataset"

    @property
    def format(self):
        return {"type": None}

    def __getitem__(self, index):
        return {"ids": [1, 2, 3], "label": index}


@pytest.mark.parametrize("make", [lambda dataset: dataset, DataLoader], ids=["alone", "in a loader"])
def test_datasets_of_hugging_face_in_plain_format_are_refused_with_the_way_out(make, batch_spec):
    with pytest.raises(ValueError, match=r"columns \['ids'\] hold lists.*with_format\(.torch.\)"):
        get_data_adapter(make(PlainFormat()), None, None, batch_spec)


def test_a_loader_may_collate_the_plain_format_itself(batches_of):
    loader = DataLoader(PlainFormat(2), 2, collate_fn=lambda rows: torch.tensor([row["ids"] for row in rows]))
    assert batches_of(loader) == [([[1, 2, 3], [1, 2, 3]],)]


def test_objects_with_indices_and_length_are_datasets(batches_of):
    class Duck:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return float(index), index

    assert batches_of(Duck()) == [([0, 1, 2], [0, 1, 2])]
