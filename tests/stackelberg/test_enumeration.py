"""The batched enumerations against the scalar oracle, and the oracle against the definitions."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from safemarl_bench import stackelberg
from safemarl_bench.errors import InfeasibleState

SEMANTICS = ("mip13", "csq10")
TIES = ("optimistic", "pessimistic")
ARRAYS = ("leader", "follower", "feasible", "value_leader", "value_follower", "violation", "n_safe", "br_gap")
ARRAYS += ("runner_up",)
OPTIONS = list(itertools.product(SEMANTICS, TIES))
SHAPES = ((1, 1), (1, 4), (4, 1), (2, 3), (3, 3), (4, 2))


def to_torch(args):
    return [torch.from_numpy(np.array(a)) if isinstance(a, np.ndarray) else a for a in args]


def assert_same(found, oracle):
    for name in ARRAYS:
        expected, got = getattr(oracle, name), np.asarray(getattr(found, name))
        assert got.dtype == expected.dtype, name
        np.testing.assert_array_equal(got, expected, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("semantics", "tie"), OPTIONS)
def test_batched_enumeration_equals_the_oracle_bit_for_bit(instances, kind, semantics, tie, dtype):
    rng = np.random.default_rng(11)
    fallbacks = itertools.cycle(("least_violation", "none", "max_q1"))
    scales = itertools.cycle(((1.0, 1.0), (2.0, 0.3)))
    for shape, constraints in itertools.product(SHAPES, (None, 1, 3)):
        args = instances(kind, rng, (14,), shape, dtype=dtype, constraints=constraints).args
        options = {"semantics": semantics, "tie": tie, "fallback": next(fallbacks), "scale": next(scales)}
        oracle = stackelberg.solve(*args, backend="python", **options)
        assert_same(stackelberg.solve(*args, **options), oracle)
        assert_same(stackelberg.solve(*to_torch(args), **options), oracle)
        assert_same(stackelberg.solve(*args, backend="numba", **options), oracle)


def closed_form(q1, q2, g1, g2, d1, d2, semantics, tie):
    """The pair of the definition (sets, no keys), or None when infeasible. One state, one constraint per agent."""
    m1, m2 = q1.shape
    best = None
    for i in range(m1):
        holds1 = {j for j in range(m2) if g1[i, j] <= d1}
        holds2 = {j for j in range(m2) if g2[i, j] <= d2}
        choices = holds1 & holds2 if semantics == "mip13" else holds2
        if not choices:
            continue
        top = max(q2[i, j] for j in choices)
        tied = {j for j in choices if q2[i, j] == top}
        if tie == "optimistic":
            able = tied & holds1
            value = max((q1[i, j] for j in able), default=None)
        else:
            able = tied
            value = min(q1[i, j] for j in able) if tied <= holds1 else None
        if value is not None and (best is None or value > best[0]):
            best = value, i, min(j for j in able if q1[i, j] == value)
    return best and best[1:]


@pytest.mark.parametrize(("semantics", "tie"), OPTIONS)
@pytest.mark.parametrize("backend", ["python", "numpy", "numba", "torch"])
def test_enumeration_follows_the_closed_form(instances, kind, semantics, tie, backend):
    rng = np.random.default_rng(13)
    for shape in SHAPES:
        case = instances(kind, rng, (12,), shape)
        found = stackelberg.solve(*case.args, semantics=semantics, tie=tie, fallback="none", backend=backend)
        for state in range(12):
            pair = closed_form(*(table[state] for table in case.tables), *case.d, semantics, tie)
            assert found.feasible[state] == (pair is not None)
            assert (found.leader[state], found.follower[state]) == (pair or (-1, -1))


@st.composite
def small_games(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    tables = [draw(arrays(np.float64, shape, elements=st.integers(-2, 2))) for _ in range(4)]
    return (*tables, draw(st.integers(-2, 2)), draw(st.integers(-2, 2)))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(game=small_games(), options=st.sampled_from(OPTIONS))
def test_every_small_integer_game_follows_the_closed_form_and_carries_its_certificate(game, options):
    semantics, tie = options
    found = stackelberg.solve(*game, semantics=semantics, tie=tie, check=True)
    pair = closed_form(*game, semantics, tie)
    assert bool(found.feasible) == (pair is not None)
    assert pair is None or (found.leader, found.follower) == pair


def relaxed_pair(q1, q2, violation):
    """(13) with its limits relaxed by the smallest total slack at which it has a solution."""
    for slack in sorted(set(violation.ravel())):
        pair = closed_form(q1, q2, violation, np.zeros_like(q1), slack, 0.0, "mip13", "optimistic")
        if pair is not None:
            return pair
    raise AssertionError("the largest slack admits every pair")


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.25, 3.0)])
def test_fallback_equals_the_program_with_the_least_total_slack(instances, kind, scale):
    rng = np.random.default_rng(14)
    q1, q2, g1, g2 = instances(kind, rng, (150,), (3, 4)).tables
    d1, d2 = g1.min() - 0.25, np.quantile(g2, 0.3)
    violation = scale[0] * np.maximum(0, g1 - d1) + scale[1] * np.maximum(0, g2 - d2)
    found = stackelberg.solve(q1, q2, g1, g2, d1, d2, scale=scale)
    assert not found.feasible.any()
    pairs = np.array([relaxed_pair(q1[s], q2[s], violation[s]) for s in range(150)])
    np.testing.assert_array_equal(np.column_stack([found.leader, found.follower]), pairs)
    np.testing.assert_array_equal(found.violation, violation[np.arange(150), pairs[:, 0], pairs[:, 1]])


def test_the_two_semantics_part_where_the_leaders_cost_binds_the_follower():
    q1, q2 = np.array([[5.0, 3.0], [4.0, 2.0]]), np.array([[9.0, 1.0], [6.0, 7.0]])
    g1, g2 = np.array([[9.0, 0.0], [0.0, 0.0]]), np.zeros((2, 2))
    joint = stackelberg.solve(q1, q2, g1, g2, 1, 1)
    own = stackelberg.solve(q1, q2, g1, g2, 1, 1, semantics="csq10")
    assert (joint.leader, joint.follower, joint.value_leader) == (0, 1, 3.0)
    assert (own.leader, own.follower, own.value_leader) == (1, 1, 2.0)
    first_row = [table[:1] for table in (q1, q2, g1, g2)]
    assert stackelberg.solve(*first_row, 1, 1).feasible
    assert not stackelberg.solve(*first_row, 1, 1, semantics="csq10").feasible


def test_the_diagnostics_of_a_small_game_are_those_worked_out_by_hand():
    q1, q2 = np.array([[5.0, 1.0, 8.0], [4.0, 9.0, 0.0]]), np.array([[3.0, 1.0, 7.0], [6.0, 6.0, 2.0]])
    g1, g2 = np.array([[0.0, 0.0, 2.0], [0.0, 2.0, 0.0]]), np.zeros((2, 3))
    found = stackelberg.solve(q1, q2, g1, g2, 1, 0)
    # Row 0: replies 0 and 1 are safe, 0 wins 3 to 1. Row 1: replies 0 and 2 are safe, 0 wins 6 to 2.
    assert (found.leader, found.follower, found.value_leader, found.value_follower) == (0, 0, 5.0, 3.0)
    assert (found.br_gap, found.runner_up, found.violation) == (2.0, 1.0, 0.0)
    np.testing.assert_array_equal(found.n_safe, [2, 2])
    # csq10: the follower goes for reply 2 in row 0 (unsafe); in row 1 it ties, and helps by choosing the safe one.
    own = stackelberg.solve(q1, q2, g1, g2, 1, 0, semantics="csq10")
    assert (own.leader, own.follower, own.br_gap, own.runner_up) == (1, 0, 0.0, np.inf)
    # A pessimistic follower breaks G1 in row 1 as well: (0, 2) and (1, 1) both violate by 1, Q1 prefers 9 to 8.
    harmed = stackelberg.solve(q1, q2, g1, g2, 1, 0, semantics="csq10", tie="pessimistic")
    assert (harmed.feasible, harmed.leader, harmed.follower, harmed.violation) == (False, 1, 1, 1.0)


def test_max_q1_takes_the_largest_reward_where_nothing_is_safe():
    q1, q2 = np.array([[1.0, 7.0], [7.0, 2.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    g1, g2 = np.array([[0.0, 5.0], [2.0, 1.0]]), np.ones((2, 2))
    found = stackelberg.solve(q1, q2, g1, g2, 0, 0, fallback="max_q1")
    assert (found.leader, found.follower, found.value_follower, found.violation) == (0, 1, 2.0, 6.0)
    assert not found.feasible
    assert np.isnan(found.br_gap)
    assert np.isnan(found.runner_up)


@pytest.mark.parametrize("backend", ["python", "numpy", "numba", "torch"])
def test_raise_names_the_first_infeasible_state(backend):
    tables = [np.zeros((3, 2, 2)) for _ in range(4)]
    tables[2][1:] = 2.0
    with pytest.raises(InfeasibleState, match=r"2 of 3 states.*\(1,\)"):
        stackelberg.solve(*tables, 1, 1, fallback="raise", backend=backend)
    assert stackelberg.solve(*tables, 2, 1, fallback="raise", backend=backend).feasible.all()


def test_the_leader_is_never_worse_off_when_its_cost_binds_the_follower(instances, kind):
    case = instances(kind, np.random.default_rng(15), (4000,), (3, 3))
    joint = stackelberg.solve(*case.args, fallback="none")
    own = stackelberg.solve(*case.args, semantics="csq10", fallback="none")
    assert not (own.feasible & ~joint.feasible).any()
    assert (joint.value_leader >= own.value_leader)[own.feasible].all()
    assert own.feasible.any() or kind == "infeasible"


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_a_positive_affine_map_of_q2_in_each_row_changes_nothing(instances, semantics):
    rng = np.random.default_rng(16)
    # Integers and powers of two: the map is exact, and so are the ties that it has to keep.
    q1, q2, g1, g2, d1, d2 = instances("tied integers", rng, (2000,), (4, 3)).args
    slope, shift = 2.0 ** rng.integers(-3, 4, (2000, 4, 1)), rng.integers(-9, 9, (2000, 4, 1)).astype(float)
    before = stackelberg.solve(q1, q2, g1, g2, d1, d2, semantics=semantics)
    after = stackelberg.solve(q1, slope * q2 + shift, g1, g2, d1, d2, semantics=semantics)
    for name in ("leader", "follower", "feasible", "value_leader", "violation", "runner_up"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("semantics", SEMANTICS)
def test_permuting_the_rows_permutes_the_leaders_action(instances, semantics):
    rng = np.random.default_rng(17)
    case = instances("normal", rng, (1500,), (5, 3))
    order = rng.permutation(5)
    before = stackelberg.solve(*case.args, semantics=semantics)
    permuted = [np.ascontiguousarray(table[:, order]) for table in case.tables]
    after = stackelberg.solve(*permuted, *case.d, semantics=semantics)
    np.testing.assert_array_equal(order[after.leader], before.leader)
    np.testing.assert_array_equal(after.follower, before.follower)


@pytest.mark.parametrize("backend", ["python", "numpy", "numba", "torch"])
def test_enumeration_climbs_the_near_tie_ladder(backend):
    q1, g = np.array([[10.0, 0.0], [5.0, 5.0]]), np.zeros((2, 2))
    for gap in 10.0 ** -np.arange(3, 16):
        q2 = np.array([[1.0, 1.0 + gap], [0.0, -1.0]])
        found = stackelberg.solve(q1, q2, g, g, 0, 0, backend=backend)
        assert (found.leader, found.follower, found.value_leader) == (1, 0, 5.0)
    tied = stackelberg.solve(q1, np.array([[1.0, 1.0], [0.0, -1.0]]), g, g, 0, 0, backend=backend)
    assert (tied.leader, tied.follower, tied.value_leader) == (0, 0, 10.0)


@pytest.mark.parametrize("backend", ["python", "numpy", "numba", "torch"])
def test_a_cost_at_the_limit_is_safe_and_one_ulp_above_it_is_not(backend):
    limit = np.float32(0.1)
    above = np.nextafter(limit, np.float32(1))
    q, zero = np.ones((2, 1, 1), np.float32), np.zeros((2, 1, 1), np.float32)
    g = np.array([limit, above], np.float32).reshape(2, 1, 1)
    for leader, follower in ((g, zero), (zero, g)):
        found = stackelberg.solve(q, q, leader, follower, 0.1, 0.1, backend=backend)  # 0.1 in double is below `limit`
        assert found.feasible.tolist() == [True, False]
        assert found.violation[1] == above - limit


@pytest.mark.parametrize("backend", ["python", "numpy", "numba", "torch"])
def test_infinite_costs_and_limits_violate_only_where_the_cost_is_larger(backend):
    q, zero = np.ones((4, 1, 1)), np.zeros((4, 1, 1))
    g = np.array([np.inf, np.inf, -np.inf, 3.0]).reshape(4, 1, 1)
    d = np.array([np.inf, 1.0, -np.inf, -np.inf])
    found = stackelberg.solve(q, q, g, zero, d, 0, backend=backend)
    assert found.feasible.tolist() == [True, False, True, False]
    assert found.violation.tolist() == [0.0, np.inf, 0.0, np.inf]


def test_a_violation_whose_weight_underflows_is_still_a_violation():
    q, zero = np.ones((1, 2)), np.zeros((1, 2))
    for backend in ("python", "numpy", "numba", "torch"):
        found = stackelberg.solve(q, q, np.array([[1e-200, 1e-300]]), zero, 0, 0, scale=(1e-200, 1), backend=backend)
        assert not found.feasible
        assert 0 < found.violation < 1e-300


def test_limits_per_state_and_several_constraints_mean_what_they_say(instances):
    rng = np.random.default_rng(18)
    q1, q2, g1, g2, _, _ = instances("normal", rng, (6,), (3, 3), constraints=2).args
    limits = rng.normal(size=(2, 6))
    many = stackelberg.solve(q1, q2, g1, g2, limits, (0.5, 0.75))
    for state in range(6):
        safe = ((g1[:, state] <= limits[:, state, None, None]) & (g2[:, state] <= [[[0.5]], [[0.75]]])).all(0)
        np.testing.assert_array_equal(many.n_safe[state], safe.sum(-1))
    single = stackelberg.solve(q1, q2, g1[0], g2[0], limits[0], 0.5)
    as_list = stackelberg.solve(q1, q2, g1[:1], g2[0], limits[:1], 0.5)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(single, name), getattr(as_list, name))


@pytest.mark.parametrize("states", [(), (0,), (2, 3)])
def test_any_batch_shape_goes_through(states):
    rng = np.random.default_rng(19)
    tables = [rng.normal(size=(*states, 2, 3)) for _ in range(4)]
    for fallback in ("least_violation", "none", "max_q1"):
        oracle = stackelberg.solve(*tables, 0, 0, fallback=fallback, backend="python")
        for args in (tables, to_torch(tables)):
            found = stackelberg.solve(*args, 0, 0, fallback=fallback)
            assert found.leader.shape == states
            assert found.n_safe.shape == (*states, 2)
            assert_same(found, oracle)
        assert_same(stackelberg.solve(*tables, 0, 0, fallback=fallback, backend="numba"), oracle)


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1), (1, 2, 0)])
def test_the_order_of_the_entries_in_memory_does_not_matter(order):
    rng = np.random.default_rng(21)
    tables = [rng.normal(size=(4, 3, 5)).transpose(order) for _ in range(4)]
    one_turned = [*map(np.ascontiguousarray, tables[:3]), tables[3]]
    oracle = stackelberg.solve(*tables, 0, 0, backend="python")
    for turned in (tables, one_turned):
        for args in (turned, [torch.from_numpy(table) for table in turned]):
            for backend in ("numba", "numpy", "torch"):
                assert_same(stackelberg.solve(*args, 0, 0, backend=backend), oracle)


def test_the_answer_is_in_the_library_of_the_tables_whatever_the_backend():
    tables = [np.zeros((2, 2, 2), np.float32) for _ in range(4)]
    tables[0].flags.writeable = False
    several = [*tables[:3], np.zeros((1, 2, 2, 2), np.float32)]
    for backend in stackelberg.BACKENDS:
        assert stackelberg.solve(*several, 0, [0], backend=backend).feasible.all()
        assert stackelberg.solve(*to_torch(several), 0, [0], backend=backend).feasible.all()
        assert isinstance(stackelberg.solve(*tables, 0, 0, backend=backend).value_leader, np.ndarray)
        found = stackelberg.solve(*to_torch(tables), 0, 0, backend=backend)
        assert isinstance(found.br_gap, torch.Tensor)
        assert found.value_leader.dtype == torch.float32
        assert found.backend == backend
    assert stackelberg.solve(*tables, 0, 0).backend == "numpy"
    assert stackelberg.solve(*to_torch(tables), 0, 0).backend == "torch"


def test_fastest_is_numba_and_without_it_the_backend_of_the_tables(tmp_path):
    code = (
        "import numpy as np, safemarl_bench.stackelberg as s; "
        "print(s.solve(*np.zeros((4, 2, 2)), 0, 0, backend='fastest').backend); "
        "s.solve(*np.zeros((4, 2, 2)), 0, 0, backend='numba')"
    )
    assert stackelberg.solve(*np.zeros((4, 2, 2)), 0, 0, backend="fastest").backend == "numba"
    (tmp_path / "numba.py").write_text("raise ImportError('not installed')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert out.stdout.strip() == "numpy"
    assert 'needs the package numba: pip install "safemarl-bench[kernel]"' in out.stderr


def test_the_answer_carries_no_gradient_and_can_index_a_critic():
    tables = [torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True) for _ in range(4)]
    found = stackelberg.solve(*tables, 0, 0)
    assert not found.value_leader.requires_grad
    picked = tables[0][torch.arange(4), found.leader, found.follower]
    (picked - found.value_leader).square().add(picked).sum().backward()
    assert tables[0].grad.sum() == 4


def test_solve_leaves_its_input_alone(instances):
    case = instances("tied integers", np.random.default_rng(20), (5,), (3, 3), constraints=2)
    for args in (case.args, to_torch(case.args)):
        before = [np.asarray(a).copy() for a in args]
        for semantics in SEMANTICS:
            stackelberg.solve(*args, semantics=semantics, scale=(2.0, 3.0), fallback="max_q1")
        for now, then in zip(args, before, strict=True):
            np.testing.assert_array_equal(np.asarray(now), then)
