"""EV charging as it was posed: one operator, N bays, a feasibility mask; E episodes side by side in NumPy arrays.

A joint action is the set of bays to charge, as a number whose binary digits are the bays, bay 0 most significant. It
must be feasible at the price shown: at most, or exactly, b(c) bays. Both presets of
`safemarl_bench.weakly_coupled.charging`.
"""

from __future__ import annotations

import numpy as np

from safemarl_bench.contract import SubProblems, WeaklyCoupled
from safemarl_bench.errors import ContractError
from safemarl_bench.weakly_coupled import charging_policies
from safemarl_bench.weakly_coupled.charging import BAY_STATES, ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import policy_values, start_value, state_shape
from safemarl_bench.weakly_coupled.charging_station import BatchedStation, seen
from safemarl_bench.weakly_coupled.operator_agent import Rule
from safemarl_bench.weakly_coupled.operator_env import OperatorStep, shown

NOBODY = 0
"""The joint action that charges no bay."""


def structure(model: ChargingModel) -> WeaklyCoupled:
    """Return the weakly coupled structure of a model: joint actions, mask and capacity by price shown."""
    return WeaklyCoupled(
        allocations=model.actions,
        feasible=model.feasible,
        capacity=np.array(model.rules.capacity),
        sub_states=(len(BAY_STATES),) * model.n_bays,
    )


def all_states(model: ChargingModel) -> tuple[np.ndarray, SubProblems]:
    """Return every state, S = 3 * 12^N in the order of `charging_exact`: observations (S, 1 + 2 N), and where it is."""
    price, *bays = np.indices(state_shape(model)).reshape(1 + model.n_bays, -1)
    where = SubProblems(price, np.stack(bays, axis=1))
    return seen(*where), where


def exact_value(model: ChargingModel, actions: np.ndarray, *, steps: int, gamma: float) -> float:
    """Return the expected return, from the first states, of the policy that plays `actions`, (S,), in `all_states`.

    Raises:
        ContractError: a wrong shape, or an infeasible action.
    """
    shape, count = state_shape(model), 3 * len(BAY_STATES) ** model.n_bays
    if np.shape(actions) != (count,):
        raise ContractError(f"actions must be one for each of the {count} states, got shape {np.shape(actions)}")
    policy = np.asarray(actions).reshape(shape)
    return start_value(model, policy_values(model, policy, steps=steps, gamma=gamma))


class BatchedOperator(BatchedStation):
    """E one-operator problems; see `BatchedStation`."""

    def __init__(self, model: ChargingModel, horizon: int, num_envs: int) -> None:
        """Start an episode everywhere; see `BatchedStation`."""
        self._allocations = model.actions
        super().__init__(model, horizon, num_envs)

    def step(self, actions: np.ndarray) -> OperatorStep:
        """Take one decision in every episode.

        Args:
            actions: (E, 1) integers, the bays to charge.

        Raises:
            ContractError: a wrong shape or dtype, or an action out of range or infeasible; nothing has moved.
        """
        self._check_actions(actions, (len(self._allocations),))
        running, chosen = self._clock < self.horizon, actions[:, 0]
        price = self.shown_price
        infeasible = running & ~self.model.feasible[price, chosen]
        if infeasible.any():
            k = int(infeasible.argmax())
            able = np.flatnonzero(self.model.feasible[price[k]]).tolist()
            raise ContractError(
                f"action {chosen[k]} in episode {k} is infeasible at this price; expected one of {able}"
            )
        charged = self._allocations[chosen if running.all() else np.where(running, chosen, NOBODY)]
        return self._shown(self._charge(charged, running), running, charged)

    def rules(self) -> dict[str, Rule]:
        """Return the rules that know the model, by name."""
        return charging_policies.rules(self.model)

    def _at_rest(self) -> OperatorStep:
        nothing = np.zeros(self._bays.shape)
        return self._shown(nothing, np.zeros(self.num_envs, bool), nothing.astype(np.int64))

    def _shown(self, gains: np.ndarray, moved: np.ndarray, charged: np.ndarray) -> OperatorStep:
        where = SubProblems(self.shown_price, self._bays.copy())
        return shown(self._observations(), where, gains, charged, over=self._clock >= self.horizon, moved=moved)
