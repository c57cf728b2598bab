"""Exact dynamic programs over one integer budget, or none.

*Coalition*: a multiple-choice knapsack. ``V[n, r]`` is the lexicographically best (sum of Q2, sum of Q1) of followers
n, ..., N - 1 within r of the budget. O(m1 N m d) time.

*Generalised Nash equilibrium*: with the total use T of a profile known, follower n may stay at j iff every better
action a would break the budget, ``T - C[j] + C[a] > d``, that is ``T >= tau[n, j]`` with
``tau[n, j] = max over better a of d + 1 - C[a] + C[j]``. So for every T a dynamic program over the exact
totals, restricted to the actions with ``tau <= T``, holds the leader's best equilibrium among those that use T. Actions
only join as T grows, so one program serves all T between two neighbouring values of tau, and the program of larger T
bounds those of smaller T. O(m1 N m d min(d, N m)) time.

Costs are shifted first so that each follower's least is 0. Of equally good answers both return the lowest row, then the
lexicographically lowest profile. Compiled by numba where it is installed; without it the same source runs as plain
Python, some hundred times slower.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from typing import Any

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.many.compiled import COMPILED, compiled
from safemarl_bench.stackelberg.many.problem import MultiProblem
from safemarl_bench.stackelberg.many.selection import Profile

ENTRIES = 2**26
"""Followers times budget, at most: memory."""

STEPS = 2 * 10**10
"""Additions, at most: some tens of seconds."""

NEVER = -(2**62)
"""Value of a total that no profile reaches."""


def solve_profile(problem: MultiProblem) -> Profile | None:
    """Return the leader's action and the followers' reply to it, None if nothing is feasible.

    Raises:
        SolveError: several budgets, costs that are no integers, or tables that are too large.
    """
    if len(problem.budget) > 1 or not problem.integer:
        what = f"got {len(problem.budget)}" if problem.integer else "got costs with fractions"
        raise SolveError(
            f"method 'dynamic_program' takes at most one budget, in integers, {what}; "
            "use method='branch_and_bound' or 'highs'"
        )
    _, followers, _ = problem.q_leader.shape
    shifted, widths = _shifted(problem)
    width = int(widths.max())
    if not _is_small(problem, width):
        raise SolveError(
            f"method 'dynamic_program' would take tables of {followers} followers times {width} totals, which is too "
            "large; use method='branch_and_bound' or 'highs'"
        )
    profile, choice = np.empty(1 + followers, np.int64), np.empty((followers, width), np.int32)
    values = np.empty((2, 2, width), np.int64)
    payoffs = problem.q_own, problem.q_leader
    if problem.model == "coalition":
        best_coalition(*payoffs, problem.q_coalition, shifted, widths, values, choice, profile)
    else:
        tau, rival = np.empty(shifted.shape[1:], np.int64), np.empty(followers, np.int64)
        best_equilibrium(*payoffs, problem.q_follower, shifted, widths, tau, values, choice, rival, profile)
    leader, *actions = profile.tolist()
    return None if leader < 0 else (leader, tuple(actions))


def takes(problem: MultiProblem) -> bool:
    """Return whether the dynamic program can solve a problem."""
    return len(problem.budget) <= 1 and problem.integer and _is_small(problem, int(_shifted(problem)[1].max()))


def _is_small(problem: MultiProblem, width: int) -> bool:
    m1, followers, m = problem.q_leader.shape
    steps = m1 * followers * m * width * (1 if problem.model == "coalition" else min(width, followers * m))
    return followers * width <= ENTRIES and steps <= (STEPS if COMPILED else STEPS // 200)


def _shifted(problem: MultiProblem) -> tuple[np.ndarray, np.ndarray]:
    """Return the costs (m1, N, m) above each follower's least, -1 where unsafe, and the totals to look at, (m1,).

    Totals are 0, ..., width - 1 above the least; the width is 0 where nothing fits.
    """
    m1, followers, m = problem.q_leader.shape
    shifted, widths = np.empty((m1, followers, m), np.int64), np.empty(m1, np.int64)
    if len(problem.budget):
        shift(problem.cost[0], problem.safe, problem.budget[0], shifted, widths)
    else:
        shift(np.zeros_like(shifted), problem.safe, np.int64(0), shifted, widths)
    return shifted, widths


@compiled
def shift(cost: Any, safe: Any, budget: Any, shifted: Any, widths: Any) -> None:
    """Write `shifted` (m1, N, m) and `widths` (m1,); see `_shifted`."""
    for i in range(cost.shape[0]):
        left, spread, possible = budget, 0, True
        for n in range(cost.shape[1]):
            least, most, some = 0, 0, False
            for j in range(cost.shape[2]):
                if safe[i, n, j]:
                    least = min(least, cost[i, n, j]) if some else cost[i, n, j]
                    most = max(most, cost[i, n, j]) if some else cost[i, n, j]
                    some = True
            for j in range(cost.shape[2]):
                shifted[i, n, j] = cost[i, n, j] - least if safe[i, n, j] else -1
            left -= least
            spread += most - least
            possible &= some
        widths[i] = max(0, min(left, spread) + 1) if possible else 0


@compiled
def best_coalition(
    q_own: Any, q_leader: Any, q_coalition: Any, shifted: Any, widths: Any, values: Any, choice: Any, profile: Any
) -> None:
    """Write the leader's action (-1: none) and the coalition's best reply to `profile`, (1 + N,).

    Args:
        q_own: (m1,), q_leader, q_coalition, shifted: (m1, N, m), widths: (m1,) int64.
        values: (2, 2, D) int64 and choice: (N, D) int32, room for D totals, the largest width.
    """
    followers = q_leader.shape[1]
    best = 0
    profile[0] = -1
    for i in range(len(q_own)):
        width = widths[i]
        if width == 0:
            continue
        new2, new1 = values[0, 0], values[0, 1]
        new2[:width] = 0
        new1[:width] = 0
        for n in range(followers - 1, -1, -1):
            old2, old1 = new2, new1
            side = (followers - n) % 2
            new2, new1, chosen = values[side, 0], values[side, 1], choice[n]
            new2[:width] = NEVER
            for j in range(q_leader.shape[2]):
                cost, add2, add1 = shifted[i, n, j], q_coalition[i, n, j], q_leader[i, n, j]
                if cost < 0:
                    continue
                for r in range(cost, width):
                    sum2, sum1 = old2[r - cost] + add2, old1[r - cost] + add1
                    if sum2 > new2[r] or (sum2 == new2[r] and sum1 > new1[r]):
                        new2[r], new1[r], chosen[r] = sum2, sum1, j
        value = q_own[i] + new1[width - 1]
        if profile[0] < 0 or value > best:
            best = value
            profile[0] = i
            trace(shifted[i], choice, width - 1, profile[1:])


@compiled
def trace(shifted: Any, choice: Any, total: Any, actions: Any) -> None:
    """Write the actions (N,) that the program chose from `total` on."""
    for n in range(len(actions)):
        actions[n] = choice[n, total]
        total -= shifted[n, actions[n]]


@compiled
def best_equilibrium(
    q_own: Any,
    q_leader: Any,
    q_follower: Any,
    shifted: Any,
    widths: Any,
    tau: Any,
    values: Any,
    choice: Any,
    rival: Any,
    profile: Any,
) -> None:
    """Write the leader's action (-1: none) and its best equilibrium to `profile`, (1 + N,).

    Args:
        q_own: (m1,), q_leader, shifted: (m1, N, m), widths: (m1,) int64; q_follower: (m1, N, m) float64.
        tau: (N, m) int64, values: (2, 2, D) int64, choice: (N, D) int32, rival: (N,) int64: room.
    """
    best = 0
    profile[0] = -1
    for i in range(len(q_own)):
        least_totals(q_follower[i], shifted[i], widths[i], tau)
        high, bounded = widths[i] - 1, False
        while high >= 0:
            low = 0
            for n in range(tau.shape[0]):
                for j in range(tau.shape[1]):
                    if shifted[i, n, j] >= 0 and tau[n, j] <= high:
                        low = max(low, tau[n, j])
            hopeless = bounded and profile[0] >= 0 and q_own[i] + values[0, 1, low : high + 1].max() < best
            if not hopeless:
                exact_totals(q_leader[i], shifted[i], tau, low, high, values, choice)
                bounded = True
                for total in range(high, low - 1, -1):
                    value = q_own[i] + values[0, 1, total]
                    if values[0, 1, total] <= NEVER // 2:
                        continue
                    if profile[0] < 0 or value > best:
                        best = value
                        profile[0] = i
                        trace(shifted[i], choice, total, profile[1:])
                    elif value == best and profile[0] == i:
                        trace(shifted[i], choice, total, rival)
                        if precedes(rival, profile[1:]):
                            profile[1:] = rival
            high = low - 1


@compiled
def least_totals(q_follower: Any, shifted: Any, width: Any, tau: Any) -> None:
    """Write tau (N, m): the least total with which a follower may stay at an action; see the module."""
    for n in range(tau.shape[0]):
        for j in range(tau.shape[1]):
            tau[n, j] = 0
            for a in range(tau.shape[1]):
                if shifted[n, a] >= 0 and q_follower[n, a] > q_follower[n, j]:
                    tau[n, j] = max(tau[n, j], width - shifted[n, a] + shifted[n, j])


@compiled
def exact_totals(q_leader: Any, shifted: Any, tau: Any, low: Any, high: Any, values: Any, choice: Any) -> None:
    """Write to values[0, 1] the best sum of Q1 with each total 0..high, over the actions with ``tau <= low``.

    NEVER and a little more or less stands for totals that are out of reach. `choice` gets the actions.
    """
    new = values[0, 0]
    new[: high + 1] = NEVER
    new[0] = 0
    for n in range(q_leader.shape[0] - 1, -1, -1):
        old, chosen = new, choice[n]
        new = values[0, 1] if n == 0 else values[1, n % 2]
        new[: high + 1] = NEVER
        for j in range(q_leader.shape[1]):
            cost, add = shifted[n, j], q_leader[n, j]
            if cost < 0 or tau[n, j] > low:
                continue
            for r in range(cost, high + 1):
                total = old[r - cost] + add
                if total > new[r]:
                    new[r], chosen[r] = total, j


@compiled
def precedes(first: Any, second: Any) -> bool:
    """Return whether the first profile is lexicographically lower."""
    for n in range(len(first)):
        if first[n] != second[n]:
            return first[n] < second[n]
    return False
