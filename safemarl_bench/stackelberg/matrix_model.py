"""MIP (13) of one state as a sparse row-wise matrix, for solvers that take one.

Q2 is scaled to [0, 1] over the replies to each row and Q1 over the allowed pairs, which changes no argmax: every
big-M is then at most 1. The variables are y (row-major), x, v. The rows that only repeat others are left out:
v[i] >= Q2[i, j] at the selected pair follows from the follower's rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from safemarl_bench.stackelberg.mip import State


class MatrixModel(NamedTuple):
    """``minimise cost @ z`` s.t. ``row_lower <= A z <= row_upper``, ``lower <= z <= upper``, some z integer.

    Attributes:
        cost, lower, upper: (n,) float64.
        integrality: (n,) int64, 1 for integer variables.
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


def build(state: State) -> MatrixModel:
    """Write down the program of one state that has at least one allowed pair."""
    m1, m2 = state.allowed.shape
    cells = m1 * m2
    y = np.arange(cells).reshape(m1, m2)
    x, v = cells + np.arange(m1), cells + m1 + np.arange(m1)
    q_leader = _unit(state.q_leader.ravel(), state.allowed.ravel()).reshape(m1, m2)
    q_follower = _unit(state.q_follower, state.replies)

    reply_row, reply_column = np.nonzero(state.replies)
    pair_row, pair_column = np.nonzero(state.allowed)
    pair_gap = 1.0 - q_follower[pair_row, pair_column]
    columns = np.concatenate(
        [
            y.ravel(),  # sum y = 1
            np.column_stack([y, x]).ravel(),  # sum_j y[i, j] - x[i] = 0
            np.column_stack([v[reply_row], x[reply_row]]).ravel(),  # v[i] - Q2[i, l] x[i] >= 0
            np.column_stack([v[pair_row], y[pair_row, pair_column]]).ravel(),  # v[i] + (1 - Q2[i, j]) y[i, j] <= 1
        ]
    )
    values = np.concatenate(
        [
            np.ones(cells),
            np.tile(np.append(np.ones(m2), -1.0), m1),
            np.column_stack([np.ones(len(reply_row)), -q_follower[reply_row, reply_column]]).ravel(),
            np.column_stack([np.ones(len(pair_row)), pair_gap]).ravel(),
        ]
    )
    lengths = np.repeat([cells, m2 + 1, 2, 2], [1, m1, len(reply_row), len(pair_row)])
    return MatrixModel(
        cost=np.concatenate([-q_leader.ravel() * state.allowed.ravel(), np.zeros(2 * m1)]),
        lower=np.zeros(cells + 2 * m1),
        upper=np.concatenate([state.allowed.ravel(), state.allowed.any(1), np.ones(m1)]).astype(float),
        integrality=np.concatenate([np.ones(cells + m1), np.zeros(m1)]).astype(np.int64),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        columns=columns.astype(np.int32),
        values=values,
        row_lower=np.concatenate([[1.0], np.zeros(m1 + len(reply_row)), np.full(len(pair_row), -np.inf)]),
        row_upper=np.concatenate([[1.0], np.zeros(m1), np.full(len(reply_row), np.inf), np.ones(len(pair_row))]),
    )


def _unit(table: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Scale along the last axis so that the entries `among` span [0, 1] (0 where they are all equal)."""
    low = np.where(among, table, np.inf).min(-1, keepdims=True)
    high = np.where(among, table, -np.inf).max(-1, keepdims=True)
    half_span = high / 2 - low / 2  # the span itself may overflow
    with np.errstate(all="ignore"):
        unit = (table / 2 - low / 2) / half_span
    return np.where(among & (half_span > 0), unit, 0.0)
