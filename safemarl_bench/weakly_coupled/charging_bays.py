"""One bay on its own, which pays a price for the charger: the sub-problem of EV charging, its bound and its index.

With a multiplier lam(c) on the shared chargers the joint problem falls apart into N equal bays, each of which pays
lam for every unit, and the value of the capacity. The sum bounds the optimum from above (weak duality; *Weakly Coupled
Deep Q-Networks*, Proposition 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from safemarl_bench.errors import SolveError
from safemarl_bench.weakly_coupled.charging import (
    GAMMA,
    PRICE_MOVES,
    ChargingModel,
    bay_moves,
    bay_rewards,
    first_bays,
)

BISECTIONS = 40
TIE = 1e-12
"""Differences of action values below it are rounding."""


class Bound(NamedTuple):
    """An upper bound of the optimum.

    Attributes:
        value: of the mean over first states. lam: (3,) multiplier at each price shown.
    """

    value: float
    lam: np.ndarray

    @property
    def stated(self) -> float:
        """The value rounded up to billionths: its last bits differ between machines."""
        return math.ceil(1e9 * self.value) / 1e9


def bay_action_values(model: ChargingModel, lam: np.ndarray, after: np.ndarray, *, first: bool = False) -> np.ndarray:
    """Return what charging or not is worth in each state of a bay, (..., 3, 2, 12): price shown, action, state.

    Args:
        lam: (..., 3), what a unit costs beside its price, at each price shown.
        after: (..., 3, 12), values after the decision.
        first: whether it is the first decision of an episode; see `safemarl_bench.weakly_coupled.charging_exact`.
    """
    worth: np.ndarray = np.einsum("ast,...wt->...was", bay_moves(), after) * GAMMA
    if not model.rules.lagged:
        worth = bay_rewards() + np.einsum("vw,...was->...vas", PRICE_MOVES, worth)
    elif first:
        worth = bay_rewards() + worth
    else:
        worth = np.einsum("vw,...was->...vas", PRICE_MOVES, bay_rewards() + worth)
    worth[..., 1, :] -= lam[..., None]
    return worth


def solve_bay(model: ChargingModel, lam: np.ndarray) -> np.ndarray:
    """Return the action values of a bay that pays lam for ever, (..., 3, 2, 12), by policy iteration; lam: (..., 3)."""
    constant, by_value = _affine(model, first=False)
    worth = constant - lam[..., :, None, None] * np.arange(2)[:, None]
    charge = np.zeros((*lam.shape, 12), bool)
    while True:
        rewards = np.where(charge, worth[..., 1, :], worth[..., 0, :])
        moves = np.where(charge[..., None], by_value[:, 1], by_value[:, 0])
        system = np.eye(36) - moves.reshape(*lam.shape[:-1], 36, 36)
        values = np.linalg.solve(system, rewards.reshape(*lam.shape[:-1], 36, 1))[..., 0]
        action_values: np.ndarray = worth + np.einsum("wasv,...v->...was", by_value, values)
        gain = action_values[..., 1, :] - action_values[..., 0, :]
        better = np.where(charge, gain < -TIE, gain > TIE)
        if not better.any():
            return action_values
        charge ^= better


def capacity_values(model: ChargingModel, lam: np.ndarray) -> np.ndarray:
    """Return what the chargers earn from each price shown at the first decision, discounted, (3,); lam: (3,)."""
    earned = lam * np.array(model.rules.capacity)
    later = np.linalg.solve(np.eye(3) - GAMMA * PRICE_MOVES, earned)
    values: np.ndarray = earned + GAMMA * (later if model.rules.lagged else PRICE_MOVES @ later)
    return values


def lagrangian_value(model: ChargingModel, lam: np.ndarray) -> float:
    """Return the bound that a multiplier, (3,), gives for the infinite-horizon optimum from the first states."""
    after = solve_bay(model, lam).max(axis=-2)
    bays = bay_action_values(model, lam, after, first=True).max(axis=-2) @ first_bays()
    return float(np.mean(capacity_values(model, lam) + model.n_bays * bays))


def lagrangian_bound(model: ChargingModel, *, by_price: bool) -> Bound:
    """Return the least bound over all multipliers, by linear programming.

    Args:
        by_price: one multiplier for each price shown; otherwise one for all, as in the paper.

    Raises:
        SolveError: the program was not solved.
    """
    program = _BoundProgram(model, by_price)
    result = linprog(program.cost, program.rows, program.limits, bounds=program.bounds, method="highs")
    if result.status != 0:
        raise SolveError(f"the linear program of the Lagrangian bound was not solved: {result.message}")
    lam = program.expand @ result.x[: program.multipliers]
    return Bound(lagrangian_value(model, lam), lam)


class _BoundProgram:
    """``min E[capacity value + N V_first]`` over multipliers, V_first and V, (3, 12) each.

    Rows: V_first and V are at least what each action is worth. What the chargers earn is linear in the multipliers.
    """

    def __init__(self, model: ChargingModel, by_price: bool) -> None:
        self.expand = np.eye(3) if by_price else np.ones((3, 1))
        self.multipliers = self.expand.shape[1]
        earned = np.array([capacity_values(model, column).mean() for column in self.expand.T])
        first = np.broadcast_to(model.n_bays * first_bays() / 3.0, (3, 12)).ravel()
        self.cost = np.concatenate((earned, first, np.zeros(36)))
        low = None if model.rules.exact_use else 0.0
        self.bounds = [(low, None)] * self.multipliers + [(None, None)] * 72
        constant, by_value = _affine(model, first=True)
        later_constant, later_by_value = _affine(model, first=False)
        identity, nothing = np.repeat(np.eye(36).reshape(3, 1, 12, 36), 2, axis=1), np.zeros((3, 2, 12, 36))
        paying = np.zeros((3, 2, 12, self.multipliers))
        paying[:, 1] = self.expand[:, None]
        blocks = [(-paying, -identity, by_value), (-paying, nothing, later_by_value - identity)]
        self.rows = np.concatenate([np.concatenate(block, axis=-1).reshape(72, -1) for block in blocks])
        self.limits = -np.concatenate((constant.ravel(), later_constant.ravel()))


def _affine(model: ChargingModel, *, first: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the action values at lam = 0 as ``constant + by_value @ after``: (3, 2, 12) and (3, 2, 12, 36)."""
    free = np.zeros(3)
    constant = bay_action_values(model, free, np.zeros((3, 12)), first=first)
    units = np.eye(36).reshape(36, 3, 12)
    by_value = bay_action_values(model, np.zeros((36, 3)), units, first=first) - constant
    return constant, np.moveaxis(by_value, 0, -1)


def whittle_index(model: ChargingModel) -> np.ndarray:
    """Return the charge at which a bay is indifferent, (3, 12): price shown, state.

    What a unit must cost, the same at all prices, for charging and not charging to be worth the same there; by
    bisection, all states side by side.
    """
    low, high = np.full((3, 12), -2.0), np.full((3, 12), 2.0)
    price, state = np.indices((3, 12))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        worth = solve_bay(model, np.repeat(middle[..., None], 3, axis=-1))
        charge, idle = (worth[price, state, price, action, state] for action in (1, 0))
        low, high = np.where(charge > idle, middle, low), np.where(charge > idle, high, middle)
    index: np.ndarray = (low + high) / 2.0
    return index
