"""Players one above the other on one explicit table: backward induction over any number of levels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.many.problem import check_table, reject_entries


class LevelSelection(NamedTuple):
    """One action per level.

    Attributes:
        actions: (n,) int64, from the highest level down; all -1 if infeasible.
        feasible: whether some joint action holds all constraints.
        values: (n,) float64, each level's Q at the joint action; NaN if infeasible.
    """

    actions: np.ndarray
    feasible: bool
    values: np.ndarray


def solve_levels(Q: Any, G: Any, d: Any) -> LevelSelection:
    """Select the actions of n players who decide one after the other, each knowing those above it.

    The joint action must hold every level's constraint, ``G[l] <= d[l]``, and as in MIP (13) the lower levels see to
    it: a player leaves out actions after which those below cannot hold them all. Each level maximises its own Q,
    expecting what the levels below will do. One that is indifferent decides for the level right above it, then for the
    next one up (optimistic); what still ties goes to the lowest actions, the highest level's first. With n = 2 that is
    `solve` with ``semantics="mip13"``.

    Exact: it only compares entries. O(n m1 ... mn) time and memory, linear in the tables.

    Args:
        Q: (n, m1, ..., mn) rewards-to-go, axis l + 1 the actions of level l, the highest level first; finite; a NumPy
            array of float32, float64 or integers.
        G: of the same shape, costs-to-go, not NaN (inf is legal: never safe under a finite limit).
        d: a number, or (n,), not NaN.

    Raises:
        SolveError: invalid tables or limits.
    """
    shape = check_table("Q", Q)
    levels = len(shape) - 1
    if levels < 1 or shape[0] != levels or 0 in shape:
        raise SolveError(f"Q must be (n, m1, ..., mn) with n levels and at least one action each, got {shape}")
    if check_table("G", G) != shape:
        raise SolveError(f"G must have the shape {shape} of Q, got {G.shape}")
    reject_entries("Q", ~np.isfinite(Q), "NaN or infinite")
    reject_entries("G", np.isnan(G), "NaN")
    limits = _read_limits(d, levels)
    payoffs = Q.astype(np.float64)
    played = np.logical_and.reduce([cost <= limit for cost, limit in zip(G, limits, strict=True)])
    if not played.any():
        return LevelSelection(np.full(levels, -1, np.int64), False, np.full(levels, np.nan))
    for level in reversed(range(levels)):
        below = tuple(range(level, levels))
        value = np.where(played, payoffs[level], -np.inf)
        played &= value == value.max(axis=below, keepdims=True)
    actions = np.argwhere(played)[0]
    return LevelSelection(actions, True, payoffs[(slice(None), *actions)])


def _read_limits(d: Any, levels: int) -> list[float]:
    try:
        limits = np.asarray(d, np.float64)
    except (TypeError, ValueError) as error:
        raise SolveError(f"d must be a number or one per level, got {d!r}") from error
    if limits.shape not in ((), (levels,)):
        raise SolveError(f"d must be a number or of shape ({levels},), one per level, got shape {limits.shape}")
    if np.isnan(limits).any():
        raise SolveError("d must not be NaN")
    return [float(limit) for limit in np.broadcast_to(limits, (levels,))]
