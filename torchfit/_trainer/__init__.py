"""The loops, what they report, and the objective they minimise."""
