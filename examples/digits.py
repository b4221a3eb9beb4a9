"""Train a small network to classify handwritten digits, plot the results, and save and load the model.

Run `make demo`, or `python examples/digits.py` (requires torchfit, scikit-learn and matplotlib). It takes well under a
minute on a CPU and writes to `demo-output` in the current directory. With
`torchrun --nproc-per-node 2 examples/digits.py` two processes train the same model.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import torchfit

OUTPUT = Path("demo-output")


def load_data():
    """Return training, validation and test data: images (n, 1, 8, 8) in [0, 1] and labels (n,), 0 to 9."""
    digits = load_digits()
    images = (digits.images / 16).astype("float32")[:, None]
    rest, test, rest_labels, test_labels = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=0.15, stratify=rest_labels, random_state=0
    )
    return (train, train_labels), (validation, validation_labels), (test, test_labels)


def make_network():
    """Return a plain PyTorch module that maps images (batch, 1, 8, 8) to one score per digit (batch, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False),  # BatchNorm has a bias.
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def train_model(train, validation):
    """Return the trained model and its history."""
    model = torchfit.Model(make_network())
    model.compile(
        optimizer=torchfit.optimizers.Adam(learning_rate=1e-3),
        loss=torchfit.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.summary()
    history = model.fit(
        *train,
        batch_size=32,
        epochs=30,
        validation_data=validation,
        callbacks=[
            torchfit.callbacks.EarlyStopping(monitor="val_loss", patience=8, restore_best_weights=True),
        ],
        verbose=1,
    )
    return model, history.history


def draw(history, images, labels, guesses, path):
    """Save a figure with the learning curves at the top and predicted images below."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.4, 1])
    for axes, name in zip(above.subplots(1, 2), ["loss", "accuracy"]):
        epochs = range(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], label="training")
        axes.plot(epochs, history[f"val_{name}"], label="validation")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    below.suptitle("test images: predicted digit (true digit where it is wrong)")
    for axes, image, label, guess in zip(below.subplots(2, 10).flat, images, labels, guesses):
        axes.imshow(image[0], cmap="gray_r")
        right = guess == label
        axes.set_title(f"{guess}" if right else f"{guess} ({label})", color="C0" if right else "C3")
        axes.axis("off")
    figure.savefig(path, dpi=120)


def main():
    """Train, evaluate, predict, save, load and plot."""
    torch.manual_seed(0)
    OUTPUT.mkdir(exist_ok=True)
    train, validation, test = load_data()
    images, labels = test

    model, history = train_model(train, validation)
    results = model.evaluate(images, labels, verbose=0, return_dict=True)
    scores = model.predict(images[:20], verbose=0)
    guesses = scores.argmax(axis=1)
    model.save(OUTPUT / "digits.torchfit")
    loaded = torchfit.models.load_model(OUTPUT / "digits.torchfit")
    same = np.array_equal(loaded.predict(images[:20], verbose=0), scores)
    if not torchfit.distribution.is_primary():
        return  # All processes have the same results; only one prints them.

    print(f"\nTest accuracy {results['accuracy']:.4f}, test loss {results['loss']:.4f}, on {len(images)} images")
    print(f"First predictions {guesses[:10]}")
    print(f"True digits       {labels[:10]}")
    print(f"The saved model, loaded again, predicts {'the same' if same else 'something else'}")

    draw(history, images, labels, guesses, OUTPUT / "digits.png")
    print(f"Written to {OUTPUT.resolve()}: digits.png (curves and predictions), digits.torchfit (the model)")


if __name__ == "__main__":
    main()
