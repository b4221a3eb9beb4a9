from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import torchfit
from torchfit.utils import image_dataset_from_directory

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path):
    """Two classes: 6 red images and 4 blue ones, of different sizes, and a file that is no image."""
    for name, colour, number in (("blue", (0, 0, 255), 4), ("red", (255, 0, 0), 6)):
        (tmp_path / name).mkdir()
        for index in range(number):
            Image.new("RGB", (10 + index, 8), colour).save(tmp_path / name / f"{index}.png")
    (tmp_path / "red" / "notes.txt").write_text("no image")
    return tmp_path


def test_images_with_the_classes_of_their_folders(folder):
    data = image_dataset_from_directory(folder, image_size=(4, 6), shuffle=False)
    assert data.class_names == ["blue", "red"]
    image, label = data[9]
    assert len(data) == 10
    assert image.shape == (3, 4, 6)
    assert image.dtype is torch.float32
    assert image.mean((1, 2)).tolist() == [1.0, 0.0, 0.0]
    assert [int(data[index][1]) for index in range(10)] == [0] * 4 + [1] * 6
    assert int(label) == 1


def test_a_model_learns_from_them(folder):
    data = image_dataset_from_directory(folder, image_size=(4, 4))
    model = torchfit.Model(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), device="cpu")
    model.compile(torchfit.optimizers.Adam(0.1), nn.CrossEntropyLoss(), metrics=["accuracy"])
    history = model.fit(data, batch_size=5, epochs=5, verbose=0).history
    assert history["accuracy"][-1] == 1.0


def test_subsets_are_apart_and_together_everything(folder):
    options: dict[str, Any] = {"validation_split": 0.3, "image_size": (4, 4)}
    training, validation = image_dataset_from_directory(folder, subset="both", **options)
    assert (len(training), len(validation)) == (7, 3)
    assert len({*training.file_paths, *validation.file_paths}) == 10
    assert image_dataset_from_directory(folder, subset="training", **options).file_paths == training.file_paths
    assert image_dataset_from_directory(folder, subset="validation", **options).file_paths == validation.file_paths


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label_mode": "categorical"}, [1.0, 0.0]),
        ({"label_mode": "binary"}, 0.0),
        ({"class_names": ["red", "blue"]}, 0),
        ({"labels": [7] * 10}, 7),
    ],
)
def test_labels(folder, options, expected):
    assert image_dataset_from_directory(folder, shuffle=False, **options)[0][1].tolist() == expected


@pytest.mark.parametrize("options", [{"label_mode": None}, {"labels": None}])
def test_without_labels_there_are_images_alone(folder, options):
    assert image_dataset_from_directory(folder, image_size=None, shuffle=False, **options)[0].shape == (3, 8, 10)


def test_other_colours_and_a_transform(folder):
    data = image_dataset_from_directory(folder, color_mode="grayscale", transform=lambda image: image * 0)
    assert data[0][0].shape == (1, 256, 256)
    assert not np.asarray(data[0][0]).any()
    assert image_dataset_from_directory(folder, color_mode="rgba")[0][0].shape == (4, 256, 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_mode": "text"}, "`label_mode` must be one of 'int'"),
        ({"color_mode": ["rgb"]}, "`color_mode` must be one of 'rgb'"),
        ({"subset": "training"}, "`validation_split` and `subset` go together"),
        ({"validation_split": 2, "subset": "both"}, "`validation_split` must be between 0 and 1"),
        ({"class_names": ["green"]}, "a folder for each class. Missing: .'green'"),
        ({"labels": [1, 2]}, "`labels` has 2 entries, but .* has 10 images"),
        ({"label_mode": "binary", "labels": [0, 1, 2] + [0] * 7}, "for two classes, but there are 3"),
    ],
)
def test_mistakes(folder, options, message):
    with pytest.raises(ValueError, match=message):
        image_dataset_from_directory(folder, **options)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(ValueError, match="has no images"):
        image_dataset_from_directory(tmp_path, labels=None)
