"""Enumeration as compiled loops over the cells of every state: one pass, no temporary tables.

For small tables on the CPU, where the other backends spend their time on calls. Compiled at the first use by numba
(seconds, then cached on disk). The arithmetic is that of the tables' dtype in the oracle's order, hence its bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from safemarl_bench.stackelberg.mip import import_extra
from safemarl_bench.stackelberg.numpy_backend import excess, fall_back
from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection

F = TypeVar("F", bound=Callable[..., Any])
numba: Any = import_extra("numba", "numba", extra="kernel")


def njit(function: F) -> F:
    """Compile a function, cached on disk."""
    return cast(F, numba.njit(cache=True, error_model="numpy")(function))


def inlined(function: F) -> F:
    """Compile a function into its callers."""
    return cast(F, numba.njit(cache=True, error_model="numpy", forceinline=True)(function))


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    shape, dtype = problem.q_leader.shape, problem.q_leader.dtype
    leaders = _one_constraint(problem.leader_constraints, problem.scale[0])
    followers = _one_constraint(problem.follower_constraints, problem.scale[1])
    states = shape[:-2]
    pairs, n_safe = np.empty((2, *states), np.int64), np.empty(shape[:-1], np.int64)
    numbers = np.empty((5, *states), dtype)
    choose(
        _flat(problem.q_leader),
        _flat(problem.q_follower),
        *leaders,
        *followers,
        problem.semantics == "mip13",
        dtype.type(1.0 if problem.tie == "optimistic" else -1.0),
        pairs.reshape(2, -1),
        n_safe.reshape(-1, shape[-2]),
        numbers.reshape(5, -1),
    )
    leader, follower = pairs
    value_leader, value_follower, violation, br_gap, runner_up = numbers
    selection = Selection(
        leader=leader,
        follower=follower,
        feasible=violation == 0,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=violation,
        n_safe=n_safe,
        br_gap=br_gap,
        runner_up=runner_up,
        backend="numba",
        **problem.options,
    )
    if problem.fallback in ("least_violation", "raise"):
        return selection
    over_leader = excess(problem.leader_constraints, problem.scale[0])[1]
    over_follower = excess(problem.follower_constraints, problem.scale[1])[1]
    with np.errstate(over="ignore"):
        return fall_back(problem, selection, over_leader + over_follower)


def _flat(table: np.ndarray) -> np.ndarray:
    """Return (S, m1, m2) for (..., m1, m2): always of one type, for which the loops are compiled once."""
    flat = np.ascontiguousarray(table).reshape(-1, *table.shape[-2:])
    return flat if flat.flags.writeable else flat.copy()


def _one_constraint(constraints: tuple[Constraint, ...], weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (S, m1, m2) costs and (S,) or (1,) limits whose excess is an agent's weighted violation.

    Several constraints, or a weight, become their violation itself and the limit 0.
    """
    table, limit = constraints[0]
    if len(constraints) > 1 or weight != 1.0:
        table, limit = excess(constraints, weight)[1], 0.0
    return _flat(table), np.array(limit, table.dtype).reshape(-1)


@inlined
def excess_of(cost: Any, limit: Any, zero: Any) -> Any:
    """Return ``max(0, cost - limit)``, 0 also where both are infinite; `zero` is 0 in the tables' dtype."""
    return zero if cost <= limit else cost - limit


@inlined
def reply_to(q1: Any, q2: Any, g1: Any, d1: Any, g2: Any, d2: Any, joint: Any, favour: Any) -> Any:
    """Return the follower's reply to a row, all (m2,), and what it leads to.

    Returns:
        column, violation, values of leader and follower, the next best value of the follower at equal violation
        (-inf: none), and how many pairs of the row are safe.
    """
    column, safe, zero = -1, 0, favour * 0
    least = violation = value1 = value2 = third = others = -np.inf
    for j in range(len(q1)):
        over1, over2 = excess_of(g1[j], d1, zero), excess_of(g2[j], d2, zero)
        total = over1 + over2
        over, last = (total, zero) if joint else (over2, favour * over1)
        y1, y2 = q1[j], q2[j]
        safe += total == 0
        if column >= 0 and over > least:
            continue
        if column >= 0 and over == least:
            better = y2 > value2
            if y2 == value2:
                better = last < third or (last == third and favour * y1 > favour * value1)
            others = max(others, value2 if better else y2)
            if not better:
                continue
        else:
            others = -np.inf
        column, least, violation, value1, value2, third = j, over, total, y1, y2, last
    return column, violation, value1, value2, others, safe


@njit
def choose(
    q1: Any,
    q2: Any,
    g1: Any,
    d1: Any,
    g2: Any,
    d2: Any,
    joint: Any,
    favour: Any,
    pairs: Any,
    n_safe: Any,
    numbers: Any,
) -> None:
    """Choose a pair in every state.

    Args:
        q1, q2: (S, m1, m2) values of leader and follower. g1, g2: (S, m1, m2) costs.
        d1, d2: (S,) limits, or (1,) for all states.
        joint: whether the follower heeds the leader's violation first, as its own (mip13), or last (csq10).
        favour: 1 where an indifferent follower helps the leader, -1 where it harms it.
        pairs: (2, S), n_safe: (S, m1) and numbers: (5, S), value of leader and follower, violation, br_gap and
            runner_up, are written.
    """
    for s in range(len(q1)):
        limit1, limit2 = d1[s if len(d1) > 1 else 0], d2[s if len(d2) > 1 else 0]
        row = column = -1
        least = value1 = value2 = br_others = others = -np.inf
        for i in range(q1.shape[1]):
            reply, violation, y1, y2, second, n_safe[s, i] = reply_to(
                q1[s, i], q2[s, i], g1[s, i], limit1, g2[s, i], limit2, joint, favour
            )
            if row >= 0 and violation > least:
                continue
            if row >= 0 and violation == least:
                others = max(others, min(y1, value1))
                if y1 <= value1:
                    continue
            else:
                others = -np.inf
            row, column, least, value1, value2, br_others = i, reply, violation, y1, y2, second
        pairs[0, s], pairs[1, s] = row, column
        numbers[0, s], numbers[1, s], numbers[2, s] = value1, value2, least
        numbers[3, s], numbers[4, s] = value2 - br_others, value1 - others
