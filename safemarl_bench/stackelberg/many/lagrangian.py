"""Upper bounds by Lagrangian relaxation of the budgets: valid for any multipliers, tight for good ones.

With multipliers ``lam >= 0`` no profile within the budgets is worth more than::

    L(lam) = sum_k lam[k] d[k] + sum_n max_j ( Q[n, j] - sum_k lam[k] C[k, n, j] )

because its use of budget k is at most d[k] (weak duality). L is convex and piecewise linear, and its least value is
that of the linear relaxation (Geoffrion, 1974, as each maximum is integral anyway). A bound prunes; its maximiser need
not fit the budgets, so that it never selects.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.stackelberg.many.problem import MultiProblem, read_multi

MARGIN = 1e-9
"""Of the largest numbers in a bound: it is raised by this much, far beyond what rounding can take from it."""


class Relaxation(NamedTuple):
    """Bounds of all rows.

    Attributes:
        multipliers: (m1, K) float64 >= 0, in units of payoff per cost.
        reduced: (m1, N, m) float64, payoffs less the price of their cost; -inf where not allowed.
        constant: (m1,) float64, the price of the budgets, margin included: what the reduced payoffs are added to.
        bound: (m1,) float64, upper bounds, -inf where nothing fits.
        lowest: (m1,) float64, what any allowed profile is worth at least.
    """

    multipliers: np.ndarray
    reduced: np.ndarray
    constant: np.ndarray
    bound: np.ndarray
    lowest: np.ndarray


def lagrangian_bound(Q1: Any, C: Any, d: Any, *, Q0: Any = None, safe: Any = None) -> np.ndarray:
    """Bound the leader's value at each of its actions, for followers who play whatever is safe and within the budgets.

    Args:
        Q1, C, d, Q0, safe: as in `solve_multi`.

    Returns:
        (m1,) float64: no profile at row i, and so no equilibrium and no coalition, is worth more to the leader; -inf
        where nothing fits for certain. 150 subgradient steps, O(m1 N m K) each.

    Raises:
        SolveError: invalid tables, as in `solve_multi`.
    """
    problem = read_multi(Q1, Q1, C, d, Q0, safe, "coalition")
    bound = relax(problem, problem.q_leader, problem.safe).bound + problem.q_own
    return np.asarray(np.ldexp(bound, problem.leader_exponent))


def relax(problem: MultiProblem, payoff: np.ndarray, allowed: np.ndarray) -> Relaxation:
    """Return multipliers and bounds for the sums of `payoff` over `allowed` profiles, row by row.

    Args:
        problem: gives the budgets.
        payoff: (m1, N, m) int64 or float64.
        allowed: (m1, N, m) bool.
    """
    from safemarl_bench.stackelberg.many.subgradient import find_multipliers  # numba takes half a second to import

    rows, followers, m = payoff.shape
    budgets = len(problem.budget)
    possible = np.logical_and.reduce(allowed.any(2), axis=1)
    allowed = allowed | ~possible[:, None, None]  # such rows get numbers that nobody reads
    q = np.where(allowed, payoff, -np.inf).astype(np.float64)
    cost = np.where(allowed[:, None], problem.cost.swapaxes(0, 1), 0).astype(np.float64)
    most = np.where(allowed[:, None], cost, -np.inf).max(3).sum(2)
    budget = np.minimum(problem.budget, most)  # beyond that all are the same
    highest, least = q.max(2), np.where(allowed, payoff, np.inf).min(2)

    unit_q = _positive((highest - least).max(1))
    unit_cost = _positive(np.abs(cost).max((2, 3)))
    flat = cost.reshape(rows, budgets, followers * m)
    lam = find_multipliers(q / unit_q[:, None, None], cost / unit_cost[..., None, None], budget / unit_cost)
    lam *= unit_q[:, None] / unit_cost

    reduced = q - (lam[:, None, :] @ flat).reshape(rows, followers, m)
    price = lam * budget
    sizes = np.abs(highest).sum(1) + np.abs(reduced.max(2)).sum(1) + np.abs(price).sum(1)
    constant = price.sum(1) + MARGIN * sizes
    bound, lowest = constant + reduced.max(2).sum(1), least.sum(1)
    nothing = ~possible | (bound < lowest)
    return Relaxation(lam, reduced, constant, np.where(nothing, -np.inf, bound), lowest)


def _positive(scale: np.ndarray) -> np.ndarray:
    return np.where(scale > 0, scale, 1.0)
