"""Train one model with several processes, with the same results as with one.

Run `torchrun --nproc-per-node 2 examples/distributed.py` or `python examples/distributed.py`: except for the number of
processes and the times, the output is the same. With `--epochs 20 --backup folder` an interrupted run continues, with
the same or another number of processes.
"""

import argparse

import numpy as np
import torch
from torch import nn

import torchfit
from torchfit import distribution


def make_data(samples=4096):
    """Return points (samples, 2) on two spirals, and the index of the spiral of each (samples,)."""
    random_numbers = np.random.default_rng(0)  # Seeded, because every process must have the same data.
    spiral = random_numbers.integers(0, 2, samples)
    angle = random_numbers.uniform(0.5, 3 * np.pi, samples)
    points = angle[:, None] * np.stack([np.cos(angle + np.pi * spiral), np.sin(angle + np.pi * spiral)], axis=1)
    return (points + random_numbers.normal(0, 0.2, points.shape)).astype("float32") / 10, spiral


def make_model():
    """Return the compiled model. All processes start with the weights of the primary process."""
    layers = nn.Linear(2, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    model = torchfit.Model(nn.Sequential(*layers))
    loss = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(torchfit.optimizers.Adam(learning_rate=3e-3), loss, metrics=["accuracy"])
    return model


def main():
    """Train, evaluate and predict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--backup", help="folder for the training state")
    options = parser.parse_args()
    torch.manual_seed(0)
    x, y = make_data()
    model = make_model()
    callbacks = [torchfit.callbacks.BackupAndRestore(options.backup)] if options.backup else []
    model.fit(x, y, batch_size=256, epochs=options.epochs, validation_split=0.2, callbacks=callbacks, verbose=2)
    loss, accuracy = model.evaluate(x, y, verbose=0)
    guesses = model.predict(x).argmax(axis=1)
    if distribution.is_primary():
        print(f"Processes: {distribution.world_size()}")
        print(f"Loss {loss:.4f}, accuracy {accuracy:.4f}, and of the predictions {(guesses == y).mean():.4f}")


if __name__ == "__main__":
    main()
