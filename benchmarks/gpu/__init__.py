"""Benchmarks on a GPU, each trainer against the loop by hand; `benchmarks/gpu/run.sh` runs them after the tests."""
