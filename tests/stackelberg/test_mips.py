"""The MIP backends: exact where their tolerances allow it, loud where they do not."""

import contextlib
import faulthandler
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve, SolveError
from safemarl_bench.stackelberg import cvxpy_backend, cvxpy_dpp_backend, highs_backend, mip, scipy_backend
from safemarl_bench.stackelberg.solver import MIPS

MODULES = {
    "cvxpy": cvxpy_backend,
    "cvxpy_dpp": cvxpy_dpp_backend,
    "highs": highs_backend,
    "highs_ranked": highs_backend,
    "scipy": scipy_backend,
}
"""Where a backend calls `solve_each`."""


@pytest.fixture(params=MIPS)
def backend(request):
    """A MIP backend; a solver that hangs is killed with a traceback."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield request.param
    faulthandler.cancel_dump_traceback_later()


def assert_as_good_as_the_oracle(args, backend, **options):
    """One state: the pair is certified (inside `solve`) and its numbers are those of the oracle."""
    found = stackelberg.solve(*args, backend=backend, **options)
    oracle = stackelberg.solve(*args, backend="python", **options)
    for name in ("feasible", "value_leader", "violation", "n_safe", "runner_up"):
        np.testing.assert_array_equal(getattr(found, name), getattr(oracle, name), err_msg=name)


def test_mips_solve_the_relaxed_program_where_enumeration_falls_back(instances, backend):
    rng = np.random.default_rng(22)
    for kind in ("normal", "tied integers"):
        q1, q2, g1, g2, _, d2 = instances(kind, rng, (15,), (3, 3)).args
        d1 = g1.min() - 0.5
        fallback = stackelberg.solve(q1, q2, g1, g2, d1, d2)
        violation = np.maximum(0, g1 - d1) + np.maximum(0, g2 - d2)
        relaxed = stackelberg.solve(
            q1, q2, violation, np.zeros_like(q1), violation.min((-2, -1)), 0, backend=backend, fallback="raise"
        )
        np.testing.assert_array_equal(relaxed.value_leader, fallback.value_leader)
        at = np.arange(15), relaxed.leader, relaxed.follower
        np.testing.assert_array_equal(violation[at], fallback.violation)


def test_mips_tell_the_two_semantics_apart(backend):
    q1, q2 = np.array([[5.0, 3.0], [4.0, 2.0]]), np.array([[9.0, 1.0], [6.0, 7.0]])
    g1, g2 = np.array([[9.0, 0.0], [0.0, 0.0]]), np.zeros((2, 2))
    joint = stackelberg.solve(q1, q2, g1, g2, 1, 1, backend=backend)
    own = stackelberg.solve(q1, q2, g1, g2, 1, 1, semantics="csq10", backend=backend)
    assert (joint.leader, joint.follower) == (0, 1)
    assert (own.leader, own.follower) == (1, 1)
    first_row = [table[:1] for table in (q1, q2, g1, g2)]
    assert not stackelberg.solve(*first_row, 1, 1, semantics="csq10", backend=backend).feasible


@pytest.mark.parametrize("cost", [np.inf, -np.inf, 1e300])
def test_extreme_costs_go_through_every_mip(backend, cost):
    q = np.arange(4.0).reshape(2, 2)
    g = np.array([[0.0, cost], [cost, 0.0]])
    found = stackelberg.solve(q, q, g, g, 1, 1, backend=backend)
    assert (found.leader, found.follower) == (1, 1)
    assert found.value_leader == 3.0


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e12, 1e150])
def test_rewards_of_any_magnitude_are_solved_by_the_scaled_programs_and_never_wrong(backend, scale):
    rng = np.random.default_rng(23)
    refusals = (InexactSolve, SolveError) if backend.startswith("cvxpy") else ()
    for _ in range(5):
        q1, q2 = scale * rng.normal(size=(2, 3, 3))
        g = np.zeros((3, 3))
        with contextlib.suppress(*refusals):
            assert_as_good_as_the_oracle((q1, q2, g, g, 0, 0), backend)


def test_mips_refuse_pessimistic_ties_and_name_the_backends_that_know_them(backend):
    tables = np.zeros((4, 2, 2))
    with pytest.raises(SolveError, match=r"pessimistic.*numpy, python or torch"):
        stackelberg.solve(*tables, 0, 0, tie="pessimistic", backend=backend)


def test_a_wrong_claim_of_infeasibility_is_caught(backend, monkeypatch):
    monkeypatch.setattr(
        MODULES[backend], "solve_each", lambda problem, name, _: mip.solve_each(problem, name, lambda state: None)
    )
    with pytest.raises(InexactSolve, match="not safe"):
        stackelberg.solve(*np.zeros((4, 2, 2)), 0, 0, backend=backend)


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_a_time_limit_is_an_error_and_not_infeasibility(monkeypatch):
    rng = np.random.default_rng(24)
    q1, q2 = rng.normal(size=(2, 12, 12))
    g = rng.normal(size=(12, 12))
    for module in (cvxpy_backend, highs_backend, scipy_backend):
        monkeypatch.setattr(module, "TIME_LIMIT", 1e-9)
    for name in MIPS:
        with pytest.raises(SolveError, match=rf"backend '{name}' at state \(\): no answer"):
            stackelberg.solve(q1, q2, g, g, 0, 0, semantics="csq10", backend=name)


def mixed_states(instances, seed):
    """Two shapes of states with many optima; every third is one that the solver has to prove infeasible (csq10)."""
    rng = np.random.default_rng(seed)
    cases = []
    for shape in ((3, 4), (2, 3)):
        q1, q2, g1, g2, d1, d2 = instances("tied integers", rng, (12,), shape).args
        q2[::3, :, 0], g1[::3, :, 0], g2[::3, :, 0] = 9.0, d1 + 1, d2
        g1[::3, 0, 1], g2[::3, 0, 1] = d1, d2
        cases.append((q1, q2, g1, g2, d1, d2))
    return cases


def pairs_of(args, backend):
    found = stackelberg.solve(*args, semantics="csq10", fallback="none", backend=backend)
    return np.stack([found.leader, found.follower], -1)


def one_by_one(args, backend, order):
    """The pairs of single states, solved in an order."""
    pairs = np.empty((len(order), 2), np.int64)
    for state in order:
        pairs[state] = pairs_of([*(table[state] for table in args[:4]), *args[4:]], backend)
    return pairs


def test_no_state_leaks_into_the_next_whatever_the_order(instances, backend):
    rng = np.random.default_rng(25)
    cases = mixed_states(instances, 26)
    expected = [pairs_of(args, backend) for args in cases]
    assert all((pairs[::3] == -1).all() and (pairs >= 0).any() for pairs in expected)
    for _ in range(2):
        for args, pairs in zip(cases, expected, strict=True):
            order = rng.permutation(12)
            np.testing.assert_array_equal(one_by_one(args, backend, order), pairs)
            permuted = [*(table[order] for table in args[:4]), *args[4:]]
            np.testing.assert_array_equal(pairs_of(permuted, backend), pairs[order])


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
def test_a_time_limit_leaves_nothing_behind(instances, backend, monkeypatch):
    args = mixed_states(instances, 27)[0]
    hard = np.random.default_rng(24).normal(size=(3, 12, 12))
    before = pairs_of(args, backend)
    with monkeypatch.context() as patch:
        for module in (cvxpy_backend, highs_backend, scipy_backend):
            patch.setattr(module, "TIME_LIMIT", 1e-9)
        with contextlib.suppress(SolveError):
            pairs_of((*hard, hard[2], 0, 0), backend)
        with contextlib.suppress(SolveError):
            pairs_of(args, backend)
    np.testing.assert_array_equal(pairs_of(args, backend), before)


def test_threads_that_solve_at_the_same_time_do_not_disturb_each_other(instances, backend):
    cases = [mixed_states(instances, seed)[0] for seed in range(4)]
    expected = [pairs_of(args, backend) for args in cases]
    with ThreadPoolExecutor(4) as pool:
        for pairs, at_once in zip(expected * 2, pool.map(lambda args: pairs_of(args, backend), cases * 2), strict=True):
            np.testing.assert_array_equal(at_once, pairs)
