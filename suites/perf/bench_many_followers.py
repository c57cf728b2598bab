"""Time of every method for many followers, one thread: 5 actions of the leader and of each follower.

    pytest suites/perf/bench_many_followers.py -n0 --benchmark-json=many.json
    python -m safemarl_bench.suites.perf.report many.json results/perf

The file is collected only when it is named. A round of a case solves one of its data sets by every method that takes
it, or, quick ones, ten times all data sets in turn: ratios compare neighbours of one process, and nothing is solved
twice in a row. Payoffs are standard normal, costs integers from 0 to 9, each budget 3.5 per follower, where 4.5 would
be the mean use; there is a feasible profile. A time includes the input checks; HiGHS's includes its certificate and
all its MIPs, two per action of the leader (coalition) or one (equilibria).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from safemarl_bench import stackelberg
from safemarl_bench.errors import MissingDependency

ACTIONS = 5
DATA_SETS = 8
FOLLOWERS = (2, 4, 6, 8, 10, 12, 20, 50, 100)
LARGEST: dict[tuple[str, int], dict[str, int]] = {
    ("coalition", 1): {"enumeration": 12, "highs": 100, "branch_and_bound": 100, "dynamic_program": 100},
    ("coalition", 3): {"enumeration": 10, "highs": 50, "branch_and_bound": 100},
    ("gne", 1): {"enumeration": 20, "highs": 100, "branch_and_bound": 20, "dynamic_program": 100},
    ("gne", 3): {"enumeration": 12, "highs": 20, "branch_and_bound": 50},
}
"""Model and number of budgets -> the largest number of followers that a method is timed with: the next would take more
than some 10 s, or grow beyond the method's limit."""

QUICK = ("dynamic_program", "lagrangian_bound")
CASES = [
    (*case, followers) for case, most in LARGEST.items() for followers in FOLLOWERS if followers <= max(most.values())
]


def data_sets(budgets: int, followers: int) -> list[tuple[Any, ...]]:
    """Return the argument tuples of `solve_multi`, the same for every model and method."""
    rng = np.random.default_rng([budgets, followers])
    drawn: list[tuple[Any, ...]] = []
    while len(drawn) < DATA_SETS:
        shape = (followers, ACTIONS, ACTIONS)
        payoffs = rng.normal(size=(2, *shape))
        costs = rng.integers(0, 10, size=(budgets, *shape)).astype(float)
        tables = (*payoffs, costs, np.full(budgets, 3.5 * followers))
        if stackelberg.solve_multi(*tables).feasible:
            drawn.append(tables)
    return drawn


def seconds(method: str, model: str, sets: list[tuple[Any, ...]]) -> float:
    """Return the mean time of a method over data sets."""
    start = time.perf_counter()
    for q_leader, q_follower, costs, limits in sets:
        if method == "lagrangian_bound":
            stackelberg.lagrangian_bound(q_leader, costs, limits)
        else:
            stackelberg.solve_multi(q_leader, q_follower, costs, limits, model=model, method=method)
    return (time.perf_counter() - start) / len(sets)


def bound_quality(model: str, sets: list[tuple[Any, ...]]) -> dict[str, float]:
    """Return how often the largest bound is at the best row, and what share of the other rows the bounds rule out."""
    right, out = [], []
    for q_leader, q_follower, costs, limits in sets:
        best = stackelberg.solve_multi(q_leader, q_follower, costs, limits, model=model)
        bounds = stackelberg.lagrangian_bound(q_leader, costs, limits)
        right.append(int(bounds.argmax()) == best.leader)
        out.append((bounds < best.value_leader).sum() / (ACTIONS - 1))
    return {"bound_right": float(np.mean(right)), "bound_rules_out": float(np.mean(out))}


@pytest.mark.benchmark(group="many_followers")
@pytest.mark.parametrize(("model", "budgets", "followers"), CASES, ids=[f"{m}-K{k}-N{n:03}" for m, k, n in CASES])
def test_time_of_every_method(benchmark: Any, model: str, budgets: int, followers: int) -> None:
    sets = data_sets(budgets, followers)
    methods = [method for method, most in LARGEST[model, budgets].items() if followers <= most]
    try:
        stackelberg.solve_multi(*data_sets(budgets, 2)[0], model=model, method="highs")
    except MissingDependency:
        methods = [method for method in methods if method != "highs"]
    rounds = 3 if "enumeration" in methods and followers > 10 else DATA_SETS
    times: dict[str, list[float]] = {method: [] for method in (*methods, "lagrangian_bound")}
    turn = iter(sets)

    def one_round() -> None:
        mine = [next(turn)]
        for method, taken in times.items():
            taken.append(seconds(method, model, 10 * sets if method in QUICK else mine))

    for method in times:
        seconds(method, model, data_sets(budgets, 2)[:1])  # compiled and imported before it counts
    benchmark.pedantic(one_round, rounds=1 if benchmark.disabled else rounds, iterations=1)
    if benchmark.stats is None:  # --benchmark-disable
        return
    benchmark.extra_info.update(model=model, budgets=budgets, followers=followers, **bound_quality(model, sets))
    benchmark.extra_info["ms"] = {method: 1e3 * float(np.median(taken)) for method, taken in times.items()}
    if "enumeration" in times:
        benchmark.extra_info["enumeration_ratio"] = {
            method: float(np.median(np.divide(times["enumeration"], taken))) for method, taken in times.items()
        }
