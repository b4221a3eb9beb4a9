"""The training, evaluation and prediction loops, their steps, and the objective that is minimized."""
