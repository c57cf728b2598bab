"""E episodes side by side in NumPy arrays, all of whose draws are made at their start: the common part of the cores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from safemarl_bench.errors import ContractError, SafeMARLBenchError
from safemarl_bench.rng import check_seed
from safemarl_bench.weakly_coupled.episode_draws import uniforms


def markov_chain(draws: np.ndarray, moves: np.ndarray, first: int | None = None) -> np.ndarray:
    """Return the states of n chains, (n, T) int64.

    Args:
        draws: (n, T) from [0, 1). moves: (W, W), row: state now, column: state next.
        first: where all chains start; None: uniform.
    """
    by_time = draws.T.copy()
    states = np.zeros(by_time.shape, np.int64)
    states[0] = by_time[0] * len(moves) if first is None else first
    thresholds = moves.cumsum(axis=1)[:, :-1].T
    for t in range(len(states) - 1):
        for threshold in thresholds:
            states[t + 1] += threshold[states[t]] <= by_time[t + 1]
    return states.T


class BatchedEpisodes(ABC):
    """E episodes; one that is over stays as it is, without reward, until it is reset.

    Episode k depends on its own key (stream, seed, episode) and actions only: it equals a batch of one. Nothing random
    depends on an action.
    """

    def __init__(self, horizon: int, num_envs: int, draws: int) -> None:
        """Start an episode everywhere; a subclass has made its arrays before.

        Args:
            horizon: decisions of an episode. num_envs: E >= 1. draws: numbers drawn for each of horizon + 1 periods.

        Raises:
            SafeMARLBenchError: E is out of range.
        """
        self.num_envs, self.horizon = num_envs, horizon
        self._draws = draws
        self._clock = np.zeros(num_envs, np.int64)
        self._games = np.arange(num_envs)
        self.reset()

    @staticmethod
    def check_num_envs(num_envs: int) -> int:
        """Return E.

        Raises:
            SafeMARLBenchError: it is no integer of at least 1.
        """
        if check_seed(num_envs, "num_envs") < 1:
            raise SafeMARLBenchError(f"num_envs must be at least 1, got {num_envs}")
        return num_envs

    def reset(self, mask: Any = None, *, seeds: Any = 0, episodes: Any = None, stream: str = "train") -> Any:
        """Start episodes; the others stay as they are.

        Args:
            mask: (E,) bool, which; None is all.
            seeds: one integer or (E,). episodes: the same; None is episode k's own number k.
            stream: a name in `safemarl_bench.rng.STREAMS`.

        Raises:
            SafeMARLBenchError: a wrong shape, a number out of range, an unknown stream; nothing has changed.
        """
        chosen = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool:
            raise ContractError(f"mask must be bool of shape ({self.num_envs},), got {chosen.dtype} {chosen.shape}")
        episodes = self._games if episodes is None else episodes
        keys = [self._numbers(values, what) for values, what in ((seeds, "seeds"), (episodes, "episodes"))]
        rows = np.flatnonzero(chosen)
        draws = uniforms(stream, keys[0][rows], keys[1][rows], (self.horizon + 1) * self._draws)
        if len(rows):
            self._start(rows, draws.reshape(-1, self.horizon + 1, self._draws))
            self._clock[rows] = 0
        return self._at_rest()

    @abstractmethod
    def _start(self, rows: np.ndarray, draws: np.ndarray) -> None:
        """Start the episodes `rows`, (n,), with draws from [0, 1), (n, horizon + 1, draws)."""

    def _numbers(self, values: Any, what: str) -> np.ndarray:
        if np.ndim(values) == 0:
            return np.full(self.num_envs, check_seed(values, what))
        array = np.asarray(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise SafeMARLBenchError(
                f"{what} must be an integer or integers of shape ({self.num_envs},), got {array.dtype} {array.shape}"
            )
        return array

    @abstractmethod
    def _at_rest(self) -> Any:
        """Return what is shown where nothing has moved."""

    def _check_actions(self, actions: Any, counts: tuple[int, ...]) -> None:
        """Raise `ContractError` unless actions are (E, n) integers, column j below counts[j]."""
        shape = (self.num_envs, len(counts))
        if not isinstance(actions, np.ndarray) or actions.shape != shape or actions.dtype.kind not in "iu":
            given = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
            raise ContractError(f"actions must be integers of shape {shape}, got {given}")
        wrong = np.argwhere((actions < 0) | (actions >= counts))
        if len(wrong):
            k, agent = map(int, wrong[0])
            what = f"action {agent} in game {k}"
            raise ContractError(f"{what} must be in 0..{counts[agent] - 1}, got {actions[k, agent]}")

    def _check_state(self, state: Any, highest: list[int], lowest: list[int] | None = None, dtype: Any = int) -> None:
        """Raise `ContractError` unless state is (E, n) of a type, column j in lowest[j]..highest[j]; lowest: or 0."""
        shape, least = (self.num_envs, len(highest)), [0] * len(highest) if lowest is None else lowest
        if not isinstance(state, np.ndarray) or state.shape != shape or state.dtype != dtype:
            raise ContractError(f"state must be {np.dtype(dtype)} of shape {shape}, got {type(state).__name__}")
        wrong = np.argwhere(~((state >= least) & (state <= highest)))
        if len(wrong):
            k, column = map(int, wrong[0])
            inside = f"{least[column]}..{highest[column]}"
            raise ContractError(f"state[{k}, {column}] must be in {inside}, got {state[k, column]}")
