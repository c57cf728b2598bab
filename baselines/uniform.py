"""Uniform (registered as `random`): independent uniform actions, also at evaluation. The zero of every score.

In a weakly coupled suite it draws from the feasible joint actions.
"""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np

from safemarl_bench.contract import Agent, Arrays, Observation
from safemarl_bench.errors import ContractError


class Uniform(Agent):
    """Draws every action uniformly from its space, with the generator it is given."""

    suite_kinds: ClassVar[tuple[str, ...]] = ("game", "weakly_coupled")
    learns: ClassVar[bool] = False

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Return random actions, in the order of `AgentContext.agents`; see `Agent.act`.

        Raises:
            ContractError: a space is neither Discrete nor a bounded Box.
        """
        if self.context.weakly_coupled and observation.sub_problems:
            (operator,) = self.context.agents
            return {operator: self.context.weakly_coupled.draw(observation.sub_problems.exogenous, rng)}
        num_envs = len(observation.step)
        return {agent: self._draw(agent, num_envs, rng) for agent in self.context.agents}

    def _draw(self, agent: str, num_envs: int, rng: np.random.Generator) -> np.ndarray:
        space = self.context.action_spaces[agent]
        if isinstance(space, gymnasium.spaces.Discrete):
            return rng.integers(space.start, space.start + space.n, size=num_envs, dtype=np.int64)
        if isinstance(space, gymnasium.spaces.Box) and space.is_bounded():
            draw = rng.uniform(space.low, space.high, size=(num_envs, *space.shape)).astype(np.float32)
            return np.clip(draw, space.low, space.high)  # rounding to float32 may step over a bound
        raise ContractError(f"action space of {agent!r} must be Discrete or a bounded Box, got {space}")
