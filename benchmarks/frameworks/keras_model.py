"""Keras, with the same networks in its own layers, on whichever backend was chosen."""

from collections.abc import Callable

import keras
from keras import layers

from benchmarks.cases import Case
from benchmarks.frameworks import Runs

NETWORKS: dict[str, Callable[[], list[layers.Layer]]] = {
    "mnist": lambda: [
        layers.Dense(64, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(10),
    ],
    "tiny": lambda: [layers.Dense(16, activation="relu"), layers.Dense(2)],
    "convnet": lambda: [
        layers.Conv2D(16, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(10),
    ],
}


def check_backend(name: str) -> None:
    """Raise ImportError if Keras runs on another backend."""
    if keras.backend.backend() != name:
        raise ImportError(f"Keras runs on {keras.backend.backend()} here, which is chosen before it is imported")


def fit(case: Case) -> Runs:
    """Train, evaluate and predict with Keras; images are laid out as its backend likes them."""
    keras.utils.set_random_seed(0)
    x, y = (part.numpy() for part in case.data)
    shape = case.shape
    if len(shape) == 3:
        # Each backend has a layout that it is fast with; on JAX that is channels last.
        layout = "channels_first" if keras.backend.backend() == "torch" else "channels_last"
        keras.config.set_image_data_format(layout)
        if layout == "channels_last":
            x, shape = x.transpose(0, 2, 3, 1).copy(), (*shape[1:], shape[0])
    model = keras.Sequential([keras.Input(shape), *NETWORKS[case.name]()])
    model.compile(
        keras.optimizers.RMSprop(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return {
        "train": lambda: model.fit(x, y, batch_size=case.batch, verbose=0),
        "evaluate": lambda: model.evaluate(x, y, batch_size=case.batch, verbose=0),
        "predict": lambda: model.predict(x, batch_size=case.batch, verbose=0),
    }
