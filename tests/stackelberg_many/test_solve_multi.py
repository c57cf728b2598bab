"""Every method beside the definitions, on problems of every kind."""

import numpy as np
import pytest

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve
from safemarl_bench.stackelberg.many import METHODS


def takes(method, model, kind, budgets):
    """Return whether a method takes a problem."""
    whole = kind != "fractional costs" or budgets == 0
    if method == "dynamic_program":
        return budgets <= 1 and whole
    return method != "highs" or model == "coalition" or whole


def cases(draw, kind, seed, count, *, most=4):
    rng = np.random.default_rng(seed)
    for number in range(count):
        budgets = number % 4
        yield budgets, draw(kind, rng, budgets, int(rng.integers(1, most + 1)))


def assert_is_the_best(found, best, case):
    """The selection is worth what the definition says, and is what it says it is."""
    assert found.feasible == (best is not None)
    if best is None:
        assert found.leader == -1
        assert (found.followers == -1).all()
        assert all(np.isnan(value).all() for value in (found.value_leader, found.value_followers, found.used))
        return
    assert found.value_leader == pytest.approx(float(best[0]), rel=1e-12, abs=1e-12)
    certificate = stackelberg.verify_multi(*case.tables, found, **case.options)
    assert all(certificate), certificate


def test_enumeration_and_the_dynamic_program_return_the_first_of_the_best(draw, definition, kind, model):
    for budgets, case in cases(draw, kind, 1, 40):
        best = definition(case, model)
        for method in ("enumeration", "dynamic_program"):
            if takes(method, model, kind, budgets):
                found = stackelberg.solve_multi(*case.tables, **case.options, model=model, method=method)
                assert_is_the_best(found, best, case)
                assert found.method == method
                assert best is None or (found.leader, tuple(found.followers)) == best[1:]


@pytest.mark.parametrize("method", ["branch_and_bound", "highs"])
def test_the_others_return_one_of_the_best(draw, definition, kind, model, method):
    for budgets, case in cases(draw, kind, 2, 12 if method == "highs" else 24):
        if takes(method, model, kind, budgets):
            found = stackelberg.solve_multi(*case.tables, **case.options, model=model, method=method)
            assert_is_the_best(found, definition(case, model), case)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dynamic_program", "branch_and_bound", "highs"])
def test_a_thousand_problems_agree_with_enumeration(draw, model, method):
    """Up to six followers, each kind in turn; the certificate stands in for the profile, of which there may be many."""
    rng = np.random.default_rng(3)
    kinds = ("normal", "tied integers", "zero budgets", "tight", "infeasible", "fractional costs", "negative costs")
    done = feasible = 0
    while done < 1000:
        kind, budgets = kinds[done % len(kinds)], int(rng.integers(0, 2 if method == "dynamic_program" else 4))
        if not takes(method, model, kind, budgets):
            kind = "normal"
        case = draw(kind, rng, budgets, int(rng.integers(1, 7)))
        expected = stackelberg.solve_multi(*case.tables, **case.options, model=model, method="enumeration")
        found = stackelberg.solve_multi(*case.tables, **case.options, model=model, method=method, check=True)
        assert found.feasible == expected.feasible
        if found.feasible:
            assert found.value_leader == expected.value_leader
        if method == "dynamic_program":
            assert found.leader == expected.leader
            np.testing.assert_array_equal(found.followers, expected.followers)
        done, feasible = done + 1, feasible + found.feasible
    assert 400 < feasible < 1000


def test_one_follower_is_the_bimatrix_game(draw, model, kind):
    """Without a budget, and with one: an action that does not fit is as good as unsafe."""
    rng = np.random.default_rng(4)
    for budgets in (0, 1, 1, 2) * 5:
        case = draw(kind, rng, budgets, 1)
        q1, q2, cost, limit = case.tables
        found = stackelberg.solve_multi(*case.tables, **case.options | {"Q0": None}, model=model, check=True)
        safe = np.ones(q1.shape[1:], bool) if case.options["safe"] is None else case.options["safe"][0]
        if budgets:
            over = cost.reshape(budgets, *q1.shape) > np.reshape(limit, (-1, 1, 1, 1))
            safe = safe & ~over.any(0)[0]
        g = np.where(safe, 0.0, 1.0).astype(q1.dtype)
        one = stackelberg.solve(q1[0], q2[0], g, g, 0.0, 0.0, fallback="none")
        assert (found.leader, *found.followers) == (int(one.leader), int(one.follower))


def test_without_budgets_the_models_agree_and_each_follower_answers_for_itself(draw):
    rng = np.random.default_rng(5)
    for kind in ("normal", "tied integers"):
        for _ in range(20):
            case = draw(kind, rng, 0, 4)
            answers = [stackelberg.solve_multi(*case.tables, **case.options, model=m) for m in ("coalition", "gne")]
            assert answers[0].leader == answers[1].leader
            np.testing.assert_array_equal(answers[0].followers, answers[1].followers)
            i = answers[0].leader
            if i < 0:
                continue
            safe = np.ones(case.shape, bool) if case.options["safe"] is None else case.options["safe"]
            best = np.where(safe, case.tables[1], -np.inf)[:, i].max(1)
            np.testing.assert_array_equal(answers[0].value_followers, best)


def test_the_leader_gets_at_least_as_much_from_an_equilibrium_as_from_a_coalition(draw, kind):
    """The followers' sum is a potential of their game, so the best coalition is an equilibrium."""
    for _, case in cases(draw, kind, 6, 24):
        coalition, gne = (stackelberg.solve_multi(*case.tables, **case.options, model=m) for m in ("coalition", "gne"))
        assert coalition.feasible == gne.feasible
        if coalition.feasible:
            assert gne.value_leader >= coalition.value_leader
            assert gne.value_followers.sum() <= coalition.value_followers.sum() + 1e-9 or gne.leader != coalition.leader


def test_an_instance_by_hand():
    """Two followers share a budget of 1; action 1 costs 1 and is what both want."""
    q2 = np.array([[[0.0, 3.0]], [[0.0, 2.0]]])
    q1 = np.array([[[0.0, 0.0]], [[0.0, 5.0]]])
    cost = np.array([[[0, 1]], [[0, 1]]])
    coalition = stackelberg.solve_multi(q1, q2, cost, 1)
    assert coalition.followers.tolist() == [1, 0]
    assert (coalition.value_leader, coalition.used.tolist()) == (0.0, [1.0])
    # Either follower may hold the budget in equilibrium; the leader prefers the second to.
    gne = stackelberg.solve_multi(q1, q2, cost, 1, model="gne")
    assert gne.followers.tolist() == [0, 1]
    assert (gne.value_leader, gne.value_followers.tolist()) == (5.0, [0.0, 2.0])


def test_an_indifferent_coalition_helps_the_leader():
    q2 = np.array([[[1.0, 2.0]], [[1.0, 2.0]]])
    q1 = np.array([[[0.0, 0.0]], [[0.0, 1.0]]])
    cost = np.array([[[0, 1]], [[0, 1]]])
    for method in METHODS:
        found = stackelberg.solve_multi(q1, q2, cost, 1, method=method)
        assert (found.followers.tolist(), found.value_leader) == ([0, 1], 1.0)


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_ties_of_sums_are_exact_where_float_sums_are_not(method):
    """0.1 + 0.2 > 0.3 in float64; in exact arithmetic of these numbers too, by less. Eighths tie exactly."""
    q2 = np.zeros((3, 1, 2))
    q2[0, 0], q2[1, 0], q2[2, 0] = (0.0, 0.125), (0.0, 0.25), (0.375, 0.0)
    q1 = np.zeros((3, 1, 2))
    q1[2, 0, 0] = 1.0
    cost = np.zeros((3, 1, 2), int)
    cost[0, 0, 1] = cost[1, 0, 1] = 1
    cost[2, 0, 0] = 2
    found = stackelberg.solve_multi(q1, q2, cost, 2, method=method)  # {0, 1} or {2}: 3/8 each
    assert (found.followers.tolist(), found.value_leader) == ([0, 0, 0], 1.0)


@pytest.mark.parametrize("gap", 10.0 ** -np.arange(3, 14))
@pytest.mark.parametrize("method", METHODS)
def test_near_ties_of_the_coalition_are_told_apart_or_refused(method, gap):
    """The leader likes the second best coalition better: a solver's tolerance must not give it."""
    q2 = np.array([[[1.0, 1.0 + gap]], [[0.5, 0.25]]])
    q1 = np.array([[[10.0, 0.0]], [[1.0, 0.0]]])
    cost = np.ones((2, 1, 2), int)
    try:
        found = stackelberg.solve_multi(q1, q2, cost, 2, method=method)
    except InexactSolve:
        assert method == "highs"
    else:
        assert found.followers.tolist() == [1, 0]


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_holds_to_the_last_unit(method, model):
    q1, q2, cost = np.zeros((3, 1, 2)), np.tile([0.0, 1.0], (3, 1, 1)), np.tile([0, 2], (3, 1, 1))
    assert stackelberg.solve_multi(q1, q2, cost, 6, model=model, method=method).used == [6.0]
    assert stackelberg.solve_multi(q1, q2, cost, np.nextafter(6, 0), model=model, method=method).used == [4.0]


@pytest.mark.parametrize("limit", [np.inf, 1e300, -1e300, -np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_budgets_without_end_and_without_room(draw, model, method, limit):
    rng = np.random.default_rng(8)
    case = draw("normal", rng, 1, 3)
    q1, q2, cost, _ = case.tables
    free = stackelberg.solve_multi(q1, q2, None, None, **case.options, model=model)
    found = stackelberg.solve_multi(
        q1, q2, cost.reshape(q1.shape), limit, **case.options, model=model, method=method, check=True
    )
    assert found.feasible == (free.feasible and limit > 0)
    if found.feasible:
        assert found.value_leader == free.value_leader


def test_followers_and_rows_may_be_renamed(draw, model):
    rng = np.random.default_rng(9)
    for _ in range(20):
        case = draw("normal", rng, 2, 4)
        followers, rows, _ = case.shape
        who, where = rng.permutation(followers), rng.permutation(rows)
        q1, q2, cost, limit = case.tables
        safe, q0 = case.options["safe"], case.options["Q0"]
        options = {"safe": None if safe is None else safe[who][:, where], "Q0": None if q0 is None else q0[where]}
        tables = q1[who][:, where], q2[who][:, where], cost[:, who][:, :, where]
        found = stackelberg.solve_multi(*case.tables, **case.options, model=model)
        renamed = stackelberg.solve_multi(*tables, limit, **options, model=model)
        assert renamed.feasible == found.feasible
        if found.feasible:
            assert where[renamed.leader] == found.leader
            np.testing.assert_array_equal(renamed.followers, found.followers[who])


@pytest.mark.parametrize(("followers", "budgets", "method"), [(20, 1, "dynamic_program"), (8, 3, "branch_and_bound")])
def test_auto_picks_what_fits(draw, model, followers, budgets, method):
    rng = np.random.default_rng(10)
    case = draw("normal", rng, budgets, followers, actions=5)
    assert stackelberg.solve_multi(*case.tables, **case.options, model=model).method == method
    few = draw("normal", rng, 2, 3)
    assert stackelberg.solve_multi(*few.tables, **few.options, model=model).method == "enumeration"


@pytest.mark.slow
@pytest.mark.parametrize("budgets", [1, 3])
def test_many_followers_are_solved_and_certified(draw, model, budgets):
    """What no enumeration reaches: 30 followers with 5 actions, dynamic program or branch and bound beside HiGHS."""
    for seed in range(3):
        case = draw("normal", np.random.default_rng(seed), budgets, 30 if budgets == 1 else 15, actions=5)
        answers = [
            stackelberg.solve_multi(*case.tables, **case.options, model=model, method=method, check=True)
            for method in ("auto", "highs")
        ]
        assert answers[0].value_leader == answers[1].value_leader
        assert answers[0].feasible
