"""skorch: a `NeuralNetClassifier`, scored on what it has seen."""

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EpochScoring
from torch import nn

from benchmarks.cases import Case
from benchmarks.frameworks import Runs


def fit(case: Case) -> Runs:
    """Train, evaluate and predict with skorch; its `score` is the accuracy alone, its predictions are probabilities."""
    net = NeuralNetClassifier(
        case.fresh_network(),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.RMSprop,
        optimizer__alpha=0.9,
        optimizer__eps=1e-7,
        lr=1e-3,
        max_epochs=1,
        batch_size=case.batch,
        iterator_train__shuffle=True,
        train_split=None,
        callbacks=[EpochScoring("accuracy", lower_is_better=False, on_train=True, name="accuracy")],
        verbose=0,
        device=case.device,
    )
    net.initialize()
    x, y = case.data[0].numpy(), case.data[1].numpy()
    return {
        "train": lambda: net.partial_fit(x, y),
        "evaluate": lambda: net.score(x, y),
        "predict": lambda: net.predict_proba(x),
    }


FRAMEWORKS = {"skorch": fit}
