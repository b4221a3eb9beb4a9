"""Keras on its PyTorch backend, with the same networks in its own layers."""

from collections.abc import Callable

import keras
from keras import layers

from benchmarks.cases import Case
from benchmarks.contenders import Runs

if keras.backend.backend() != "torch":
    raise ImportError("Keras runs on another backend; set KERAS_BACKEND=torch")

NETWORKS: dict[str, Callable[[], list[layers.Layer]]] = {
    "mnist": lambda: [
        layers.Dense(64, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(10),
    ],
    "tiny": lambda: [layers.Dense(16, activation="relu"), layers.Dense(2)],
    "convnet": lambda: [
        layers.Conv2D(16, 3, activation="relu", data_format="channels_first"),
        layers.MaxPooling2D(2, data_format="channels_first"),
        layers.Conv2D(32, 3, activation="relu", data_format="channels_first"),
        layers.MaxPooling2D(2, data_format="channels_first"),
        layers.Flatten(),
        layers.Dense(10),
    ],
}


def fit(case: Case) -> Runs:
    """Train, evaluate and predict with Keras."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(case.shape), *NETWORKS[case.name]()])
    model.compile(
        keras.optimizers.RMSprop(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x, y = (part.numpy() for part in case.data)
    return {
        "train": lambda: model.fit(x, y, batch_size=case.batch, verbose=0),
        "evaluate": lambda: model.evaluate(x, y, batch_size=case.batch, verbose=0),
        "predict": lambda: model.predict(x, batch_size=case.batch, verbose=0),
    }


CONTENDERS = {"Keras on torch": fit}
