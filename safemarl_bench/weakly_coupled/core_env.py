"""A batched core of fully observed episodes with discrete actions, behind PettingZoo's parallel API."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import pettingzoo

from safemarl_bench.episodes import Episode, read_reset
from safemarl_bench.errors import ContractError, RegistryError, nearest
from safemarl_bench.registry import SuiteSpec


def read_settings(spec: SuiteSpec, overrides: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return a suite's ``[env]`` with `overrides` in place of its values.

    Raises:
        RegistryError: a setting that is not in `names`, or a render mode: these suites draw nothing.
    """
    settings = {**spec.env, **overrides}
    render_mode = settings.pop("render_mode", None)
    if render_mode is not None:
        raise RegistryError(f"suite {spec.name} draws nothing: render_mode must be None, got {render_mode!r}")
    for unknown in sorted(set(settings) - set(names)):
        raise RegistryError(f"suite {spec.name} has no setting {unknown!r}: {nearest(unknown, names)}")
    return settings


class FeasibleActions(gymnasium.spaces.Discrete):
    """Joint actions of which `sample` draws a feasible one."""

    def __init__(self, size: int, feasible: Callable[[], np.ndarray]) -> None:
        """Build the space of 0..size - 1; `feasible` returns what is allowed now, (size,) bool."""
        super().__init__(size)
        self._feasible = feasible

    def sample(self, mask: Any = None, probability: Any = None) -> np.int64:
        """Return a random action: a feasible one, unless the caller says of which."""
        if mask is None and probability is None:
            mask = self._feasible().astype(np.int8)
        return super().sample(mask=mask, probability=probability)


class CoreEnv(pettingzoo.ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]
    """One episode after another of a core; a subclass says what the infos hold.

    All agents see the global state. The clock, which is no part of the problem, is not shown and truncates. Seeds:
    ``reset(seed, options={"stream", "episode"})`` starts that episode of that seed; ``reset()`` goes on to the next.
    """

    def __init__(
        self, spec: SuiteSpec, simulator: Callable[[int], Any], state_space: gymnasium.Space[Any], actions: list[int]
    ) -> None:
        """Build the game.

        Args:
            spec: gives roles and limits. simulator: returns the core of E episodes. state_space: of what all see.
            actions: number of actions by role.
        """
        self.spec = spec
        self.simulator = simulator
        self.core = simulator(1)
        self.render_mode = None
        self.metadata = {
            "name": f"{spec.name}@{spec.version}",
            "roles": {"leader": list(spec.leader), "followers": list(spec.followers)},
            "render_modes": [],
        }
        self.possible_agents = list(spec.roles)
        self.agents: list[str] = []
        self.cost_limits = {agent: np.array(limits, np.float64) for agent, limits in spec.cost_limits.items()}
        self.state_space = state_space
        self.observation_spaces = dict.fromkeys(spec.roles, state_space)
        sizes = zip(spec.roles, actions, strict=True)
        self.action_spaces = {agent: gymnasium.spaces.Discrete(size) for agent, size in sizes}
        self._next_episode = Episode("train", secrets.randbelow(2**31), 0)
        self._shown = self.core.reset()

    def observation_space(self, agent: str) -> gymnasium.Space[np.ndarray]:
        """Return the agent's observation space, the same object at each call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return the agent's action space, the same object at each call."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start an episode.

        Args:
            seed: of all draws; None goes on to the next episode of the last seed and stream, and of a seed from the
                operating system the first time.
            options: "stream" ("train" by default, "validation", "evaluation" or "search") and "episode" (0 by
                default); others are ignored, as PettingZoo asks.

        Raises:
            ContractError: an unknown stream.
            SafeMARLBenchError: a number out of range. Either way the running episode is left as it is.
        """
        stream, first, number = episode = read_reset(seed, options, self._next_episode)
        self._shown = self.core.reset(stream=stream, seeds=first, episodes=number)
        self._next_episode = episode.following
        self.agents = list(self.possible_agents)
        return self._observations(), self._infos()

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Take one decision.

        Args:
            actions: agent -> its action, a number; see the core.

        Returns:
            observations, rewards, terminations, truncations, infos, each by agent.

        Raises:
            ContractError: no episode is running, or an action is missing, surplus, not in its space or infeasible.
        """
        if not self.agents:
            raise ContractError("step: no episode is running; call reset first")
        if not isinstance(actions, Mapping) or set(actions) != set(self.agents):
            given = list(actions) if isinstance(actions, Mapping) else type(actions).__name__
            raise ContractError(f"step takes one action for each live agent {self.agents}, got {given}")
        for agent, action in actions.items():
            if not self.action_spaces[agent].contains(action):
                raise ContractError(f"action of {agent!r} must be in {self.action_spaces[agent]}, got {action!r}")
        shown = self._shown = self.core.step(np.array([[int(actions[agent]) for agent in self.possible_agents]]))
        infos, observations = self._infos(), self._observations()
        rewards = {agent: float(shown.reward[0, k]) for k, agent in enumerate(self.possible_agents)}
        truncations = dict.fromkeys(self.possible_agents, bool(shown.truncated[0]))
        if shown.over[0]:
            self.agents = []
        return observations, rewards, dict.fromkeys(rewards, False), truncations, infos

    def state(self) -> np.ndarray:
        """Return the global state, float32."""
        state: np.ndarray = self._shown.state[0].copy()
        return state

    def _observations(self) -> dict[str, np.ndarray]:
        return {agent: self._shown.obs[0, k].copy() for k, agent in enumerate(self.possible_agents)}

    @abstractmethod
    def _infos(self) -> dict[str, dict[str, Any]]:
        """Return what an agent is told of `_shown` beside it."""
