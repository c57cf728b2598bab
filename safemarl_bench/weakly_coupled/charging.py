"""EV charging: N bays, an electricity price, and fewer chargers than bays (*Weakly Coupled Deep Q-Networks*, EV1-EV3).

A bay holds a car that leaves in D periods, this one included, and still needs B units; (0, 0) is an empty bay. In every
period a unit may be charged in each of some bays, at the price c of that period, which moves as a Markov chain:

- reward of a bay: 0 where it needs nothing, else ``(1 - c) a``, and in a car's last period less ``0.2 (B - a)^2`` for
  what it still lacks when it leaves;
- a car loses a period, and a unit where it is charged; where its last period is over, or the bay was empty, the bay is
  drawn anew, whatever the action;
- resource: at most, or exactly, b(c) bays may be charged.

The paper's text and its released code disagree in capacity, constraint and timing; both are here, as `PRESETS`. All
arrays are over the 12 reachable states of a bay (`BAY_STATES`) and the 3 prices.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from safemarl_bench.errors import RegistryError, nearest

GAMMA = 0.9
HORIZON = 50
"""Decisions of an episode."""

PRICES = np.array([0.2, 0.5, 0.8])
PRICE_MOVES = np.array([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])
"""Row: price now, column: price next."""

BAY_STATES = ((0, 0), *itertools.product((1, 2, 3), (0, 1, 2)), (4, 1), (4, 2))
"""(D, B) of a bay, 12: a car that stays 4 periods has only just come, and needs something."""

PERIODS, UNITS = (np.array(column) for column in zip(*BAY_STATES, strict=True))
"""D and B by state, (12,) int64 each."""

EMPTY = 0.3
"""Chance that no car comes to a free bay; otherwise D is uniform in 1..4 and B in 1..2."""

SHORTFALL_WEIGHT = 0.2
MAX_BAYS = 5
"""The joint problem is solved exactly up to here: 3 * 12^5 states."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Where the two presets differ.

    Attributes:
        capacity: b(c), bays that may be charged at each price.
        exact_use: whether exactly b(c) bays must be charged; otherwise at most so many.
        lagged: whether, from the second period on, the agent sees the price of the period before, is limited by
            the capacity that belongs to it, and pays the new one. The first price is shown, paid, and shown again.
    """

    capacity: tuple[int, int, int]
    exact_use: bool
    lagged: bool


PRESETS = {
    "text": Rules(capacity=(3, 2, 1), exact_use=False, lagged=False),
    "code": Rules(capacity=(2, 2, 1), exact_use=True, lagged=True),
}


@dataclasses.dataclass(frozen=True)
class ChargingModel:
    """One instance.

    Attributes:
        preset: "text" or "code".
        n_bays: N, 2 to 5 (1 is allowed where exactly b(c) bays need not be charged).
    """

    preset: str = "text"
    n_bays: int = 3

    def __post_init__(self) -> None:
        """Check the names and numbers.

        Raises:
            RegistryError: an unknown preset, or a number of bays out of range.
        """
        if self.preset not in PRESETS:
            raise RegistryError(f"unknown preset {self.preset!r}: {nearest(str(self.preset), PRESETS)}")
        least = max(self.rules.capacity) if self.rules.exact_use else 1
        if type(self.n_bays) is not int or not least <= self.n_bays <= MAX_BAYS:
            raise RegistryError(f"n_bays must be an integer in {least}..{MAX_BAYS}, got {self.n_bays!r}")

    @property
    def rules(self) -> Rules:
        """The preset's rules."""
        return PRESETS[self.preset]

    @functools.cached_property
    def actions(self) -> np.ndarray:
        """(2^N, N) int64, 0 or 1: which bays each joint action charges; bay 0 is the most significant digit."""
        return np.array(list(itertools.product((0, 1), repeat=self.n_bays)))

    @functools.cached_property
    def feasible(self) -> np.ndarray:
        """(3, 2^N) bool: whether a joint action keeps the resource constraint at each price that may be shown."""
        use, capacity = self.actions.sum(axis=1), np.array(self.rules.capacity)[:, None]
        keeps: np.ndarray = use == capacity if self.rules.exact_use else use <= capacity
        return keeps


def bay_rewards() -> np.ndarray:
    """Return the reward of a bay, (3, 2, 12) float64: price paid, action, state."""
    charged = np.arange(2)[None, :, None]
    rewards = (1.0 - PRICES[:, None, None]) * charged
    leaves = PERIODS == 1
    rewards = rewards - np.where(leaves, SHORTFALL_WEIGHT * (UNITS - charged) ** 2, 0.0)
    return np.where(UNITS > 0, rewards, 0.0)


def arrivals() -> np.ndarray:
    """Return the law of a bay that is drawn anew, (12,) float64."""
    chance = (1.0 - EMPTY) / 8.0
    return np.array([EMPTY if state == (0, 0) else chance * (state[1] > 0) for state in BAY_STATES])


def first_bays() -> np.ndarray:
    """Return the law of a bay at the start of an episode, (12,) float64: busy, D and B uniform."""
    return np.where(UNITS > 0, 1.0 / 8.0, 0.0)


def bay_moves() -> np.ndarray:
    """Return the transition law of a bay, (2, 12, 12) float64: action, state, next state."""
    number = {state: index for index, state in enumerate(BAY_STATES)}
    moves = np.zeros((2, 12, 12))
    for action, (periods, units) in itertools.product((0, 1), BAY_STATES):
        row = moves[action, number[periods, units]]
        if periods <= 1:
            row[:] = arrivals()
        else:
            row[number[periods - 1, max(units - action, 0)]] = 1.0
    return moves
