"""A variational autoencoder: a loss over all outputs of the module at once.

Run `python examples/vae.py`. It takes seconds on a CPU.
"""

import torch
from torch import nn

import torchfit
from torchfit import losses, optimizers

SIZE = 8


class Autoencoder(nn.Module):
    """Encodes images as normal distributions over two latent variables, and decodes samples from them."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(SIZE * SIZE, 32), nn.ReLU(), nn.Linear(32, 4))
        self.decode = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, SIZE * SIZE))

    def forward(self, images):
        """Return the decoded images (batch, 64), and the means and log variances (batch, 2) of their codes."""
        mean, log_variance = self.encode(images).chunk(2, dim=-1)
        codes = mean + torch.randn_like(mean) * (log_variance / 2).exp() if self.training else mean
        return {"images": self.decode(codes), "mean": mean, "log_variance": log_variance}


def negative_elbo(images, outputs):
    """Return the negative evidence lower bound of each image (batch,), up to a constant."""
    mean, log_variance = outputs["mean"], outputs["log_variance"]
    divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(-1) / 2
    return 10 * (outputs["images"] - images).square().sum(-1) + divergence


def make_data(samples=512):
    """Return images (samples, 64) of one blurred blob each, at a random position."""
    centers = torch.rand(samples, 1, 2) * (SIZE - 1)
    pixels = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE))
    return (-(pixels - centers).square().sum(-1) / 4).exp()


def make_model():
    """Return the compiled model."""
    model = torchfit.Model(Autoencoder(), device="cpu")
    model.compile(optimizers.Adam(5e-3), losses.OverOutputs(negative_elbo), metrics={"images": ["mae"]})
    return model


def main():
    """Train, and print the reconstruction error."""
    torch.manual_seed(0)
    images = make_data()
    model = make_model()
    before = model.evaluate(images, images, verbose=0, return_dict=True)
    model.fit(images, images, epochs=30, verbose=2)
    after = model.evaluate(images, images, verbose=0, return_dict=True)
    print(f"Mean absolute error per pixel: {before['images_mae']:.3f} before, {after['images_mae']:.3f} after training")
    return before, after


if __name__ == "__main__":
    main()
