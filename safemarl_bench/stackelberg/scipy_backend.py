"""MIP (13) with `scipy.optimize.milp`: a MIP without extra packages."""

from __future__ import annotations

from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.matrix_model import build, scaled
from safemarl_bench.stackelberg.mip import TIME_LIMIT, Pair, State, chosen_cell, solve_each
from safemarl_bench.stackelberg.selection import Problem, Selection

_OPTIMAL, _INFEASIBLE = 0, 2


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    return solve_each(problem, "scipy", _solve_state)


def _solve_state(state: State) -> Pair | None:
    model = build(scaled(state))
    shape = (len(model.row_lower), len(model.cost))
    matrix = csr_array((model.values, model.columns, model.starts), shape=shape)
    result = milp(
        model.cost,
        integrality=model.integrality,
        bounds=Bounds(model.lower, model.upper),
        constraints=LinearConstraint(matrix, model.row_lower, model.row_upper),
        options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT},
    )
    if result.status == _INFEASIBLE:
        return None
    if result.status != _OPTIMAL:
        raise SolveError(f"no answer within {TIME_LIMIT:g} s: {result.message}")
    return chosen_cell(result.x[: state.allowed.size], state.allowed.shape)
