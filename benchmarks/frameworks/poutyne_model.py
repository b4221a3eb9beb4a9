"""Poutyne: its `Model` on tensors, with a batch metric."""

import torch
from poutyne import Model

from benchmarks.cases import Case
from benchmarks.frameworks import Runs


def fit(case: Case) -> Runs:
    """Train, evaluate and predict with Poutyne."""
    network = case.fresh_network()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
    model = Model(network, optimizer, "cross_entropy", batch_metrics=["accuracy"], device=torch.device(case.device))
    x, y = case.data
    return {
        "train": lambda: model.fit(x, y, epochs=1, batch_size=case.batch, verbose=False),
        "evaluate": lambda: model.evaluate(x, y, batch_size=case.batch, verbose=False),
        "predict": lambda: model.predict(x, batch_size=case.batch, verbose=False),
    }


FRAMEWORKS = {"Poutyne": fit}
