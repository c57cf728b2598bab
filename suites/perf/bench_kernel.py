"""Speed of the driving kernel on one core against upstream highway-env in the same run; its memory and its start.

    pytest suites/perf/bench_kernel.py -n0 --benchmark-only

A decision is one joint action of one environment. The denominator is highway-env as it is: upstream's road network,
stepping and pandas observation of two cars, without reward; resets are not counted. The kernel is measured on the
core, finished episodes restarted in the same call, actions drawn beforehand. Each round of the kernel follows one of
upstream, and the ratio is the median of the rounds' ratios, so that a busy machine slows both sides of it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safemarl_bench.suites.perf.driving import ROUNDS, SUITES, WARMUP_ROUNDS, Upstream, kernel_rounds

from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.registry import get_suite

pytestmark = pytest.mark.skipif(
    not kernel.COMPILED, reason="the kernel is not compiled here; the extra `kernel` brings numba"
)
BATCHES = (1, 16, 256, 4096)
UPSTREAM_DECISIONS = 24
"""Of upstream in each round."""
LEAST_CALLS = 17
"""Of the kernel in each round: with all rounds, a whole episode of the racetrack."""

upstream_of = functools.cache(Upstream)


@pytest.mark.benchmark(group="kernel")
@pytest.mark.parametrize("num_envs", BATCHES)
@pytest.mark.parametrize("suite", SUITES)
def test_decisions_per_second(benchmark: Any, suite: str, num_envs: int) -> None:
    calls = max(4096 // num_envs, LEAST_CALLS)
    _, drive = kernel_rounds(suite, num_envs, calls)
    rates: list[float] = []
    benchmark.pedantic(
        drive,
        setup=lambda: rates.append(upstream_of(suite).rate(UPSTREAM_DECISIONS)),
        rounds=ROUNDS,
        warmup_rounds=WARMUP_ROUNDS,
    )
    if benchmark.stats:
        ours, upstreams = calls * num_envs / np.array(benchmark.stats.stats.data), np.array(rates[-ROUNDS:])
        benchmark.extra_info.update(
            suite=suite,
            num_envs=num_envs,
            decisions_per_second=float(np.median(ours)),
            upstream_decisions_per_second=float(np.median(upstreams)),
            ratio=float(np.median(ours / upstreams)),
        )


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize("suite", SUITES)
def test_memory_per_environment(benchmark: Any, suite: str) -> None:
    core = benchmark.pedantic(BatchedDriving, (get_suite(suite), BATCHES[-1]), rounds=3, warmup_rounds=1)
    benchmark.extra_info.update(suite=suite, bytes_per_environment=core.nbytes / core.num_envs)


FIRST_CALL = """
import time
begin = time.perf_counter()
import numpy
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.registry import get_suite
start = time.perf_counter()
BatchedDriving(get_suite("merge"), 1).step(numpy.ones((1, 2), numpy.int64))
print(start - begin, time.perf_counter() - start)
"""


@pytest.fixture(scope="module")
def numba_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the compiled kernel of this module's processes lies; empty at first."""
    return tmp_path_factory.mktemp("numba")


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_first_call_of_a_process(benchmark: Any, numba_cache: Path, cache: str) -> None:
    """One suite tells: the kernel is compiled once for all."""
    seconds: list[list[float]] = []

    def first_call() -> None:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(numba_cache)}
        command = [sys.executable, "-c", FIRST_CALL]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds.append([float(number) for number in done.stdout.split()])

    filled = any(numba_cache.iterdir())
    assert not (filled and cache == "cold")
    warm = cache == "warm"
    benchmark.pedantic(first_call, rounds=3 if warm else 1, warmup_rounds=int(warm and not filled))
    imports, first = np.median(seconds[-3:], axis=0).tolist()
    benchmark.extra_info.update(cache=cache, import_seconds=imports, first_call_seconds=first)
