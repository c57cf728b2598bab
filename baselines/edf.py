"""Earliest deadline first: the operators of a charging station charge the cars that leave first, of equal ones the car
that needs more, as many as there are chargers at this price. Never too many, never one idle that a car needs; within a
few percent of the optimum. Where exactly so many bays must be charged, bays that need nothing fill up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.contract import Agent, Arrays, Observation

CAPACITY = {0.2: 3, 0.5: 2, 0.8: 1}
"""Chargers of the two operators by price."""


def most_urgent(periods: np.ndarray, units: np.ndarray, chargers: np.ndarray, all_used: bool = False) -> np.ndarray:
    """Return which bays are charged, (E, N) bool.

    Args:
        periods, units: (E, N), D and B of each bay. chargers: (E,), how many may be used. Ties go to the lower bay.
        all_used: whether all of them must be used.
    """
    urgency = np.where(units > 0, 0.0, 99.0) + periods - units / 10.0
    order = np.argsort(urgency, axis=1, kind="stable")
    rank = np.argsort(order, axis=1)
    charged: np.ndarray = (rank < chargers[:, None]) & ((units > 0) | all_used)
    return charged


class EDF(Agent):
    """Earliest deadline first."""

    suite_kinds: ClassVar[tuple[str, ...]] = ("game", "weakly_coupled")
    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    stationary: ClassVar[bool] = True
    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_bays": (2, 3, 4, 5)}

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Charge the most urgent cars; see `Agent.act`."""
        prices, periods, units = observation.state[:, 0], observation.state[:, 1::2], observation.state[:, 2::2]
        structure, where = self.context.weakly_coupled, observation.sub_problems
        if structure and where:
            none_used = bool(structure.feasible[0, 0])
            charged = most_urgent(periods, units, structure.capacity[where.exogenous], all_used=not none_used)
            return {self.context.agents[0]: _number(charged)}
        chargers = np.array([CAPACITY[round(float(price), 1)] for price in prices])
        charged = most_urgent(periods, units, chargers)
        leaders = charged.shape[1] - charged.shape[1] // 2
        agents = self.context.agents
        return {agents[0]: _number(charged[:, :leaders]), agents[1]: _number(charged[:, leaders:])}


def _number(subset: np.ndarray) -> np.ndarray:
    """Return subsets of bays, (E, n) bool, as the numbers of actions, (E,) int64: the first bay is most significant."""
    numbers: np.ndarray = subset @ (2 ** np.arange(subset.shape[1])[::-1])
    return numbers
