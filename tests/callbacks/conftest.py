from types import SimpleNamespace

import numpy as np
import pytest
import torch

from torchfit.callbacks import CallbackList


class StandIn:
    """What callbacks need of a model, with weights that tell the epoch."""

    def __init__(self):
        self.module = torch.nn.Linear(2, 1)
        self.optimizer = SimpleNamespace(learning_rate=0.1, iterations=7)
        self.stop_training = False
        self.metrics = []
        self.weights = [np.array([-1.0])]
        self.saved = []

    def build_optimizer(self):
        self.optimizer.build(self.module.named_parameters())

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path):
        self.saved.append(str(path))

    save_weights = save


@pytest.fixture
def model():
    return StandIn()


@pytest.fixture
def drive(model):
    """Run callbacks over recorded logs, one mapping per epoch, as `fit` does."""

    def run(callbacks, recorded, /, steps=0, **params):
        callback_list = CallbackList(callbacks, model=model, **params)
        model.stop_training, epoch = False, -1
        try:
            callback_list.on_train_begin({})
            for epoch, logs in enumerate(recorded):
                callback_list.on_epoch_begin(epoch, {})
                for step in range(steps):
                    callback_list.on_train_batch_end(step, dict(logs))
                model.weights = [np.array([float(epoch)])]
                callback_list.on_epoch_end(epoch, dict(logs))
                if model.stop_training:
                    break
            callback_list.on_train_end({})
        finally:
            callback_list.close()
        return epoch

    return run
