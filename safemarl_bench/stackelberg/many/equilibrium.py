"""Which profiles are generalised Nash equilibria of the followers, by the definition."""

from __future__ import annotations

import numpy as np

from safemarl_bench.stackelberg.many.problem import MultiProblem


def are_equilibria(problem: MultiProblem, i: int, columns: np.ndarray) -> np.ndarray:
    """Return which profiles within the budgets leave no follower a better action that the budgets allow, (S,) bool.

    Args:
        problem: the tables.
        i: the leader's action.
        columns: (S, N) int64, one safe action per follower and profile, each profile within the budgets.
    """
    numbers = np.arange(columns.shape[1])
    cost = problem.cost[:, i]
    used = cost[:, numbers, columns].sum(2)  # (K, S)
    stable = np.ones(len(columns), bool)
    for n in numbers:
        own, others = problem.q_follower[i, n, columns[:, n]], used - cost[:, n, columns[:, n]]
        for a in np.flatnonzero(problem.safe[i, n]):
            fits = (others + cost[:, n, a, None] <= problem.budget[:, None]).all(0)
            stable &= ~(fits & (problem.q_follower[i, n, a] > own))
    return stable


def undominated(problem: MultiProblem, i: int) -> np.ndarray:
    """Return the safe actions that no better safe action undercuts in every budget, (N, m) bool.

    Whoever takes one of the others can always deviate, so no equilibrium holds them.
    """
    q, cost, safe = problem.q_follower[i], problem.cost[:, i], problem.safe[i]
    better = q[:, None, :] > q[:, :, None]  # (N, j, a): a is better than j
    cheaper = (cost[:, :, None, :] <= cost[:, :, :, None]).all(0)
    return np.asarray(safe & ~(better & cheaper & safe[:, None, :]).any(2))
