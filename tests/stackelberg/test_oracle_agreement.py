"""Every backend against the scalar oracle: the exact ones in every number, the other MIPs in every claim they make.

Ten thousand states per exact backend and a thousand per other MIP are run with `-m slow`, a hundred thousand per exact
backend with `-m thousands`.
"""

import itertools

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve
from safemarl_bench.stackelberg.solver import MIPS

EXACT = ("highs_ranked", "numba", "numpy", "torch")
INEXACT = tuple(name for name in MIPS if name not in EXACT)
SMALL = tuple(itertools.product(range(1, 7), range(1, 7)))
LARGE = ((9, 9), (3, 40), (40, 3), (25, 25))
ARRAYS = ("leader", "follower", "feasible", "value_leader", "value_follower", "violation", "n_safe", "br_gap")
ARRAYS += ("runner_up",)

every_case = pytest.mark.parametrize(
    ("semantics", "tie", "dtype"),
    list(itertools.product(("mip13", "csq10"), ("optimistic", "pessimistic"), (np.float32, np.float64))),
)


def draws(instances, kind, rng, shapes, states, dtype):
    """Tables of every shape, with one constraint per agent or several, and what is asked of them."""
    constraints = itertools.cycle((None, 1, 3))
    options = itertools.cycle(
        {"fallback": fallback, "scale": scale}
        for fallback in ("least_violation", "none", "max_q1")
        for scale in ((1.0, 1.0), (2.0, 0.3))
    )
    for shape in shapes:
        yield instances(kind, rng, (states,), shape, dtype=dtype, constraints=next(constraints)).args, next(options)


def check_exact(cases, semantics, tie):
    """All arrays of the exact backends are the oracle's bit for bit, and certified; returns how many states."""
    states = 0
    for args, asked in cases:
        options = {**asked, "semantics": semantics, "tie": tie}
        oracle = stackelberg.solve(*args, backend="python", **options)
        for backend in EXACT:
            if backend in MIPS and tie == "pessimistic":
                continue
            given = [torch.tensor(a) if isinstance(a, np.ndarray) and backend == "torch" else a for a in args]
            found = stackelberg.solve(*given, backend=backend, check=True, **options)
            for name in ARRAYS:
                got, expected = np.asarray(getattr(found, name)), getattr(oracle, name)
                np.testing.assert_array_equal(got, expected, err_msg=f"{name} of {backend}, {options}")
                assert got.dtype == expected.dtype
        states += oracle.leader.size
    return states


def check_small_and_large(instances, kind, semantics, tie, dtype, states):
    rng = np.random.default_rng([sum(map(ord, kind + semantics + tie)), np.dtype(dtype).itemsize])
    done = check_exact(draws(instances, kind, rng, SMALL, states, dtype), semantics, tie)
    return done + check_exact(draws(instances, kind, rng, LARGE, 2, dtype), semantics, tie)


@pytest.mark.slow
@every_case
def test_exact_backends_are_the_oracle_on_ten_thousand_states(instances, kind, semantics, tie, dtype):
    assert check_small_and_large(instances, kind, semantics, tie, dtype, 12) * 24 >= 10_000


@pytest.mark.thousands
@every_case
def test_exact_backends_are_the_oracle_on_a_hundred_thousand_states(instances, kind, semantics, tie, dtype):
    assert check_small_and_large(instances, kind, semantics, tie, dtype, 116) * 24 >= 100_000


def check_inexact(instances, kind, backend, count):
    """One state after the other: as good as the oracle's pair, and that pair where it is the only good one."""
    rng = np.random.default_rng(21)
    unique = refused = 0
    for number in range(count):
        shape = tuple(rng.integers(1, 7, 2))
        dtype = (np.float64, np.float32)[number // 2 % 2]
        args = instances(kind, rng, (), shape, dtype=dtype, constraints=(None, 2)[number // 4 % 2]).args
        options = {"semantics": ("mip13", "csq10")[number % 2]}
        options["fallback"] = ("least_violation", "none", "max_q1")[number % 3]
        oracle = stackelberg.solve(*args, backend="python", **options)
        try:
            found = stackelberg.solve(*args, backend=backend, **options)  # certified inside
        except InexactSolve:
            refused += 1
            continue
        for name in ("feasible", "value_leader", "violation", "n_safe", "runner_up"):
            np.testing.assert_array_equal(getattr(found, name), getattr(oracle, name), err_msg=name)
        if oracle.br_gap > 0 and oracle.runner_up > 0:
            assert (found.leader, found.follower) == (oracle.leader, oracle.follower)
            unique += 1
    assert kind in ("tied integers", "infeasible") or unique > count / 4
    return refused


@pytest.mark.parametrize("backend", INEXACT)
def test_the_other_mips_are_as_good_as_the_oracle(instances, kind, backend):
    assert check_inexact(instances, kind, backend, 24) == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", INEXACT)
def test_the_other_mips_are_as_good_as_the_oracle_on_a_thousand_states(instances, kind, backend):
    assert check_inexact(instances, kind, backend, 170) == 0


@pytest.mark.slow
@pytest.mark.parametrize("backend", INEXACT)
def test_the_other_mips_refuse_what_they_cannot_tell_apart(instances, backend):
    """Rewards that differ by about their tolerances: refusals are expected, wrong answers are not."""
    rng = np.random.default_rng(22)
    outcomes = {"right": 0, "refused": 0}
    for _ in range(250):
        q1, q2, g1, g2, d1, d2 = instances("normal", rng, (), tuple(rng.integers(2, 6, 2))).args
        q1, q2 = (q * 10.0 ** rng.integers(-9, 1, q.shape) for q in (q1, q2))
        oracle = stackelberg.solve(q1, q2, g1, g2, d1, d2, backend="python")
        try:
            found = stackelberg.solve(q1, q2, g1, g2, d1, d2, backend=backend)
        except InexactSolve:
            outcomes["refused"] += 1
        else:
            assert found.value_leader == oracle.value_leader
            outcomes["right"] += 1
    assert outcomes["right"] > 100
    assert outcomes["refused"] > 0
