"""Settings for the whole process.

Attributes:
    traceback_filtering: Whether errors raised by the methods of a model show the user's lines alone, without the frames
        of torchfit and PyTorch. Set it to `False` to see all of them, in a bug report for instance.
"""

traceback_filtering: bool = True
