"""Benchmarks of torchfit against PyTorch loops and other trainers, and of single parts against a budget.

`make bench`, on an idle machine, measures everything and writes `benchmarks/RESULTS.md`; see `benchmarks/suite.py`.
Other trainers are included where they are installed: `pip install -r benchmarks/requirements.txt`.
"""

import os

# One thread, set before torch is imported: thread pools read these variables once.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = os.environ.get("BENCHMARK_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
