"""Playing a game step by step: the bridge between PettingZoo's dicts and an agent's arrays.

Everything that crosses the bridge is checked here, once: an agent's actions on the way in, a
game's rewards and costs on the way out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium
import numpy as np

from safemarl_bench.contract import Arrays, Observation, SubProblems, Transition
from safemarl_bench.errors import ContractError, SafeMARLBenchError
from safemarl_bench.registry import Game, SuiteSpec

Infos = Mapping[str, Mapping[str, Any]]


def check_actions(actions: Any, spaces: Mapping[str, gymnasium.Space[Any]], num_envs: int) -> Arrays:
    """Return an agent's actions as arrays of the spaces' dtype, or say what is wrong with them.

    Args:
        actions: agent -> (E,) integers for a Discrete space, (E, k) floats for a Box.
        spaces: agent -> action space.
        num_envs: E.

    Raises:
        ContractError: an agent is missing or unknown, a shape or type is wrong, a number is NaN or out of range.
    """
    if not isinstance(actions, Mapping) or set(actions) != set(spaces):
        given = sorted(map(repr, actions)) if isinstance(actions, Mapping) else type(actions).__name__
        raise ContractError(f"act must return a dict with one action array for each of {sorted(spaces)}, got {given}")
    return {agent: _check_action(agent, actions[agent], space, num_envs) for agent, space in spaces.items()}


def _check_action(agent: str, action: Any, space: gymnasium.Space[Any], num_envs: int) -> np.ndarray:
    try:
        array = np.asarray(action)
    except ValueError as error:  # ragged nesting
        raise ContractError(f"action of {agent!r} is not an array: {error}") from error
    shape = (num_envs, *(space.shape or ()))
    if array.shape != shape:
        raise ContractError(f"action of {agent!r} must have shape {shape}, got {array.shape} from {action!r}")
    if isinstance(space, gymnasium.spaces.Discrete):
        if array.dtype.kind not in "iu":
            raise ContractError(f"action of {agent!r} must be integers, got {array.dtype} {action!r}")
        low, high = int(space.start), int(space.start + space.n - 1)
        if array.min() < low or array.max() > high:
            raise ContractError(f"action of {agent!r} must be in {low}..{high}, got {array.tolist()}")
        return array.astype(np.int64)
    if not isinstance(space, gymnasium.spaces.Box):
        raise ContractError(f"action space of {agent!r} must be Discrete or Box, got {space}")
    if array.dtype.kind != "f" or np.isnan(array).any():
        raise ContractError(f"action of {agent!r} must be floats without NaN, got {array.dtype} {array.tolist()}")
    if (array < space.low).any() or (array > space.high).any():
        raise ContractError(f"action of {agent!r} must be in [{space.low}, {space.high}], got {array.tolist()}")
    return array.astype(np.float32)


def neutral_actions(spec: SuiteSpec, spaces: Mapping[str, gymnasium.Space[Any]], num_envs: int) -> Arrays:
    """Return what done agents execute: agent -> (E,) or (E, k), in the spaces' dtype."""
    neutral = {}
    for agent, space in spaces.items():
        shape = (num_envs, *(space.shape or ()))
        neutral[agent] = np.broadcast_to(np.asarray(spec.neutral_actions[agent], space.dtype), shape)
    return neutral


class Rollout:
    """One game (E = 1) played with an agent's arrays; a done agent's action becomes its neutral one."""

    def __init__(self, spec: SuiteSpec, game: Game) -> None:
        """Wrap `game`, built from `spec`."""
        self.spec = spec
        self.game = game
        self.spaces = {agent: game.action_space(agent) for agent in spec.roles}
        self._absent = {agent: np.zeros(game.observation_space(agent).shape, np.float32) for agent in spec.roles}
        for absent in self._absent.values():
            absent.setflags(write=False)  # agents are handed views of it
        self._neutral = neutral_actions(spec, self.spaces, 1)
        self._step = 0
        self.observation: Observation

    def reset(self, *, stream: str, seed: int, episode: int) -> Observation:
        """Start the episode that (stream, seed, episode) names, and return what is seen first."""
        raw, infos = self.game.reset(seed=seed, options={"stream": stream, "episode": episode})
        self._step = 0
        self.observation = self._observe(raw, infos)
        return self.observation

    def step(self, actions: Any, *, by: str) -> tuple[Transition, Infos]:
        """Take one decision.

        Args:
            actions: as `Agent.act` returned them.
            by: what errors call the agent.

        Returns:
            the transition, and the game's infos by agent (live agents only).

        Raises:
            ContractError: bad actions (the episode stays where it is), or a bad reward or cost.
        """
        before = self.observation
        try:
            chosen = check_actions(actions, self.spaces, 1)
        except ContractError as error:
            raise ContractError(f"agent {by!r} at step {self._step} of an episode: {error}") from error
        executed = {agent: chosen[agent] if before.alive[agent][0] else self._neutral[agent] for agent in chosen}
        played = {agent: self._to_game(agent, executed[agent]) for agent in self.game.agents}
        raw, rewards, terminations, truncations, infos = self.game.step(played)
        self._step += 1
        self.observation = self._observe(raw, infos)
        transition = Transition(
            observation=before,
            actions=executed,
            rewards={agent: self._reward(agent, rewards) for agent in self.spec.roles},
            costs={agent: self._cost(agent, infos) for agent in self.spec.roles},
            terminations={agent: np.array([bool(terminations.get(agent, False))]) for agent in self.spec.roles},
            truncations={agent: np.array([bool(truncations.get(agent, False))]) for agent in self.spec.roles},
            next_observation=self.observation,
            episode_over=np.array([not self.game.agents]),
            sub_rewards=self._sub_rewards(infos),
        )
        return transition, infos

    def _to_game(self, agent: str, action: np.ndarray) -> Any:
        return int(action[0]) if isinstance(self.spaces[agent], gymnasium.spaces.Discrete) else action[0]

    def _sub_rewards(self, infos: Infos) -> np.ndarray | None:
        if self.spec.kind != "weakly_coupled":
            return None
        return np.asarray(infos[self.spec.leader[0]]["sub_rewards"], np.float64)[None]

    def _sub_problems(self, infos: Infos) -> SubProblems | None:
        if self.spec.kind != "weakly_coupled":
            return None
        info = infos[self.spec.leader[0]]
        return SubProblems(np.array([info["exogenous"]]), np.asarray(info["sub_states"], np.int64)[None])

    def _observe(self, raw: Mapping[str, Any], infos: Infos) -> Observation:
        alive = self.game.agents
        return Observation(
            by_agent={agent: np.asarray(raw.get(agent, empty))[None] for agent, empty in self._absent.items()},
            state=np.asarray(self.game.state(), np.float32)[None],
            alive={agent: np.array([agent in alive]) for agent in self.spec.roles},
            step=np.array([self._step]),
            sub_problems=self._sub_problems(infos),
        )

    def _reward(self, agent: str, rewards: Mapping[str, Any]) -> np.ndarray:
        reward = np.array([rewards.get(agent, 0.0)], np.float64)
        if not np.isfinite(reward).all():
            raise ContractError(f"suite {self.spec.name}: reward of {agent!r} at step {self._step} is {reward[0]}")
        return reward

    def _cost(self, agent: str, infos: Infos) -> np.ndarray:
        count = len(self.spec.cost_limits[agent])
        if agent not in infos:
            return np.zeros((1, count))
        cost = np.asarray(infos[agent].get("cost"))
        if cost.shape != (count,) or cost.dtype != np.float64 or not np.isfinite(cost).all() or (cost < 0).any():
            raise ContractError(
                f"suite {self.spec.name}: infos[{agent!r}]['cost'] at step {self._step} must be a float64 vector of "
                f"{count} finite numbers >= 0, got {infos[agent].get('cost')!r}"
            )
        return cost[None]


@contextlib.contextmanager
def calling(agent: str, method: str, step: int) -> Iterator[None]:
    """Turn whatever an agent raises into one line that says who, where and what."""
    try:
        yield
    except SafeMARLBenchError:
        raise
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ContractError(f"agent {agent!r} raised in {method} at step {step}: {what}") from error
