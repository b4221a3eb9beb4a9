"""A torchvision detector, which computes its own losses from lists of images and boxes.

Run `python examples/detection.py` (requires torchvision). It takes a minute on a CPU.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_iou

import torchfit
from torchfit import losses, optimizers

SIZE = 48


def make_data(samples=32):
    """Return samples `(image, {"boxes", "labels"})`: images (3, 48, 48) with one bright square each."""
    data = []
    for top, left in torch.randint(SIZE - 16, (samples, 2)).tolist():
        image = 0.1 * torch.randn(3, SIZE, SIZE)
        image[:, top : top + 16, left : left + 16] += 1
        box = torch.tensor([[left, top, left + 16, top + 16]], dtype=torch.float32)
        data.append((image, {"boxes": box, "labels": torch.ones(1, dtype=torch.long)}))
    return data


def make_loader(data):
    """Return a loader of batches with lists of images and targets, named like the detector's arguments."""
    return DataLoader(data, batch_size=8, collate_fn=lambda rows: dict(zip(("images", "targets"), zip(*rows))))


def make_model():
    """Return the compiled model. Its loss is the sum of the losses returned by the detector."""
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
    backbone.out_channels = 32
    detector = FasterRCNN(
        backbone,
        num_classes=2,
        min_size=SIZE,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 4, 2),
        rpn_pre_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=30,
        rpn_post_nms_top_n_train=30,
        rpn_post_nms_top_n_test=10,
        box_detections_per_img=3,
    )
    model = torchfit.Model(detector, device="cpu")
    model.compile(optimizers.Adam(2e-3), losses.OverOutputs(lambda outputs: sum(outputs.values())))
    return model


def main():
    """Train, and print the overlap of the best box of each image with its square."""
    torch.manual_seed(0)
    data, model = make_data(), make_model()
    history = model.fit(make_loader(data), epochs=15, verbose=2).history["loss"]
    found = model.predict(DataLoader([image for image, _ in data], batch_size=8, collate_fn=lambda rows: (list(rows),)))
    overlaps = [
        box_iou(torch.from_numpy(boxes["boxes"][:1]), target["boxes"]).sum().item()
        for boxes, (_, target) in zip(found, data)
    ]
    overlap = sum(overlaps) / len(overlaps)
    print(f"Loss {history[0]:.3f} … {history[-1]:.3f}; mean overlap of boxes and squares {overlap:.3f}")
    return history, overlap


if __name__ == "__main__":
    main()
