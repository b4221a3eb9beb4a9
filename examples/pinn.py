"""A physics-informed network: solve an equation by minimizing its residual, first with Adam, then with LBFGS.

The equation is u''(x) = -pi^2 sin(pi x) for x from -1 to 1 with u = 0 at both ends; its solution is sin(pi x).
Run `python examples/pinn.py`. It takes seconds on a CPU.
"""

import torch
from torch import nn

import torchfit
from torchfit import losses, optimizers


class Solution(nn.Module):
    """A function u of x that is 0 at both ends."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))

    def forward(self, x):
        """Return u and the residual of the equation, (batch, 1) each, at the points x (batch, 1)."""
        with torch.enable_grad():  # Evaluation needs the derivatives as well.
            x = x.detach().requires_grad_()
            u = (1 - x.square()) * self.layers(x)
            (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return {"u": u, "residual": curvature + torch.pi**2 * (torch.pi * x).sin()}


def squared_residual(outputs):
    """Return the square of the residual at each point (batch,)."""
    return outputs["residual"].square().mean(-1)


def make_data(points=64):
    """Return the points (points, 1) at which the residual is minimized."""
    return torch.linspace(-1, 1, points)[:, None]


def make_model(optimizer):
    """Return the compiled model."""
    model = torchfit.Model(Solution(), device="cpu")
    model.compile(optimizer, losses.OverOutputs(squared_residual))
    return model


def refine(model, x, steps=10):
    """Continue with LBFGS, which evaluates the loss several times per step, on all points at once."""
    optimizer = torch.optim.LBFGS(model.module.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    model.compile(optimizer, losses.OverOutputs(squared_residual))
    return model.fit(x, batch_size=len(x), epochs=steps, shuffle=False, verbose=0).history["loss"]


def main():
    """Solve the equation, and print the error of the solution."""
    torch.manual_seed(0)
    x = make_data()
    model = make_model(optimizers.Adam(0.01))
    history = model.fit(x, epochs=100, verbose=0).history["loss"] + refine(model, x)
    error = abs(model.predict(x)["u"] - (torch.pi * x).sin().numpy()).max()
    print(f"Squared residual {history[0]:.3g} … {history[-1]:.3g}; largest error of the solution {error:.2g}")
    return history, error


if __name__ == "__main__":
    main()
