"""MIP (13) written in cvxpy as a reader of the paper would, solved by HiGHS: the baseline of the speed ratios.

Every line of the program is stated, in the units of Q2, and the problem is rebuilt for each state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.highs_backend import highs_threads
from safemarl_bench.stackelberg.mip import TIME_LIMIT, Pair, State, chosen_cell, import_extra, solve_each
from safemarl_bench.stackelberg.selection import Problem, Selection


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    cvxpy = import_extra("cvxpy", "cvxpy")
    import_extra("highspy", "cvxpy")

    def solve_state(state: State) -> Pair | None:
        program, y = write(cvxpy, state)
        return chosen_cell(y.value, y.shape) if run(program) else None

    return solve_each(problem, "cvxpy", solve_state)


def write(cvxpy: Any, state: State) -> tuple[Any, Any]:
    """Return the problem of one state and its variable y, (m1, m2)."""
    q_leader, q_follower, replies, allowed = state
    m1, m2 = q_leader.shape
    x, y, v = cvxpy.Variable(m1, boolean=True), cvxpy.Variable((m1, m2), boolean=True), cvxpy.Variable(m1)
    low = np.where(replies, q_follower, np.inf).min(axis=1)
    high = np.where(replies, q_follower, -np.inf).max(axis=1)
    i, j = np.nonzero(replies)
    row, column = np.nonzero(allowed)
    constraints = [
        cvxpy.sum(y) == 1,  # (13b)
        cvxpy.sum(y, axis=1) == x,  # (13c)
        v[i] - cvxpy.multiply(q_follower[i, j] - low[i], x[i]) >= low[i],  # (13d)
        v[row] - cvxpy.multiply(q_follower[row, column] - low[row], y[row, column]) >= low[row],  # (13e)
        v[row] + cvxpy.multiply(high[row] - q_follower[row, column], y[row, column]) <= high[row],  # (13f)
        y <= allowed.astype(float),  # (13g), (13h)
    ]
    return cvxpy.Problem(cvxpy.Maximize(cvxpy.sum(cvxpy.multiply(q_leader, y))), constraints), y


def run(problem: Any) -> bool:
    """Solve a problem of cvxpy by HiGHS with gaps 0; return whether it has a solution.

    Raises:
        SolveError: the solver gave no answer.
    """
    cvxpy = import_extra("cvxpy", "cvxpy")
    options = {"threads": highs_threads(), "mip_rel_gap": 0.0, "mip_abs_gap": 0.0, "time_limit": TIME_LIMIT}
    try:
        problem.solve(solver=cvxpy.HIGHS, warm_start=False, **options)  # no start from the state before
    except (cvxpy.error.SolverError, ValueError) as error:  # ValueError: a status that cvxpy has no name for
        raise SolveError(f"no answer: {str(error).split(': Solution(')[0]}") from error
    if problem.status not in (cvxpy.OPTIMAL, cvxpy.INFEASIBLE):
        raise SolveError(f"no answer within {TIME_LIMIT:g} s: {problem.status}")
    return bool(problem.status == cvxpy.OPTIMAL)
