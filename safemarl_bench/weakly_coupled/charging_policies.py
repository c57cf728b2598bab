"""Policies of EV charging that need no training, as tables (3, 12, ..., 12) of joint actions.

Each ranks the bays by an index of the price shown and the bay's state, and charges the first b(c) of them. None but
`whittle` leaves a charger idle while a car needs it; where exactly b(c) bays must be charged, bays that need nothing
fill up. Ties go to the lower bay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from safemarl_bench.contract import Observation
from safemarl_bench.weakly_coupled.charging import PERIODS, PRICE_MOVES, UNITS, ChargingModel, bay_rewards
from safemarl_bench.weakly_coupled.charging_bays import lagrangian_bound, solve_bay, whittle_index
from safemarl_bench.weakly_coupled.charging_exact import state_shape, stationary_solution
from safemarl_bench.weakly_coupled.operator_agent import Rule


def greedy(model: ChargingModel) -> np.ndarray:
    """Charge where it pays most in this period."""
    gain = bay_rewards()[:, 1] - bay_rewards()[:, 0]
    return index_policy(model, PRICE_MOVES @ gain if model.rules.lagged else gain)


def edf(model: ChargingModel) -> np.ndarray:
    """Earliest deadline first; of equal ones the car that needs more."""
    return index_policy(model, np.broadcast_to(-PERIODS + UNITS / 10.0, (3, 12)))


def llf(model: ChargingModel) -> np.ndarray:
    """Least laxity D - B first."""
    return index_policy(model, np.broadcast_to(UNITS - PERIODS, (3, 12)))


def whittle(model: ChargingModel) -> np.ndarray:
    """Largest Whittle index first, and none that is not positive unless it must be charged."""
    index = whittle_index(model)
    return index_policy(model, index, willing=index > 1e-9)


def lagrangian_greedy(model: ChargingModel) -> np.ndarray:
    """Charge where it is worth most to the bay itself, at the multipliers of the least Lagrangian bound."""
    worth = solve_bay(model, lagrangian_bound(model, by_price=True).lam)
    return index_policy(model, worth[:, 1] - worth[:, 0])


HEURISTICS: dict[str, Callable[[ChargingModel], np.ndarray]] = {
    "greedy": greedy,
    "edf": edf,
    "llf": llf,
    "whittle": whittle,
    "lagrangian_greedy": lagrangian_greedy,
}


def optimum(model: ChargingModel) -> np.ndarray:
    """Play the best stationary policy of the problem that never ends."""
    return stationary_solution(model).actions


def rules(model: ChargingModel) -> dict[str, Rule]:
    """Return the policies as rules, by name, and the optimum; each computes its table at its first use."""

    def rule(policy: Callable[[ChargingModel], np.ndarray]) -> Rule:
        table = functools.cache(lambda: policy(model))

        def play(observation: Observation) -> np.ndarray:
            where = observation.sub_problems
            assert where is not None
            actions: np.ndarray = table()[(where.exogenous, *where.states.T)]
            return actions

        return Rule(play, stationary=True)

    return {name: rule(policy) for name, policy in (HEURISTICS | {"optimum": optimum}).items()}


def uniform(model: ChargingModel) -> np.ndarray:
    """Return the chance of each joint action at each price, (3, 2^N): the same for all feasible ones."""
    chances: np.ndarray = model.feasible / model.feasible.sum(axis=1, keepdims=True)
    return chances


def index_policy(model: ChargingModel, index: np.ndarray, *, willing: np.ndarray | None = None) -> np.ndarray:
    """Return the policy that charges the b(c) willing bays of largest index.

    Args:
        index: (3, 12), by price shown and state of a bay.
        willing: (3, 12) bool; by default the bays that need something.
    """
    willing = np.broadcast_to(UNITS > 0, (3, 12)) if willing is None else willing
    bays = np.indices(state_shape(model)[1:]).reshape(model.n_bays, -1)
    digits = 2 ** np.arange(model.n_bays)[::-1]
    tables = []
    for capacity, worth, wants in zip(model.rules.capacity, index, willing, strict=True):
        # The willing first. Rounding makes ties of what differs in the last bits; a stable sort leaves ties alone.
        order = np.lexsort((-np.round(worth, 9)[bays], ~wants[bays]), axis=0)
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(model.n_bays)[:, None], axis=0)
        charged = (rank < capacity) & (wants[bays] | model.rules.exact_use)
        tables.append(digits @ charged)
    return np.stack(tables).reshape(state_shape(model))
