"""Inventory control, E episodes side by side, behind PettingZoo's parallel API; the entry point of its suite.

Observation and `state()`, float32: the production rate p, then the stock of each product, negative where it is owed.
Every joint action, a number in the table `inventory.allocations`, is feasible. The clock is not shown. The states of
sub-problems, for tables, are stocks rounded to whole units.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from safemarl_bench.contract import SubProblems, WeaklyCoupled
from safemarl_bench.references import Reference
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.weakly_coupled import inventory, inventory_policies
from safemarl_bench.weakly_coupled.batched_episodes import BatchedEpisodes, markov_chain
from safemarl_bench.weakly_coupled.core_env import read_settings
from safemarl_bench.weakly_coupled.inventory import (
    BACKORDERS,
    DEMAND,
    RATES,
    START,
    STORAGE,
    UNITS,
    InventoryModel,
)
from safemarl_bench.weakly_coupled.operator_agent import Rule
from safemarl_bench.weakly_coupled.operator_env import OperatorEnv, OperatorStep, shown


class BatchedInventory(BatchedEpisodes):
    """E episodes of one instance."""

    def __init__(self, model: InventoryModel, horizon: int, num_envs: int) -> None:
        """Start an episode everywhere; see `BatchedEpisodes`."""
        self.check_num_envs(num_envs)
        self.model = model
        self._allocations = inventory.allocations()
        self._thresholds = inventory.demand_chances().cumsum(axis=0)[:-1]
        self._rates = np.zeros((num_envs, horizon + 1), np.int64)
        self._demands = np.zeros((num_envs, horizon + 1, len(DEMAND)), np.int64)
        self._stocks = np.zeros((num_envs, len(DEMAND)))
        super().__init__(horizon, num_envs, 1 + len(DEMAND))

    def _start(self, rows: np.ndarray, draws: np.ndarray) -> None:
        """Start the episodes `rows` with draws from [0, 1), (n, horizon + 1, 11): of the rate, then of each demand."""
        self._rates[rows] = markov_chain(draws[:, :, 0], self.model.moves, first=0)
        self._demands[rows] = sum((draws[:, :, 1:] >= threshold).astype(np.int64) for threshold in self._thresholds)
        self._stocks[rows] = START

    @property
    def shown_rate(self) -> np.ndarray:
        """(E,) int64, number of the production rate."""
        rates: np.ndarray = self._rates[self._games, self._clock]
        return rates

    def step(self, actions: np.ndarray) -> OperatorStep:
        """Take one decision in every episode: produce, meet the demand, pay.

        Args:
            actions: (E, 1) integers, rows of `inventory.allocations`.

        Raises:
            ContractError: a wrong shape or dtype, or an action out of range; nothing has moved.
        """
        self._check_actions(actions, (len(self._allocations),))
        running = self._clock < self.horizon
        use = self._allocations[actions[:, 0]] * running[:, None]
        demand = self._demands[self._games, self._clock]
        filled = self._stocks + inventory.production(RATES[self.shown_rate][:, None], use)
        gains = -inventory.costs(filled, demand, np.arange(len(DEMAND))) * running[:, None]
        left = np.clip(filled - demand, -BACKORDERS, STORAGE)
        self._stocks = np.where(running[:, None], left, self._stocks)
        self._clock += running
        return self._shown(gains, running, use)

    def _at_rest(self) -> OperatorStep:
        nothing = np.zeros(self._stocks.shape)
        return self._shown(nothing, np.zeros(self.num_envs, bool), nothing.astype(np.int64))

    def _shown(self, gains: np.ndarray, moved: np.ndarray, use: np.ndarray) -> OperatorStep:
        where = SubProblems(self.shown_rate, np.rint(self._stocks).astype(np.int64) + BACKORDERS)
        seen = np.concatenate((RATES[self.shown_rate][:, None], self._stocks), axis=1).astype(np.float32)
        return shown(seen, where, gains, use, over=self._clock >= self.horizon, moved=moved)

    def rules(self) -> dict[str, Rule]:
        """Return the rules that know the model, by name; the first use of some takes seconds."""
        return inventory_policies.rules(self.model)

    def get_state(self) -> np.ndarray:
        """Return a copy of where all episodes are, (E, 12) float64: number of the rate, clock, stocks."""
        return np.concatenate([self.shown_rate[:, None], self._clock[:, None], self._stocks], axis=1)

    def set_state(self, state: np.ndarray) -> OperatorStep:
        """Put every episode where `get_state` was called; what is drawn later stays.

        Raises:
            ContractError: a wrong shape or dtype, or a number out of range; nothing has changed.
        """
        highest = [len(RATES) - 1, self.horizon, *STORAGE.tolist()]
        self._check_state(state, highest, [0, 0, *(-BACKORDERS).tolist()], float)
        self._clock, self._stocks = state[:, 1].astype(np.int64), state[:, 2:].copy()
        self._rates[self._games, self._clock] = state[:, 0].astype(np.int64)
        return self._at_rest()


def make(spec: SuiteSpec, *, backend: str = "arrays", **overrides: Any) -> Inventory:
    """Build the problem.

    Args:
        spec: the suite; its ``[env]`` has `instance`, the number of the random instance.
        backend: "arrays", the only one.
        overrides: values in place of the data file's.

    Raises:
        RegistryError: an unknown setting. SafeMARLBenchError: a number out of range.
    """
    return Inventory(spec, InventoryModel(**read_settings(spec, overrides, ("instance",))))


class Inventory(OperatorEnv):
    """One operator who gives 3 units of a production resource to 10 products."""

    def __init__(self, spec: SuiteSpec, model: InventoryModel) -> None:
        """Build the problem; `spec` gives the role and the horizon."""
        self.model = model
        table = inventory.allocations()
        structure = WeaklyCoupled(
            allocations=table,
            feasible=np.ones((len(RATES), len(table)), bool),
            capacity=np.full(len(RATES), UNITS),
            sub_states=tuple((STORAGE + BACKORDERS + 1).tolist()),
        )
        low, high = np.concatenate(([RATES[0]], -BACKORDERS)), np.concatenate(([RATES[-1]], STORAGE))
        space = gymnasium.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        super().__init__(spec, lambda num_envs: BatchedInventory(model, spec.horizon, num_envs), space, structure)

    def upper_bound(self) -> float:
        """Return a number that no policy's expected return, discounted, exceeds; some seconds, kept on disk."""
        return inventory_policies.bound(self.model).stated

    def duality(self) -> dict[str, dict[str, float]]:
        """Return the same bound by what multipliers it has."""
        return {"Lagrangian bounds": {"one multiplier by decision": self.upper_bound()}}

    def reference(self) -> Reference:
        """Return the bracket of the optimum; see `inventory_policies.reference`."""
        return inventory_policies.reference(self.model, self.simulator)
