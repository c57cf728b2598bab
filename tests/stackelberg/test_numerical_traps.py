"""What has made solvers hang, crash or lie, tried on every backend: it is right, or says in one line why it is not."""

import faulthandler
import itertools
import subprocess
import sys
import types

import cvxpy
import highspy
import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve, MissingDependency, SolveError
from safemarl_bench.stackelberg import highs_backend, scipy_backend, solver
from safemarl_bench.stackelberg.solver import MIPS

EXACT = ("highs_ranked", "numba", "numpy", "python", "torch")
NAMES = ("Q1", "Q2", "G1", "G2")
PLACES = {"a cell": (1, 2), "a row": (1, slice(None)), "all cells": ...}


@pytest.fixture(params=stackelberg.BACKENDS)
def backend(request):
    """A backend; one that hangs is killed with a traceback."""
    faulthandler.dump_traceback_later(120, exit=True)
    yield request.param
    faulthandler.cancel_dump_traceback_later()


def tables_with(name, place, value, dtype=np.float64):
    tables = np.random.default_rng(5).normal(size=(4, 3, 3)).astype(dtype)
    tables[(NAMES.index(name), *np.atleast_1d(PLACES[place]))] = value
    return tables


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_any_table_are_an_error_or_an_answer_but_never_a_hang(backend, value, dtype):
    for name, place, semantics in itertools.product(NAMES, PLACES, ("mip13", "csq10")):
        tables = tables_with(name, place, value, dtype)
        if name.startswith("G") and np.isinf(value):
            oracle = stackelberg.solve(*tables, 0.5, 0.5, semantics=semantics, backend="python")
            found = stackelberg.solve(*tables, 0.5, 0.5, semantics=semantics, backend=backend)
            assert (found.leader, found.follower) == (oracle.leader, oracle.follower)
        else:
            with pytest.raises(SolveError, match=rf"^{name} has [139] NaN"):
                stackelberg.solve(*tables, 0.5, 0.5, semantics=semantics, backend=backend)


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")
@pytest.mark.parametrize("value", [1e308, -1e308, 1e20, 1e15, 1e-300, 5e-324])
def test_rewards_and_costs_of_any_finite_size_are_solved_rightly_or_refused(backend, value):
    for name, place in itertools.product(NAMES, PLACES):
        tables = tables_with(name, place, value)
        oracle = stackelberg.solve(*tables, 0.5, 0.5, backend="python")
        refusal = ""
        try:
            found = stackelberg.solve(*tables, 0.5, 0.5, backend=backend)
        except (InexactSolve, SolveError) as error:
            refusal = str(error)
        if refusal:
            assert backend not in EXACT
            assert refusal.startswith(f"backend '{backend}' ")
            assert len(refusal.splitlines()) == 1
            assert len(refusal) < 200
        else:
            assert (found.value_leader, found.violation) == (oracle.value_leader, oracle.violation)


PAST_THE_CHECKS = """
import importlib, itertools, numpy as np, warnings
from safemarl_bench.stackelberg.selection import Problem, to_torch
warnings.simplefilter("ignore")
solve_states = importlib.import_module("safemarl_bench.stackelberg.{0}_backend").solve_states
if "{0}" == "torch":
    import torch
for value, table, cells in itertools.product((np.nan, np.inf, -np.inf), (0, 1), ((1, 2), 1, ...)):
    q = np.random.default_rng(5).normal(size=(2, 3, 3))
    q[table][cells] = value
    g = np.zeros((3, 3))
    problem = Problem(*q, ((g, 0.0),), ((g, 0.0),), "mip13", "optimistic", "least_violation", (1.0, 1.0))
    try:
        solve_states(to_torch(problem) if "{0}" == "torch" else problem)
    except ValueError:
        pass
print("ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", stackelberg.BACKENDS)
def test_a_solver_that_is_given_nan_past_the_input_checks_does_not_hang(name):
    command = [sys.executable, "-c", PAST_THE_CHECKS.format(name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("ended"), done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("semantics", ["mip13", "csq10"])
def test_a_cost_at_the_limit_is_safe_and_one_ulp_above_it_is_not(backend, semantics, dtype):
    limit = dtype(0.1)
    above = np.nextafter(limit, dtype(1))
    q1, q2 = np.array([[9.0], [1.0]], dtype), np.zeros((2, 1), dtype)
    g, zero = np.array([[above], [limit]], dtype), np.zeros((2, 1), dtype)
    for costs in ((g, zero), (zero, g)):
        found = stackelberg.solve(q1, q2, *costs, limit, limit, semantics=semantics, backend=backend)
        assert (found.leader, found.feasible) == (1, True)
        none = stackelberg.solve(
            q1[:1], q2[:1], costs[0][:1], costs[1][:1], limit, limit, semantics=semantics, backend=backend
        )
        assert (none.feasible, none.violation) == (False, above - limit)


def test_a_float32_cost_of_a_tenth_meets_the_limit_of_a_tenth_however_it_is_written(backend):
    q = np.zeros((3, 1, 1), np.float32)
    g = np.full((3, 1, 1), 0.1, np.float32)
    for limit in (0.1, np.float64(0.1), np.array(0.1), [0.1] * 3, np.full(3, 0.1), np.float32(0.1)):
        assert stackelberg.solve(q, q, g, g, limit, limit, backend=backend).feasible.all()


def test_infinite_costs_and_limits_violate_only_where_the_cost_is_larger(backend):
    q, zero = np.ones((4, 1, 1)), np.zeros((4, 1, 1))
    g = np.array([np.inf, np.inf, -np.inf, 3.0]).reshape(4, 1, 1)
    d = np.array([np.inf, 1.0, -np.inf, -np.inf])
    for costs, limits in (((g, zero), (d, 0)), ((zero, g), (0, d))):
        found = stackelberg.solve(q, q, *costs, *limits, backend=backend)
        assert found.feasible.tolist() == [True, False, True, False]
        assert found.violation.tolist() == [0.0, np.inf, 0.0, np.inf]


def test_tables_and_limits_on_two_devices_are_refused(backend):
    tables = [torch.zeros(2, 2) for _ in range(4)]
    elsewhere = torch.zeros(2, 2, device="meta")
    with pytest.raises(SolveError, match="tables must be on one device, got Q1 cpu and G2 meta"):
        stackelberg.solve(*tables[:3], elsewhere, 0, 0, backend=backend)
    with pytest.raises(SolveError, match="d1 must be a number or of the library and device of the tables"):
        stackelberg.solve(*tables, elsewhere[0, 0], 0, backend=backend)


def solve_one(name):
    return stackelberg.solve(*np.zeros((4, 2, 2)), 0, 0, backend=name)


@pytest.mark.parametrize(
    "status", [name for name in highspy.HighsModelStatus.__members__ if name not in ("kOptimal", "kInfeasible")]
)
@pytest.mark.parametrize("name", ["highs", "highs_ranked"])
def test_no_status_of_highs_but_infeasible_passes_for_infeasible(monkeypatch, name, status):
    fake = types.SimpleNamespace(
        passModel=lambda *model: highspy.HighsStatus.kOk,
        setOptionValue=lambda *option: None,
        run=lambda: None,
        getModelStatus=lambda: getattr(highspy.HighsModelStatus, status),
        modelStatusToString=str,
    )
    monkeypatch.setattr(highs_backend, "_solver", lambda thread: fake)
    with pytest.raises(SolveError, match=rf"backend '{name}' at state \(\): no answer within 60 s: .*{status}"):
        solve_one(name)


def test_a_program_that_highs_refuses_is_an_error_and_not_the_answer_to_the_one_before(monkeypatch):
    solve_one("highs")
    build = highs_backend.build
    monkeypatch.setattr(
        highs_backend, "build", lambda state: build(state)._replace(columns=build(state).columns + 10**6)
    )
    with pytest.raises(SolveError, match=r"backend 'highs' at state \(\): HiGHS refuses the program"):
        solve_one("highs")


@pytest.mark.parametrize("status", [1, 3, 4])
def test_no_status_of_scipy_but_infeasible_passes_for_infeasible(monkeypatch, status):
    result = types.SimpleNamespace(status=status, message="gave up", x=None)
    monkeypatch.setattr(scipy_backend, "milp", lambda *model, **options: result)
    with pytest.raises(SolveError, match=r"backend 'scipy' at state \(\): no answer within 60 s: gave up"):
        solve_one("scipy")


@pytest.mark.parametrize("status", ["unbounded", "unbounded_inaccurate", "infeasible_inaccurate", "user_limit"])
@pytest.mark.parametrize("name", ["cvxpy", "cvxpy_dpp"])
def test_no_status_of_cvxpy_but_infeasible_passes_for_infeasible(monkeypatch, name, status):
    monkeypatch.setattr(cvxpy.Problem, "solve", lambda self, **options: None)
    monkeypatch.setattr(cvxpy.Problem, "status", status)
    with pytest.raises(SolveError, match=rf"backend '{name}' at state \(\): no answer within 60 s: {status}"):
        solve_one(name)


@pytest.mark.parametrize("name", ["cvxpy", "cvxpy_dpp"])
def test_an_exception_of_cvxpy_is_an_error_of_ours_in_one_line(monkeypatch, name):
    def fail(self, **options):
        raise cvxpy.error.SolverError("Solver 'HIGHS' failed.")

    monkeypatch.setattr(cvxpy.Problem, "solve", fail)
    with pytest.raises(SolveError, match=rf"^backend '{name}' at state \(\): no answer: Solver 'HIGHS' failed.$"):
        solve_one(name)


@pytest.mark.parametrize(("name", "package"), [("highs", "highspy"), ("highs_ranked", "highspy"), ("cvxpy", "cvxpy")])
def test_a_missing_package_names_the_extra_that_brings_it(monkeypatch, name, package):
    names = {name} if name.startswith("highs") else {"cvxpy", "cvxpy_dpp"}
    for missing, of_backend in itertools.product({package, "highspy"}, names):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            message = rf"^backend '{of_backend}' needs the package {missing}: pip install \"safemarl-bench\[mip\]\"$"
            with pytest.raises(MissingDependency, match=message):
                solve_one(of_backend)


def test_without_numba_its_backend_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "safemarl_bench.stackelberg.numba_backend", raising=False)
    monkeypatch.delitem(solver._loaded, "numba", raising=False)
    message = r"^backend 'numba' needs the package numba: pip install \"safemarl-bench\[kernel\]\"$"
    with pytest.raises(MissingDependency, match=message):
        solve_one("numba")


OTHER_THREADS = """
import highspy, numpy as np
from safemarl_bench import stackelberg
solver = highspy.Highs()
solver.setOptionValue("output_flag", False)
solver.setOptionValue("threads", 3)
solver.run()
for name in {0}:
    assert stackelberg.solve(*np.zeros((4, 2, 2)), 0, 0, backend=name).feasible
print("solved")
"""


def test_a_process_that_ran_highs_with_other_threads_before_can_still_solve():
    command = [sys.executable, "-c", OTHER_THREADS.format(MIPS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("solved"), done.stderr
