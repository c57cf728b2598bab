"""Earliest deadline first: both operators of a charging station charge the cars that leave first, of equal ones the car
that needs more, as many as there are chargers at this price. Never too many, never one idle that a car needs; within a
few percent of the optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.contract import Agent, Arrays, Observation

CAPACITY = {0.2: 3, 0.5: 2, 0.8: 1}
"""Chargers by price."""


def most_urgent(periods: np.ndarray, units: np.ndarray, chargers: np.ndarray) -> np.ndarray:
    """Return which bays are charged, (E, N) bool.

    Args:
        periods, units: (E, N), D and B of each bay. chargers: (E,), how many may be used. Ties go to the lower bay.
    """
    urgency = np.where(units > 0, periods - units / 10.0, np.inf)
    order = np.argsort(urgency, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    charged: np.ndarray = (rank < chargers[:, None]) & (units > 0)
    return charged


class EDF(Agent):
    """Earliest deadline first."""

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    pairs_only: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_bays": (2, 3, 4, 5)}

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Charge the most urgent cars; see `Agent.act`."""
        prices, periods, units = observation.state[:, 0], observation.state[:, 1::2], observation.state[:, 2::2]
        chargers = np.array([CAPACITY[round(float(price), 1)] for price in prices])
        charged = most_urgent(periods, units, chargers)
        leaders = charged.shape[1] - charged.shape[1] // 2
        agents = self.context.agents
        return {agents[0]: _number(charged[:, :leaders]), agents[1]: _number(charged[:, leaders:])}


def _number(subset: np.ndarray) -> np.ndarray:
    """Return subsets of bays, (E, n) bool, as the numbers of actions, (E,) int64: the first bay is most significant."""
    numbers: np.ndarray = subset @ (2 ** np.arange(subset.shape[1])[::-1])
    return numbers
