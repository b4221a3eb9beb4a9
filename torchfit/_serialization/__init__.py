"""The checkpoint file: tensors and plain data, written atomically and read without running code."""
