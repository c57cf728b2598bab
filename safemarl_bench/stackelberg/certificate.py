"""The certificate of a selection: code that shares nothing with the backends but the input checks.

The backends filter, reduce or loop. Here the cells of a row, and then the rows, are sorted by the keys of the
definition, and what is claimed of the selected pair is compared with what comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.inputs import read_problem
from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection, is_tensor, to_numpy

_CLAIMED = ("leader", "follower", "feasible", "value_leader", "value_follower", "violation")


class Certificate(NamedTuple):
    """What holds of a selection, (...) bool per state, in the tables' library; each claim covers its numbers.

    Attributes:
        in_range: the pair is a cell of the table (or -1, -1 where ``fallback="none"`` selects nothing).
        safe: `feasible` says whether the problem has a solution, the pair then holds all constraints, and
            `violation` is the pair's.
        follower_best: no reply to row i violates less, or as little with a larger Q2; `value_follower` is the pair's.
        leader_best: no row with the follower's reply to it violates less, or as little with a larger Q1;
            `value_leader` is the pair's. With ``fallback="max_q1"`` at an infeasible state: Q1 is the largest.
        tie_rule: among the replies that are equally good for the follower, j is as good (optimistic) or as bad
            (pessimistic) for the leader as any.
    """

    in_range: Any
    safe: Any
    follower_best: Any
    leader_best: Any
    tie_rule: Any


def verify(tables: tuple[Any, Any, Any, Any], d: tuple[Any, Any], selection: Selection) -> Certificate:
    """Check a selection against the definitions, state by state.

    Any of several optimal pairs passes, in exact arithmetic of the tables' dtype. `n_safe` and the two gaps are
    not looked at.

    Args:
        tables: Q1, Q2, G1, G2 as in `solve`.
        d: d1, d2 as in `solve`.
        selection: what `solve` returned; it says which semantics, tie rule, fallback and scale it answers to.

    Raises:
        SolveError: invalid tables or limits, or a selection for another number of states.
    """
    options = (selection.semantics, selection.tie, selection.fallback, selection.scale)
    problem = to_numpy(read_problem(tables, d, *options))
    states = problem.q_leader.shape[:-2]
    claimed = {name: _numpy(getattr(selection, name)) for name in _CLAIMED}
    for array in claimed.values():
        if array.shape != states:
            raise SolveError(f"the tables hold states of shape {states}, the selection is for {array.shape}")
    with np.errstate(all="ignore"):
        claims = _verify_states(problem, {name: array.reshape(-1) for name, array in claimed.items()})
    arrays: tuple[Any, ...] = tuple(claim.reshape(states) for claim in claims)
    if is_tensor(tables[0]):
        arrays = tuple(sys.modules["torch"].as_tensor(array, device=tables[0].device) for array in arrays)
    return Certificate(*arrays)


def _verify_states(problem: Problem, claimed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return the five claims of S states, (S) bool each, in the order of `Certificate`."""
    m1, m2 = problem.q_leader.shape[-2:]
    q1, q2 = problem.q_leader.reshape(-1, m1, m2), problem.q_follower.reshape(-1, m1, m2)
    v, wishes, ties = _keys(problem, q1, q2)
    state, row = np.arange(len(q1)), np.arange(m1)
    reply = np.lexsort((wishes + ties)[::-1], axis=-1)[..., 0]  # the last key counts first
    row_v, row_q1 = v[state[:, None], row, reply], q1[state[:, None], row, reply]
    best = np.lexsort((-row_q1, row_v), axis=-1)[:, 0]
    feasible = row_v[state, best] == 0

    i, j = claimed["leader"], claimed["follower"]
    in_range = (i >= 0) & (i < m1) & (j >= 0) & (j < m2)
    pair = state, np.where(in_range, i, 0), np.where(in_range, j, 0)
    its_reply = state, pair[1], reply[pair[:2]]
    told_feasible, told_v = claimed["feasible"] == feasible, claimed["violation"] == v[pair]
    told_q1, told_q2 = claimed["value_leader"] == q1[pair], claimed["value_follower"] == q2[pair]
    safe = told_feasible & told_v & ((v[pair] == 0) | ~feasible)
    wished, tie_rule = (_all([key[pair] == key[its_reply] for key in keys]) for keys in (wishes, ties))
    as_good_a_row = (v[pair] == row_v[state, best]) & (q1[pair] == row_q1[state, best])
    if problem.fallback == "max_q1":
        wished, tie_rule = wished | ~feasible, tie_rule | ~feasible
        as_good_a_row = np.where(feasible, as_good_a_row, q1[pair] == q1.max((1, 2)))
    claims = in_range, safe, told_q2 & wished, told_q1 & as_good_a_row, tie_rule
    claims = tuple(in_range & claim for claim in claims)
    if problem.fallback != "none":
        return claims
    nothing = _verify_nothing(claimed, told_feasible & (claimed["violation"] == row_v[state, best]))
    return tuple(np.where(feasible, *either) for either in zip(claims, nothing, strict=True))


def _verify_nothing(claimed: Mapping[str, np.ndarray], safe: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the five claims, (S) bool each, where nothing may be selected."""
    in_range = (claimed["leader"] == -1) & (claimed["follower"] == -1)
    told_q1, told_q2 = np.isnan(claimed["value_leader"]), np.isnan(claimed["value_follower"])
    return in_range, safe, told_q2, told_q1, np.ones_like(in_range)


def _keys(
    problem: Problem, q1: np.ndarray, q2: np.ndarray
) -> tuple[np.ndarray, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Return the violation of both agents, (S, m1, m2), and what the follower minimises, key by key.

    The keys are those that it cares for, and those that break its ties by the rule.
    """
    v1 = _violation(problem.leader_constraints, problem.scale[0]).reshape(q1.shape)
    v2 = _violation(problem.follower_constraints, problem.scale[1]).reshape(q1.shape)
    sign = 1 if problem.tie == "optimistic" else -1
    if problem.semantics == "mip13":
        return v1 + v2, (v1 + v2, -q2), (-sign * q1,)
    return v1 + v2, (v2, -q2), (sign * v1, -sign * q1)


def _violation(constraints: tuple[Constraint, ...], weight: float) -> np.ndarray:
    """Return the weighted violation of one agent, (..., m1, m2): 0 exactly where all constraints hold."""
    dtype = constraints[0][0].dtype
    total = np.zeros(constraints[0][0].shape, dtype)
    for table, limit in constraints:
        np.add(total, table - limit, out=total, where=table > limit)
    if weight != 1:
        total = np.where(total > 0, np.maximum(total * dtype.type(weight), np.finfo(dtype).tiny), total)
    return total


def _all(claims: list[np.ndarray]) -> np.ndarray:
    """Return where all claims hold."""
    holds: np.ndarray = np.logical_and.reduce(claims)
    return holds


def _numpy(array: Any) -> np.ndarray:
    return np.asarray(array.cpu() if is_tensor(array) else array)
