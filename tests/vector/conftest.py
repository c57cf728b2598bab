"""One game as a `gymnasium.Env`, so that gymnasium's own vector environment can say what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import safemarl_bench as smb

AGENT_FACTS = ("crashed", "off_road", "arrival_rank")


class OneGame(gymnasium.Env):
    """A game with one action for all agents; a done agent's row of the observation is zero and not `seen`."""

    def __init__(self, suite: str) -> None:
        self.game = smb.make(suite, backend="kernel")
        agents, actions = self.game.possible_agents, self.game.action_space("leader")
        width = self.game.observation_space("leader").shape[0]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (len(agents), width), np.float32)
        if isinstance(actions, gymnasium.spaces.Discrete):
            self.action_space = gymnasium.spaces.MultiDiscrete([actions.n] * len(agents))
        else:
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (len(agents),), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        seen, infos = self.game.reset(seed=seed, options=options)
        self.facts: dict[str, dict[str, Any]] = {}
        nothing: dict[str, Any] = {}
        return self._rows(seen), self._info(seen, infos, nothing, nothing, nothing)

    def step(self, action: np.ndarray) -> Any:
        numbers = {agent: number for number, agent in enumerate(self.game.possible_agents) if agent in self.game.agents}
        single = {agent: action[number] for agent, number in numbers.items()}
        if action.dtype.kind == "f":
            single = {agent: np.array([value]) for agent, value in single.items()}
        seen, rewards, terminations, truncations, infos = self.game.step(single)
        info = self._info(seen, infos, rewards, terminations, truncations)
        truncated = any(truncations.values())
        terminated = not (self.game.agents or truncated)
        return self._rows(seen), sum(rewards.values()), terminated, truncated, info

    def _rows(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        rows = np.zeros(self.observation_space.shape, np.float32)
        for number, agent in enumerate(self.game.possible_agents):
            if agent in seen:
                rows[number] = seen[agent]
        return rows

    def _info(self, seen: Any, infos: Any, rewards: Any, terminations: Any, truncations: Any) -> dict[str, Any]:
        agents, costs = self.game.possible_agents, self.game.cost_limits
        self.facts.update(infos)
        return {
            "reward": np.array([rewards.get(agent, 0.0) for agent in agents], np.float64),
            "cost": np.array([infos.get(agent, {"cost": 0.0 * costs[agent]})["cost"] for agent in agents]),
            "terminated": np.array([terminations.get(agent, False) for agent in agents]),
            "truncated": np.array([truncations.get(agent, False) for agent in agents]),
            **{name: np.array([self.facts[agent][name] for agent in agents]) for name in AGENT_FACTS},
            "gap": next(iter(infos.values()))["gap"],
            "state": self.game.state(),
            "seen": np.array([agent in seen for agent in agents]),
        }


@pytest.fixture
def make_sync() -> Callable[..., SyncVectorEnv]:
    """Build gymnasium's vector environment of E games."""

    def make(suite: str, num_envs: int, mode: AutoresetMode) -> SyncVectorEnv:
        return SyncVectorEnv([lambda: OneGame(suite)] * num_envs, autoreset_mode=mode)

    return make
