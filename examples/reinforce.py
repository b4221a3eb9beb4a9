"""REINFORCE: train a policy on its own actions, weighted by the rewards that followed.

Run `python examples/reinforce.py`. It takes seconds on a CPU.
"""

import torch
from torch import nn

import torchfit
from torchfit import optimizers

LENGTH, STEPS = 9, 16


class Walks:
    """Parallel walks on a line of 9 fields that start in the middle; the right end gives a reward."""

    def __init__(self, walks=64):
        self.fields = torch.full((walks,), LENGTH // 2)

    def observe(self):
        """Return the fields as one-hot rows (walks, 9)."""
        return nn.functional.one_hot(self.fields, LENGTH).float()

    def step(self, actions):
        """Move left (0) or right (1), and return the rewards (walks,): 1 for walks at the right end, otherwise 0."""
        self.fields = (self.fields + 2 * actions - 1).clamp(0, LENGTH - 1)
        return (self.fields == LENGTH - 1).float()


def make_model():
    """Return the compiled policy, which maps fields (batch, 9) to one score per action (batch, 2)."""
    policy = nn.Sequential(nn.Linear(LENGTH, 16), nn.Tanh(), nn.Linear(16, 2))
    model = torchfit.Model(policy, device="cpu")
    model.compile(optimizers.Adam(0.02), nn.CrossEntropyLoss())
    return model


def play(model, discount=0.95):
    """Play, and return states (steps * walks, 9), actions, weights, and the mean reward per walk.

    The weight of an action is the discounted sum of later rewards minus the mean over all walks at that step, scaled.
    """
    walks, states, actions, rewards = Walks(), [], [], []
    for _ in range(STEPS):
        states.append(walks.observe())
        scores = torch.from_numpy(model.predict_on_batch(states[-1]))
        actions.append(torch.distributions.Categorical(logits=scores).sample())
        rewards.append(walks.step(actions[-1]))
    returns, later = [], torch.zeros_like(rewards[0])
    for reward in reversed(rewards):
        later = reward + discount * later
        returns.insert(0, later)
    weights = torch.stack(returns)
    weights = (weights - weights.mean(1, keepdim=True)) / weights.std()
    return torch.cat(states), torch.cat(actions), weights.flatten(), torch.stack(rewards).sum(0).mean().item()


def main():
    """Train, and print the mean reward per walk."""
    torch.manual_seed(0)
    model, history = make_model(), []
    for _ in range(40):
        states, actions, weights, reward = play(model)
        model.train_on_batch(states, actions, sample_weight=weights)
        history.append(reward)
    print(f"Mean reward per walk: {history[0]:.2f} at first, {history[-1]:.2f} at the end, at most {STEPS - 3}")
    return history


if __name__ == "__main__":
    main()
