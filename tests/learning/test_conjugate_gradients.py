"""Conjugate gradients against numpy's direct solver."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safemarl_bench.learning.conjugate_gradients import conjugate_gradients


def problem(size, seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, size))
    return root @ root.T + 0.5 * np.eye(size), rng.standard_normal(size)


@settings(derandomize=True, deadline=None)
@given(size=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_as_many_steps_as_unknowns_solve_the_equations(size, seed):
    matrix, right = problem(size, seed)
    product = torch.from_numpy(matrix).mv
    solution = conjugate_gradients(product, torch.from_numpy(right), 2 * size, tolerance=1e-24)
    np.testing.assert_allclose(solution.numpy(), np.linalg.solve(matrix, right), rtol=1e-5, atol=1e-7)


@settings(derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 4))
def test_every_step_is_the_best_of_its_krylov_space(seed, steps):
    matrix, right = problem(8, seed)
    solution = conjugate_gradients(torch.from_numpy(matrix).mv, torch.from_numpy(right), steps, tolerance=0.0).numpy()
    krylov, _ = np.linalg.qr(np.stack([np.linalg.matrix_power(matrix, k) @ right for k in range(steps)], axis=1))
    best = krylov @ np.linalg.solve(krylov.T @ matrix @ krylov, krylov.T @ right)
    np.testing.assert_allclose(solution, best, rtol=1e-4, atol=1e-6)


def test_nothing_on_the_right_gives_nothing_and_divides_by_nothing():
    assert conjugate_gradients(torch.eye(3).mv, torch.zeros(3), 10).tolist() == [0.0, 0.0, 0.0]


def test_it_stops_once_the_residual_is_small():
    calls = []

    def product(vector):
        calls.append(1)
        return 2.0 * vector

    assert conjugate_gradients(product, torch.ones(3), 10).tolist() == [0.5, 0.5, 0.5]
    assert len(calls) == 1
