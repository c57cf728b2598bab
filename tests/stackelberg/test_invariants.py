"""What must hold of the answers of every backend, whatever the tables, without an oracle."""

import numpy as np
import pytest

from safemarl_bench import stackelberg

STATES = {name: 8 if name.startswith("cvxpy") else 25 for name in stackelberg.BACKENDS}


@pytest.fixture(params=stackelberg.BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=["mip13", "csq10"])
def semantics(request):
    return request.param


def test_the_leader_is_never_worse_off_when_its_cost_binds_the_follower(instances, kind, backend):
    case = instances(kind, np.random.default_rng(61), (STATES[backend],), (3, 3))
    joint = stackelberg.solve(*case.args, fallback="none", backend=backend)
    own = stackelberg.solve(*case.args, semantics="csq10", fallback="none", backend=backend)
    assert not (own.feasible & ~joint.feasible).any()
    assert (joint.value_leader >= own.value_leader)[own.feasible].all()


def test_a_positive_affine_map_of_q2_in_each_row_changes_nothing(instances, backend, semantics):
    rng = np.random.default_rng(62)
    states = STATES[backend]
    # Integers and powers of two: the map is exact, and so are the ties that it has to keep.
    q1, q2, g1, g2, d1, d2 = instances("tied integers", rng, (states,), (4, 3)).args
    slope, shift = 2.0 ** rng.integers(-3, 4, (states, 4, 1)), rng.integers(-9, 9, (states, 4, 1)).astype(float)
    before = stackelberg.solve(q1, q2, g1, g2, d1, d2, semantics=semantics, backend=backend)
    after = stackelberg.solve(q1, slope * q2 + shift, g1, g2, d1, d2, semantics=semantics, backend=backend)
    for name in ("feasible", "value_leader", "violation", "n_safe", "runner_up"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_permuting_rows_and_columns_permutes_the_pair(instances, backend, semantics):
    rng = np.random.default_rng(63)
    case = instances("normal", rng, (STATES[backend],), (5, 4))
    rows, columns = rng.permutation(5), rng.permutation(4)
    before = stackelberg.solve(*case.args, semantics=semantics, backend=backend)
    permuted = [np.ascontiguousarray(table[:, rows][:, :, columns]) for table in case.tables]
    after = stackelberg.solve(*permuted, *case.d, semantics=semantics, backend=backend)
    np.testing.assert_array_equal(rows[after.leader], before.leader)
    np.testing.assert_array_equal(columns[after.follower], before.follower)


def test_the_fallback_is_the_program_relaxed_by_the_least_total_slack(instances, backend):
    rng = np.random.default_rng(64)
    states = STATES[backend]
    q1, q2, g1, g2 = instances("normal", rng, (states,), (3, 4)).tables
    d1, d2 = g1.min() - 0.25, np.quantile(g2, 0.3)
    violation = np.maximum(0, g1 - d1) + np.maximum(0, g2 - d2)
    slack = violation.min((1, 2))
    fallback = stackelberg.solve(q1, q2, g1, g2, d1, d2, backend=backend)
    relaxed = stackelberg.solve(q1, q2, violation, np.zeros_like(q1), slack, 0, fallback="raise", backend=backend)
    assert not fallback.feasible.any()
    np.testing.assert_array_equal(fallback.violation, slack)
    for name in ("leader", "follower", "value_leader", "value_follower"):
        np.testing.assert_array_equal(getattr(fallback, name), getattr(relaxed, name))
