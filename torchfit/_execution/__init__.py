"""Where, in which precision and how a step runs."""
