"""Bounds with a price per decision: weak duality on random problems, brute force, the gradient, bad input."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from safemarl_bench.errors import ContractError
from safemarl_bench.weakly_coupled.time_multipliers import FiniteProgram, dual, joint_actions, least_bound, worth

GAMMA, HORIZON, SIZES = 0.9, 4, (2, 3)


def random_program(seed):
    """Return a program of two sub-problems with up to 2 units each, and their laws: rewards and moves by (w, s, a)."""
    rng = np.random.default_rng(seed)
    exogenous, uses = int(rng.integers(1, 4)), 3
    rewards = [rng.uniform(-1, 1, (exogenous, size, uses)) for size in SIZES]
    laws = [rng.dirichlet(np.ones(size), (exogenous, size, uses)) for size in SIZES]
    chances = rng.dirichlet(np.ones(exogenous), exogenous)
    start, cells = rng.dirichlet(np.ones(exogenous)), sum(SIZES)
    moves = np.zeros((exogenous, uses, cells, exogenous, cells))
    first, table = np.zeros((exogenous, cells)), np.zeros((exogenous, uses, cells))
    for i, edge in enumerate((0, SIZES[0])):
        inside = slice(edge, edge + SIZES[i])
        table[:, :, inside] = rewards[i].transpose(0, 2, 1)
        first[:, edge] = start
        for w in range(exogenous):
            moves[w, :, inside, w, inside] = laws[i][w].transpose(1, 0, 2)
    capacity = rng.integers(0, 4, exogenous).astype(float)
    flat = scipy.sparse.csr_matrix(moves.reshape(exogenous * uses * cells, exogenous * cells))
    return FiniteProgram(table, flat, chances, first, capacity, GAMMA, HORIZON), rewards, laws


def optimum(program, rewards, laws):
    """Return the best expected return by a plain recursion over joint states."""
    uses = list(itertools.product(range(3), repeat=2))
    values = {}
    states = list(itertools.product(range(len(program.chances)), *map(range, SIZES)))
    after = dict.fromkeys(states, 0.0)
    for _ in range(HORIZON):
        values = {}
        for w, s, t in states:
            best = -np.inf
            for a, b in uses:
                if a + b > program.capacity[w]:
                    continue
                later = sum(
                    program.chances[w, v] * laws[0][w, s, a, x] * laws[1][w, t, b, y] * after[v, x, y]
                    for v, x, y in states
                )
                best = max(best, rewards[0][w, s, a] + rewards[1][w, t, b] + GAMMA * later)
            values[w, s, t] = best
        after = values
    return sum(chance * after[w, 0, 0] for w, chance in enumerate(program.first[:, 0]))


@pytest.mark.parametrize("seed", range(6))
def test_every_price_bounds_the_optimum_and_the_least_bound_is_the_least(seed):
    program, rewards, laws = random_program(seed)
    best, rng = optimum(program, rewards, laws), np.random.default_rng(seed)
    least = least_bound(program)
    assert least.value >= best - 1e-9
    for _ in range(30):
        value, _ = dual(program, rng.exponential(0.5, HORIZON))
        assert value >= best - 1e-9
        assert value >= least.value - 1e-3 * abs(least.value), "it is found up to a small part"
    assert dual(program, least.lam)[0] == least.value
    assert least.value <= least.stated < least.value + 0.0100001


def test_without_a_shared_resource_there_is_no_gap():
    program, rewards, laws = random_program(1)
    plenty = program._replace(capacity=np.full(len(program.chances), 4.0))
    assert least_bound(plenty).value == pytest.approx(optimum(plenty, rewards, laws), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.floats(0.05, 2.0), min_size=HORIZON, max_size=HORIZON))
def test_the_gradient_is_the_slope(seed, prices):
    program, lam = random_program(seed)[0], np.array(prices)
    value, gradient = dual(program, lam)
    other = dual(program, lam + 1e-7)[0]
    step = gradient.sum() * 1e-7
    assert other >= value + step - 1e-12, "of a convex function it is a subgradient"
    below = dual(program, lam - 1e-7)[0]
    assert below >= value - step - 1e-12


def test_joint_actions_are_the_best_of_all_feasible_ones():
    rng = np.random.default_rng(0)
    allocations = np.array(list(itertools.product(range(3), repeat=3)))
    values, feasible = rng.normal(size=(50, 3, 3)), rng.random((50, 27)) < 0.5
    feasible[:, 0] = True
    for k, action in enumerate(joint_actions(values, allocations, feasible)):
        sums = [sum(values[k, i, a] for i, a in enumerate(use)) for use in allocations]
        assert action == max(np.flatnonzero(feasible[k]), key=lambda a: (sums[a], -a))


@pytest.mark.parametrize("lam", [np.zeros(3), np.full(4, -0.1), np.full(4, np.nan)])
def test_prices_of_a_wrong_number_or_sign_are_refused(lam):
    with pytest.raises(ContractError, match="lam must be 4 numbers of at least 0"):
        worth(random_program(0)[0], lam)
