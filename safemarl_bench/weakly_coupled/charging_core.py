"""EV charging as a game of two operators, E games side by side in NumPy arrays.

The leader operates the first half of the bays (of an odd number, one more), the follower the others; an action is the
set of bays to charge, as a number whose binary digits are the operator's bays, the first one most significant. Where
both together want more than b(c) chargers, the surplus is cut: charges are kept in order of laxity D - B, infinite
where nothing is needed, ties to the lower bay. The model is `safemarl_bench.weakly_coupled.charging`, preset "text".

Price moves and arrivals do not depend on actions: all draws of an episode are made at its start, from its key.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
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

LAXITY = np.where(UNITS > 0, PERIODS - UNITS, 99)
"""D - B by state of a bay, and more than any of them where nothing is needed."""

FRESH = PERIODS <= 1
"""States of a bay that is drawn anew next."""

NEXT_STATES = np.where(FRESH, 0, bay_moves().argmax(axis=-1))
"""(2, 12): action, state -> next state, of a car that stays."""


class Step(NamedTuple):
    """What one decision shows of E games; the caller may keep the arrays.

    Attributes:
        obs: (E, 2, 1 + 2 N) float32, price, then D and B of every bay, the same for both.
        state: (E, 1 + 2 N) float32, likewise.
        final_obs, final_state: the same.
        reward: (E, 2) float64. cost: (E, 2, 1) float64, 1 where both together wanted too many chargers.
        terminated: (E, 2) bool, false: nobody's task ends by itself.
        truncated, over: (E,) bool, whether this decision's clock ended the game; whether it is over.
        charged: (E, N) bool, the bays that were charged.
    """

    obs: np.ndarray
    state: np.ndarray
    final_obs: np.ndarray
    final_state: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    over: np.ndarray
    charged: np.ndarray


class BatchedCharging:
    """E games of N bays; a game that is over stays as it is, without reward or cost, until it is reset.

    Game k depends on its own key (stream, seed, episode) and actions only: it equals a batch of one.
    """

    def __init__(self, n_bays: int, horizon: int, num_envs: int) -> None:
        """Start an episode in every game.

        Args:
            n_bays: N, 2 to 5. horizon: decisions of an episode. num_envs: E >= 1.

        Raises:
            SafeMARLBenchError: E is out of range. RegistryError: N is.
        """
        if check_seed(num_envs, "num_envs") < 1:
            raise SafeMARLBenchError(f"num_envs must be at least 1, got {num_envs}")
        self.model = ChargingModel("text", n_bays)
        self.num_envs, self.horizon = num_envs, horizon
        self.shares = (n_bays - n_bays // 2, n_bays // 2)
        if not self.shares[1]:
            raise RegistryError(f"n_bays must be at least 2, one for each operator, got {n_bays}")
        self._subsets = [np.array(list(itertools.product((False, True), repeat=share))) for share in self.shares]
        self._capacity = np.array(self.model.rules.capacity)
        self._rewards = bay_rewards()
        self._price = np.zeros(num_envs, np.int64)
        self._bays = np.zeros((num_envs, n_bays), np.int64)
        self._clock = np.zeros(num_envs, np.int64)
        self._prices = np.zeros((num_envs, horizon + 1), np.int64)
        self._arrivals = np.zeros((num_envs, horizon + 1, n_bays), np.int64)
        self.reset()

    def reset(self, mask: Any = None, *, seeds: Any = 0, episodes: Any = None, stream: str = "train") -> Step:
        """Start episodes; the other games stay as they are.

        Args:
            mask: (E,) bool, which games; None is all.
            seeds: one integer or (E,). episodes: the same; None is game k's own number k.
            stream: a name in `safemarl_bench.rng.STREAMS`.

        Raises:
            SafeMARLBenchError: a wrong shape, a number out of range, an unknown stream; nothing has changed.
        """
        chosen = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool:
            raise ContractError(f"mask must be bool of shape ({self.num_envs},), got {chosen.dtype} {chosen.shape}")
        episodes = np.arange(self.num_envs) if episodes is None else episodes
        keys = [self._numbers(values, what) for values, what in ((seeds, "seeds"), (episodes, "episodes"))]
        rows = np.flatnonzero(chosen)
        shape = (self.horizon + 1, 1 + self.model.n_bays)
        draws = [generator(stream, int(keys[0][k]), int(keys[1][k])).random(shape) for k in rows]
        if len(rows):
            self._start(rows, np.stack(draws))
        nothing = np.zeros((self.num_envs, 2))
        return self._shown(nothing, nothing[:, 0], np.zeros(self.num_envs, bool), np.zeros(self._bays.shape, bool))

    def _start(self, rows: np.ndarray, draws: np.ndarray) -> None:
        """Start the games `rows` with draws from [0, 1), (n, horizon + 1, 1 + N): of the price, then of each bay."""
        prices = np.empty(draws.shape[:2], np.int64)
        prices[:, 0] = draws[:, 0, 0] * 3
        thresholds = PRICE_MOVES.cumsum(axis=1)[:, :-1]
        for t in range(self.horizon):
            prices[:, t + 1] = (draws[:, t + 1, 0, None] >= thresholds[prices[:, t]]).sum(axis=1)
        came = np.searchsorted(arrivals().cumsum()[:-1], draws[:, :, 1:], side="right")
        self._prices[rows], self._arrivals[rows] = prices, came
        self._price[rows], self._clock[rows] = prices[:, 0], 0
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

    def step(self, actions: np.ndarray) -> Step:
        """Take one decision in every game.

        Args:
            actions: (E, 2) integers, the leader's and the follower's subset of bays.

        Raises:
            ContractError: a wrong shape or dtype, or an action out of range; nothing has moved.
        """
        shape = (self.num_envs, 2)
        if not isinstance(actions, np.ndarray) or actions.shape != shape or actions.dtype.kind not in "iu":
            given = f"{actions.dtype} {actions.shape}" if isinstance(actions, np.ndarray) else type(actions).__name__
            raise ContractError(f"actions must be integers of shape {shape}, got {given}")
        last = [len(subsets) - 1 for subsets in self._subsets]
        wrong = np.argwhere((actions < 0) | (actions > last))
        if len(wrong):
            k, agent = map(int, wrong[0])
            what = f"action {agent} in game {k}"
            raise ContractError(f"{what} must be in 0..{last[agent]}, got {actions[k, agent]}")
        running = self._clock < self.horizon
        wanted = np.concatenate([subsets[actions[:, k]] for k, subsets in enumerate(self._subsets)], axis=1)
        wanted &= running[:, None]
        capacity = self._capacity[self._price]
        charged = self._cut(wanted, capacity)
        gains = self._rewards[self._price[:, None], charged.astype(np.int64), self._bays] * running[:, None]
        reward = np.stack([gains[:, : self.shares[0]].sum(axis=1), gains[:, self.shares[0] :].sum(axis=1)], axis=1)
        self._move(charged, running)
        return self._shown(reward, (wanted.sum(axis=1) > capacity).astype(np.float64), running, charged)

    def _cut(self, wanted: np.ndarray, capacity: np.ndarray) -> np.ndarray:
        """Return which charges are kept, (E, N) bool: the `capacity`, (E,), most urgent of the wanted ones."""
        order = np.argsort(np.where(wanted, LAXITY[self._bays], 100), axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
        kept: np.ndarray = wanted & (rank < capacity[:, None])
        return kept

    def _move(self, charged: np.ndarray, running: np.ndarray) -> None:
        rows = np.flatnonzero(running)
        self._clock[rows] += 1
        bays = self._bays[rows]
        came = self._arrivals[rows, self._clock[rows]]
        self._bays[rows] = np.where(FRESH[bays], came, NEXT_STATES[charged[rows].astype(np.int64), bays])
        self._price[rows] = self._prices[rows, self._clock[rows]]

    def _shown(self, reward: np.ndarray, overload: np.ndarray, moved: np.ndarray, charged: np.ndarray) -> Step:
        state = np.empty((self.num_envs, 1 + 2 * self.model.n_bays), np.float32)
        state[:, 0] = PRICES[self._price]
        state[:, 1::2], state[:, 2::2] = PERIODS[self._bays], UNITS[self._bays]
        obs = np.repeat(state[:, None], 2, axis=1)
        over = self._clock >= self.horizon
        return Step(
            obs=obs,
            state=state,
            final_obs=obs,
            final_state=state,
            reward=reward,
            cost=np.repeat(overload[:, None, None], 2, axis=1),
            terminated=np.zeros((self.num_envs, 2), bool),
            truncated=over & moved,
            over=over,
            charged=charged,
        )

    def get_state(self) -> np.ndarray:
        """Return a copy of where all games are, (E, 2 + N) int64: price, clock, states of the bays."""
        return np.concatenate([self._price[:, None], self._clock[:, None], self._bays], axis=1)

    def set_state(self, state: np.ndarray) -> Step:
        """Put every game where `get_state` was called; the episodes, and so what is drawn, stay.

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
        self._price, self._clock, self._bays = state[:, 0].copy(), state[:, 1].copy(), state[:, 2:].copy()
        nothing = np.zeros((self.num_envs, 2))
        return self._shown(nothing, nothing[:, 0], np.zeros(self.num_envs, bool), np.zeros(self._bays.shape, bool))
