"""Backward induction over levels beside the game played out, and the bimatrix core."""

import numpy as np
import pytest

from safemarl_bench import stackelberg
from safemarl_bench.errors import SolveError

SHAPES = [(3,), (2, 3), (3, 1, 2), (2, 3, 2), (2, 2, 3, 2), (2, 2, 1, 2, 2)]


def outcomes(q, g, d, above):
    """Return the joint actions that the levels below may play after `above`, by the definition of an optimistic reply.

    Each level takes, of what the levels below would answer to each of its actions, the outcomes that it likes best.
    """
    levels = len(q)
    if len(above) == levels:
        return [above] if all(g[(level, *above)] <= d[level] for level in range(levels)) else []
    level = len(above)
    reached = [end for action in range(q.shape[1 + level]) for end in outcomes(q, g, d, (*above, action))]
    best = max((q[(level, *end)] for end in reached), default=None)
    return [end for end in reached if q[(level, *end)] == best]


def draw(rng, shape, *, tied):
    size = (len(shape), *shape)
    q, g = rng.normal(size=(2, *size))
    if tied:
        q, g = rng.integers(-1, 2, size=(2, *size)).astype(float)
    return q, g, rng.choice([-2.0, 0.0, 0.5, 1.0], size=len(shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tied", [False, True])
def test_levels_play_what_backward_induction_by_hand_plays(shape, tied):
    rng = np.random.default_rng(1)
    infeasible = 0
    for _ in range(100):
        q, g, d = draw(rng, shape, tied=tied)
        found, ends = stackelberg.solve_levels(q, g, d), outcomes(q, g, d, ())
        assert found.feasible == bool(ends)
        if ends:
            assert tuple(found.actions) == min(ends)
            np.testing.assert_array_equal(found.values, q[(slice(None), *min(ends))])
        else:
            infeasible += 1
            assert (found.actions == -1).all()
            assert np.isnan(found.values).all()
    assert 0 < infeasible < 100


@pytest.mark.parametrize("tied", [False, True])
def test_two_levels_are_the_bimatrix_core(tied):
    rng = np.random.default_rng(2)
    for _ in range(200):
        q, g, d = draw(rng, (4, 3), tied=tied)
        found = stackelberg.solve_levels(q, g, d)
        pair = stackelberg.solve(*q, *g, *d.tolist(), semantics="mip13", fallback="none")
        assert tuple(found.actions) == (int(pair.leader), int(pair.follower))
        assert found.feasible == bool(pair.feasible)
        np.testing.assert_array_equal(found.values, [pair.value_leader, pair.value_follower])


def test_an_indifferent_level_helps_the_level_above_it_first():
    """Level 3 does not care; its actions please level 1 or level 2."""
    q = np.zeros((3, 1, 1, 2))
    q[0, 0, 0], q[1, 0, 0] = (9.0, 0.0), (0.0, 1.0)
    assert stackelberg.solve_levels(q, np.zeros_like(q), 0).actions.tolist() == [0, 0, 1]


def test_an_infinite_cost_is_never_safe_under_a_finite_limit():
    q, g = np.array([[[5.0, 1.0]], [[5.0, 1.0]]]), np.zeros((2, 1, 2))
    g[1, 0, 0] = np.inf
    assert stackelberg.solve_levels(q, g, 1e300).actions.tolist() == [0, 1]
    assert stackelberg.solve_levels(q, g, np.inf).actions.tolist() == [0, 0]


ONES = np.ones((2, 3, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((3, 3, 4)), ONES, 0), r"Q must be \(n, m1, \.\.\., mn\) with n levels.*got \(3, 3, 4\)"),
        ((np.ones((2, 3, 0)), ONES, 0), r"Q must be.*got \(2, 3, 0\)"),
        ((np.ones(0), ONES, 0), r"Q must be.*got \(0,\)"),
        ((ONES, np.ones((2, 4, 3)), 0), r"G must have the shape \(2, 3, 4\) of Q, got \(2, 4, 3\)"),
        ((ONES, ONES, [0, 0, 0]), r"d must be a number or of shape \(2,\), one per level, got shape \(3,\)"),
        ((ONES, ONES, "much"), r"d must be a number or one per level, got 'much'"),
        ((ONES, ONES, np.nan), r"d must not be NaN"),
        ((ONES * np.inf, ONES, 0), r"Q has 24 NaN or infinite entries, the first at \(0, 0, 0\)"),
        ((ONES, ONES * np.nan, 0), r"G has 24 NaN entries, the first at \(0, 0, 0\)"),
        ((ONES.tolist(), ONES, 0), r"Q must be a numpy array.*got builtins\.list"),
        ((ONES.astype(complex), ONES, 0), r"Q must be a numpy array.*got dtype complex128"),
    ],
)
def test_invalid_input_is_one_clear_line(arguments, message):
    with pytest.raises(SolveError, match=message) as caught:
        stackelberg.solve_levels(*arguments)
    assert "\n" not in str(caught.value)
