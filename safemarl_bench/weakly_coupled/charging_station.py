"""A charging station, E episodes side by side in NumPy arrays: what the game and the one-operator problem share."""

from __future__ import annotations

from typing import Any

import numpy as np

from safemarl_bench.weakly_coupled.batched_episodes import BatchedEpisodes, markov_chain
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


def seen(prices: np.ndarray, bays: np.ndarray) -> np.ndarray:
    """Return observations, the price, then D and B of every bay, (S, 1 + 2 N) float32.

    Args:
        prices: (S,) numbers of the prices shown. bays: (S, N) numbers in `BAY_STATES`.
    """
    shown = np.empty((len(prices), 1 + 2 * bays.shape[1]), np.float32)
    shown[:, 0] = PRICES[prices]
    shown[:, 1::2], shown[:, 2::2] = PERIODS[bays], UNITS[bays]
    return shown


class BatchedStation(BatchedEpisodes):
    """E episodes of N bays."""

    def __init__(self, model: ChargingModel, horizon: int, num_envs: int) -> None:
        """Start an episode everywhere.

        Args:
            model: preset and N. horizon: decisions of an episode. num_envs: E >= 1.

        Raises:
            SafeMARLBenchError: E is out of range.
        """
        self.check_num_envs(num_envs)
        self.model = model
        self._lag = int(model.rules.lagged)
        self._rewards = bay_rewards()
        self._bays = np.zeros((num_envs, model.n_bays), np.int64)
        self._prices = np.zeros((num_envs, horizon + 1), np.int64)
        self._arrivals = np.zeros((num_envs, horizon + 1, model.n_bays), np.int64)
        super().__init__(horizon, num_envs, 1 + model.n_bays)

    def _start(self, rows: np.ndarray, draws: np.ndarray) -> None:
        """Start the episodes `rows` with draws from [0, 1), (n, horizon + 1, 1 + N): of the price, then of each bay."""
        prices = markov_chain(draws[:, :, 0], PRICE_MOVES)
        bay_draws = draws[:, :, 1:].copy()
        came = np.zeros(bay_draws.shape, np.int8)
        for threshold in arrivals().cumsum()[:-1]:  # several times as fast as a binary search
            came += bay_draws >= threshold
        self._prices[rows], self._arrivals[rows] = prices, came
        self._bays[rows] = BUSY[(draws[:, 0, 1:] * len(BUSY)).astype(np.int64)]

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

    def _charge(self, charged: np.ndarray, running: np.ndarray) -> np.ndarray:
        """Charge bays, (E, N) int64, where episodes are `running`, (E,) bool, and move them; return (E, N) rewards."""
        gains: np.ndarray = self._rewards[self.paid_price[:, None], charged, self._bays]
        self._clock += running
        came = self._arrivals[self._games, self._clock]
        moved = np.where(FRESH[self._bays], came, NEXT_STATES[charged, self._bays])
        if not running.all():
            gains, moved = gains * running[:, None], np.where(running[:, None], moved, self._bays)
        self._bays = moved
        return gains

    def _observations(self) -> np.ndarray:
        """Return the price shown, then D and B of every bay, (E, 1 + 2 N) float32."""
        return seen(self.shown_price, self._bays)

    def get_state(self) -> np.ndarray:
        """Return a copy of where all episodes are, (E, 2 + N) int64: price paid next, clock, states of the bays."""
        return np.concatenate([self.paid_price[:, None], self._clock[:, None], self._bays], axis=1)

    def set_state(self, state: np.ndarray) -> Any:
        """Put every episode where `get_state` was called; what is drawn later stays.

        Raises:
            ContractError: a wrong shape or dtype, or a number out of range; nothing has changed.
        """
        self._check_state(state, [len(PRICES) - 1, self.horizon, *[len(BAY_STATES) - 1] * self.model.n_bays])
        self._clock, self._bays = state[:, 1].copy(), state[:, 2:].copy()
        self._prices[self._games, self._clock] = state[:, 0]
        return self._at_rest()
