"""MIP (13) with HiGHS through highspy; one solver object for all states of a call."""

from __future__ import annotations

from typing import Any

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.matrix_model import MatrixModel, build
from safemarl_bench.stackelberg.mip import TIME_LIMIT, Pair, State, chosen_cell, import_extra, solve_each
from safemarl_bench.stackelberg.selection import Problem, Selection


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    highspy = import_extra("highspy", "highs")
    solver = highspy.Highs()
    options = {"output_flag": False, "threads": 1, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0}
    for option, value in options.items():
        solver.setOptionValue(option, value)

    def solve_state(state: State) -> Pair | None:
        solver.passModel(_linear_program(highspy, build(state)))
        solver.setOptionValue("time_limit", solver.getRunTime() + TIME_LIMIT)  # the clock counts its whole life
        solver.run()
        status = solver.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return None
        if status != highspy.HighsModelStatus.kOptimal:
            raise SolveError(f"no answer within {TIME_LIMIT:g} s: {solver.modelStatusToString(status)}")
        cells = state.allowed.size
        return chosen_cell(solver.getSolution().col_value[:cells], state.allowed.shape)

    return solve_each(problem, "highs", solve_state)


def _linear_program(highspy: Any, model: MatrixModel) -> Any:
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(model.cost), len(model.row_lower)
    program.col_cost_, program.col_lower_, program.col_upper_ = model.cost, model.lower, model.upper
    program.row_lower_, program.row_upper_ = model.row_lower, model.row_upper
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_, program.a_matrix_.index_ = model.starts, model.columns
    program.a_matrix_.value_ = model.values
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    program.integrality_ = [kinds[kind] for kind in model.integrality]
    return program
