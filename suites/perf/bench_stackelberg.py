"""Time per state of the equilibrium core, one thread, float32, and what reading the tables alone costs.

    pytest suites/perf/bench_stackelberg.py -n0 --benchmark-json=stackelberg.json
    python -m safemarl_bench.suites.perf.report stackelberg.json results/perf

The file is collected only when it is named. A cell is a table size and a batch. In every round of it each contender
solves the same tables, so that a busy machine slows them all, in an order drawn anew, since whoever is first finds them
in a farther cache; ratios are medians over the rounds' ratios. Each round takes another data set: a loop over few
tables trains the branch predictor. Every state is feasible, so that every MIP is solved; a MIP's time includes its
certificate. MIPs solve one state: in cells of one state all of them, in the others cvxpy and HiGHS, whose ratios are
wanted there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import MissingDependency
from safemarl_bench.stackelberg.solver import MIPS

SIZES = (2, 5, 9, 25, 100, 300)
BATCHES = (1, 64, 256, 4096)
CELLS = list(itertools.product(SIZES, BATCHES))
BATCHED = tuple(name for name in stackelberg.BACKENDS if name not in (*MIPS, "python"))
LARGEST = dict.fromkeys((*MIPS, "python"), 100) | {"cvxpy_dpp": 25}
"""Largest size of the backends that solve state by state; beyond it one state may take more than 30 s."""
CONTROLS, CONTROL_SIZES = ("cvxpy", "highs"), (2, 5, 9, 25)
"""MIPs that are also timed in cells of many states."""
WARM = (*BATCHED, "floor")
"""Who first solves another data set, untimed: their code must not pay for finding the caches full of a MIP's."""
WARM_SECONDS = 0.004
"""For how long, but at least once: after one call of 0.7 ms torch still takes a fifth longer than after six."""
PAIRS = (("cvxpy", "torch"), ("highs", "torch"), ("numba", "floor"), ("torch", "numba"))
"""Whose times are divided, slow one first."""
DATA_SETS, MAX_BYTES = 16, 2**30
"""Data sets of a cell: fewer where they would take more memory than this, and no cell where one alone would."""
SECONDS, MIN_ROUNDS, MAX_ROUNDS = 5.0, 5, 400
LIMIT = 0.25
"""Of standard normal costs-to-go: 36 % of the pairs are safe, and pair (0, 0) is made so."""


class Contender(NamedTuple):
    """A backend, or the floor.

    Attributes:
        name: of the backend. states: that one call solves. call: solves the data set of that number.
    """

    name: str
    states: int
    call: Callable[[int], Any]


def data_sets(size: int, batch: int) -> list[np.ndarray]:
    """Return tables (4, batch, size, size): Q1, Q2, G1, G2."""
    count = min(DATA_SETS, MAX_BYTES // (16 * batch * size**2))
    if not count:
        pytest.skip(f"{batch} tables of {size}x{size} take more than {MAX_BYTES / 2**30:g} GiB")
    rng = np.random.default_rng([size, batch])
    sets = [rng.standard_normal((4, batch, size, size), np.float32) for _ in range(count)]
    for tables in sets:
        tables[2:, :, 0, 0] = 0
    return sets


def solving(name: str, sets: list[np.ndarray], states: int) -> Contender:
    """Return a backend that solves the first states of each data set."""
    convert: Callable[[np.ndarray], Any] = torch.from_numpy if name == "torch" else np.asarray
    arguments = [[convert(table[:states]) for table in tables] for tables in sets]

    def call(number: int) -> Any:
        q1, q2, g1, g2 = arguments[number]
        return stackelberg.solve(q1, q2, g1, g2, LIMIT, LIMIT, backend=name)

    return Contender(name, states, call)


def reading(sets: list[np.ndarray], states: int) -> Contender:
    """Return the floor: one vectorised pass that adds up all entries of the four tables."""
    from numba import njit

    @njit(fastmath=True)
    def read(q1: Any, q2: Any, g1: Any, g2: Any) -> Any:
        total = np.float32(0)
        for k in range(len(q1)):
            total += q1[k] + q2[k] + g1[k] + g2[k]
        return total

    arguments = [tuple(table.reshape(-1) for table in tables) for tables in sets]
    return Contender("floor", states, lambda number: read(*arguments[number]))


def contenders(sets: list[np.ndarray], size: int, batch: int) -> list[Contender]:
    """Return who is timed in a cell, compiled and warm; what is not installed is left out."""
    single: tuple[str, ...] = CONTROLS if size in CONTROL_SIZES else ()
    if batch == 1:
        single = tuple(name for name in LARGEST if size <= LARGEST[name])
    makers = [functools.partial(solving, name, sets, 1) for name in single]
    makers += [functools.partial(solving, name, sets, batch) for name in BATCHED]
    found = []
    for make in (*makers, functools.partial(reading, sets, batch)):
        with contextlib.suppress(MissingDependency, ImportError):
            contender = make()
            contender.call(0)
            found.append(contender)
    return found


def warm_up(contender: Contender, number: int) -> None:
    end = time.perf_counter() + WARM_SECONDS
    contender.call(number)
    while time.perf_counter() < end:
        contender.call(number)


@pytest.mark.benchmark(group="stackelberg")
@pytest.mark.parametrize(("size", "batch"), CELLS, ids=[f"{size}x{size}-{batch}" for size, batch in CELLS])
def test_time_per_state(benchmark: Any, size: int, batch: int) -> None:
    sets = data_sets(size, batch)
    timed, numbers = contenders(sets, size, batch), itertools.cycle(range(len(sets)))
    seconds: list[list[float]] = []
    rng = random.Random(0)

    def take_a_round() -> None:
        number, row = next(numbers), [0.0] * len(timed)
        for k in rng.sample(range(len(timed)), len(timed)):
            contender = timed[k]
            if contender.name in WARM:
                warm_up(contender, number - 1)
            begin = time.perf_counter()
            contender.call(number)
            row[k] = time.perf_counter() - begin
        seconds.append(row)

    take_a_round()
    rounds = int(np.clip(SECONDS / sum(seconds.pop()), MIN_ROUNDS, MAX_ROUNDS))
    benchmark.pedantic(take_a_round, rounds=rounds, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable
        return
    per_state = 1e6 * np.array(seconds[1:]) / [contender.states for contender in timed]
    column = {contender.name: per_state[:, k] for k, contender in enumerate(timed)}
    benchmark.extra_info.update(
        size=size,
        batch=batch,
        rounds=rounds,
        data_sets=len(sets),
        states={contender.name: contender.states for contender in timed},
        us_per_state={name: float(np.median(times)) for name, times in column.items()},
        ratios={
            f"{slow}/{fast}": float(np.median(column[slow] / column[fast]))
            for slow, fast in PAIRS
            if slow in column and fast in column
        },
    )
