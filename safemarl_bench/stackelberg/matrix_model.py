"""MIP (13) of one state as a sparse matrix of a shape's fixed pattern, for solvers that take one.

Q2 is scaled to [0, 1] over the replies to each row, which changes no argmax: every big-M is then at most 1. The
variables are y (row-major), x, v. Two things of (13) are not repeated: (13e), v[i] >= Q2[i, j] at the selected pair,
which (13d) implies; and the rows of (13f), which add up to one for each i because (13c) lets one y[i, j] be 1::

    v[i] + sum_j (1 - Q2[i, j]) y[i, j] <= 1
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from safemarl_bench.stackelberg.mip import Pair, State


class MatrixModel(NamedTuple):
    """``minimise cost @ z`` s.t. ``row_lower <= A z <= row_upper``, ``lower <= z <= upper``, some z integer.

    Only `cost`, `upper` and `values` depend on the state; the other arrays are those of its shape.

    Attributes:
        cost, lower, upper: (n,) float64.
        integrality: (n,) int32, 1 for integer variables.
        starts, columns, values: A in compressed rows: (rows + 1,) int32, (entries,) int32, (entries,) float64.
        row_lower, row_upper: (rows,) float64.
    """

    cost: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    integrality: np.ndarray
    starts: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    row_lower: np.ndarray
    row_upper: np.ndarray


def scaled(state: State) -> State:
    """Return the state with Q2 scaled to [0, 1] over the replies to each row, and Q1 over the allowed pairs."""
    q_leader = unit(state.q_leader.ravel(), state.allowed.ravel()).reshape(state.allowed.shape)
    return state._replace(q_leader=q_leader, q_follower=unit(state.q_follower, state.replies))


def build(state: State) -> MatrixModel:
    """Write down the program of one state whose Q2 is scaled: its largest reply to every row that has one is 1."""
    m1, m2 = state.allowed.shape
    cells = m1 * m2
    model = _pattern((m1, m2))
    cost, upper, values = model.cost.copy(), model.upper.copy(), model.values.copy()
    np.multiply(state.q_leader, state.allowed, out=cost[:cells].reshape(m1, m2))
    np.negative(cost[:cells], out=cost[:cells])
    upper[:cells] = state.allowed.ravel()
    upper[cells : cells + m1] = state.allowed.any(1)
    replies = values[-2 * cells :].reshape(cells, 2)
    pairs = values[-2 * cells - (cells + m1) : -2 * cells].reshape(m1, m2 + 1)
    replies[:, 1] = -np.where(state.replies, state.q_follower, 0.0).ravel()
    pairs[:, :m2] = np.where(state.allowed, 1.0 - state.q_follower, 0.0)
    return model._replace(cost=cost, upper=upper, values=values)


@functools.lru_cache(maxsize=16)
def _pattern(shape: Pair) -> MatrixModel:
    """Return what the programs of a shape have in common; (13d) is there for every l, as v[i] >= 0 for non-replies."""
    m1, m2 = shape
    cells = m1 * m2
    y = np.arange(cells).reshape(m1, m2)
    x, v = (cells + m1 * block + np.arange(m1)[:, None] for block in (0, 1))
    replies = np.column_stack([np.repeat(v, m2), np.repeat(x, m2)])
    columns = (y, np.hstack([y, x]), np.hstack([y, v]), replies)
    one_reply = np.hstack([np.ones((m1, m2)), -np.ones((m1, 1))])
    values = (np.ones(cells), one_reply, np.ones((m1, m2 + 1)), np.tile([1.0, -1.0], cells))
    lengths = np.repeat([cells, m2 + 1, m2 + 1, 2], [1, m1, m1, cells])
    return MatrixModel(
        cost=np.zeros(cells + 2 * m1),
        lower=np.zeros(cells + 2 * m1),
        upper=np.ones(cells + 2 * m1),
        integrality=np.repeat([1, 0], [cells + m1, m1]).astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        columns=np.concatenate([block.ravel() for block in columns]).astype(np.int32),
        values=np.concatenate([block.ravel() for block in values]),
        row_lower=np.concatenate([[1.0], np.zeros(m1), np.full(m1, -np.inf), np.zeros(cells)]),
        row_upper=np.concatenate([[1.0], np.zeros(m1), np.ones(m1), np.full(cells, np.inf)]),
    )


def unit(table: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Scale along the last axis so that the entries `among` span [0, 1] (1 where they are all equal)."""
    low = np.where(among, table, np.inf).min(-1, keepdims=True)
    high = np.where(among, table, -np.inf).max(-1, keepdims=True)
    half_span = high / 2 - low / 2  # the span itself may overflow
    with np.errstate(all="ignore"):
        scaled_table = (table / 2 - low / 2) / half_span
    return np.where(among, np.where(half_span > 0, scaled_table, 1.0), 0.0)
