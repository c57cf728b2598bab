"""Exact values of ad matching, by dynamic programming over all states that an episode can reach.

After t decisions at most t ads are used, so that 976,305 vectors of remaining ads, times 5 types, are all that count.
They are kept in the order of ads used: the first `reach[t]` of them can occur at decision t. Values of a decision are
(reach[t], 5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from safemarl_bench.errors import ContractError
from safemarl_bench.weakly_coupled.ads import ADS, GAMMA, HORIZON, N_TYPES, AdModel, greedy


class Lattice(NamedTuple):
    """The vectors of remaining ads.

    Attributes:
        remaining: (P, 6) int64, in the order of ads used. reach: (horizon + 1,) int64, how many have used t at most.
        after: (P, 6) int64, the place of the vector with one ad of advertiser i less; P where there is none left, or
            the horizon is reached.
    """

    remaining: np.ndarray
    reach: np.ndarray
    after: np.ndarray


@functools.lru_cache(maxsize=2)
def lattice(ads: tuple[int, ...] = ADS, horizon: int = HORIZON) -> Lattice:
    """Return all vectors that have used fewer than `horizon` ads; P = 976,305 by default. About 100 MB."""
    shape = tuple(x + 1 for x in ads)
    used = np.indices(shape, np.int8).sum(axis=0, dtype=np.int64).ravel()
    flat = np.flatnonzero(used < horizon)
    flat = flat[np.argsort(used[flat], kind="stable")]
    place = np.full(used.size, len(flat), np.int64)
    place[flat] = np.arange(len(flat))
    taken = np.stack(np.unravel_index(flat, shape), axis=1)
    steps = np.cumprod((1, *shape[:0:-1]))[::-1]
    after = np.full(taken.shape, len(flat), np.int64)
    for i, x in enumerate(ads):
        left = taken[:, i] < x
        after[left, i] = place[flat[left] + steps[i]]
    count = np.searchsorted(used[flat], np.arange(horizon + 1), side="right")
    return Lattice(np.array(ads) - taken, count, after)


def _backward(
    model: AdModel,
    choose: Callable[[int, np.ndarray], np.ndarray],
    gamma: float,
    points: Lattice,
) -> np.ndarray:
    """Return the values at the first decision, (1, 5); `choose` turns (7, reach[t], 5) action values into values."""
    horizon = len(points.reach) - 1
    payments = model.payments[: points.remaining.shape[1]]
    values = np.zeros((points.reach[horizon], N_TYPES))
    for t in reversed(range(horizon)):
        later = gamma * values @ model.moves.T
        n = points.reach[t]
        worth = np.empty((1 + len(payments), n, N_TYPES))
        worth[0] = later[:n]
        for i, pays in enumerate(payments):
            left = points.remaining[:n, i] > 0
            after = points.after[:n, i]
            known = np.where(after < len(later), after, 0)
            moved = np.where((after < len(later))[:, None], later[known], 0.0)
            worth[1 + i] = np.where(left[:, None], pays + moved, later[:n])
        values = choose(t, worth)
    return values


def optimum(model: AdModel, *, gamma: float = GAMMA, points: Lattice | None = None) -> float:
    """Return the best expected return of an episode; the first type is uniform. Some seconds."""
    return float(_backward(model, lambda _, worth: worth.max(axis=0), gamma, points or lattice()).mean())


def policy_value(model: AdModel, actions: np.ndarray, *, gamma: float = GAMMA, points: Lattice | None = None) -> float:
    """Return the expected return of a policy that always plays `actions`, (P, 5) integers: by remaining ads and type.

    Raises:
        ContractError: a wrong shape, or a number that is no joint action.
    """
    points = points or lattice()
    shape, last = (len(points.remaining), N_TYPES), points.remaining.shape[1]
    if actions.shape != shape or actions.dtype.kind not in "iu" or actions.min() < 0 or actions.max() > last:
        given = f"{actions.dtype} {actions.shape}"
        raise ContractError(f"a policy must be integers in 0..{last} of shape {shape}, got {given}")

    def follow(t: int, worth: np.ndarray) -> np.ndarray:
        followed: np.ndarray = np.take_along_axis(worth, actions[None, : worth.shape[1]], axis=0)[0]
        return followed

    return float(_backward(model, follow, gamma, points).mean())


def random_value(model: AdModel, *, gamma: float = GAMMA, points: Lattice | None = None) -> float:
    """Return the expected return of uniformly random joint actions."""
    return float(_backward(model, lambda _, worth: worth.mean(axis=0), gamma, points or lattice()).mean())


def greedy_actions(model: AdModel, points: Lattice | None = None) -> np.ndarray:
    """Return what `greedy` plays in every state, (P, 5) int64."""
    points = points or lattice()
    count = len(points.remaining)
    types = np.tile(np.arange(N_TYPES), count)
    remaining = np.repeat(points.remaining, N_TYPES, axis=0)
    return greedy(model, types, remaining).reshape(count, N_TYPES)
