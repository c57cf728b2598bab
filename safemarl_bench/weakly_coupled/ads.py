"""Online stochastic ad matching: impressions arrive, each goes to one of 6 advertisers at most (*Weakly Coupled Deep
Q-Networks*, D.3).

An impression of type e, a Markov chain over 5 types, is given to advertiser i, who pays ``l[i, e]`` while its x_i
remaining ads last; x_i falls by one. An episode has 30 decisions. The chain's rows are Dirichlet(alpha) with each alpha
from U(1, 20), the payments U(1, 4): drawn once per instance, from its number k alone.
"""

from __future__ import annotations

import functools

import numpy as np

from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled.random_instance import RandomInstance, random_chain

GAMMA = 0.99
HORIZON = 30
N_TYPES = 5
ADS = (10, 11, 12, 10, 14, 9)
"""Remaining ads of each advertiser at the start, x_0."""

NOBODY = 0
"""The joint action that lets an impression go; 1..6 give it to an advertiser."""


class AdModel(RandomInstance):
    """One instance."""

    @functools.cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        rng = generator("instance", self.instance)
        return random_chain(rng, N_TYPES, 20.0), rng.uniform(1.0, 4.0, (len(ADS), N_TYPES))

    @property
    def moves(self) -> np.ndarray:
        """(5, 5) float64, chance of the next type by type now."""
        return self._drawn[0]

    @property
    def payments(self) -> np.ndarray:
        """(6, 5) float64, l[i, e], what advertiser i pays for an impression of type e."""
        return self._drawn[1]


def allocations() -> np.ndarray:
    """Return (7, 6) int64: what each joint action gives to each advertiser."""
    return np.concatenate((np.zeros((1, len(ADS)), np.int64), np.eye(len(ADS), dtype=np.int64)))


def greedy(model: AdModel, types: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Return the joint actions that earn most now, (S,) int64; ties go to the first advertiser.

    Args:
        types: (S,) integers. remaining: (S, 6) integers.
    """
    pays = np.where(remaining > 0, model.payments[:, types].T, -np.inf)
    actions: np.ndarray = np.where((remaining > 0).any(axis=1), 1 + pays.argmax(axis=1), NOBODY)
    return actions
