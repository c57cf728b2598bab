"""Idle: every agent plays its neutral action at every step. The floor that any policy must beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from safemarl_bench.contract import Agent, Arrays, Observation


class Idle(Agent):
    """Plays `AgentContext.neutral_actions`, in any action space."""

    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Return the neutral actions; see `Agent.act`."""
        num_envs = len(observation.step)
        return {agent: self._repeat(agent, num_envs) for agent in self.context.agents}

    def _repeat(self, agent: str, num_envs: int) -> np.ndarray:
        space = self.context.action_spaces[agent]
        action = np.asarray(self.context.neutral_actions[agent], dtype=space.dtype).reshape(space.shape or ())
        return np.repeat(action[None], num_envs, axis=0)
