"""EV charging as a game of two operators, E games side by side in NumPy arrays.

The leader operates the first half of the bays (of an odd number, one more), the follower the others; an action is the
set of bays to charge, as a number whose binary digits are the operator's bays, the first one most significant. Where
both together want more than b(c) chargers, the surplus is cut: charges are kept in order of laxity D - B, infinite
where nothing is needed, ties to the lower bay. The model is `safemarl_bench.weakly_coupled.charging`, preset "text".
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from safemarl_bench.errors import RegistryError
from safemarl_bench.weakly_coupled.charging import PERIODS, UNITS, ChargingModel
from safemarl_bench.weakly_coupled.charging_station import BatchedStation

LAXITY = np.where(UNITS > 0, PERIODS - UNITS, 99)
"""D - B by state of a bay, and more than any of them where nothing is needed."""


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


class BatchedCharging(BatchedStation):
    """E games of N bays; see `BatchedStation`."""

    def __init__(self, n_bays: int, horizon: int, num_envs: int) -> None:
        """Start an episode in every game.

        Args:
            n_bays: N, 2 to 5. horizon: decisions of an episode. num_envs: E >= 1.

        Raises:
            SafeMARLBenchError: E is out of range. RegistryError: N is.
        """
        model = ChargingModel("text", n_bays)
        self.shares = (n_bays - n_bays // 2, n_bays // 2)
        if not self.shares[1]:
            raise RegistryError(f"n_bays must be at least 2, one for each operator, got {n_bays}")
        self._subsets = [np.array(list(itertools.product((False, True), repeat=share))) for share in self.shares]
        self._capacity = np.array(model.rules.capacity)
        super().__init__(model, horizon, num_envs)

    def step(self, actions: np.ndarray) -> Step:
        """Take one decision in every game.

        Args:
            actions: (E, 2) integers, the leader's and the follower's subset of bays.

        Raises:
            ContractError: a wrong shape or dtype, or an action out of range; nothing has moved.
        """
        self._check_actions(actions, tuple(map(len, self._subsets)))
        running = self._clock < self.horizon
        wanted = np.concatenate([subsets[actions[:, k]] for k, subsets in enumerate(self._subsets)], axis=1)
        wanted &= running[:, None]
        capacity = self._capacity[self.shown_price]
        charged = self._cut(wanted, capacity)
        gains = self._charge(charged.astype(np.int64), running)
        reward = np.stack([gains[:, : self.shares[0]].sum(axis=1), gains[:, self.shares[0] :].sum(axis=1)], axis=1)
        return self._shown(reward, (wanted.sum(axis=1) > capacity).astype(np.float64), running, charged)

    def _cut(self, wanted: np.ndarray, capacity: np.ndarray) -> np.ndarray:
        """Return which charges are kept, (E, N) bool: the `capacity`, (E,), most urgent of the wanted ones."""
        order = np.argsort(np.where(wanted, LAXITY[self._bays], 100), axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], axis=1)
        kept: np.ndarray = wanted & (rank < capacity[:, None])
        return kept

    def _at_rest(self) -> Step:
        nothing = np.zeros((self.num_envs, 2))
        return self._shown(nothing, nothing[:, 0], np.zeros(self.num_envs, bool), np.zeros(self._bays.shape, bool))

    def _shown(self, reward: np.ndarray, overload: np.ndarray, moved: np.ndarray, charged: np.ndarray) -> Step:
        state = self._observations()
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
