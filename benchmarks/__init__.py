"""Side by side: torchfit, loops written by hand, and other trainers; and what its parts cost.

`make bench`, on an idle machine, measures everything and writes `benchmarks/RESULTS.md`; see `benchmarks/suite.py`.
The other trainers take part where they are installed: `pip install -r benchmarks/requirements.txt`.
"""

import os

# One thread, said before torch is imported: pools of threads would decide otherwise.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = os.environ.get("BENCHMARK_THREADS", "1")
os.environ.setdefault("KERAS_BACKEND", "torch")
