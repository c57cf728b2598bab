"""The certificate of a selection: plain code that shares nothing with the backends but the input checks."""

from __future__ import annotations

import sys
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
    if tuple(selection.leader.shape) != states or tuple(selection.follower.shape) != states:
        shape = tuple(selection.leader.shape)
        raise SolveError(f"the tables hold states of shape {states}, the selection is for {shape}")
    arrays = {name: _numpy(getattr(selection, name)) for name in _CLAIMED}
    claims = np.zeros((*states, len(Certificate._fields)), bool)
    with np.errstate(all="ignore"):
        for state in np.ndindex(states):
            claimed = {name: array[state] for name, array in arrays.items()}
            claims[state] = _verify_state(problem, state, claimed)
    columns = [claims[..., column] for column in range(len(Certificate._fields))]
    if is_tensor(tables[0]):
        columns = [sys.modules["torch"].as_tensor(column, device=tables[0].device) for column in columns]
    return Certificate(*columns)


def _verify_state(problem: Problem, state: tuple[int, ...], claimed: dict[str, Any]) -> tuple[bool, ...]:
    q1, q2 = problem.q_leader[state], problem.q_follower[state]
    v1 = _violation(problem.leader_constraints, problem.scale[0], state)
    v2 = _violation(problem.follower_constraints, problem.scale[1], state)
    v = v1 + v2
    sign = -1 if problem.tie == "optimistic" else 1  # lexsort puts the smallest first
    wishes = (v, -q2) if problem.semantics == "mip13" else (v2, -q2)
    ties = (sign * q1,) if problem.semantics == "mip13" else (-sign * v1, sign * q1)

    rows = np.arange(len(q1))
    replies = np.lexsort((wishes + ties)[::-1], axis=-1)[:, 0]
    best = np.lexsort((-q1[rows, replies], v[rows, replies]))[0]
    best_pair = best, replies[best]
    feasible = bool(v[best_pair] == 0)

    pair = i, j = int(claimed["leader"]), int(claimed["follower"])
    if not feasible and problem.fallback == "none":
        told = not claimed["feasible"] and claimed["violation"] == v[best_pair]
        return (
            pair == (-1, -1),
            bool(told),
            *(bool(np.isnan(claimed[f"value_{role}"])) for role in ("follower", "leader")),
            True,
        )
    if not (0 <= i < q1.shape[0] and 0 <= j < q1.shape[1]):
        return False, False, False, False, False
    safe = claimed["feasible"] == feasible and claimed["violation"] == v[pair] and (v[pair] == 0 or not feasible)
    told_follower, told_leader = claimed["value_follower"] == q2[pair], claimed["value_leader"] == q1[pair]
    if not feasible and problem.fallback == "max_q1":
        return True, bool(safe), bool(told_follower), bool(told_leader and q1[pair] == q1.max()), True
    reply = i, replies[i]
    follower_best = told_follower and all(key[pair] == key[reply] for key in wishes)
    leader_best = told_leader and v[pair] == v[best_pair] and q1[pair] == q1[best_pair]
    return True, bool(safe), bool(follower_best), bool(leader_best), all(key[pair] == key[reply] for key in ties)


def _violation(constraints: tuple[Constraint, ...], weight: float, state: tuple[int, ...]) -> np.ndarray:
    """Return the weighted violation of one agent at one state, (m1, m2): 0 exactly where all constraints hold."""
    dtype = constraints[0][0].dtype
    total = np.zeros(constraints[0][0].shape[-2:], dtype)
    for table, limit in constraints:
        limit = limit if np.ndim(limit) == 0 else limit[state]
        over = table[state] > limit
        total[over] += (table[state] - limit)[over]
    broken = total > 0
    total[broken] = np.maximum(total[broken] * dtype.type(weight), np.finfo(dtype).tiny if weight != 1 else 0)
    return total


def _numpy(array: Any) -> np.ndarray:
    return np.asarray(array.cpu() if is_tensor(array) else array)
