"""A charging station, E episodes side by side in NumPy arrays: what the game and the one-operator problem share.

Price moves and arrivals do not depend on actions: all draws of an episode are made at its start, from its key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from safemarl_bench.errors import ContractError, SafeMARLBenchError
from safemarl_bench.rng import check_seed, generator
from safemarl_bench.weakly_coupled.charging import (
    BAY_STATES,
    PERIODS,
    PRICE_MOVES,
    PRICES,
    UNITS,
    ChargingModel,
    arrivals,
    bay_moves,
    bay_rewards,
)

BUSY = np.flatnonzero(UNITS > 0)
"""States of a bay at the start of an episode, 8, equally likely."""

FRESH = PERIODS <= 1
"""States of a bay that is drawn anew next."""

NEXT_STATES = np.where(FRESH, 0, bay_moves().argmax(axis=-1))
"""(2, 12): action, state -> next state, of a car that stays."""


class BatchedStation(ABC):
    """E episodes of N bays; one that is over stays as it is, without reward, until it is reset.

    Episode k depends on its own key (stream, seed, episode) and actions only: it equals a batch of one.
    """

    def __init__(self, model: ChargingModel, horizon: int, num_envs: int) -> None:
        """Start an episode everywhere.

        Args:
            model: preset and N. horizon: decisions of an episode. num_envs: E >= 1.

        Raises:
            SafeMARLBenchError: E is out of range.
        """
        if check_seed(num_envs, "num_envs") < 1:
            raise SafeMARLBenchError(f"num_envs must be at least 1, got {num_envs}")
        self.model, self.num_envs, self.horizon = model, num_envs, horizon
        self._lag = int(model.rules.lagged)
        self._rewards = bay_rewards()
        self._bays = np.zeros((num_envs, model.n_bays), np.int64)
        self._clock = np.zeros(num_envs, np.int64)
        self._prices = np.zeros((num_envs, horizon + 1), np.int64)
        self._arrivals = np.zeros((num_envs, horizon + 1, model.n_bays), np.int64)
        self._games = np.arange(num_envs)
        self.reset()

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
        shape = (self.horizon + 1, 1 + self.model.n_bays)
        draws = [generator(stream, int(keys[0][k]), int(keys[1][k])).random(shape) for k in rows]
        if len(rows):
            self._start(rows, np.stack(draws))
        return self._at_rest()

    def _start(self, rows: np.ndarray, draws: np.ndarray) -> None:
        """Start the episodes `rows` with draws from [0, 1), (n, horizon + 1, 1 + N): of the price, then of each bay."""
        prices = np.empty(draws.shape[:2], np.int64)
        prices[:, 0] = draws[:, 0, 0] * 3
        thresholds = PRICE_MOVES.cumsum(axis=1)[:, :-1]
        for t in range(self.horizon):
            prices[:, t + 1] = (draws[:, t + 1, 0, None] >= thresholds[prices[:, t]]).sum(axis=1)
        came = np.searchsorted(arrivals().cumsum()[:-1], draws[:, :, 1:], side="right")
        self._prices[rows], self._arrivals[rows], self._clock[rows] = prices, came, 0
        self._bays[rows] = BUSY[(draws[:, 0, 1:] * len(BUSY)).astype(np.int64)]

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

    @property
    def shown_price(self) -> np.ndarray:
        """(E,) int64, number of the price shown."""
        shown: np.ndarray = self._prices[self._games, np.maximum(self._clock - self._lag, 0)]
        return shown

    @property
    def paid_price(self) -> np.ndarray:
        """(E,) int64, number of the price that the coming decision pays."""
        paid: np.ndarray = self._prices[self._games, self._clock]
        return paid

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

    def _charge(self, charged: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Charge bays, (E, N) int64, where episodes are `running`, (E,) bool, and move them; return (E, N) rewards."""
        gains: np.ndarray = self._rewards[self.paid_price[:, None], charged, self._bays] * running[:, None]
        self._clock += running
        came = self._arrivals[self._games, self._clock]
        moved = np.where(FRESH[self._bays], came, NEXT_STATES[charged, self._bays])
        self._bays = moved if running.all() else np.where(running[:, None], moved, self._bays)
        return gains

    def _observations(self) -> np.ndarray:
        """Return the price shown, then D and B of every bay, (E, 1 + 2 N) float32."""
        seen = np.empty((self.num_envs, 1 + 2 * self.model.n_bays), np.float32)
        seen[:, 0] = PRICES[self.shown_price]
        seen[:, 1::2], seen[:, 2::2] = PERIODS[self._bays], UNITS[self._bays]
        return seen

    def get_state(self) -> np.ndarray:
        """Return a copy of where all episodes are, (E, 2 + N) int64: price paid next, clock, states of the bays."""
        return np.concatenate([self.paid_price[:, None], self._clock[:, None], self._bays], axis=1)

    def set_state(self, state: np.ndarray) -> Any:
        """Put every episode where `get_state` was called; what is drawn later stays.

        Raises:
            ContractError: a wrong shape or dtype, or a number out of range; nothing has changed.
        """
        shape = (self.num_envs, 2 + self.model.n_bays)
        if not isinstance(state, np.ndarray) or state.shape != shape or state.dtype != np.int64:
            raise ContractError(f"state must be int64 of shape {shape}, got {type(state).__name__}")
        highest = np.array([len(PRICES) - 1, self.horizon, *[len(BAY_STATES) - 1] * self.model.n_bays])
        wrong = np.argwhere((state < 0) | (state > highest))
        if len(wrong):
            k, column = map(int, wrong[0])
            raise ContractError(f"state[{k}, {column}] must be in 0..{highest[column]}, got {state[k, column]}")
        self._clock, self._bays = state[:, 1].copy(), state[:, 2:].copy()
        self._prices[self._games, self._clock] = state[:, 0]
        return self._at_rest()
