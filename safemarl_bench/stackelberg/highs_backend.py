"""MIP (13) with HiGHS through highspy: the fastest of the MIPs.

A thread keeps one solver object for all its calls, and a table shape its pattern of the program. The numbers of a
state go over as whole arrays in one call. At 2x2, 5x5, 9x9 and 25x25 that took 28, 44, 57 and 262 us where changing
costs, bounds and coefficients in the kept program took 51, 78, 197 and 1,879 us (highspy changes coefficients one by
one), before 0.2 to 6 ms of solving either way. It also makes HiGHS forget the state before.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.matrix_model import build, scaled
from safemarl_bench.stackelberg.mip import TIME_LIMIT, Pair, State, chosen_cell, import_extra, solve_each
from safemarl_bench.stackelberg.selection import Problem, Selection


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    return solve_scaled(problem, "highs", scaled)


def solve_scaled(problem: Problem, backend: str, scale: Callable[[State], State]) -> Selection:
    """Solve every state in turn, after `scale` has replaced its rewards by numbers of the same order."""
    highspy = import_extra("highspy", backend)
    solver = _solver(threading.get_ident())
    return solve_each(problem, backend, lambda state: _solve_state(highspy, solver, scale(state)))


def _solve_state(highspy: Any, solver: Any, state: State) -> Pair | None:
    model = build(state)
    sizes = (len(model.cost), len(model.row_lower), len(model.values))
    kind = (int(highspy.MatrixFormat.kRowwise), int(highspy.ObjSense.kMinimize), 0.0)
    bounds = (model.lower, model.upper, model.row_lower, model.row_upper)
    matrix = (model.starts[:-1], model.columns, model.values)
    if solver.passModel(*sizes, *kind, model.cost, *bounds, *matrix, model.integrality) == highspy.HighsStatus.kError:
        raise SolveError("HiGHS refuses the program")  # and keeps the one before
    solver.setOptionValue("time_limit", TIME_LIMIT)
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None
    if status != highspy.HighsModelStatus.kOptimal:
        raise SolveError(f"no answer within {TIME_LIMIT:g} s: {solver.modelStatusToString(status)}")
    return chosen_cell(solver.getSolution().col_value[: state.allowed.size], state.allowed.shape)


@functools.lru_cache(maxsize=8)
def _solver(thread: int) -> Any:
    """Return the solver object of a thread: making one takes as long as solving a small state."""
    solver = import_extra("highspy", "highs").Highs()
    options = {"output_flag": False, "threads": highs_threads(), "mip_rel_gap": 0.0, "mip_abs_gap": 0.0}
    for option, value in options.items():
        solver.setOptionValue(option, value)
    return solver


@functools.cache
def highs_threads() -> int:
    """Return 1, or 0 ("as many as there are") where this process has already run HiGHS with another number.

    HiGHS refuses to run with another number of threads than it was first run with.
    """
    highspy = import_extra("highspy", "highs")
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    return 1 if solver.run() == highspy.HighsStatus.kOk else 0
