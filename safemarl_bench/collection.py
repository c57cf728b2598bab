"""Where training transitions come from: E games of one suite side by side, each playing one episode after another.

Game k plays the episodes k, k + E, k + 2 E, ... of a stream. A finished game starts its next episode in
the same step: the transition shows the end of the old one, `observation` the start of the new one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.contract import Arrays, Observation, SubProblems, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.registry import Game, SuiteSpec
from safemarl_bench.rollout import Rollout, check_actions, neutral_actions


class Finished(NamedTuple):
    """An episode that is over.

    Attributes:
        episode: its number.
        returns: role -> return, by the suite's criterion. costs: role -> (K,) undiscounted cost.
        crashed: whether anybody did. length: decisions.
    """

    episode: int
    returns: dict[str, float]
    costs: dict[str, list[float]]
    crashed: bool
    length: int


class Games(ABC):
    """E games and sums over their running episodes.

    Attributes:
        num_envs: E. observation: what all games show now. episodes: (E,) int64, the episode each one plays.
    """

    def __init__(self, spec: SuiteSpec, num_envs: int, seed: int, stream: str) -> None:
        """Prepare for episodes of (stream, seed); a subclass starts them."""
        self.spec, self.num_envs, self.seed, self.stream = spec, num_envs, seed, stream
        self.episodes = np.arange(num_envs)
        self.observation: Observation
        self._returns = np.zeros((num_envs, len(spec.roles)))
        width = max(len(spec.cost_limits[role]) for role in spec.roles)
        self._costs = np.zeros((num_envs, len(spec.roles), width))
        self._crashed = np.zeros(num_envs, bool)

    def step(self, actions: Any, *, by: str) -> tuple[Transition, list[Finished]]:
        """Take one decision in every game.

        Args:
            actions: as `Agent.act` returned them. by: what errors call the agent.

        Returns:
            the transition, and the episodes that it finished, in the order of the games.

        Raises:
            ContractError: bad actions, or a bad reward or cost.
        """
        transition, crashed = self._advance(actions, by)
        weight = self.spec.weight(transition.observation.step)
        for index, role in enumerate(self.spec.roles):
            self._returns[:, index] += weight * transition.rewards[role]
            self._costs[:, index, : transition.costs[role].shape[1]] += transition.costs[role]
        self._crashed |= crashed
        over = transition.episode_over.nonzero()[0].tolist()
        finished = [self._finished(k, 1 + int(transition.observation.step[k])) for k in over]
        if over:
            for tally in (self._returns, self._costs, self._crashed):
                tally[over] = 0
            self.episodes[over] += self.num_envs
            self._restart(transition.episode_over)
        return transition, finished

    def _finished(self, k: int, length: int) -> Finished:
        limits = self.spec.cost_limits
        return Finished(
            int(self.episodes[k]),
            {role: float(self._returns[k, index]) for index, role in enumerate(self.spec.roles)},
            {role: self._costs[k, index, : len(limits[role])].tolist() for index, role in enumerate(self.spec.roles)},
            bool(self._crashed[k]),
            length,
        )

    @abstractmethod
    def _advance(self, actions: Any, by: str) -> tuple[Transition, np.ndarray]:
        """Take the decision; return the transition and who crashed so far, (E,) bool. Nothing restarts yet."""

    @abstractmethod
    def _restart(self, over: np.ndarray) -> None:
        """Start `episodes` where `over`, (E,) bool, is true, and bring `observation` up to date."""

    @abstractmethod
    def save(self) -> dict[str, np.ndarray]:
        """Return all that `restore` needs in the middle of episodes."""

    @abstractmethod
    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Go on where `save` was called."""

    def _tallies(self) -> dict[str, np.ndarray]:
        return {
            "episodes": self.episodes.copy(),
            "returns": self._returns.copy(),
            "costs": self._costs.copy(),
            "crashed": self._crashed.copy(),
        }

    def _restore_tallies(self, saved: Mapping[str, np.ndarray]) -> None:
        self.episodes = saved["episodes"].astype(np.int64)
        self._returns, self._costs = saved["returns"].copy(), saved["costs"].copy()
        self._crashed = saved["crashed"].astype(bool)


class SeparateGames(Games):
    """Games of any suite, stepped one by one. A game is saved as the actions of its episode, which are played again."""

    def __init__(self, spec: SuiteSpec, games: list[Game], seed: int, stream: str) -> None:
        """Start one episode in each game."""
        super().__init__(spec, len(games), seed, stream)
        self.rollouts = [Rollout(spec, game) for game in games]
        self._played: list[list[Arrays]] = [[] for _ in games]
        self._restart(np.ones(self.num_envs, bool))

    def _restart(self, over: np.ndarray) -> None:
        for k in np.flatnonzero(over):
            self.rollouts[k].reset(stream=self.stream, seed=self.seed, episode=int(self.episodes[k]))
            self._played[k] = []
        self._look()

    def _look(self) -> None:
        self.observation = _stacked([rollout.observation for rollout in self.rollouts])

    def _advance(self, actions: Any, by: str) -> tuple[Transition, np.ndarray]:
        parts, crashed = [], []
        for k, one in enumerate(self._split(actions, by)):
            transition, infos = self.rollouts[k].step(one, by=by)
            self._played[k].append(transition.actions)
            parts.append(transition)
            crashed.append(any(info.get("crashed", False) for info in infos.values()))
        self._look()
        return _stacked(parts), np.array(crashed)

    def _split(self, actions: Any, by: str) -> list[Any]:
        """Return each game's actions; one game checks its own."""
        if self.num_envs == 1:
            return [actions]
        chosen = _check(actions, self.rollouts[0].spaces, self.num_envs, by)
        return [{agent: action[k : k + 1] for agent, action in chosen.items()} for k in range(self.num_envs)]

    def save(self) -> dict[str, np.ndarray]:
        """Return the tallies and the actions played since the episodes began."""
        saved = self._tallies()
        for k, played in enumerate(self._played):
            for agent in self.spec.roles if played else ():
                saved[f"actions {k} {agent}"] = np.concatenate([actions[agent] for actions in played])
        return saved

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Play the actions again."""
        self._restore_tallies(saved)
        self._restart(np.ones(self.num_envs, bool))
        for k, rollout in enumerate(self.rollouts):
            columns = {agent: saved.get(f"actions {k} {agent}", ()) for agent in self.spec.roles}
            for played in zip(*columns.values(), strict=True):
                one = {agent: action[None] for agent, action in zip(columns, played, strict=True)}
                transition, _ = rollout.step(one, by="resuming")
                self._played[k].append(transition.actions)
        self._look()


class BatchedGames(Games):
    """Games on a suite's batched simulator, with the interface of `safemarl_bench.driving.core.BatchedDriving`."""

    def __init__(self, spec: SuiteSpec, game: Any, num_envs: int, seed: int, stream: str) -> None:
        """Start an episode in each game.

        Args:
            game: one game of the suite; makes the simulator, and tells the spaces.
        """
        super().__init__(spec, num_envs, seed, stream)
        self.simulator = game.simulator(num_envs)
        self.spaces = {agent: game.action_space(agent) for agent in spec.roles}
        neutral = neutral_actions(spec, self.spaces, num_envs)
        self._neutral = np.stack([neutral[role].reshape(num_envs) for role in spec.roles], axis=1)
        self._coupled = spec.kind == "weakly_coupled"
        self._live = np.ones((num_envs, len(spec.roles)), bool)
        self._seeing = self._live.copy()  # an agent sees the end of its task, and from then on nothing
        self._steps = np.zeros(num_envs, np.int64)
        self._restart(np.ones(num_envs, bool))

    def _restart(self, over: np.ndarray) -> None:
        shown = self.simulator.reset(over, seeds=self.seed, episodes=self.episodes, stream=self.stream)
        self._live[over], self._seeing[over], self._steps[over] = True, True, 0
        self.observation = self._look(shown)

    def _look(self, shown: Any) -> Observation:
        seen, alive = np.where(self._seeing[:, :, None], shown.obs, np.float32(0.0)), self._live.copy()
        return Observation(
            by_agent=self._by_role(seen),
            state=shown.state.copy(),
            alive=self._by_role(alive),
            step=self._steps.copy(),
            sub_problems=SubProblems(shown.exogenous, shown.sub_states) if self._coupled else None,
        )

    def _by_role(self, array: np.ndarray) -> Arrays:
        """Return role -> its part of an array (E, A, ...)."""
        return {role: array[:, index] for index, role in enumerate(self.spec.roles)}

    def _advance(self, actions: Any, by: str) -> tuple[Transition, np.ndarray]:
        before, roles = self.observation, self.spec.roles
        chosen = _check(actions, self.spaces, self.num_envs, by)
        joint = np.array([chosen[role].reshape(self.num_envs) for role in roles]).T
        joint = np.where(self._live, joint, self._neutral)
        executed = {role: joint[:, index].reshape(chosen[role].shape) for index, role in enumerate(roles)}
        shown = self.simulator.step(joint)
        cut = shown.truncated[:, None] & self._live & ~shown.terminated
        self._seeing = self._live.copy()
        self._live &= ~(shown.terminated | cut)
        self._steps += 1
        self.observation = self._look(shown)
        transition = Transition(
            observation=before,
            actions=executed,
            rewards=self._by_role(shown.reward.copy()),
            costs=self._by_role(shown.cost.copy()),
            terminations=self._by_role(shown.terminated.copy()),
            truncations=self._by_role(cut),
            next_observation=self.observation,
            episode_over=shown.over.copy(),
            sub_rewards=shown.sub_rewards if self._coupled else None,
        )
        return transition, shown.crashed.any(axis=1) if "crashed" in shown._fields else np.zeros(self.num_envs, bool)

    def save(self) -> dict[str, np.ndarray]:
        """Return the tallies and the simulator's state."""
        now = {"state": self.simulator.get_state(), "live": self._live, "seeing": self._seeing, "steps": self._steps}
        return {**self._tallies(), **now}

    def restore(self, saved: Mapping[str, np.ndarray]) -> None:
        """Put the simulator into its state."""
        self._restore_tallies(saved)
        self._restart(np.ones(self.num_envs, bool))
        shown = self.simulator.set_state(saved["state"])
        self._live, self._seeing = saved["live"].astype(bool), saved["seeing"].astype(bool)
        self._steps = saved["steps"].astype(np.int64)
        self.observation = self._look(shown)


def make_games(
    spec: SuiteSpec, game: Game, make: Callable[[], Game], num_envs: int, seed: int, *, stream: str = "train"
) -> Games:
    """Return E games: side by side in one simulator where the suite's backend is batched, separate ones otherwise.

    Args:
        game: one game, to use. make: builds another one.
        num_envs: E >= 1. stream, seed: of the spawns.
    """
    if hasattr(game, "core"):
        return BatchedGames(spec, game, num_envs, seed, stream)
    return SeparateGames(spec, [game, *(make() for _ in range(num_envs - 1))], seed, stream)


def _check(actions: Any, spaces: Mapping[str, Any], num_envs: int, by: str) -> Arrays:
    try:
        return check_actions(actions, spaces, num_envs)
    except ContractError as error:
        raise ContractError(f"agent {by!r}: {error}") from error


def _stacked(parts: list[Any]) -> Any:
    """Return several one-game observations or transitions as one of several games."""
    if len(parts) == 1:
        return parts[0]
    if parts[0] is None:
        return None
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    if isinstance(parts[0], dict):
        return {key: _stacked([part[key] for part in parts]) for key in parts[0]}
    return type(parts[0])(*(_stacked(list(column)) for column in zip(*parts, strict=True)))
