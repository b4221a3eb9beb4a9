"""Models and data that the tests share."""

import numpy as np
import torch
from torch import nn

import torchfit

ROWS = 7 * 16 + 1  # The last batch has one row, so some processes have none.
random_numbers = np.random.RandomState(0)
X = random_numbers.randn(ROWS, 8).astype("float32")
LABELS = random_numbers.randint(0, 3, ROWS)
VALUES = (X @ random_numbers.randn(8, 1)).astype("float32") / 4
WEIGHTS = random_numbers.rand(ROWS).astype("float32")
CROSSENTROPY = torchfit.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(outputs=3, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, outputs)).to(dtype)


def compiled(module, optimizer="adam", loss=CROSSENTROPY, metrics=("accuracy",), **arguments):
    model = torchfit.Model(module, device="cpu")
    model.compile(optimizer, loss, list(metrics), **arguments)
    return model


def trained(model, x=X, y=LABELS, **arguments):
    """Return the history and the weights after a few epochs."""
    torch.manual_seed(1)
    np.random.seed(1)
    history = model.fit(x, y, **{"batch_size": 16, "epochs": 2, "verbose": 0, **arguments})
    return {"history": history.history, "weights": [array.astype("float64") for array in model.get_weights()]}
