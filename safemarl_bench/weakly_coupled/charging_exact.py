"""Exact values of EV charging by dynamic programming over all joint states, for any policy and for the best one.

Values are tensors (3, 12, ..., 12): the price shown, then the state of each bay. Joint actions are visited depth first,
bay by bay, so that a partial move of the tensor is shared by all actions that begin alike. A sweep takes O(12^N 2^N)
time and O(12^N N) memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from safemarl_bench.errors import ContractError
from safemarl_bench.weakly_coupled.charging import (
    GAMMA,
    PRICE_MOVES,
    ChargingModel,
    bay_moves,
    bay_rewards,
    first_bays,
)

TOLERANCE = 1e-9
"""Largest error of an infinite-horizon value."""


class Solution(NamedTuple):
    """Values and actions at the start of an episode.

    Attributes:
        values: (3, 12, ..., 12) float64, expected return from each state.
        actions: of the same shape, int64: the best joint action, the lowest of equally good ones.
    """

    values: np.ndarray
    actions: np.ndarray


def state_shape(model: ChargingModel) -> tuple[int, ...]:
    """Return (3, 12, ..., 12)."""
    return (3, *(12,) * model.n_bays)


def action_values(
    model: ChargingModel, after: np.ndarray, gamma: float, *, first: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield every joint action and what it is worth in every state, (3, 12, ..., 12), feasible there or not.

    Args:
        after: values after the decision. gamma: discount.
        first: whether it is the first decision of an episode, which matters where the price is lagged.
    """
    rewards, moves = bay_rewards(), bay_moves()

    def visit(bay: int, action: int, paid: np.ndarray, moved: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        if bay == model.n_bays:
            yield action, _over_prices(model, paid, gamma * moved, first)
            return
        for charge in (0, 1):
            gain = rewards[:, charge].reshape(3, *(1,) * bay, 12)
            following = _move(moved, moves[charge], bay)
            yield from visit(bay + 1, 2 * action + charge, paid[..., None] + gain, following)

    yield from visit(0, 0, np.zeros(3), after)


def _move(values: np.ndarray, law: np.ndarray, bay: int) -> np.ndarray:
    """Return the expectation over the next state of one bay: values with that axis as it is before the decision."""
    flat = values.reshape(3 * 12**bay, 12, -1)
    moved: np.ndarray = np.matmul(law, flat)
    return moved.reshape(values.shape)


def _over_prices(model: ChargingModel, paid: np.ndarray, later: np.ndarray, first: bool) -> np.ndarray:
    """Return rewards and later values as seen from the price shown; both (3, ...), by the price of this period.

    Unlagged, the shown price is paid, and the next one is shown with the later values. Lagged, the price moves before
    it is paid, and the paid one is shown next; the first price of an episode does not move.
    """
    if model.rules.lagged:
        return paid + later if first else np.tensordot(PRICE_MOVES, paid + later, 1)
    return paid + np.tensordot(PRICE_MOVES, later, 1)


def _spread(column: np.ndarray, like: np.ndarray) -> np.ndarray:
    return column.reshape(3, *(1,) * (like.ndim - 1))


def best(model: ChargingModel, after: np.ndarray, gamma: float, *, first: bool) -> Solution:
    """Return the values before a decision that is taken in the best feasible way, and that way."""
    values, chosen = np.full(after.shape, -np.inf), np.zeros(after.shape, np.int64)
    for action, worth in action_values(model, after, gamma, first=first):
        better = _spread(model.feasible[:, action], worth) & (worth > values)
        np.copyto(values, worth, where=better)
        np.copyto(chosen, action, where=better)
    return Solution(values, chosen)


def followed(model: ChargingModel, policy: np.ndarray, after: np.ndarray, gamma: float, *, first: bool) -> np.ndarray:
    """Return the values before a decision that a policy takes; see `policy_values`."""
    values = np.zeros(after.shape)
    for action, worth in action_values(model, after, gamma, first=first):
        if policy.dtype.kind == "f":
            values += _spread(policy[:, action], worth) * worth
        else:
            np.copyto(values, worth, where=policy == action)
    return values


def optimal_solution(model: ChargingModel, *, steps: int | None = None, gamma: float = GAMMA) -> Solution:
    """Return the best values and actions at the first decision of an episode.

    Args:
        steps: decisions of an episode; None: it never ends.
        gamma: discount, below 1 where the episode never ends.
    """
    after = _later_values(model, lambda values: best(model, values, gamma, first=False).values, steps, gamma)
    return best(model, after, gamma, first=True)


def stationary_solution(model: ChargingModel, *, gamma: float = GAMMA) -> Solution:
    """Return the best values and actions at every decision but the first of an episode that never ends."""
    after = _later_values(model, lambda values: best(model, values, gamma, first=False).values, None, gamma)
    return best(model, after, gamma, first=False)


def policy_values(
    model: ChargingModel, policy: np.ndarray, *, steps: int | None = None, gamma: float = GAMMA
) -> np.ndarray:
    """Return the expected return of a policy, always the same one, from each first state; (3, 12, ..., 12) float64.

    Args:
        policy: (3, 12, ..., 12) integers, the joint action in each state; or (3, 2^N) floats, the chance of each joint
            action at each price.
        steps, gamma: as in `optimal_solution`.

    Raises:
        ContractError: a wrong shape, an infeasible action, or chances that are negative or do not sum to 1.
    """
    check_policy(model, policy)
    after = _later_values(model, lambda values: followed(model, policy, values, gamma, first=False), steps, gamma)
    return followed(model, policy, after, gamma, first=True)


def start_value(model: ChargingModel, values: np.ndarray) -> float:
    """Return the mean of values (3, 12, ..., 12) over the first states of an episode."""
    for _ in range(model.n_bays):
        values = values @ first_bays()
    return float(values.mean())


def check_policy(model: ChargingModel, policy: np.ndarray) -> None:
    """Raise `ContractError` unless `policy` is as `policy_values` takes it."""
    states, chances = state_shape(model), model.feasible.shape
    if policy.shape == states and policy.dtype.kind in "iu":
        inside = (policy >= 0) & (policy < chances[1])
        allowed = model.feasible[np.arange(3)[:, None], np.where(inside, policy, 0).reshape(3, -1)].reshape(states)
        wrong = np.argwhere(~(inside & allowed))
        if len(wrong):
            at = tuple(map(int, wrong[0]))
            raise ContractError(
                f"policy has {len(wrong)} infeasible joint actions, the first at {at}: {int(policy[at])}; expected one "
                f"of {np.flatnonzero(model.feasible[at[0]]).tolist()}"
            )
    elif policy.shape == chances and policy.dtype.kind == "f":
        if not (policy >= 0).all() or np.abs(policy.sum(axis=1) - 1.0).max() > 1e-9:
            raise ContractError(f"chances of joint actions must sum to 1 at each price, got {policy.sum(axis=1)}")
        if policy[~model.feasible].any():
            price, action = map(int, np.argwhere((policy > 0) & ~model.feasible)[0])
            raise ContractError(f"policy plays joint action {action}, infeasible at price {price}")
    else:
        raise ContractError(
            f"policy must be integers of shape {states} or floats of shape {chances}, got {policy.dtype} of shape "
            f"{policy.shape}"
        )


def _later_values(
    model: ChargingModel, sweep: Callable[[np.ndarray], np.ndarray], steps: int | None, gamma: float
) -> np.ndarray:
    """Return the values after the first decision, which all later ones give, sweep by sweep.

    Without a last decision, sweeps go on until the bounds of MacQueen (1966) meet: the value lies between
    ``V' + gamma / (1 - gamma) min(V' - V)`` and the same with max.
    """
    values = np.zeros(state_shape(model))
    if steps is not None:
        for _ in range(steps - 1):
            values = sweep(values)
        return values
    while True:
        following = sweep(values)
        change = following - values
        low, high = (gamma / (1.0 - gamma) * float(bound) for bound in (change.min(), change.max()))
        if high - low < 2.0 * TOLERANCE:
            return following + (low + high) / 2.0
        values = following
