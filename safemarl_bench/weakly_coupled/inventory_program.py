"""The products of the inventory problem one by one, as a finite program on a grid of stocks.

A stock is a real number; between two points of the grid, values are taken on the line that joins them. Costs are exact.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from safemarl_bench.weakly_coupled.inventory import (
    BACKORDERS,
    DEMAND,
    GAMMA,
    HORIZON,
    RATES,
    START,
    STORAGE,
    UNITS,
    InventoryModel,
    costs,
    demand_chances,
    production,
)
from safemarl_bench.weakly_coupled.time_multipliers import FiniteProgram

POINTS = 10
"""Points of the grid per unit of stock. Half as many move the bound by 0.05, four times as many by 0.004."""


def grid(points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return the stocks of all cells, product after product, (C,), and the first cell of each product, (11,) int64."""
    counts = (STORAGE + BACKORDERS) * points + 1
    edges = np.concatenate(([0], counts.cumsum()))
    stocks = [np.arange(count) / points - owed for count, owed in zip(counts, BACKORDERS, strict=True)]
    return np.concatenate(stocks), edges


def program(model: InventoryModel, *, gamma: float = GAMMA, points: int = POINTS) -> FiniteProgram:
    """Return the program of a model, on a grid of `points` per unit of stock."""
    stocks, edges = grid(points)
    product = np.repeat(np.arange(len(DEMAND)), np.diff(edges))
    units = np.arange(UNITS + 1)
    filled = stocks + production(RATES[:, None], units)[:, :, None]
    chances = demand_chances()
    rewards, moves = np.zeros(filled.shape), scipy.sparse.csr_matrix((filled.size, len(RATES) * len(stocks)))
    rows, columns = np.arange(filled.size), (np.arange(len(RATES)) * len(stocks))[:, None, None] + edges[product]
    for demand, chance in enumerate(chances[:, product]):
        rewards -= chance * costs(filled, np.array(demand), product)
        place = (np.clip(filled - demand, -BACKORDERS[product], STORAGE[product]) + BACKORDERS[product]) * points
        low = np.minimum(place.astype(np.int64), np.diff(edges)[product] - 2)
        for step, weight in ((0, 1.0 - (place - low)), (1, place - low)):
            entries = ((chance * weight).ravel(), (rows, (columns + low + step).ravel()))
            moves = moves + scipy.sparse.csr_matrix(entries, shape=moves.shape)
    moves.eliminate_zeros()
    first = np.zeros((len(RATES), len(stocks)))
    first[0, np.rint((START + BACKORDERS) * points).astype(np.int64) + edges[:-1]] = 1.0
    capacity = np.full(len(RATES), float(UNITS))
    return FiniteProgram(rewards, moves, model.moves, first, capacity, gamma, HORIZON)
