"""Data and models for the sentences of Keras' reference of the model training APIs."""

import numpy as np
import torch
from torch import nn

import torchfit
from torchfit import optimizers

X = np.random.RandomState(0).rand(96, 4).astype("float32")
Y = X.sum(1, keepdims=True)
KIND = (X[:, 0] > 0.5).astype("int64")


def net(units=1):
    torch.manual_seed(0)
    return nn.Linear(4, units)


def model_of(module=None, loss="mse", rate=0.1, **options):
    model = torchfit.Model(module or net(), device="cpu")
    model.compile(optimizers.SGD(rate), loss, **options)
    return model
