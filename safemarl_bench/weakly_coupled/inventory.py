"""Multi-product inventory control: 10 products, whose stocks 3 units of a production resource fill up (*Weakly Coupled
Deep Q-Networks*, D.2).

A unit makes the more of a product the higher the production rate p, a Markov chain on 5 levels: a_i units make
``12 p a_i / (5.971 + a_i)``. Then Poisson demand D_i comes, and with y = x_i + production

    cost_i = h_i y+ + b_i (-y)+ + l_i ((D_i - y)+ - M_i)+             next x_i = clip(y - D_i, -M_i, R_i)

for storage of R_i, backorders of M_i at most. Stocks are real numbers, because production is. An episode has 25
decisions, starts with stocks of 10 and the lowest rate. The chain's rows are Dirichlet(alpha) with each alpha from
U(1, 5): drawn once per instance, from its number k alone.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled.random_instance import RandomInstance, random_chain

GAMMA = 0.99
HORIZON = 25
RATES = np.array([0.80, 0.85, 0.90, 0.95, 1.00])
"""(5,), levels of the production rate p."""

UNITS = 3
"""Units of the resource in each decision: all that may be used."""

START = 10.0
"""Stock of every product at the start."""

STORAGE = np.array([20, 30, 10, 15, 10, 10, 25, 30, 15, 10])
"""(10,) int64, R."""

BACKORDERS = np.full(10, 5)
"""(10,) int64, M."""

DEMAND = np.array([0.3, 0.7, 0.5, 1.0, 1.4, 0.9, 1.1, 1.2, 0.3, 0.6])
"""(10,), means of D."""

HOLDING = np.array([0.1, 0.2, 0.05, 0.3, 0.2, 0.5, 0.3, 0.4, 0.15, 0.12])
"""(10,), h, cost of a unit in stock."""

BACKORDER = np.array([3.0, 1.2, 5.15, 1.3, 1.1, 1.1, 10.3, 1.05, 1.0, 3.1])
"""(10,), b, cost of a unit owed."""

LOST_SALE = np.array([30.1, 3.3, 10.05, 3.9, 3.7, 3.6, 40.3, 4.5, 12.55, 44.1])
"""(10,), l, cost of a unit asked for beyond the backorders that are allowed."""

MOST_DEMAND = 20
"""Largest demand of a product in a period: more has a chance below 1e-16."""


class InventoryModel(RandomInstance):
    """One instance."""

    @functools.cached_property
    def moves(self) -> np.ndarray:
        """(5, 5) float64, chance of the next rate by the rate now."""
        return random_chain(generator("instance", self.instance), len(RATES), 5.0)


def production(rates: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Return what is made, ``12 p a / (5.971 + a)``; rates p and units a broadcast."""
    made: np.ndarray = 12.0 * rates * units / (5.971 + units)
    return made


def costs(filled: np.ndarray, demand: np.ndarray, product: np.ndarray) -> np.ndarray:
    """Return the cost of one decision, of any shape.

    Args:
        filled: y, stocks after production. demand: D. product: numbers of the products; all three broadcast.
    """
    lost = np.maximum(np.maximum(demand - filled, 0.0) - BACKORDERS[product], 0.0)
    kept, owed = np.maximum(filled, 0.0), np.maximum(-filled, 0.0)
    paid: np.ndarray = HOLDING[product] * kept + BACKORDER[product] * owed + LOST_SALE[product] * lost
    return paid


def demand_chances() -> np.ndarray:
    """Return the chances of D = 0..20 of each product, (21, 10) float64; columns sum to 1."""
    count = np.arange(MOST_DEMAND + 1)[:, None]
    factorials = np.array([math.factorial(k) for k in range(MOST_DEMAND + 1)], np.float64)[:, None]
    densities = np.exp(-DEMAND) * DEMAND**count / factorials
    chances: np.ndarray = densities / densities.sum(axis=0)
    return chances


def allocations() -> np.ndarray:
    """Return (286, 10) int64: all ways to give products up to 3 units in all; the first one gives none."""
    grown: list[tuple[int, ...]] = [()]
    for _ in DEMAND:
        grown = [(*given, more) for given in grown for more in range(UNITS - sum(given) + 1)]
    return np.array(grown)
