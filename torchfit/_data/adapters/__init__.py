"""One adapter for each kind of data that `fit`, `evaluate` and `predict` accept."""
