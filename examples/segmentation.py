"""A torchvision segmentation network, with a loss and metrics for its output `out`.

Run `python examples/segmentation.py` (requires torchvision). It takes seconds on a CPU.
"""

import torch
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import torchfit
from torchfit import metrics, optimizers

CLASSES, SIZE = 2, 64


def make_data(samples=16):
    """Return images (samples, 3, 64, 64) with a bright square, and the masks of the squares (samples, 64, 64)."""
    corners = torch.randint(SIZE // 2, (samples, 2))
    images, masks = 0.2 * torch.randn(samples, 3, SIZE, SIZE), torch.zeros(samples, SIZE, SIZE, dtype=torch.long)
    for image, mask, (top, left) in zip(images, masks, corners.tolist()):
        part = slice(top, top + SIZE // 2), slice(left, left + SIZE // 2)
        mask[part] = 1
        image += mask
    return images, masks


def make_model():
    """Return the compiled model."""
    net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)
    model = torchfit.Model(net, device="cpu")
    overlap = metrics.MeanIoU(CLASSES, sparse_y_pred=False, axis=1)
    model.compile(optimizers.AdamW(2e-3), {"out": nn.CrossEntropyLoss()}, metrics={"out": ["accuracy", overlap]})
    return model


def main():
    """Train, and print the intersection over union."""
    torch.manual_seed(0)
    images, masks = make_data()
    model = make_model()
    history = model.fit(images, masks, batch_size=8, epochs=15, verbose=2).history
    print(f"Intersection over union: {history['mean_io_u'][0]:.3f} at first, {history['mean_io_u'][-1]:.3f} at the end")
    return history


if __name__ == "__main__":
    main()
