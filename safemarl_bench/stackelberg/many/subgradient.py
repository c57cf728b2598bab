"""The multipliers of the Lagrangian bound: a projected subgradient method whose steps shrink geometrically."""

from __future__ import annotations

from typing import Any

import numpy as np

from safemarl_bench.stackelberg.many.compiled import compiled

STEPS = 0.95 ** np.arange(150)
"""Lengths in units of payoff spread over cost spread; they add up to 20."""


def find_multipliers(q: np.ndarray, cost: np.ndarray, budget: np.ndarray) -> np.ndarray:
    """Return multipliers (R, K) >= 0 that nearly minimise the bound of each row; O(R K N m) for each of 150 steps.

    Args:
        q: (R, N, m) float64 payoffs whose spread is about 1, -inf where not allowed, some action of each allowed.
        cost: (R, K, N, m) float64, in [-1, 1].
        budget: (R, K) float64.
    """
    best = np.zeros_like(budget)
    descend(q, cost, budget, STEPS, np.empty((2, budget.shape[1])), best)
    return best


@compiled
def descend(q: Any, cost: Any, budget: Any, steps: Any, room: Any, best: Any) -> None:
    """Write the multipliers to `best`, (R, K), which holds zeros; `room` is (2, K)."""
    lam, excess = room[0], room[1]
    for row in range(len(q)):
        lam[:] = 0.0
        least = np.inf
        for step in steps:
            value = 0.0
            for k in range(len(lam)):
                value += lam[k] * budget[row, k]
                excess[k] = -budget[row, k]
            for n in range(q.shape[1]):
                top, column = -np.inf, 0
                for j in range(q.shape[2]):
                    reduced = q[row, n, j]
                    for k in range(len(lam)):
                        reduced -= lam[k] * cost[row, k, n, j]
                    if reduced > top:
                        top, column = reduced, j
                value += top
                for k in range(len(lam)):
                    excess[k] += cost[row, k, n, column]
            if value < least:
                least = value
                best[row] = lam
            steepest, moves = 1e-300, False
            for k in range(len(lam)):
                steepest = max(steepest, abs(excess[k]))
                moves |= excess[k] > 0.0 or (lam[k] > 0.0 and excess[k] < 0.0)
            if not moves:
                break
            for k in range(len(lam)):
                lam[k] = max(0.0, lam[k] + step * excess[k] / steepest)
