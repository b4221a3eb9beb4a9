#!/usr/bin/env bash
# Test and measure torchfit on one CUDA GPU, in less than eight minutes.
#
#   bash benchmarks/gpu/run.sh                             # results go to $OUT, by default gpu-results/
#   TORCHFIT_GPU_REHEARSAL=1 bash benchmarks/gpu/run.sh    # the same code on small sizes, on the CPU
#
# Installs nothing. It needs Python 3.12, torch 2.11, NumPy, pandas, tqdm and pytest, or newer ones; Lightning, Keras,
# JAX, hypothesis and pytest-xdist are used where they are installed. PYTHON says which interpreter, SECONDS_FOR_TESTS
# and SECONDS_FOR_BENCHMARKS how long each part may take.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit

python=${PYTHON:-python3}
out=${OUT:-gpu-results}
mkdir -p "$out"
rm -f "$out/gpu.json"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 KERAS_BACKEND=torch MPLBACKEND=Agg

# Warnings of other packages are not what is tested here.
options=(-q -p no:cacheprovider -W ignore::DeprecationWarning -W ignore::FutureWarning)
workers=()
if [ -n "${TORCHFIT_GPU_REHEARSAL:-}" ]; then
  options+=(-m 'not slow') # They compile, which takes minutes on a CPU.
elif "$python" -c 'import xdist' 2>/dev/null; then
  workers=(-n 4)
fi

timeout "${SECONDS_FOR_TESTS:-150}" "$python" -m pytest "${options[@]}" "${workers[@]}" tests/gpu \
  --ignore=tests/gpu/test_out_of_memory.py --junitxml="$out/tests.xml" 2>&1 | tee "$out/tests.txt" | tail -n 25
tests=${PIPESTATUS[0]}

# Alone, since it fills the device.
timeout 45 "$python" -m pytest "${options[@]}" tests/gpu/test_out_of_memory.py 2>&1 | tee "$out/memory.txt" | tail -n 12
memory=${PIPESTATUS[0]}

seconds=${SECONDS_FOR_BENCHMARKS:-180}
if "$python" -c 'import keras, jax' 2>/dev/null; then
  KERAS_BACKEND=jax XLA_PYTHON_CLIENT_PREALLOCATE=false timeout 45 "$python" -m benchmarks.gpu --only 'Keras on JAX' \
    --cases mnist tiny convnet --seconds 30 --no-growth --output "$out" >"$out/jax.txt" 2>&1 || tail -n 3 "$out/jax.txt"
fi
timeout $((seconds + 40)) "$python" -m benchmarks.gpu --seconds "$seconds" --output "$out" "$@" 2>&1 | tee "$out/benchmarks.txt"
benchmarks=${PIPESTATUS[0]}

echo "exit status: tests $tests, memory $memory, benchmarks $benchmarks"
exit $((tests | memory | benchmarks))
