"""Policies that know the model: rules, and the optimum, for learners to be compared with.

The simulator of a weakly coupled problem tells them (``simulator.rules()``); what each one does there is said in
`safemarl_bench.weakly_coupled.charging_policies`, `ads_policies` and `inventory_policies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.contract import AgentContext, Arrays, Observation
from safemarl_bench.errors import ContractError, nearest
from safemarl_bench.weakly_coupled.operator_agent import OperatorAgent, Rule


class RuleAgent(OperatorAgent):
    """Plays a rule of the problem; a subclass says which."""

    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    privileged: ClassVar[str] = "planner"
    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"preset": ("text", "code")}
    rule: ClassVar[str]

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Look the rule up.

        Raises:
            ContractError: the context has no simulator, or its problem has no such rule.
        """
        super().__init__(context, config)
        rules: Mapping[str, Rule] = getattr(context.simulator and context.simulator(1), "rules", dict)()
        if self.rule not in rules:
            raise ContractError(f"the problem has no rule {self.rule!r}: {nearest(self.rule, rules)}")
        self._rule = rules[self.rule]
        self.stationary = self._rule.stationary  # type: ignore[misc]  # of this problem's rule

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Play the rule; see `Agent.act`."""
        return {self.operator: self._rule.play(observation)}


class Greedy(RuleAgent):
    """What pays most now."""

    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"preset": ("text", "code", None)}
    rule: ClassVar[str] = "greedy"


class LLF(RuleAgent):
    """Least laxity first."""

    rule: ClassVar[str] = "llf"


class Whittle(RuleAgent):
    """Largest Whittle index first."""

    rule: ClassVar[str] = "whittle"


class LagrangianGreedy(RuleAgent):
    """What is worth most at the multipliers of the least Lagrangian bound."""

    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"preset": ("text", "code", None)}
    rule: ClassVar[str] = "lagrangian_greedy"


class Optimum(RuleAgent):
    """The best stationary policy of the problem that never ends."""

    privileged: ClassVar[str] = "oracle"
    rule: ClassVar[str] = "optimum"
