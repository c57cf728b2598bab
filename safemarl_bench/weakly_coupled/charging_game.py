"""EV charging behind PettingZoo's parallel API, and the entry point of its data file."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import pettingzoo

from safemarl_bench.episodes import Episode, read_reset
from safemarl_bench.errors import ContractError, RegistryError, nearest
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.weakly_coupled.charging_core import BatchedCharging
from safemarl_bench.weakly_coupled.charging_exact import optimal_solution, start_value

SETTINGS = ("n_bays",)


def make(spec: SuiteSpec, *, backend: str = "arrays", **overrides: Any) -> ChargingGame:
    """Build the game of an EV charging suite (the entry point of its data file).

    Args:
        spec: the suite; its ``[env]`` has `n_bays`, 2 to 5.
        backend: "arrays", the only one.
        overrides: values in place of the data file's.

    Raises:
        RegistryError: an unknown setting, or a number of bays out of range.
    """
    render_mode = overrides.pop("render_mode", None)
    if render_mode is not None:
        raise RegistryError(f"suite {spec.name} draws nothing: render_mode must be None, got {render_mode!r}")
    settings = {**spec.env, **overrides}
    for unknown in sorted(set(settings) - set(SETTINGS)):
        raise RegistryError(f"suite {spec.name} has no setting {unknown!r}: {nearest(unknown, SETTINGS)}")
    return ChargingGame(spec, settings["n_bays"])


class ChargingGame(pettingzoo.ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]
    """Two operators of one charging station; rules in `safemarl_bench.weakly_coupled.charging_core`.

    Observation of both and `state()`, float32: the price, then D and B of every bay. The clock, which is no part of
    the problem, is not shown and truncates. Seeds: ``reset(seed, options={"stream", "episode"})`` starts that episode
    of that seed; ``reset()`` goes on to the next one.

    Infos of a live agent: cost (1,) float64, charged, how many of its own bays were.
    """

    def __init__(self, spec: SuiteSpec, n_bays: int) -> None:
        """Build the game; `spec` gives roles, horizon and limits."""
        self.spec = spec
        self.core = BatchedCharging(n_bays, spec.horizon, 1)
        self.render_mode = None
        self.metadata = {
            "name": f"{spec.name}@{spec.version}",
            "roles": {"leader": list(spec.leader), "followers": list(spec.followers)},
            "render_modes": [],
        }
        self.possible_agents = list(spec.roles)
        self.agents: list[str] = []
        self.cost_limits = {agent: np.array(limits, np.float64) for agent, limits in spec.cost_limits.items()}
        width = 1 + 2 * n_bays
        self.state_space = gymnasium.spaces.Box(0.0, 4.0, (width,), np.float32)
        self.observation_spaces = dict.fromkeys(spec.roles, self.state_space)
        shares = zip(spec.roles, self.core.shares, strict=True)
        self.action_spaces = {agent: gymnasium.spaces.Discrete(2**share) for agent, share in shares}
        self._next_episode = Episode("train", secrets.randbelow(2**31), 0)
        self._shown = self.core.reset()

    def observation_space(self, agent: str) -> gymnasium.Space[np.ndarray]:
        """Return the agent's observation space, the same object at each call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return the agent's action space, the same object at each call."""
        return self.action_spaces[agent]

    def simulator(self, num_envs: int) -> BatchedCharging:
        """Return a batched simulator of this very game; num_envs: E >= 1, games side by side."""
        return BatchedCharging(self.core.model.n_bays, self.core.horizon, num_envs)

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
            actions: agent -> the subset of its bays to charge, a number; see the core.

        Returns:
            observations, rewards, terminations, truncations, infos, each by agent.

        Raises:
            ContractError: no episode is running, or an action is missing, surplus or not in its space.
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
        """Return the global state, float32: the price, then D and B of every bay."""
        state: np.ndarray = self._shown.state[0].copy()
        return state

    def optimum(self) -> float:
        """Return the best expected total return, undiscounted, over all policies that keep within the capacity.

        Wanting more than the capacity gains nothing: the surplus is cut. By dynamic programming, O(12^N 2^N) for each
        decision.
        """
        model = self.core.model
        return start_value(model, optimal_solution(model, steps=self.core.horizon, gamma=1.0).values)

    def _observations(self) -> dict[str, np.ndarray]:
        return {agent: self._shown.obs[0, k].copy() for k, agent in enumerate(self.possible_agents)}

    def _infos(self) -> dict[str, dict[str, Any]]:
        own = np.split(self._shown.charged[0], [self.core.shares[0]])
        return {
            agent: {"cost": self._shown.cost[0, k].copy(), "charged": int(own[k].sum())}
            for k, agent in enumerate(self.possible_agents)
        }
