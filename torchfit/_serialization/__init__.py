"""The file format of checkpoints: tensors and plain data, written atomically and read without running code."""
