"""What the MIP backends share: which pairs may be chosen, the loop over states, and the numbers of a selection.

MIP (13) at one state, over x (m1) and y (m1, m2) binary and v (m1) free::

    maximise sum Q1 y   s.t.   sum y = 1,   sum_j y[i, j] = x[i],
    x[i] = 1 => v[i] >= Q2[i, l] for every reply l,   y[i, j] = 1 => v[i] = Q2[i, j]

Replies and allowed pairs, (13g) and (13h), are found by exact comparisons beforehand, never by rows of the program,
whose tolerance would let a cost exceed its limit. With L, U the least and largest Q2 over the replies to row i, the
tight form of the implications, (13d) to (13f), is::

    v[i] - (Q2[i, l] - L[i]) x[i] >= L[i],        v[i] + (U[i] - Q2[i, j]) y[i, j] <= U[i]

Two builders write it down independently of each other: `matrix_model` and the text of the cvxpy backends.

Solvers work within tolerances. The least difference of two rewards, in a row or table that spans about 1, that a
backend tells apart on a ladder of powers of ten; below it `solve` raises `InexactSolve`:

=========================  =============================  =============================
backend                    replies of the follower, Q2    rows of the leader, Q1
=========================  =============================  =============================
highs, scipy               1e-5                           1e-6
cvxpy, cvxpy_dpp           1e-5                           1e-7
highs_ranked, enumeration  any                            any
=========================  =============================  =============================
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import MissingDependency, SolveError
from safemarl_bench.stackelberg.numpy_backend import describe, excess, fall_back, follower_replies
from safemarl_bench.stackelberg.selection import Problem, Selection

TIME_LIMIT = 60.0
"""Seconds that a solver may spend on one state."""

Pair = tuple[int, int]


class State(NamedTuple):
    """One state's program.

    Attributes:
        q_leader, q_follower: (m1, m2) float64.
        replies: (m1, m2) bool, what the follower chooses among: G1 <= d1 and G2 <= d2 (mip13) or G2 <= d2 (csq10).
        allowed: (m1, m2) bool, pairs that may be selected: G1 <= d1 and G2 <= d2.
    """

    q_leader: np.ndarray
    q_follower: np.ndarray
    replies: np.ndarray
    allowed: np.ndarray


def solve_each(problem: Problem, backend: str, solve_state: Callable[[State], Pair | None]) -> Selection:
    """Solve every state by `solve_state`, which returns a pair, or None when it proves that there is none.

    Infeasible states get the fallback by enumeration. Nothing is corrected: `feasible` is what the solver said, and
    the caller certifies it.

    Raises:
        SolveError: pessimistic ties, or whatever kept the solver from an answer.
    """
    if problem.tie != "optimistic":
        raise SolveError(
            f"backend {backend!r} only knows tie='optimistic', got {problem.tie!r}; "
            "use an enumeration backend: numba, numpy, python or torch"
        )
    safe_follower = excess(problem.follower_constraints, 1.0)[0]
    allowed = excess(problem.leader_constraints, 1.0)[0] & safe_follower
    replies = allowed if problem.semantics == "mip13" else safe_follower
    by_row = follower_replies(problem)
    leader = np.asarray(by_row.rows.argmax(-1))
    follower = np.array(np.take_along_axis(by_row.columns, leader[..., None], -1)[..., 0])
    feasible = np.zeros(leader.shape, bool)
    for state in np.ndindex(leader.shape):
        tables = (problem.q_leader[state].astype(float), problem.q_follower[state].astype(float))
        try:
            pair = solve_state(State(*tables, replies[state], allowed[state])) if allowed[state].any() else None
        except SolveError as error:
            raise SolveError(f"backend {backend!r} at state {state}: {error}") from error
        if pair is not None:
            leader[state], follower[state], feasible[state] = *pair, True
    selection = describe(problem, by_row, leader, follower, backend)._replace(feasible=feasible)
    return fall_back(problem, selection, by_row.violation)


def chosen_cell(y: Any, shape: Pair) -> Pair:
    """Return the cell that the binaries y, (m1 * m2) or (m1, m2), name.

    Raises:
        SolveError: they do not name exactly one.
    """
    cells = np.flatnonzero(np.asarray(y).ravel() > 0.5)
    if len(cells) != 1:
        raise SolveError(f"the solver chose {len(cells)} pairs, expected one")
    row, column = divmod(int(cells[0]), shape[1])
    return row, column


def import_extra(module: str, backend: str, extra: str = "mip") -> Any:
    """Import an optional package, which the `extra` of this one brings.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f'backend {backend!r} needs the package {module}: pip install "safemarl-bench[{extra}]"'
        ) from error
