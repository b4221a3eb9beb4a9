"""SimCLR: train an encoder without labels on pairs of views, then a linear classifier on top of it.

Run `python examples/simclr.py`. It takes seconds on a CPU.
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import torchfit
from torchfit import losses, optimizers

CLASSES, LENGTH = 4, 32


class Views(Dataset):
    """A dataset that returns two views of each signal: shifted, scaled and noisy."""

    def __init__(self, signals):
        self.signals = signals

    def __len__(self):
        return len(self.signals)

    def __getitem__(self, index):
        """Return a sample with inputs only."""
        return ((view_of(self.signals[index]), view_of(self.signals[index])),)


def view_of(signal):
    """Return a randomly shifted, scaled and noisy copy of a signal (length,)."""
    shift = int(torch.randint(LENGTH, ()))
    return signal.roll(shift) * (0.8 + 0.4 * torch.rand(())) + 0.1 * torch.randn(LENGTH)


class SimCLR(nn.Module):
    """An encoder with a projection head for the contrastive loss."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, LENGTH)),
            nn.Conv1d(1, 16, 7, padding=3, padding_mode="circular"),
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, padding=2, padding_mode="circular"),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        self.project = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, first, second):
        """Return the projections (batch, 16) of two views (batch, length)."""
        return self.project(self.encoder(first)), self.project(self.encoder(second))


def contrast(outputs, temperature=0.2):
    """Return the contrastive loss (NT-Xent), a scalar."""
    views = F.normalize(torch.cat(outputs), dim=1)
    similarities = views @ views.T / temperature
    similarities = similarities.masked_fill(torch.eye(len(views), dtype=torch.bool), -torch.inf)
    partners = torch.arange(len(views)).roll(len(views) // 2)
    return F.cross_entropy(similarities, partners)


def make_data(samples=512):
    """Return signals (samples, length) of four wave forms, and their classes (samples,)."""
    labels = torch.arange(samples) % CLASSES
    time = torch.linspace(0, 2 * torch.pi, LENGTH + 1)[:-1] + 2 * torch.pi * torch.rand(samples, 1)
    waves = torch.stack([time.sin(), (2 * time).sin(), time.sin().sign(), (3 * time).cos()])
    return waves[labels, torch.arange(samples)], labels


def make_model():
    """Return the compiled model."""
    model = torchfit.Model(SimCLR(), device="cpu")
    model.compile(optimizers.Adam(3e-3), losses.OverOutputs(contrast))
    return model


def probe(encoder, signals, labels):
    """Train a linear classifier on the codes of the encoder, and return its accuracy on the held-out half."""
    half = len(signals) // 2
    codes = torchfit.Model(encoder, device="cpu").predict(signals)
    classifier = torchfit.Model(nn.Sequential(nn.BatchNorm1d(32, affine=False), nn.Linear(32, CLASSES)), device="cpu")
    classifier.compile(optimizers.Adam(0.05), nn.CrossEntropyLoss(), metrics=["accuracy"])
    classifier.fit(codes[:half], labels[:half], epochs=10, verbose=0)
    return classifier.evaluate(codes[half:], labels[half:], verbose=0, return_dict=True)["accuracy"]


def main():
    """Train the encoder, and print the accuracy of a linear classifier on its codes."""
    torch.manual_seed(0)
    signals, labels = make_data()
    model = make_model()
    history = model.fit(Views(signals), batch_size=64, epochs=20, verbose=2).history["loss"]
    accuracy = probe(model.module.encoder, signals, labels)
    print(f"Loss {history[0]:.3f} … {history[-1]:.3f}; accuracy of a linear classifier {accuracy:.3f}")
    return history, accuracy


if __name__ == "__main__":
    main()
