"""Benchmarks (pytest-benchmark); collected only when named: `pytest suites/perf/bench_stackelberg.py -n0`."""
