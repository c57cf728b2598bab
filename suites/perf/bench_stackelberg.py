"""Time per state of every backend of the equilibrium core, one thread, float32.

    pytest suites/perf/bench_stackelberg.py -n0 --benchmark-json=stackelberg.json
    python -m safemarl_bench.suites.perf.report stackelberg.json results/perf

The file is collected only when it is named. Cases go size by size and cvxpy, the control, goes first at each size, so
that every ratio compares neighbours of one process. Each round takes another of 16 data sets: a loop over few tables
trains the branch predictor. Every state is feasible, so that every MIP is solved; a MIP's time includes its
certificate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import MissingDependency

SIZES = (2, 5, 9, 25)
BATCHES = (1, 64, 256)
ONE_STATE = ("cvxpy", "scipy", "highs", "python")
BATCHED = ("numpy", "torch", "numba")
CASES = [
    (size, backend, batch)
    for size in SIZES
    for backend, batch in [*((name, 1) for name in ONE_STATE), *itertools.product(BATCHED, BATCHES)]
]
DATA_SETS = 16
LIMIT = 0.25
"""Of standard normal costs-to-go: 36 % of the pairs are safe, and pair (0, 0) is made so."""

_cvxpy_us: dict[int, float] = {}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def data_sets(size: int, backend: str, batch: int) -> Iterator[tuple[Any, ...]]:
    """Cycle through the argument tuples of `solve`; every backend gets the same tables."""
    rng = np.random.default_rng([size, batch])
    sets = [rng.normal(size=(4, batch, size, size)).astype(np.float32) for _ in range(DATA_SETS)]
    for tables in sets:
        tables[2:, :, 0, 0] = 0
    convert = torch.from_numpy if backend == "torch" else np.asarray
    return itertools.cycle([(*(convert(table) for table in tables), LIMIT, LIMIT) for tables in sets])


@pytest.mark.parametrize(("size", "backend", "batch"), CASES, ids=[f"{n}x{n}-{name}-{b}" for n, name, b in CASES])
def test_time_per_state(benchmark: Any, size: int, backend: str, batch: int) -> None:
    sets = data_sets(size, backend, batch)
    options: dict[str, Any] = {"backend": backend}
    try:
        stackelberg.solve(*next(sets), **options)
    except MissingDependency as error:
        pytest.skip(str(error))
    rounds, warmup = (2 * DATA_SETS, 2) if backend in ONE_STATE else (50 * DATA_SETS, DATA_SETS)
    benchmark.pedantic(
        stackelberg.solve, setup=lambda: (next(sets), options), rounds=rounds, warmup_rounds=warmup, iterations=1
    )
    if benchmark.stats is None:  # --benchmark-disable
        return
    us_per_state = 1e6 * benchmark.stats.stats.median / batch
    if backend == "cvxpy":
        _cvxpy_us[size] = us_per_state
    benchmark.extra_info.update(size=size, backend=backend, batch=batch, us_per_state=us_per_state)
    if size in _cvxpy_us:
        benchmark.extra_info["cvxpy_ratio"] = _cvxpy_us[size] / us_per_state
