"""MIP (13) on ranks: the only MIP that is exact, and that returns the very pair of the enumerations.

The program only compares, so that rewards may be replaced by their places in an order: Q2 by its dense rank among
the replies to its row (equal rewards, equal ranks), and Q1 by the place of the allowed pair when they are ordered by
Q1, then by the lowest row and column. However close two rewards are, their ranks differ by 1.

HiGHS holds rows and integrality to 1e-6. In the scaled program the second of R ranks is short of the first by
1 / (R - 1), and would pass for it only if that were a few of these tolerances: up to 100,000 replies to a row it is
1e-5 or more. The best pair is told from the next by 1 in an objective of integers, far above the tolerance of its
reduced costs, 1e-7 for each of the pairs. One row of 100,000 replies takes most of the time limit. The certificate of
`solve` looks at every answer all the same.
"""

from __future__ import annotations

import numpy as np

from safemarl_bench.stackelberg.highs_backend import solve_scaled
from safemarl_bench.stackelberg.matrix_model import unit
from safemarl_bench.stackelberg.mip import State
from safemarl_bench.stackelberg.selection import Problem, Selection


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    return solve_scaled(problem, "highs_ranked", ranked)


def ranked(state: State) -> State:
    """Return the state with ranks for rewards, those of Q2 scaled to [0, 1] over the replies to each row."""
    q_follower = unit(dense_ranks(state.q_follower, state.replies), state.replies)
    return state._replace(q_leader=places(state.q_leader, state.allowed), q_follower=q_follower)


def dense_ranks(table: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the rank of the entries `among` their row, (m1, m2) float: equal ones share it, the next differs by 1."""
    marked = np.where(among, table, -np.inf)  # Q is finite
    order = marked.argsort(-1)
    ascending = np.take_along_axis(marked, order, -1)
    ranks = np.zeros(table.shape)
    np.put_along_axis(ranks, order[:, 1:], (ascending[:, 1:] != ascending[:, :-1]).cumsum(-1, dtype=float), -1)
    return ranks


def places(table: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return 1, 2, ... from the worst to the best entry `among` the table; of equal ones the first cell is best."""
    cells = np.flatnonzero(among)
    best_first = cells[np.argsort(-table.ravel()[cells], kind="stable")]
    place = np.zeros(table.size)
    place[best_first] = np.arange(len(cells), 0, -1)
    return place.reshape(table.shape)
