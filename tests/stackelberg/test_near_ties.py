"""The near-tie ladder: down to which difference of rewards every backend is right, and what it does below."""

import numpy as np
import pytest

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve
from safemarl_bench.stackelberg.solver import MIPS

EXACT = ("highs_ranked", "numba", "numpy", "python", "torch")
LADDER = tuple(10.0**-rung for rung in range(3, 13))
BELOW = (*LADDER, 1e-13, 1e-14, 1e-15)

RELIABLE = {"cvxpy": (1e-5, 1e-7), "cvxpy_dpp": (1e-5, 1e-7), "highs": (1e-5, 1e-6), "scipy": (1e-5, 1e-6)}
"""The smallest gap on the ladder of the follower, and of the leader, that a MIP solves; as in `mip`'s docstring."""


def followers_tie(gap):
    """The follower nearly ties in row 0, whose worse reply the leader likes best; another reply spans the row."""
    q1, q2 = np.array([[10.0, 0.0, 0.0], [5.0, 5.0, 5.0]]), np.array([[1.0, 1.0 + gap, 0.0], [0.0, -1.0, -1.0]])
    return q1, q2, (1, 0)


def leaders_tie(gap):
    """The leader nearly ties between two rows; a third one spans its rewards."""
    q1, q2 = np.array([[1.0, 0.0], [1.0 + gap, 0.0], [0.5, 0.0]]), np.tile([1.0, 0.0], (3, 1))
    return q1, q2, (1, 0)


def climb(backend, ladder, gaps):
    """Return the gaps that the backend solves and those that it refuses; anything else is a failure."""
    solved, refused = [], []
    for gap in gaps:
        q1, q2, pair = ladder(gap)
        g = np.zeros_like(q1)
        try:
            found = stackelberg.solve(q1, q2, g, g, 0, 0, backend=backend)
        except InexactSolve:
            refused.append(gap)
        else:
            assert (found.leader, found.follower) == pair
            solved.append(gap)
    return solved, refused


@pytest.mark.parametrize("ladder", [followers_tie, leaders_tie])
@pytest.mark.parametrize("backend", EXACT)
def test_exact_backends_climb_the_whole_ladder(backend, ladder):
    solved, refused = climb(backend, ladder, BELOW)
    assert refused == []
    assert min(solved) == 1e-15


@pytest.mark.parametrize("backend", RELIABLE)
def test_the_other_mips_solve_the_ladder_down_to_their_tolerance_and_refuse_what_is_below(backend):
    for ladder, reliable in zip((followers_tie, leaders_tie), RELIABLE[backend], strict=True):
        solved, refused = climb(backend, ladder, LADDER)
        assert solved == [gap for gap in LADDER if gap >= reliable]
        assert refused == [gap for gap in LADDER if gap < reliable]


def test_every_backend_is_on_the_ladder():
    assert sorted((*EXACT, *RELIABLE)) == sorted(stackelberg.BACKENDS)
    assert set(RELIABLE) == set(MIPS) - set(EXACT)


@pytest.mark.parametrize("backend", RELIABLE)
def test_a_refusal_names_the_backend_the_pair_the_broken_claim_and_a_way_out(backend):
    q1, q2, _ = followers_tie(1e-8)
    g = np.zeros_like(q1)
    with pytest.raises(InexactSolve, match=rf"'{backend}' returned pair \(0, 0\) at state \(\).*follower_best.*numpy"):
        stackelberg.solve(q1, q2, g, g, 0, 0, backend=backend)


@pytest.mark.parametrize("backend", stackelberg.BACKENDS)
def test_an_exact_tie_goes_to_the_leader_in_every_backend(backend):
    q1, q2, _ = followers_tie(0.0)
    g = np.zeros_like(q1)
    found = stackelberg.solve(q1, q2, g, g, 0, 0, backend=backend)
    assert (found.leader, found.follower, found.value_leader) == (0, 0, 10.0)


@pytest.mark.parametrize("backend", MIPS)
def test_the_two_column_near_tie_is_solved_where_q2_is_scaled_or_ranked_and_refused_where_it_is_not(backend):
    q1, q2 = np.array([[10.0, 0.0], [5.0, 5.0]]), np.array([[1.0, 1.0 + 1e-8], [0.0, -1.0]])
    g = np.zeros((2, 2))
    if backend.startswith("cvxpy"):
        with pytest.raises(InexactSolve):
            stackelberg.solve(q1, q2, g, g, 0, 0, backend=backend)
    else:
        assert stackelberg.solve(q1, q2, g, g, 0, 0, backend=backend).value_leader == 5.0


def worst_row(replies):
    """Two rows of near ties in which the leader likes the follower's second best reply most, and row 1 second most."""
    q2 = np.tile(np.arange(replies, 0, -1) * 1e-12, (2, 1))
    q1 = np.vstack([np.arange(replies, 0.0, -1), np.full(replies, float(replies))])
    q1[:, 0] = 0.0, 0.5
    return q1, q2, (1, 0)


@pytest.mark.parametrize("replies", [10, 300, 3000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_highs_ranked_is_exact_however_many_replies_a_row_has(replies):
    assert climb("highs_ranked", lambda _: worst_row(replies), (None,)) == ([None], [])


@pytest.mark.parametrize("shape", [(1, 1500), (1500, 1), (40, 40)])
def test_highs_ranked_is_exact_on_tables_where_all_rewards_nearly_tie(shape):
    rng = np.random.default_rng(41)
    q1, q2 = (1.0 + 1e-12 * rng.permutation(shape[0] * shape[1]).reshape(shape) for _ in range(2))
    g1, g2 = rng.random((2, *shape))
    found, oracle = (stackelberg.solve(q1, q2, g1, g2, 0.8, 0.8, backend=name) for name in ("highs_ranked", "python"))
    assert (found.leader, found.follower) == (oracle.leader, oracle.follower)
