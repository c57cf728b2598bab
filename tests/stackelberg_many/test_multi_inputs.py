"""Invalid input to `solve_multi` is one clear line, and nothing hangs."""

import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import MissingDependency, SafeMARLBenchError, SolveError
from safemarl_bench.stackelberg.many import (
    branch_and_bound,
    dynamic_program,
    enumeration,
    exact_row,
    highs,
    subgradient,
    units,
)
from safemarl_bench.stackelberg.many.problem import read_multi

Q = np.arange(24.0).reshape(2, 3, 4)
C = np.ones((2, 3, 4))


def broken(at, value, table=Q):
    table = table.copy()
    table[at] = value
    return table


INVALID = [
    ({"Q1": Q.tolist()}, r"Q1 must be a numpy array of float32, float64 or integers, got builtins\.list"),
    ({"Q1": torch.ones(2, 3, 4)}, r"Q1 must be a numpy array.*got torch\.Tensor"),
    ({"Q1": Q.astype(complex)}, r"Q1 must be a numpy array.*got dtype complex128"),
    ({"Q2": Q.astype(object)}, r"Q2 must be a numpy array.*got dtype object"),
    ({"Q1": Q[0]}, r"Q1 must be \(N, m1, m\) with at least one follower and action each, got shape \(3, 4\)"),
    ({"Q1": Q[:, :, :0]}, r"Q1 must be \(N, m1, m\).*got shape \(2, 3, 0\)"),
    ({"Q2": Q.swapaxes(1, 2)}, r"Q2 must have the shape \(2, 3, 4\) of Q1, got \(2, 4, 3\)"),
    ({"Q1": broken((1, 0, 2), np.nan)}, r"Q1 has 1 NaN or infinite entries, the first at \(1, 0, 2\); expected none"),
    ({"Q2": broken((0, 0, 0), -np.inf)}, r"Q2 has 1 NaN or infinite entries, the first at \(0, 0, 0\)"),
    ({"Q1": np.full((2, 3, 4), 1e308)}, r"Q1 is too large: its sums over the followers overflow"),
    ({"Q1": np.full((2, 3, 4), 2**60)}, r"Q1 holds integers beyond 2\*\*53"),
    ({"Q0": np.ones(4)}, r"Q0 must be \(m1,\) = \(3,\), one number per action of the leader, got \(4,\)"),
    ({"Q0": np.ones(3) * np.nan}, r"Q0 has 3 NaN or infinite entries"),
    ({"safe": np.ones((2, 3, 4))}, r"safe must be a bool array of the shape \(2, 3, 4\) of Q1, got float64 of shape"),
    ({"safe": np.ones((3, 4), bool)}, r"safe must be a bool array.*got bool of shape \(3, 4\)"),
    ({"safe": True}, r"safe must be a bool array.*got bool"),
    ({"C": None}, r"C and d come together"),
    ({"d": None}, r"C and d come together"),
    ({"C": C[0]}, r"C must have the shape \(2, 3, 4\) of Q1, or \(K, \.\.\.\) in front of it, got \(3, 4\)"),
    ({"C": broken((0, 0, 0), np.nan, C)}, r"C has 1 NaN or infinite entries, the first at \(0, 0, 0\)"),
    ({"C": broken((0, 0, 0), np.inf, C)}, r"C has 1 NaN or infinite entries"),
    ({"d": np.nan}, r"d must not be NaN"),
    ({"d": [1, 2]}, r"d must be one number beside C of shape \(N, m1, m\), got shape \(2,\)"),
    ({"C": np.stack([C, C])}, r"d must be of shape \(2,\), a number per budget, got shape \(\)"),
    ({"d": "much"}, r"d must be a number per budget, got 'much'"),
    ({"model": "coaltion"}, r"unknown model 'coaltion': did you mean 'coalition'\?"),
    ({"method": "high"}, r"unknown method 'high': did you mean 'highs'\?"),
    (
        {"method": "cplex"},
        r"unknown method 'cplex': known: auto, branch_and_bound, dynamic_program, enumer",
    ),
]


@pytest.mark.parametrize(("changed", "message"), INVALID)
def test_invalid_input_is_one_clear_line(changed, message):
    arguments = {"Q1": Q, "Q2": Q, "C": C, "d": 2} | changed
    with pytest.raises(SolveError, match=message) as caught:
        stackelberg.solve_multi(**arguments)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SafeMARLBenchError)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int8])
def test_tables_of_any_real_type_and_order_are_taken_and_left_alone(dtype, model):
    rng = np.random.default_rng(1)
    q1, q2, cost = (rng.integers(0, 5, size=(3, 2, 4)) for _ in range(3))
    expected = stackelberg.solve_multi(q1, q2, cost, 7, model=model)
    tables = [np.asfortranarray(table.astype(dtype)) for table in (q1, q2, cost)]
    for table in tables:
        table.flags.writeable = False
    found = stackelberg.solve_multi(*tables, 7, model=model, check=True)
    assert found.value_leader == expected.value_leader
    np.testing.assert_array_equal(found.followers, expected.followers)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("payoffs", [1e-310, 1e-12, 1e150, 1e300])
@pytest.mark.parametrize("costs", [1e-310, 1.0, 1e5, 1e300])
def test_numbers_of_any_magnitude_are_summed_exactly(draw, model, payoffs, costs):
    rng = np.random.default_rng(6)
    case = draw("normal", rng, 1, 3, actions=3)
    q1, q2, cost, limit = case.tables
    tables, safe = (q1 * payoffs, q2 * payoffs, cost * costs, np.multiply(limit, costs)), case.options["safe"]
    expected = stackelberg.solve_multi(*tables, safe=safe, model=model, method="enumeration", check=True)
    assert expected.feasible
    for method in ("dynamic_program", "branch_and_bound", "highs"):
        if method == "branch_and_bound" or costs == 1.0 or (method, model) == ("highs", "coalition"):
            found = stackelberg.solve_multi(*tables, safe=safe, model=model, method=method, check=True)
            assert found.value_leader == expected.value_leader


def test_the_dynamic_program_says_what_it_does_not_take():
    for cost, limit, what in (
        (C + 0.5, 2, r"at most one budget, in integers, got costs with fractions"),
        (np.stack([C, C]), [2, 2], r"at most one budget, in integers, got 2"),
    ):
        with pytest.raises(SolveError, match=rf"dynamic_program' takes {what}; use method='branch_and_bound'"):
            stackelberg.solve_multi(Q, Q, cost, limit, method="dynamic_program")
    with pytest.raises(SolveError, match=r"2 followers times 1000000000001 totals.*too large; use method='branch"):
        stackelberg.solve_multi(Q, Q, C * np.array([0, 1e12, 2e12, 3e12]), 1e12, method="dynamic_program")
    assert stackelberg.solve_multi(Q, Q, C * np.array([0, 1e12, 2e12, 3e12]), 1e12).method == "enumeration"


def test_enumeration_says_how_many_profiles_are_too_many():
    rng = np.random.default_rng(2)
    q1, q2, cost = rng.random((3, 20, 5, 5))
    with pytest.raises(SolveError, match=r"4\.8e\+14 profiles is too large \(at most 1e\+10\): use method="):
        stackelberg.solve_multi(q1, q2, cost, 3, method="enumeration")


def test_highs_refuses_equilibria_with_fractional_costs():
    with pytest.raises(SolveError, match=r"'highs' needs integers in C with model='gne'; use method='branch"):
        stackelberg.solve_multi(Q, Q, C + 0.5, 5, model="gne", method="highs")


@pytest.mark.parametrize(
    ("module", "method"), [(enumeration, "enumeration"), (branch_and_bound, "branch_and_bound"), (highs, "'highs'")]
)
def test_a_time_limit_is_a_clear_error(monkeypatch, module, method):
    rng = np.random.default_rng(3)
    q1, q2, cost = rng.random((3, 12, 2, 4))
    monkeypatch.setattr(module, "TIME_LIMIT", 0.0)
    with pytest.raises(SolveError, match=rf"{method} found no answer within 0 s"):
        stackelberg.solve_multi(q1, q2, cost, 5, method=method.strip("'"))


def test_a_search_that_grows_too_large_is_a_clear_error(monkeypatch):
    rng = np.random.default_rng(4)
    q1, q2, cost = rng.random((3, 12, 2, 4))
    monkeypatch.setattr(branch_and_bound, "LARGEST", 1)
    with pytest.raises(SolveError, match=r"branch_and_bound keeps more than 1 partial profiles: use method='highs'"):
        stackelberg.solve_multi(q1, q2, cost, 5, method="branch_and_bound")
    monkeypatch.setattr(exact_row, "LARGEST", 1)
    with pytest.raises(SolveError, match=r"the certificate needs more than 1 partial profiles.*too large to check"):
        stackelberg.solve_multi(q1, q2, cost, 5, method="enumeration", check=True)


def test_a_missing_solver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "highspy", None)
    with pytest.raises(MissingDependency, match=r'highspy.*pip install "safemarl-bench\[mip\]"'):
        stackelberg.solve_multi(Q, Q, C, 2, method="highs")


COMPILED = {
    dynamic_program: (
        ["shift", "best_coalition", "best_equilibrium", "trace", "least_totals", "exact_totals", "precedes"]
    ),
    subgradient: ["descend"],
    units: ["to_units"],
}


def test_the_plain_source_of_the_compiled_functions_gives_the_same(draw, model, monkeypatch):
    """What a user without numba runs."""
    rng = np.random.default_rng(5)
    cases = [draw(kind, rng, 1, 3) for kind in ("tied integers", "normal", "negative costs")]

    def answers():
        for case in cases:
            for method in ("dynamic_program", "branch_and_bound"):
                found = stackelberg.solve_multi(*case.tables, **case.options, model=model, method=method)
                yield found.leader, found.followers.tolist()

    compiled = list(answers())
    for module, names in COMPILED.items():
        for name in names:
            function = getattr(module, name)
            monkeypatch.setattr(module, name, getattr(function, "py_func", function))
    assert list(answers()) == compiled


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_are_the_tables_up_to_half_a_unit_and_their_sums_fit(dtype):
    rng = np.random.default_rng(7)
    for scale in (1e-30, 1.0, 1e6):
        tables = (scale * rng.normal(size=(2, 6, 3, 4))).astype(dtype).astype(float)
        problem = read_multi(tables[0], tables[1], None, None, None, None, "gne")
        for table, whole, exponent in (
            (tables[0], problem.q_leader, problem.leader_exponent),
            (tables[1], problem.q_coalition, problem.coalition_exponent),
        ):
            assert 2**58 < 6 * np.abs(whole).max() < 2**60
            errors = [
                abs(Fraction(entry) - int(unit) * Fraction(2) ** exponent)
                for entry, unit in zip(table.swapaxes(0, 1).flat, whole.flat, strict=True)
            ]
            assert max(errors) <= Fraction(2) ** exponent / 2
            assert dtype is np.float64 or sorted(errors)[len(errors) // 2] == 0  # 24 bits mostly fit
    integers = rng.integers(-9, 10, size=(6, 3, 4))
    problem = read_multi(integers, integers, integers, 3, None, None, "gne")
    np.testing.assert_array_equal(problem.q_leader, integers.swapaxes(0, 1))
    assert (problem.leader_exponent, problem.coalition_exponent, problem.integer) == (0, 0, True)
