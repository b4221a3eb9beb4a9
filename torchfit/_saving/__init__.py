"""The contents of model and weight files, and their conversion to plain data and back."""
