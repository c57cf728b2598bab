"""Lagrangian bounds of problems that end: one multiplier for each decision, and the policy that looks ahead with them.

Prices lam_0..lam_{T-1} of the resource let the sub-problems go their own ways. For any prices of at least 0

    L(lam) = sum_t gamma^t lam_t E[b(w_t)] + sum_i V_i^lam(first state)
    V_{i,t}(w, s) = max_a Q_{i,t}(w, s, a) - lam_t a,    Q_{i,t} = r_i(w, s, a) + gamma E V_{i,t+1}(w', s')

bounds the best return from above (weak duality; *Weakly Coupled Deep Q-Networks*, Proposition 1, with a multiplier per
decision; Hawkins, *A Lagrangian Decomposition Approach to Weakly Coupled Dynamic Optimization Problems*, 2003). L is
convex, with the gradient ``gamma^t (E[b(w_t)] - E[use at t])``, piecewise linear in so many pieces that a quasi-Newton
method finds its least value; wherever that stops, what it found is a bound.

States of all sub-problems stand in one row of C cells. A cell may be a point of a grid, its moves those to the points
around where it leads: then all of this is as near as the grid is fine.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse

from safemarl_bench.errors import ContractError


class FiniteProgram(NamedTuple):
    """N sub-problems of T decisions, told apart from each other but for the exogenous state and the resource.

    Attributes:
        rewards: (W, M, C) float64, expected reward by exogenous state, use of the resource, cell.
        moves: sparse (W M C, W C): row (w, a, cell), chances of the next cell, in the columns of the same w.
        chances: (W, W) float64, of the next exogenous state by the one now.
        first: (W, C) float64, where episodes start: chance of each exogenous state and cell; sums to N.
        capacity: (W,) float64, b(w). gamma: discount. horizon: T.
    """

    rewards: np.ndarray
    moves: Any
    chances: np.ndarray
    first: np.ndarray
    capacity: np.ndarray
    gamma: float
    horizon: int


class Bound(NamedTuple):
    """An upper bound of the best expected return of an episode.

    Attributes:
        value: L. lam: (T,) float64, the prices that give it.
    """

    value: float
    lam: np.ndarray

    @property
    def stated(self) -> float:
        """The value rounded up to hundredths: where the search for it ends differs by less between machines."""
        return math.ceil(100.0 * self.value) / 100.0


def worth(program: FiniteProgram, lam: np.ndarray) -> np.ndarray:
    """Return Q of every decision at prices `lam`, (T,): (T, W, M, C) float64; the decision's own price is not in it.

    Raises:
        ContractError: not T prices, or one that is negative.
    """
    if np.shape(lam) != (program.horizon,) or not np.min(lam) >= 0.0:
        raise ContractError(f"lam must be {program.horizon} numbers of at least 0, got {np.round(lam, 6)}")
    shape = program.rewards.shape
    values, found = np.zeros((shape[0], shape[2])), np.empty((program.horizon, *shape))
    for t in reversed(range(program.horizon)):
        later = program.moves @ (program.chances @ values).ravel()
        found[t] = program.rewards + program.gamma * later.reshape(shape)
        values = (found[t] - lam[t] * _uses(program)).max(axis=1)
    return found


def dual(program: FiniteProgram, lam: np.ndarray) -> tuple[float, np.ndarray]:
    """Return L at prices `lam`, (T,), and its gradient, (T,).

    Raises:
        ContractError: as `worth`.
    """
    priced = worth(program, lam) - lam[:, None, None, None] * _uses(program)
    discounts = program.gamma ** np.arange(program.horizon)
    spare, place = np.empty(program.horizon), program.first
    outside = place.sum(axis=1) / place.sum()
    for t, values in enumerate(priced):
        chosen = values.argmax(axis=1)
        spare[t] = outside @ program.capacity - (place * chosen).sum()
        played = np.zeros(values.shape)
        np.put_along_axis(played, chosen[:, None], place[:, None], axis=1)
        place = program.chances.T @ (program.moves.T @ played.ravel()).reshape(place.shape)
        outside = program.chances.T @ outside
    alone = float((priced[0].max(axis=1) * program.first).sum())
    earned = _expected_capacity(program)
    return alone + float((discounts * lam) @ earned), discounts * spare


def _uses(program: FiniteProgram) -> np.ndarray:
    """Return the use of the resource of each row (w, a, cell), as it broadcasts: (M, 1)."""
    return np.arange(program.rewards.shape[1], dtype=np.float64)[:, None]


def _expected_capacity(program: FiniteProgram) -> np.ndarray:
    """Return E[b(w_t)], (T,)."""
    outside, expected = program.first.sum(axis=1) / program.first.sum(), np.empty(program.horizon)
    for t in range(program.horizon):
        expected[t] = outside @ program.capacity
        outside = program.chances.T @ outside
    return expected


def least_bound(program: FiniteProgram) -> Bound:
    """Return the least L that is found, by L-BFGS-B from prices of 1; some dozens of evaluations."""
    best = Bound(np.inf, np.zeros(program.horizon))

    def evaluate(lam: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best
        value, gradient = dual(program, lam)
        best = min(best, Bound(value, lam.copy()), key=lambda bound: bound.value)
        return value, gradient

    bounds = [(0.0, None)] * program.horizon
    scipy.optimize.minimize(evaluate, np.ones(program.horizon), jac=True, method="L-BFGS-B", bounds=bounds)
    return best


def joint_actions(values: np.ndarray, allocations: np.ndarray, feasible: np.ndarray) -> np.ndarray:
    """Return the feasible joint actions whose sub-problems' values have the largest sum, (E,) int64; ties: the lowest.

    Args:
        values: (E, N, M), by sub-problem and use. allocations: (A, N) int64. feasible: (E, A) or (1, A) bool.
    """
    sums = sum(values[:, i, uses] for i, uses in enumerate(allocations.T))
    actions: np.ndarray = np.where(feasible, sums, -np.inf).argmax(axis=1)
    return actions
