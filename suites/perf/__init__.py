"""Benchmarks (pytest-benchmark); collected only when named: `pytest suites/perf -n0`."""
