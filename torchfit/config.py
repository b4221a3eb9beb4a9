"""Settings for the whole process.

Attributes:
    traceback_filtering: Whether tracebacks of errors raised by the methods of a model omit the frames of torchfit and
        PyTorch and show only the user's own code. Set it to `False` to see all frames, for example in a bug report.
"""

traceback_filtering: bool = True
