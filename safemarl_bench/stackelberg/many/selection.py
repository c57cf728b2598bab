"""What `solve_multi` returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from safemarl_bench.stackelberg.many.problem import MultiProblem

Profile = tuple[int, tuple[int, ...]]
"""The leader's action and one action per follower."""

Reply = tuple[int, tuple[int, ...]]
"""The leader's sum over followers, in units, and one action per follower."""


class MultiSelection(NamedTuple):
    """The leader's action and one action per follower.

    Attributes:
        leader: row i, -1 if no profile is safe and within the budgets.
        followers: (N,) int64, column j of each follower, all -1 if infeasible.
        feasible: whether some profile is safe and within the budgets.
        value_leader: ``Q0[i] + sum of Q1[n, i, j[n]]``, rounded once; NaN if infeasible.
        value_followers: (N,) float64, ``Q2[n, i, j[n]]``; NaN if infeasible.
        used: (K,) float64, ``sum of C[k, n, i, j[n]]`` of each budget; NaN if infeasible.
        model: "coalition" or "gne", as given.
        method: the name of the method that solved it, never "auto".
    """

    leader: int
    followers: np.ndarray
    feasible: bool
    value_leader: float
    value_followers: np.ndarray
    used: np.ndarray
    model: str
    method: str


def describe(problem: MultiProblem, profile: Profile | None, method: str) -> MultiSelection:
    """Return the selection of a profile, or of none."""
    _, followers, _ = problem.q_leader.shape
    if profile is None:
        nothing = np.full(followers, -1, np.int64)
        nan, used = np.full(followers, math.nan), np.full(len(problem.budget), math.nan)
        return MultiSelection(-1, nothing, False, math.nan, nan, used, problem.model, method)
    i, actions = profile
    columns = np.array(actions, np.int64)
    chosen = np.arange(followers), columns
    total = int(problem.q_own[i] + np.add.reduce(problem.q_leader[i][chosen]))
    used = np.add.reduce(problem.cost[:, i, *chosen], 1)
    return MultiSelection(
        leader=i,
        followers=columns,
        feasible=True,
        value_leader=math.ldexp(total, problem.leader_exponent),
        value_followers=problem.q_follower[i][chosen],
        used=np.ldexp(used.astype(np.float64), problem.cost_exponent),
        model=problem.model,
        method=method,
    )


def best_over_rows(
    problem: MultiProblem, bounds: np.ndarray, reply_to: Callable[[int, int | None], Reply | None]
) -> Profile | None:
    """Return the leader's best row and the reply to it, the lowest row of several; None if no row has a reply.

    Args:
        problem: gives the leader's own payoffs.
        bounds: (m1,) float64, upper bounds of the rows' values in units, -inf for rows without a reply; rows go by
            falling bound, and those whose bound is below the best value so far are left out.
        reply_to: gives the followers' reply to row i, or None. Its second argument is the sum below which a reply
            is of no use, None at first.
    """
    best: tuple[int, Profile] | None = None
    for i in np.argsort(-bounds, kind="stable").tolist():
        if bounds[i] == -math.inf or (best is not None and bounds[i] < best[0]):
            break
        own = int(problem.q_own[i])
        reply = reply_to(i, None if best is None else best[0] - own)
        if reply is not None:
            value, profile = own + reply[0], (i, reply[1])
            if best is None or value > best[0] or (value == best[0] and i < best[1][0]):
                best = value, profile
    return None if best is None else best[1]
