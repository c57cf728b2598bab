"""`verify_multi` accepts every profile that is as good as the best, and nothing else."""

import itertools
import math

import numpy as np
import pytest

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve, SolveError
from safemarl_bench.stackelberg.many import branch_and_bound, dynamic_program, highs
from safemarl_bench.stackelberg.many.problem import read_multi
from safemarl_bench.stackelberg.many.selection import describe


def claims(case, model):
    """Yield a selection for every row and profile, with numbers that are true of it."""
    problem = read_multi(*case.tables, case.options["Q0"], case.options["safe"], model)
    followers, rows, m = case.shape
    for i, *actions in itertools.product(range(rows), *[range(m)] * followers):
        yield describe(problem, (i, tuple(actions)), "none")


@pytest.mark.parametrize("budgets", [0, 1, 2])
def test_exactly_the_profiles_as_good_as_the_best_pass(draw, definition, model, kind, budgets):
    rng = np.random.default_rng([11, budgets])
    for _ in range(2):
        case = draw(kind, rng, budgets, 2, rows=2)
        best = definition(case, model)
        passed = [
            claim for claim in claims(case, model) if all(stackelberg.verify_multi(*case.tables, claim, **case.options))
        ]
        assert bool(passed) == (best is not None)
        for claim in passed:
            assert claim.value_leader == pytest.approx(float(best[0]), rel=1e-12, abs=1e-12)
        if best is not None:
            assert best[1:] in [(claim.leader, tuple(claim.followers)) for claim in passed]


# Two followers share a budget of 1; each wants action 1, and the leader wants the second follower to have it.
Q2 = np.array([[[0.0, 3.0]], [[0.0, 2.0]]])
Q1 = np.array([[[0.0, 0.0]], [[0.0, 5.0]]])
COST = np.array([[[0, 1]], [[0, 1]]])

CORRUPTIONS = [
    ({"leader": 1}, "in_range"),
    ({"followers": np.array([0, 2])}, "in_range"),
    ({"followers": np.array([1, 1])}, "within_budget"),
    ({"used": np.array([0.0])}, "within_budget"),
    ({"used": np.array([math.nan])}, "within_budget"),
    ({"used": np.zeros(0)}, "within_budget"),
    ({"followers": np.array([0, 0])}, "followers_best"),
    ({"value_followers": np.array([3.0, 1.0])}, "followers_best"),
    ({"value_leader": 1.0}, "leader_best"),
    ({"value_leader": math.nan}, "leader_best"),
    ({"feasible": False}, "in_range"),
]


@pytest.mark.parametrize(("changed", "claim"), CORRUPTIONS)
def test_a_corrupted_selection_is_rejected_by_the_claim_it_breaks(model, changed, claim):
    selection = stackelberg.solve_multi(Q1, Q2, COST, 1, model=model)
    assert all(stackelberg.verify_multi(Q1, Q2, COST, 1, selection))
    held = stackelberg.verify_multi(Q1, Q2, COST, 1, selection._replace(**changed))
    assert not getattr(held, claim)


def test_an_unsafe_action_is_rejected(model):
    selection = stackelberg.solve_multi(Q1, Q2, COST, 1, model=model)
    safe = np.ones(Q1.shape, bool)
    safe[:, 0, :] = [[True, False], [True, False]]
    assert not stackelberg.verify_multi(Q1, Q2, COST, 1, selection, safe=safe).safe


def test_another_equilibrium_and_a_worse_coalition_are_rejected():
    """The second follower holding the budget is an equilibrium, and no best coalition."""
    gne, coalition = (stackelberg.solve_multi(Q1, Q2, COST, 1, model=model) for model in ("gne", "coalition"))
    held = stackelberg.verify_multi(Q1, Q2, COST, 1, coalition._replace(model="gne"))
    assert (held.followers_best, held.leader_best) == (True, False)
    assert not stackelberg.verify_multi(Q1, Q2, COST, 1, gne._replace(model="coalition")).followers_best


def test_a_claim_of_infeasibility_passes_only_where_it_is_true(draw, definition, model):
    rng, told = np.random.default_rng(12), []
    for kind in ("tied integers", "fractional costs", "infeasible") * 6:
        case = draw(kind, rng, 2, 3)
        problem = read_multi(*case.tables, case.options["Q0"], case.options["safe"], model)
        held = stackelberg.verify_multi(*case.tables, describe(problem, None, "none"), **case.options)
        assert held.within_budget == (definition(case, model) is None)
        assert (held.in_range, held.safe, held.followers_best, held.leader_best) == (True, True, True, True)
        told.append(held.within_budget)
    assert 6 <= sum(told) < 18


def test_the_certificate_sees_what_rounding_to_units_hides():
    """One payoff is 2**-70 of another: no unit of 64 bits holds both, but fractions do."""
    q2 = np.array([[[1.0, 0.0, 2.0**-70]]])
    cost = np.array([[[1, 0, 0]]])
    found = stackelberg.solve_multi(np.array([[[0.0, 1.0, 0.0]]]), q2, cost, 0)
    assert found.followers.tolist() == [1]
    assert not stackelberg.verify_multi(np.array([[[0.0, 1.0, 0.0]]]), q2, cost, 0, found).followers_best
    with pytest.raises(InexactSolve, match=r"'dynamic_program' returned row 0 with followers \[1\].*followers_best"):
        stackelberg.solve_multi(np.array([[[0.0, 1.0, 0.0]]]), q2, cost, 0, check=True)


def test_verify_refuses_a_selection_for_other_followers():
    selection = stackelberg.solve_multi(Q1[:1], Q2[:1], COST[:1], 1)
    with pytest.raises(SolveError, match=r"tables hold 2 followers, the selection has \(1,\)"):
        stackelberg.verify_multi(Q1, Q2, COST, 1, selection)


@pytest.mark.parametrize("module", [branch_and_bound, dynamic_program, highs])
def test_a_method_that_is_wrong_is_caught(monkeypatch, model, module):
    method = module.__name__.rpartition(".")[2]
    monkeypatch.setattr(module, "solve_profile", lambda problem: (0, (0, 0)))
    with pytest.raises(InexactSolve, match=rf"'{method}' returned row 0 with followers \[0, 0\].*followers_best"):
        stackelberg.solve_multi(Q1, Q2, COST, 1, model=model, method=method, check=True)


def test_a_solver_that_stops_early_is_caught_without_asking(monkeypatch, model):
    monkeypatch.setattr(highs.RowProgram, model if model == "coalition" else "equilibrium", lambda row: None)
    with pytest.raises(InexactSolve, match=r"'highs' returned row -1.*not within_budget"):
        stackelberg.solve_multi(Q1, Q2, COST, 1, model=model, method="highs")


@pytest.mark.parametrize("budgets", [0, 1, 2, 3])
def test_the_bound_holds_and_is_tight_without_budgets(draw, definition, kind, budgets):
    rng = np.random.default_rng([13, budgets])
    for _ in range(10):
        case = draw(kind, rng, budgets, 3)
        q1, _, cost, limit = case.tables
        bounds = stackelberg.lagrangian_bound(q1, cost, limit, **case.options)
        for i, bound in enumerate(bounds):
            one = slice(i, i + 1)
            q0, safe = case.options["Q0"], case.options["safe"]
            options = {"Q0": None if q0 is None else q0[one], "safe": None if safe is None else safe[:, one]}
            row = type(case)((q1[:, one], q1[:, one], None if cost is None else cost[..., one, :], limit), options)
            best = definition(row, "coalition")  # of the leader's own payoffs: the most that it can get
            if best is None:
                continue
            assert bound >= best[0]
            if budgets == 0:
                assert bound == pytest.approx(float(best[0]), abs=1e-7)
