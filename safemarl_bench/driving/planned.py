"""Base of the agents that settle an episode's actions before it begins, with the simulator of the game."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.contract import Agent, AgentContext, Arrays, Observation
from safemarl_bench.driving import kernel
from safemarl_bench.errors import ContractError


class PlannedAgent(Agent):
    """Asks the simulator what to do in the episode that it is told of, and plays that without looking.

    Attributes:
        simulator: a `BatchedDriving` of one game.
    """

    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    privileged: ClassVar[str] = "planner"
    needs_backend: ClassVar[str] = "kernel"

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build the simulator.

        Raises:
            ContractError: the context has none.
        """
        super().__init__(context, config)
        if context.simulator is None:
            raise ContractError(f"{type(self).__name__} needs the game's simulator, and the context has none")
        if not kernel.COMPILED:
            warnings.warn("planning is slow without numba: pip install 'safemarl-bench[kernel]'", stacklevel=2)
        self.simulator = context.simulator(1)
        self._neutral = np.array([[np.ravel(context.neutral_actions[agent])[0] for agent in context.agents]])
        self._actions = self._neutral

    @abstractmethod
    def plan_actions(self) -> np.ndarray:
        """Return the joint actions for the episode that `simulator` is at the start of, (T', 2), T' >= 0.

        Neutral actions follow them.
        """

    def start_episode(self, stream: str, seed: int, episode: int) -> None:
        """Make the plan; see `Agent.start_episode`."""
        self.simulator.reset(stream=stream, seeds=seed, episodes=episode)
        self._actions = np.concatenate([self.plan_actions(), self._neutral])

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Return the plan's actions of decision `observation.step`; see `Agent.act`."""
        now = self._actions[np.minimum(observation.step, len(self._actions) - 1)]
        actions = {}
        for index, agent in enumerate(self.context.agents):
            space = self.context.action_spaces[agent]
            actions[agent] = now[:, index].astype(space.dtype).reshape(len(now), *(space.shape or ()))
        return actions
