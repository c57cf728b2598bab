"""Enumeration over a batch of tables with NumPy: the same chain of filters as the torch backend."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection


class Replies(NamedTuple):
    """What the follower answers to each row.

    Attributes:
        violation: (..., m1, m2), of both agents.
        n_safe: (..., m1) int64.
        values: (..., m1, m2), Q2 of the replies of least violation, -inf elsewhere.
        columns: (..., m1), the reply.
        rows: (..., m1), Q1 of the reply in the rows of least violation, -inf elsewhere.
    """

    violation: np.ndarray
    n_safe: np.ndarray
    values: np.ndarray
    columns: np.ndarray
    rows: np.ndarray


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    replies = follower_replies(problem)
    leader = replies.rows.argmax(-1)
    selection = describe(problem, replies, leader, _at(replies.columns, leader), "numpy")
    return fall_back(problem, selection, replies.violation)


def follower_replies(problem: Problem) -> Replies:
    """Enumerate the follower's reply to every row, and which rows the leader then chooses among."""
    q_leader, q_follower = problem.q_leader, problem.q_follower
    safe_leader, over_leader = excess(problem.leader_constraints, problem.scale[0])
    safe_follower, over_follower = excess(problem.follower_constraints, problem.scale[1])
    with np.errstate(over="ignore"):
        violation = over_leader + over_follower
    over = violation if problem.semantics == "mip13" else over_follower
    values = np.where(over == over.min(-1, keepdims=True), q_follower, -np.inf)
    tied = values == values.max(-1, keepdims=True)
    if problem.semantics == "csq10":
        tied = _narrow(over_leader, tied, problem.tie)
    if problem.tie == "optimistic":
        columns = np.where(tied, q_leader, -np.inf).argmax(-1)
    else:
        columns = np.where(tied, q_leader, np.inf).argmin(-1)
    row_violation = _at(violation, columns)
    rows = np.where(row_violation == row_violation.min(-1, keepdims=True), _at(q_leader, columns), -np.inf)
    return Replies(violation, (safe_leader & safe_follower).sum(-1), values, columns, rows)


def describe(problem: Problem, replies: Replies, leader: np.ndarray, follower: np.ndarray, backend: str) -> Selection:
    """Return the selection of the pairs (leader, follower), (...) int64 each, with all their numbers."""
    value_leader, value_follower, violation = (
        _at_pair(table, leader, follower) for table in (problem.q_leader, problem.q_follower, replies.violation)
    )
    # The gaps: the best of what is left once the choice itself is struck out.
    others = np.take_along_axis(replies.values, leader[..., None, None], -2)[..., 0, :]
    np.put_along_axis(others, follower[..., None], -np.inf, -1)
    rows = replies.rows.copy()
    np.put_along_axis(rows, leader[..., None], -np.inf, -1)
    with np.errstate(over="ignore"):
        br_gap, runner_up = value_follower - others.max(-1), value_leader - rows.max(-1)
    return Selection(
        leader=leader,
        follower=follower,
        feasible=violation == 0,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=violation,
        n_safe=replies.n_safe,
        br_gap=br_gap,
        runner_up=runner_up,
        backend=backend,
        **problem.options,
    )


def fall_back(problem: Problem, selection: Selection, violation: np.ndarray) -> Selection:
    """Replace the least-violation pair at infeasible states by what `fallback` asks for."""
    if problem.fallback in ("least_violation", "raise"):
        return selection
    stuck = ~selection.feasible
    nan = problem.q_leader.dtype.type(np.nan)
    gaps: dict[str, Any] = {name: np.where(stuck, nan, getattr(selection, name)) for name in ("br_gap", "runner_up")}
    if problem.fallback == "none":
        pair: dict[str, Any] = {name: np.where(stuck, -1, getattr(selection, name)) for name in ("leader", "follower")}
        values = {name: np.where(stuck, nan, getattr(selection, name)) for name in ("value_leader", "value_follower")}
        return selection._replace(**pair, **values, **gaps)
    rows, columns = problem.q_leader.shape[-2:]
    best = problem.q_leader.reshape(*stuck.shape, rows * columns).argmax(-1)
    pair = dict(zip(("leader", "follower"), np.divmod(best, columns), strict=True))
    tables = {"value_leader": problem.q_leader, "value_follower": problem.q_follower, "violation": violation}
    best_of = pair | {name: _at_pair(table, *pair.values()) for name, table in tables.items()}
    replaced: dict[str, Any] = {
        name: np.where(stuck, value, getattr(selection, name)) for name, value in best_of.items()
    }
    return selection._replace(**replaced, **gaps)


def excess(constraints: tuple[Constraint, ...], weight: float) -> tuple[np.ndarray, np.ndarray]:
    """Return where one agent's constraints all hold, and its weighted violation: 0 exactly there; (..., m1, m2)."""
    safe: Any = np.True_
    over: Any = constraints[0][0].dtype.type(0)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # inf - inf is masked, overflow is inf
        for table, limit in constraints:
            holds = table <= limit
            over = over + np.where(holds, 0, table - limit).astype(table.dtype, copy=False)
            safe = safe & holds
        if weight != 1.0:  # a product may underflow: a violation stays positive
            least = np.finfo(over.dtype).tiny
            over = np.where(safe, 0, np.maximum(over * weight, least)).astype(over.dtype, copy=False)
    return safe, over


def _narrow(over_leader: np.ndarray, tied: np.ndarray, tie: str) -> np.ndarray:
    """Keep, of the follower's tied replies in each row, those with the least (pessimistic: largest) G1 violation."""
    if tie == "optimistic":
        edge = np.where(tied, over_leader, np.inf).min(-1, keepdims=True)
    else:
        edge = np.where(tied, over_leader, -1.0).max(-1, keepdims=True)
    narrowed: np.ndarray = tied & (over_leader == edge)
    return narrowed


def _at(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return ``table[..., index]``: (..., n) and (...) give (...)."""
    at: np.ndarray = np.take_along_axis(table, np.asarray(index)[..., None], -1)[..., 0]
    return at


def _at_pair(table: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return ``table[..., row, column]``: (..., m1, m2), (...) and (...) give (...)."""
    flat = table.reshape(*table.shape[:-2], table.shape[-2] * table.shape[-1])
    return _at(flat, np.asarray(row) * table.shape[-1] + column)
