"""What is known of the inventory problem without learning: rules that know the model, and the bracket of its optimum.

Dynamic programming over all stocks is out of reach. From above, the optimum is bounded by a price of the resource for
every decision (`time_multipliers`); from below by what rules earn in simulated episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from safemarl_bench.contract import Observation, SubProblems
from safemarl_bench.references import Reference
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled import inventory, inventory_program
from safemarl_bench.weakly_coupled.inventory import BACKORDERS, DEMAND, GAMMA, HORIZON, STORAGE, InventoryModel
from safemarl_bench.weakly_coupled.inventory_program import POINTS
from safemarl_bench.weakly_coupled.operator_agent import Rule
from safemarl_bench.weakly_coupled.reference_cache import digest, kept
from safemarl_bench.weakly_coupled.time_multipliers import Bound, joint_actions, least_bound, worth

EPISODES = 10_000
"""Simulated episodes behind a rule's value."""

FORMAT = 1
"""Of the cache's files: bump it when a value changes although the model does not."""


def bound(model: InventoryModel) -> Bound:
    """Return the upper bound of the best expected return, and its prices; some seconds, kept on disk."""

    def compute() -> dict[str, dict[str, float]]:
        found = least_bound(inventory_program.program(model))
        return {"bound": {"value": found.value}, "lam": {str(t): float(price) for t, price in enumerate(found.lam)}}

    values = kept(f"inventory-bound-{_digest(model)}", compute)
    return Bound(values["bound"]["value"], np.array([values["lam"][str(t)] for t in range(HORIZON)]))


def _digest(model: InventoryModel) -> str:
    tables = (STORAGE, BACKORDERS, DEMAND, inventory.HOLDING, inventory.BACKORDER, inventory.LOST_SALE, model.moves)
    return digest([FORMAT, POINTS, EPISODES, HORIZON, GAMMA, *(table.tolist() for table in tables)])


def rules(model: InventoryModel) -> dict[str, Rule]:
    """Return the rules by name.

    greedy: the least expected cost of this decision. lagrangian_greedy: the best reward now with what the products are
    worth next, each by itself, at the prices of `bound`; it looks at how many decisions were taken.
    """
    edges, table = inventory_program.grid()[1], inventory.allocations()
    feasible = np.ones((1, len(table)), bool)

    def best(values: np.ndarray, observation: Observation) -> np.ndarray:
        """Return the joint actions of the largest sum of values, (T, W, M, C), by decision; T = 1: always the same."""
        where = observation.sub_problems
        assert where is not None
        place = (observation.state[:, 1:].astype(np.float64) + BACKORDERS) * POINTS
        low = np.clip(place.astype(np.int64), 0, np.diff(edges) - 2)
        step, rate = np.minimum(observation.step, len(values) - 1)[:, None], where.exogenous[:, None]
        below, above = (values[step, rate, :, edges[:-1] + low + after] for after in (0, 1))
        share = (place - low)[:, :, None]
        return joint_actions((1.0 - share) * below + share * above, table, feasible)

    program = functools.cache(lambda: inventory_program.program(model))
    ahead = functools.cache(lambda: worth(program(), bound(model).lam))
    return {
        "greedy": Rule(lambda observation: best(program().rewards[None], observation), stationary=True),
        "lagrangian_greedy": Rule(lambda observation: best(ahead(), observation), stationary=False),
    }


def reference(model: InventoryModel, simulator: Callable[[int], Any]) -> Reference:
    """Return the bracket of the optimum and what the rules and random play earn, kept on disk.

    Args:
        simulator: returns the core of E episodes. Values are means over 10,000 episodes, the same for all;
            `more` has their standard errors.
    """

    def compute() -> dict[str, dict[str, float]]:
        policies = {name: rule.play for name, rule in rules(model).items()} | {"random": _uniform}
        returns = {name: _returns(simulator(EPISODES), play) for name, play in policies.items()}
        return {
            "mean": {name: float(values.mean()) for name, values in returns.items()},
            "standard error": {name: float(values.std(ddof=1) / EPISODES**0.5) for name, values in returns.items()},
        }

    values = kept(f"inventory-{_digest(model)}", compute)
    heuristics = {name: mean for name, mean in values["mean"].items() if name != "random"}
    high = bound(model).stated
    more = {"standard error": values["standard error"], "Lagrangian bounds": {"one multiplier by decision": high}}
    source = f"bracket: {EPISODES:,} simulated episodes from below, a Lagrangian bound from above"
    low = max(heuristics.values())
    return Reference(None, values["mean"]["random"], heuristics, (low, high), source, more)


def _uniform(observation: Observation) -> np.ndarray:
    """Return uniformly drawn joint actions, (E,) int64."""
    rng = generator("search", 0, int(observation.step[0]))
    drawn: np.ndarray = rng.integers(len(inventory.allocations()), size=len(observation.step))
    return drawn


def _returns(core: Any, play: Callable[[Observation], np.ndarray]) -> np.ndarray:
    """Return the discounted returns of E episodes of stream "search", (E,)."""
    shown, total = core.reset(stream="search"), np.zeros(core.num_envs)
    for t in range(core.horizon):
        where = SubProblems(shown.exogenous, shown.sub_states)
        actions = play(Observation({}, shown.state, {}, np.full(core.num_envs, t), where))
        shown = core.step(actions[:, None])
        total += GAMMA**t * shown.reward[:, 0]
    return total
