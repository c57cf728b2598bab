"""The pairs that exploration may draw from."""

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import SolveError


def test_exploration_draws_from_the_safe_pairs_or_from_the_least_violating_ones():
    g1 = np.array([[[0.0, 2.0], [1.0, 1.0]], [[3.0, 4.0], [5.0, 3.0]]])
    g2 = np.array([[[0.0, 0.0], [1.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]])
    expected = [[[True, False], [True, False]], [[True, False], [False, True]]]
    assert stackelberg.exploration_pairs(g1, g2, 1, 1).tolist() == expected
    found = stackelberg.exploration_pairs(torch.from_numpy(g1), torch.from_numpy(g2), 1, 1)
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == expected


def test_the_scale_decides_which_violation_counts_more():
    g1, g2 = np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])
    assert stackelberg.exploration_pairs(g1, g2, 0, 0).tolist() == [[True, False]]
    assert stackelberg.exploration_pairs(g1, g2, 0, 0, scale=(2.0, 1.0)).tolist() == [[False, True]]


@pytest.mark.parametrize("constraints", [None, 2])
def test_exploration_and_solve_agree_on_what_is_safe(instances, kind, constraints):
    case = instances(kind, np.random.default_rng(41), (200,), (3, 3), constraints=constraints)
    found = stackelberg.solve(*case.args)
    mask = stackelberg.exploration_pairs(*case.args[2:], constraint_axis=constraints is not None)
    assert mask[np.arange(200), found.leader, found.follower].all()
    np.testing.assert_array_equal(mask.sum(-1)[found.feasible], found.n_safe[found.feasible])
    as_tensors = [torch.from_numpy(np.array(table)) for table in case.tables[2:]]
    found = stackelberg.exploration_pairs(*as_tensors, *case.d, constraint_axis=constraints is not None)
    np.testing.assert_array_equal(found.numpy(), mask)


def test_bad_costs_are_refused():
    good, bad = np.zeros((2, 2)), np.array([[0.0, np.nan], [0.0, 0.0]])
    with pytest.raises(SolveError, match=r"G2 has 1 NaN.*\(0, 1\)"):
        stackelberg.exploration_pairs(good, bad, 0, 0)
    with pytest.raises(SolveError, match="G2 must have the shape"):
        stackelberg.exploration_pairs(good, np.zeros((2, 3)), 0, 0)
    with pytest.raises(SolveError, match="constraint_axis"):
        stackelberg.exploration_pairs(good, good, [0.0], [0.0], constraint_axis=True)
