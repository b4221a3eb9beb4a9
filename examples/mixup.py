"""A timm image classifier, trained on blended images with soft labels and validated on class indices.

Run `python examples/mixup.py` (requires timm). It takes seconds on a CPU.
"""

import timm
import torch
from timm.data import Mixup
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import torchfit
from torchfit import optimizers

CLASSES, SIZE = 3, 32


def make_data(samples=192):
    """Return images (samples, 3, 32, 32), one third of which is bright, and the index of that third (samples,)."""
    labels = torch.arange(samples) % CLASSES
    images = 0.3 * torch.randn(samples, 3, SIZE, SIZE)
    for third in range(CLASSES):
        images[labels == third, :, third * SIZE // 3 : (third + 1) * SIZE // 3] += 1
    return images, labels


def make_loader(images, labels):
    """Return a loader of blended images with soft labels (batch, classes)."""
    blend = Mixup(mixup_alpha=0.4, num_classes=CLASSES)
    data = TensorDataset(images, labels)
    return DataLoader(data, batch_size=32, shuffle=True, collate_fn=lambda rows: blend(*default_collate(rows)))


def make_model():
    """Return the compiled model."""
    net = timm.create_model("resnet10t", num_classes=CLASSES)
    model = torchfit.Model(net, device="cpu")
    model.compile(optimizers.AdamW(2e-3), nn.CrossEntropyLoss(), metrics=["accuracy"])
    return model


def main():
    """Train, and print the accuracy on held-out images."""
    torch.manual_seed(0)
    images, labels = make_data()
    model, train, held_out = make_model(), slice(0, 144), slice(144, None)
    loader = make_loader(images[train], labels[train])
    history = model.fit(loader, validation_data=(images[held_out], labels[held_out]), epochs=8, verbose=2).history
    print(f"Accuracy on held-out images: {history['val_accuracy'][-1]:.3f}")
    return history


if __name__ == "__main__":
    main()
