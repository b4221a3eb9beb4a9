"""A generative adversarial network: a custom training step with two optimizers.

Run `python examples/gan.py`. It takes seconds on a CPU.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

import torchfit
from torchfit import optimizers


class GAN(torchfit.Model):
    """A generator of points in the plane, and a discriminator that distinguishes them from real ones."""

    def __init__(self):
        super().__init__(device="cpu")
        self.generator = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def compile(self, generator_optimizer, discriminator_optimizer):
        """Set one optimizer per network, and bind each to the parameters of its network."""
        super().compile(generator_optimizer)
        self.discriminator_optimizer = discriminator_optimizer
        discriminator_optimizer.build(self.discriminator.named_parameters())

    def build_optimizer(self):
        """Bind the optimizer passed to `compile` to the generator only."""
        self.optimizer.build(self.generator.named_parameters())

    def forward(self, noise):
        """Return points (batch, 2) generated from noise (batch, 2)."""
        return self.generator(noise)

    def train_step(self, real):
        """Train the discriminator, then the generator, on one batch of real points (batch, 2)."""
        fake = self(torch.randn_like(real))
        scores = self.discriminator(torch.cat([real, fake.detach()]))
        is_real = torch.cat([torch.ones(len(real), 1), torch.zeros(len(real), 1)])
        discriminator_loss = F.binary_cross_entropy_with_logits(scores, is_real)
        self.discriminator_optimizer.zero_grad()
        discriminator_loss.backward()
        self.discriminator_optimizer.step()

        generator_loss = F.softplus(-self.discriminator(fake)).mean()
        self.optimizer.zero_grad()
        generator_loss.backward()
        self.optimizer.step()
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}


def make_data(samples=1024):
    """Return points (samples, 2) on an arc of a circle."""
    angles = torch.rand(samples) * math.pi / 2
    return torch.stack([angles.cos(), angles.sin()], dim=1) * 2 + 0.05 * torch.randn(samples, 2)


def make_model():
    """Return the compiled model."""
    model = GAN()
    model.compile(optimizers.Adam(2e-3, beta_1=0.5), optimizers.Adam(2e-3, beta_1=0.5))
    return model


def distance(points, others):
    """Return the Chamfer distance of two sets of points: the mean distance to the nearest point, in both directions."""
    distances = torch.cdist(points, others)
    return ((distances.amin(0).mean() + distances.amin(1).mean()) / 2).item()


def main():
    """Train, and print the distance between generated and real points."""
    torch.manual_seed(0)
    points, noise = make_data(), torch.randn(512, 2)
    model = make_model()
    before = distance(torch.from_numpy(model.predict(noise)), points)
    model.fit(points, batch_size=64, epochs=60, verbose=0)
    after = distance(torch.from_numpy(model.predict(noise)), points)
    print(f"Distance between generated and real points: {before:.3f} before, {after:.3f} after training")
    return before, after


if __name__ == "__main__":
    main()
