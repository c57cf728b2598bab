"""What the agents of weakly coupled suites share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from safemarl_bench.contract import Agent, AgentContext, Observation, SubProblems
from safemarl_bench.errors import ContractError


class Rule(NamedTuple):
    """A policy that a problem itself can tell, because it knows its model.

    Attributes:
        play: an observation of E games -> feasible joint actions, (E,) int64.
        stationary: whether they depend on nothing else, not even on how many decisions were taken.
    """

    play: Callable[[Observation], np.ndarray]
    stationary: bool


class OperatorAgent(Agent):
    """An agent for one operator, whose greedy actions depend on the observation alone.

    Attributes:
        problem: how the game falls apart into sub-problems. operator: the role that it plays.
    """

    suite_kinds: ClassVar[tuple[str, ...]] = ("weakly_coupled",)
    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    stationary: ClassVar[bool] = True
    config: Any

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Look at the problem.

        Raises:
            ContractError: the game is not weakly coupled.
        """
        super().__init__(context, config)
        if context.weakly_coupled is None:
            raise ContractError("the game is not weakly coupled: the agent needs AgentContext.weakly_coupled")
        self.problem = context.weakly_coupled
        self.operator = context.leader[0]

    @staticmethod
    def where(observation: Observation) -> SubProblems:
        """Return where the sub-problems are.

        Raises:
            ContractError: it is not shown.
        """
        if observation.sub_problems is None:
            raise ContractError("the agent needs to be shown the sub-problems' states (Observation.sub_problems)")
        return observation.sub_problems
