"""Exact reference values of EV charging, computed once per model and kept on disk.

Values are expected returns from the first states of an episode, by dynamic programming over all joint states: for ever
and discounted (the reference itself), and of an episode of 50 decisions, discounted or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tqdm

from safemarl_bench.references import Reference
from safemarl_bench.weakly_coupled import charging, reference_cache
from safemarl_bench.weakly_coupled.charging import GAMMA, HORIZON, ChargingModel
from safemarl_bench.weakly_coupled.charging_bays import lagrangian_bound
from safemarl_bench.weakly_coupled.charging_exact import optimal_solution, policy_values, start_value
from safemarl_bench.weakly_coupled.charging_policies import HEURISTICS, uniform

CRITERIA: dict[str, tuple[int | None, float]] = {
    "discounted": (None, GAMMA),
    "discounted, 50 decisions": (HORIZON, GAMMA),
    "undiscounted, 50 decisions": (HORIZON, 1.0),
}
"""What a value is of: decisions of an episode (None: it never ends), discount."""

FORMAT = 2
"""Of the cache's files: bump it when a value changes although the model does not."""


def reference(model: ChargingModel) -> Reference:
    """Return the exact reference of a model, from the cache where it is there.

    `more` has, by criterion, the values of "optimum", "random" and every heuristic, and under "Lagrangian bounds" the
    bounds of the discounted optimum for one multiplier and for one by price. N = 5 takes many minutes once.
    """
    more = reference_cache.kept(f"ev_charging-{digest(model)}", lambda: compute(model))
    values = dict(more["discounted"])
    optimum, random = values.pop("optimum"), values.pop("random")
    source = "exact: dynamic programming over all joint states, from the first states of an episode, for ever"
    return Reference(optimum, random, values, (optimum, optimum), source, more)


def compute(model: ChargingModel) -> dict[str, dict[str, float]]:
    """Return the values, criterion -> policy -> value, with a progress bar."""
    policies: dict[str, Callable[[ChargingModel], np.ndarray]] = {"random": uniform, **HEURISTICS}
    what = f"reference of EV charging ({model.preset}, {model.n_bays} bays)"
    more: dict[str, dict[str, float]] = {}
    with tqdm.tqdm(desc=what, total=len(CRITERIA) * (1 + len(policies)), unit="value", leave=False) as bar:
        tables = {name: policy(model) for name, policy in policies.items()}
        for criterion, (steps, gamma) in CRITERIA.items():
            more[criterion] = {"optimum": start_value(model, optimal_solution(model, steps=steps, gamma=gamma).values)}
            bar.update()
            for name, table in tables.items():
                values = policy_values(model, table, steps=steps, gamma=gamma)
                more[criterion][name] = start_value(model, values)
                bar.update()
    more["Lagrangian bounds"] = bounds(model)
    return more


def bounds(model: ChargingModel) -> dict[str, float]:
    """Return the upper bounds of the discounted optimum, by what multipliers they have."""
    multipliers = {"one multiplier": False, "one by price": True}
    return {name: lagrangian_bound(model, by_price=by).stated for name, by in multipliers.items()}


def digest(model: ChargingModel) -> str:
    """Return 16 hex digits over all numbers of a model."""
    tables = (charging.bay_rewards(), charging.bay_moves(), charging.first_bays(), charging.PRICE_MOVES)
    numbers = [np.round(table, 12).tolist() for table in tables]
    what = [FORMAT, model.n_bays, dataclasses.astuple(model.rules), numbers, GAMMA, HORIZON, sorted(HEURISTICS)]
    return reference_cache.digest(what)
