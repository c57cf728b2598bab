"""MIP (13) written once in cvxpy per table shape, with parameters in place of the numbers of a state.

The program follows cvxpy's rules of disciplined parametrised programming (DPP): only the first solve of a shape
compiles it, the others put in new values.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.stackelberg.cvxpy_backend import run
from safemarl_bench.stackelberg.mip import Pair, State, chosen_cell, import_extra, solve_each
from safemarl_bench.stackelberg.selection import Problem, Selection


class Program(NamedTuple):
    """A parametrised problem of cvxpy.

    Attributes:
        problem: the problem.
        y: its variable (m1, m2), the selected pair.
        q_leader: parameter (m1, m2), Q1.
        over_low, under_high: parameters (m1, m2), Q2 - low and high - Q2; 0 where there is nothing to imply.
        allowed: parameter (m1, m2), 1 where the pair may be selected.
        low, high: parameters (m1, 1), the least and the largest Q2 of the replies to each row.
    """

    problem: Any
    y: Any
    q_leader: Any
    over_low: Any
    under_high: Any
    allowed: Any
    low: Any
    high: Any


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    import_extra("cvxpy", "cvxpy_dpp")
    import_extra("highspy", "cvxpy_dpp")
    program = program_of(problem.q_leader.shape[-2:], threading.get_ident())

    def solve_state(state: State) -> Pair | None:
        fill(program, state)
        return chosen_cell(program.y.value, program.y.shape) if run(program.problem) else None

    return solve_each(problem, "cvxpy_dpp", solve_state)


def fill(program: Program, state: State) -> None:
    """Give all parameters the values of one state."""
    q_leader, q_follower, replies, allowed = state
    answered = replies.any(axis=1, keepdims=True)
    low = np.where(answered, np.where(replies, q_follower, np.inf).min(axis=1, keepdims=True), 0.0)
    high = np.where(answered, np.where(replies, q_follower, -np.inf).max(axis=1, keepdims=True), 0.0)
    program.q_leader.value = q_leader
    program.over_low.value = np.where(replies, q_follower - low, 0.0)
    program.under_high.value = np.where(allowed, high - q_follower, 0.0)
    program.allowed.value = allowed.astype(float)
    program.low.value, program.high.value = low, high


@functools.lru_cache(maxsize=16)
def program_of(shape: Pair, thread: int) -> Program:
    """Return the program of a shape; one for each thread, since solving it changes it."""
    cvxpy = import_extra("cvxpy", "cvxpy_dpp")
    m1, m2 = shape
    q_leader, over_low, under_high, allowed = (cvxpy.Parameter(shape) for _ in range(4))
    low, high = cvxpy.Parameter((m1, 1)), cvxpy.Parameter((m1, 1))
    x, y, v = cvxpy.Variable((m1, 1), boolean=True), cvxpy.Variable(shape, boolean=True), cvxpy.Variable((m1, 1))
    every_column = np.ones((1, m2))
    constraints = [
        cvxpy.sum(y) == 1,  # (13b)
        cvxpy.sum(y, axis=1, keepdims=True) == x,  # (13c)
        v @ every_column - cvxpy.multiply(over_low, x @ every_column) >= low @ every_column,  # (13d)
        v @ every_column - cvxpy.multiply(over_low, y) >= low @ every_column,  # (13e)
        v @ every_column + cvxpy.multiply(under_high, y) <= high @ every_column,  # (13f)
        y <= allowed,  # (13g), (13h)
    ]
    problem = cvxpy.Problem(cvxpy.Maximize(cvxpy.sum(cvxpy.multiply(q_leader, y))), constraints)
    return Program(problem, y, q_leader, over_low, under_high, allowed, low, high)
