"""Side by side: torchfit, loops written by hand, and other trainers.

`python -m benchmarks.training` and `python -m benchmarks.import_time`, or `make bench`, on an idle machine.
"""

import os

# One thread, said before torch is imported: pools of threads would decide otherwise.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = os.environ.get("BENCHMARK_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
