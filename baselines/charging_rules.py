"""Policies of EV charging that know the model: indices of bays, and the optimum.

Each looks its action up in a table over all joint states that it computes at the start; definitions:
`safemarl_bench.weakly_coupled.charging_policies`. They play the one-operator suites, for learners to be compared with.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.contract import AgentContext, Arrays, Observation
from safemarl_bench.errors import ContractError
from safemarl_bench.weakly_coupled import charging_policies
from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import stationary_solution
from safemarl_bench.weakly_coupled.operator_agent import OperatorAgent


class ChargingRule(OperatorAgent):
    """Plays a table of joint actions, (3, 12, ..., 12); a subclass computes it."""

    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    privileged: ClassVar[str] = "planner"
    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"preset": ("text", "code")}

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Compute the table.

        Raises:
            ContractError: the context has no simulator.
        """
        super().__init__(context, config)
        if context.simulator is None:
            raise ContractError(f"{type(self).__name__} needs the simulator of an EV charging suite")
        self._table = self.table(context.simulator(1).model)

    @abstractmethod
    def table(self, model: ChargingModel) -> np.ndarray:
        """Return the joint action in each state, (3, 12, ..., 12) integers."""

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Look the states up; see `Agent.act`."""
        where = self.where(observation)
        return {self.operator: self._table[(where.exogenous, *where.states.T)]}


class Greedy(ChargingRule):
    """Charge where it pays most now."""

    def table(self, model: ChargingModel) -> np.ndarray:
        """See `charging_policies.greedy`."""
        return charging_policies.greedy(model)


class LLF(ChargingRule):
    """Least laxity first."""

    def table(self, model: ChargingModel) -> np.ndarray:
        """See `charging_policies.llf`."""
        return charging_policies.llf(model)


class Whittle(ChargingRule):
    """Largest Whittle index first."""

    def table(self, model: ChargingModel) -> np.ndarray:
        """See `charging_policies.whittle`."""
        return charging_policies.whittle(model)


class LagrangianGreedy(ChargingRule):
    """Charge where it is worth most at the multipliers of the least Lagrangian bound."""

    def table(self, model: ChargingModel) -> np.ndarray:
        """See `charging_policies.lagrangian_greedy`."""
        return charging_policies.lagrangian_greedy(model)


class Optimum(ChargingRule):
    """The best stationary policy of the problem that never ends."""

    privileged: ClassVar[str] = "oracle"

    def table(self, model: ChargingModel) -> np.ndarray:
        """See `charging_exact.stationary_solution`."""
        return stationary_solution(model).actions
