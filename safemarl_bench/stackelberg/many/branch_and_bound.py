"""Branch and bound for any number of budgets and any costs: follower by follower, pruned by Lagrangian bounds.

Partial profiles are extended by one follower at a time. One is dropped when even the Lagrangian bound of what the
other followers can add stays below a target, or when their least costs no longer fit a budget. If the best profile
found reaches the target, then it is the best of all; otherwise the target is lowered and the search repeated.

- *Coalition*: the objective is the followers' sum. Of partial profiles with equal costs the lexicographically best in
  (sum of Q2, sum of Q1) is kept, so that the leader's favourite among the optimal ones survives.
- *Generalised Nash equilibrium*: the objective is the leader's sum, over actions that an equilibrium can hold. The
  search ends with the first equilibrium, by the definition, that reaches the target. The best coalition is an
  equilibrium (the followers' sum is a potential of their game), which says whether there is one and how low to search.

Exact: pruning is in float64 with a margin, all that is compared to select is in integers. Returns some profile of those
that are equally good. Time and memory are exponential at worst; with random tables they grow slowly.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.many.equilibrium import are_equilibria, undominated
from safemarl_bench.stackelberg.many.lagrangian import Relaxation, relax
from safemarl_bench.stackelberg.many.problem import MultiProblem
from safemarl_bench.stackelberg.many.selection import Profile, Reply, best_over_rows
from safemarl_bench.stackelberg.mip import TIME_LIMIT

LARGEST = 1_000_000
"""Partial profiles that are kept, at most."""

FIRST_GAP = 1 / 16
"""How far below the bound the first target is, in spreads of one follower's payoffs; the gap doubles each time."""


class Row(NamedTuple):
    """One row's search, followers in the order in which they are branched on.

    Attributes:
        i: the leader's action.
        order: (N,) int64, who comes first.
        reduced: (N, m) float64, -inf where not allowed; constant, bound, lowest: float; see `Relaxation`.
        ahead: (N + 1,) float64, the largest sum of reduced payoffs of the followers from each one on.
        cheapest: (K, N + 1) int64, their least use of each budget.
        cost: (K, N, m), q_leader, q_coalition: (N, m) int64.
        first_gap: float > 0, how far below the bound the first target is.
        merge: whether of equal costs only the best is kept.
    """

    i: int
    order: np.ndarray
    reduced: np.ndarray
    constant: float
    bound: float
    lowest: float
    ahead: np.ndarray
    cheapest: np.ndarray
    cost: np.ndarray
    q_leader: np.ndarray
    q_coalition: np.ndarray
    first_gap: float
    merge: bool


class Leaves(NamedTuple):
    """Complete profiles.

    Attributes:
        q_leader, q_coalition: (S,) int64, their sums.
        steps: for each follower in the row's order, where its partial profiles came from and its actions, both (S',).
        order: (N,) int64, as in `Row`.
    """

    q_leader: np.ndarray
    q_coalition: np.ndarray
    steps: list[tuple[np.ndarray, np.ndarray]]
    order: np.ndarray

    def columns(self, leaves: np.ndarray) -> np.ndarray:
        """Return the actions (B, N) int64 of some of them, in the followers' own order."""
        actions = np.empty((len(leaves), len(self.order)), np.int64)
        for n, (parent, action) in zip(reversed(self.order.tolist()), reversed(self.steps), strict=True):
            actions[:, n] = action[leaves]
            leaves = parent[leaves]
        return actions

    def reply(self, leaf: int) -> Reply:
        """Return one of them."""
        return int(self.q_leader[leaf]), tuple(self.columns(np.array([leaf]))[0].tolist())


def solve_profile(problem: MultiProblem) -> Profile | None:
    """Return the leader's action and the followers' reply to it, None if nothing is feasible.

    Raises:
        SolveError: more than LARGEST partial profiles, or no answer within the time limit.
    """
    deadline = time.monotonic() + TIME_LIMIT
    leader = relax(problem, problem.q_leader, problem.safe)
    coalition = relax(problem, problem.q_coalition, problem.safe)
    equilibrium, allowed = leader, problem.safe
    if problem.model == "gne":
        allowed = np.stack([undominated(problem, i) for i in range(len(problem.q_own))])
        equilibrium = relax(problem, problem.q_leader, allowed)

    def reply_to(i: int, floor: int | None) -> Reply | None:
        found = best_coalition(problem, _row(problem, i, coalition, problem.safe, merge=True), deadline)
        if found is None or problem.model == "coalition":
            return found
        row = _row(problem, i, equilibrium, allowed, merge=False)
        return best_equilibrium(problem, row, found[0] if floor is None else max(found[0], floor), deadline) or found

    bounds = np.minimum(leader.bound, equilibrium.bound) + problem.q_own
    bounds[coalition.bound == -np.inf] = -np.inf  # one relaxation may see that nothing fits where another does not
    return best_over_rows(problem, bounds, reply_to)


def best_coalition(problem: MultiProblem, row: Row, deadline: float) -> Reply | None:
    """Return a row's best coalition."""
    gap, known = row.first_gap, -math.inf
    while True:
        target = max(row.bound - gap, known)
        leaves = expand(problem, row, target, deadline)
        if len(leaves.q_leader):
            top = int(np.lexsort((-leaves.q_leader, -leaves.q_coalition))[0])
            known = float(leaves.q_coalition[top])
            if known >= target:
                return leaves.reply(top)
        elif target < row.lowest:
            return None
        gap *= 2


def best_equilibrium(problem: MultiProblem, row: Row, least: int, deadline: float) -> Reply | None:
    """Return a row's best equilibrium for the leader, None if that is worth no more than `least`."""
    gap, known = row.first_gap, float(least)
    while row.bound > known:
        target = max(row.bound - gap, known)
        leaves = expand(problem, row, target, deadline)
        first = _first_equilibrium(problem, row.i, leaves)
        if first is not None and leaves.q_leader[first] > least:
            known = float(leaves.q_leader[first])
            if known >= target:
                return leaves.reply(first)
        elif target == float(least):
            return None
        gap *= 2
    return None


def _first_equilibrium(problem: MultiProblem, i: int, leaves: Leaves) -> int | None:
    """Return which leaf is the leader's best equilibrium, None if no leaf is one."""
    ranking = np.argsort(-leaves.q_leader, kind="stable")
    for start in range(0, len(ranking), 256):
        batch = ranking[start : start + 256]
        stable = batch[are_equilibria(problem, i, leaves.columns(batch))]
        if len(stable):
            return int(stable[0])
    return None


def expand(problem: MultiProblem, row: Row, target: float, deadline: float) -> Leaves:
    """Return the profiles within the budgets that may reach `target`; with `merge` the best of equal cost."""
    budgets, followers, _ = row.cost.shape
    cost, reduced = np.zeros((budgets, 1), np.int64), np.full(1, row.constant)
    leader = coalition = np.zeros(1, np.int64)
    steps = []
    for n in range(followers):
        if time.monotonic() > deadline:
            raise SolveError(f"branch_and_bound found no answer within {TIME_LIMIT:g} s: use another method")
        sums = reduced[:, None] + row.reduced[n]
        parent, action = np.nonzero(sums + row.ahead[n + 1] >= target)
        cost = cost[:, parent] + row.cost[:, n, action]
        fits = (cost + row.cheapest[:, n + 1, None] <= problem.budget[:, None]).all(0)
        parent, action, cost = parent[fits], action[fits], cost[:, fits]
        leader, coalition = leader[parent] + row.q_leader[n, action], coalition[parent] + row.q_coalition[n, action]
        if row.merge and len(parent):
            order = np.lexsort((-leader, -coalition, *cost))
            change = np.ones(len(order), bool)
            change[1:] = (np.diff(cost[:, order]) != 0).any(0)
            kept = order[change]
            parent, action, cost = parent[kept], action[kept], cost[:, kept]
            leader, coalition = leader[kept], coalition[kept]
        if len(parent) > LARGEST:
            raise SolveError(f"branch_and_bound keeps more than {LARGEST} partial profiles: use method='highs'")
        reduced = sums[parent, action]
        steps.append((parent, action))
    return Leaves(leader, coalition, steps, row.order)


def _row(problem: MultiProblem, i: int, relaxation: Relaxation, allowed: np.ndarray, *, merge: bool) -> Row:
    """Put the followers whose second best action costs most first: they leave the fewest partial profiles."""
    reduced = relaxation.reduced[i]
    ranked = np.sort(reduced, axis=1)
    regret = ranked[:, -1] - (ranked[:, -2] if ranked.shape[1] > 1 else -np.inf)
    order = np.argsort(-regret, kind="stable")
    reduced, cost = reduced[order], problem.cost[:, i, order]
    cheapest = np.where(allowed[i, order], cost, np.iinfo(np.int64).max).min(2)
    return Row(
        i,
        order,
        reduced,
        relaxation.constant[i],
        relaxation.bound[i],
        relaxation.lowest[i],
        np.append(np.cumsum(reduced.max(1)[::-1])[::-1], 0.0),
        np.concatenate([np.cumsum(cheapest[:, ::-1], 1)[:, ::-1], np.zeros((len(cost), 1), np.int64)], 1),
        cost,
        problem.q_leader[i, order],
        problem.q_coalition[i, order],
        max(1.0, FIRST_GAP * (relaxation.bound[i] - relaxation.lowest[i]) / len(order)),
        merge,
    )
