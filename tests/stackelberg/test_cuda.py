"""The torch backend on a GPU: the same answers as the scalar oracle's, and tensors that stay where they are."""

import itertools

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import SolveError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

ARRAYS = ("leader", "follower", "feasible", "value_leader", "value_follower", "violation", "n_safe", "br_gap")
ARRAYS += ("runner_up",)
SHAPES = ((1, 1), (1, 4), (4, 1), (2, 2), (3, 5), (9, 9), (3, 40), (40, 3), (33, 33))


def on_device(value):
    return torch.tensor(value, device="cuda") if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("fallback", ["least_violation", "none", "max_q1"])
@pytest.mark.parametrize("tie", ["optimistic", "pessimistic"])
@pytest.mark.parametrize("semantics", ["mip13", "csq10"])
def test_a_gpu_gives_the_oracles_answers(instances, kind, semantics, tie, fallback):
    rng = np.random.default_rng([sum(map(ord, kind + semantics + tie + fallback))])
    options = {"semantics": semantics, "tie": tie, "fallback": fallback}
    for shape, dtype, constraints in itertools.product(SHAPES, (np.float32, np.float64), (None, 1, 3)):
        states = (6,) if shape[0] * shape[1] > 500 else (40,)
        args = instances(kind, rng, states, shape, dtype=dtype, constraints=constraints).args
        oracle = stackelberg.solve(*args, backend="numpy", **options)
        found = stackelberg.solve(*map(on_device, args), backend="torch", **options)
        for name in ARRAYS:
            got, expected = getattr(found, name), getattr(oracle, name)
            assert got.is_cuda
            np.testing.assert_array_equal(got.cpu().numpy(), expected, err_msg=f"{name} of {shape}, {options}")


def test_exploration_on_a_gpu_draws_from_the_same_pairs(instances, kind):
    rng = np.random.default_rng(3)
    for constraints in (None, 2):
        *tables, d1, d2 = instances(kind, rng, (50,), (5, 5), constraints=constraints).args
        axis = {"constraint_axis": constraints is not None}
        expected = stackelberg.exploration_pairs(*tables[2:], d1, d2, **axis)
        found = stackelberg.exploration_pairs(*map(on_device, tables[2:]), on_device(d1), on_device(d2), **axis)
        assert found.is_cuda
        np.testing.assert_array_equal(found.cpu().numpy(), expected)


def test_an_illegal_entry_on_a_gpu_is_found():
    tables = [torch.zeros(4, 3, 3, device="cuda") for _ in range(4)]
    tables[1][2, 1, 0] = torch.nan
    with pytest.raises(SolveError, match=r"Q2.*\(2, 1, 0\)"):
        stackelberg.solve(*tables, 0.5, 0.5)
