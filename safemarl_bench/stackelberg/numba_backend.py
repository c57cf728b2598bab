"""Enumeration as compiled loops over the cells of every state: one pass, no temporary tables.

For small tables on the CPU, where the other backends spend their time on calls. Compiled at the first use by numba
(seconds, then cached on disk). The arithmetic is that of the tables' dtype in the oracle's order, hence its bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from safemarl_bench.stackelberg.mip import import_extra
from safemarl_bench.stackelberg.numpy_backend import fall_back
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
    q_leader, q_follower = _flat(problem.q_leader), _flat(problem.q_follower)
    over_leader = _violation(problem.leader_constraints, problem.scale[0])
    over_follower = _violation(problem.follower_constraints, problem.scale[1])
    shape, dtype, count = problem.q_leader.shape, q_leader.dtype, len(q_leader)
    pairs, n_safe = np.empty((2, count), np.int64), np.empty((count, shape[-2]), np.int64)
    numbers = np.empty((5, count), dtype)
    favour = dtype.type(1.0 if problem.tie == "optimistic" else -1.0)
    joint = problem.semantics == "mip13"
    choose(q_leader, q_follower, over_leader, over_follower, joint, favour, pairs, n_safe, numbers)
    leader, follower = pairs.reshape(2, *shape[:-2])
    value_leader, value_follower, violation, br_gap, runner_up = numbers.reshape(5, *shape[:-2])
    selection = Selection(
        leader=leader,
        follower=follower,
        feasible=violation == 0,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=violation,
        n_safe=n_safe.reshape(shape[:-1]),
        br_gap=br_gap,
        runner_up=runner_up,
        backend="numba",
        **problem.options,
    )
    if problem.fallback in ("least_violation", "raise"):
        return selection
    with np.errstate(over="ignore"):
        return fall_back(problem, selection, (over_leader + over_follower).reshape(shape))


def _flat(table: np.ndarray) -> np.ndarray:
    """Return (S, m1, m2) for (..., m1, m2): always of one type, for which the loops are compiled once."""
    flat = np.ascontiguousarray(table).reshape(-1, *table.shape[-2:])
    return flat if flat.flags.writeable else flat.copy()


def _violation(constraints: tuple[Constraint, ...], weight: float) -> np.ndarray:
    """Return one agent's weighted violation, 0 exactly where its constraints hold; (S, m1, m2)."""
    first = constraints[0][0]
    over = np.zeros((first.size // (first.shape[-2] * first.shape[-1]), *first.shape[-2:]), first.dtype)
    for table, limit in constraints:
        add_excess(_flat(table), np.array(limit, first.dtype).reshape(-1), over)
    if weight != 1.0:  # a product may underflow: a violation stays positive
        with np.errstate(over="ignore", under="ignore"):
            weighted = np.maximum(over * weight, np.finfo(over.dtype).tiny)
        over = np.where(over == 0, 0, weighted).astype(over.dtype, copy=False)
    return over


@njit
def add_excess(table: Any, limits: Any, over: Any) -> None:
    """Add ``max(0, table - limit)`` to `over`; both (S, m1, m2), limits (S,), or (1,) for all states."""
    for state in range(len(table)):
        limit = limits[state if len(limits) > 1 else 0]
        for i in range(table.shape[1]):
            for j in range(table.shape[2]):
                if not table[state, i, j] <= limit:
                    over[state, i, j] += table[state, i, j] - limit


@inlined
def reply_to(row: Any, q1: Any, q2: Any, over1: Any, over2: Any, joint: Any, favour: Any) -> Any:
    """Return the follower's reply to a row and what it leads to.

    Returns:
        column, violation, values of leader and follower, the next best value of the follower at equal violation
        (-inf: none), and how many pairs of the row are safe.
    """
    column, safe = -1, 0
    least = violation = value1 = value2 = third = others = -np.inf
    for j in range(q1.shape[1]):
        total = over1[row, j] + over2[row, j]
        over, last = (total, favour * 0) if joint else (over2[row, j], favour * over1[row, j])
        y1, y2 = q1[row, j], q2[row, j]
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
    q1: Any, q2: Any, over1: Any, over2: Any, joint: Any, favour: Any, pairs: Any, n_safe: Any, numbers: Any
) -> None:
    """Choose a pair in every state.

    Args:
        q1, q2: (S, m1, m2) values of leader and follower. over1, over2: (S, m1, m2) violations.
        joint: whether the follower heeds the leader's violation first, as its own (mip13), or last (csq10).
        favour: 1 where an indifferent follower helps the leader, -1 where it harms it.
        pairs: (2, S), n_safe: (S, m1) and numbers: (5, S), value of leader and follower, violation, br_gap and
            runner_up, are written.
    """
    for s in range(len(q1)):
        row = column = -1
        least = value1 = value2 = br_others = others = -np.inf
        for i in range(q1.shape[1]):
            reply, violation, y1, y2, second, n_safe[s, i] = reply_to(
                i, q1[s], q2[s], over1[s], over2[s], joint, favour
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
