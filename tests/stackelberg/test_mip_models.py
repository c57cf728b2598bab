"""The programs that the MIPs solve: two builders, written independently, admit the same pairs."""

import itertools

import cvxpy
import numpy as np
import pytest
from cvxpy.reductions.dcp2cone.dcp2cone import Dcp2Cone

from safemarl_bench.stackelberg import cvxpy_dpp_backend, highs_ranked_backend, matrix_model
from safemarl_bench.stackelberg.cvxpy_backend import write
from safemarl_bench.stackelberg.mip import State


@pytest.fixture(params=["mip13", "csq10"])
def states(request, instances, kind):
    """States of a kind, as a MIP backend gets them."""
    rng = np.random.default_rng(51)
    drawn = []
    for _ in range(15):
        q1, q2, g1, g2, d1, d2 = instances(kind, rng, (), tuple(rng.integers(1, 5, 2))).args
        allowed = (g1 <= d1) & (g2 <= d2)
        drawn.append(State(q1, q2, allowed if request.param == "mip13" else g2 <= d2, allowed))
    return drawn


def admitted_by_definition(state):
    """Pairs (i, j) that may be selected: j is allowed, and as good for the follower as any reply to row i."""
    return {
        (i, j)
        for i, j in np.argwhere(state.allowed)
        if state.q_follower[i, j] == state.q_follower[i, state.replies[i]].max()
    }


def admitted_by_matrix(model, shape):
    """Pairs for which some v satisfies every row, found without a solver: each row bounds one v[i] or none."""
    m1, m2 = shape
    rows = len(model.row_lower)
    matrix = np.zeros((rows, len(model.cost)))
    entry_row = np.repeat(np.arange(rows), np.diff(model.starts))
    matrix[entry_row, model.columns] = model.values
    admitted = set()
    for i, j in itertools.product(range(m1), range(m2)):
        z = np.zeros(len(model.cost))
        z[[i * m2 + j, m1 * m2 + i]] = 1.0
        low, high = model.lower[-m1:].copy(), model.upper[-m1:].copy()
        holds = (z <= model.upper).all()
        for row in range(rows):
            fixed, of_v = matrix[row, :-m1] @ z[:-m1], matrix[row, -m1:]
            if not of_v.any():
                holds &= model.row_lower[row] <= fixed <= model.row_upper[row]
                continue
            (k,) = np.flatnonzero(of_v)
            assert of_v[k] == 1.0
            low[k] = max(low[k], model.row_lower[row] - fixed)
            high[k] = min(high[k], model.row_upper[row] - fixed)
        if holds and (low <= high).all():
            admitted.add((i, j))
    return admitted


def admitted_by_text(problem, state):
    """Pairs for which the constraints of the cvxpy problem hold, v being Q2 of the pair and at its least elsewhere."""
    m1, m2 = state.allowed.shape
    x, y, v = sorted(problem.variables(), key=lambda variable: variable.id)
    replied = np.where(state.replies, state.q_follower, np.inf).min(1)
    admitted = set()
    for i, j in itertools.product(range(m1), range(m2)):
        x.value, y.value, v.value = (np.zeros(variable.shape) for variable in (x, y, v))
        v.value = np.where(np.isfinite(replied), replied, 0.0).reshape(v.shape)
        x.value.flat[i] = y.value.flat[i * m2 + j] = 1.0
        v.value.flat[i] = state.q_follower[i, j]
        scale = 1.0 + np.abs(state.q_follower).max()
        if all(constraint.value(tolerance=1e-12 * scale) for constraint in problem.constraints):
            admitted.add((i, j))
    return admitted


def agree_on_rewards(worth, state, admitted, *, strictly):
    """Whether `worth`, (m1, m2), orders the admitted pairs as Q1 does; `strictly`: and ties as row-major order does."""
    pairs = sorted(admitted, key=lambda pair: (-state.q_leader[pair], pair))
    for better, worse in itertools.pairwise(pairs):
        tied = state.q_leader[better] == state.q_leader[worse] and not strictly
        assert worth[better] == worth[worse] if tied else worth[better] > worth[worse]


def test_the_matrix_admits_the_pairs_of_the_definition_and_orders_them_by_the_leaders_reward(states):
    for state in states:
        admitted = admitted_by_definition(state)
        for scaled in (matrix_model.scaled(state), highs_ranked_backend.ranked(state)):
            model = matrix_model.build(scaled)
            assert admitted_by_matrix(model, state.allowed.shape) == admitted
        cells = state.allowed.size
        worth = -matrix_model.build(matrix_model.scaled(state)).cost[:cells].reshape(state.allowed.shape)
        agree_on_rewards(worth, state, admitted, strictly=False)
        places = -model.cost[:cells].reshape(state.allowed.shape)
        agree_on_rewards(places, state, admitted, strictly=True)
        np.testing.assert_array_equal(places, np.round(places))


def test_the_text_admits_the_pairs_of_the_definition(states):
    for state in states:
        problem, y = write(cvxpy, state)
        assert admitted_by_text(problem, state) == admitted_by_definition(state)
        for cell in np.eye(y.size).reshape(-1, *y.shape):
            y.value = cell
            np.testing.assert_allclose(problem.objective.value, state.q_leader[cell > 0][0], rtol=1e-12)


def test_the_parametrised_text_admits_the_pairs_of_the_definition(states):
    for state in states:
        program = cvxpy_dpp_backend.program_of(state.allowed.shape, 0)
        cvxpy_dpp_backend.fill(program, state)
        assert admitted_by_text(program.problem, state) == admitted_by_definition(state)


def test_the_parametrised_program_is_compiled_once(monkeypatch):
    compiled, values = [], set()
    compile_once = Dcp2Cone.apply
    monkeypatch.setattr(Dcp2Cone, "apply", lambda self, problem: compiled.append(1) or compile_once(self, problem))
    rng = np.random.default_rng(52)
    program = cvxpy_dpp_backend.program_of.__wrapped__((3, 2), 0)
    assert program.problem.is_dcp(dpp=True)
    for _ in range(4):
        q1, q2 = rng.normal(size=(2, 3, 2))
        everywhere = np.ones((3, 2), bool)
        cvxpy_dpp_backend.fill(program, State(q1, q2, everywhere, everywhere))
        assert cvxpy_dpp_backend.run(program.problem)
        values.add(program.problem.value)
    assert len(compiled) == 1
    assert len(values) == 4


def test_a_pattern_of_a_shape_is_not_changed_by_the_states_that_use_it():
    rng = np.random.default_rng(53)
    everywhere = np.ones((3, 4), bool)
    states = [State(*rng.normal(size=(2, 3, 4)), everywhere, rng.random((3, 4)) < 0.5) for _ in range(3)]
    first = matrix_model.build(matrix_model.scaled(states[0]))
    before = [array.copy() for array in first]
    for state in states[1:]:
        matrix_model.build(matrix_model.scaled(state))
    for array, then in zip(first, before, strict=True):
        np.testing.assert_array_equal(array, then)


@pytest.mark.parametrize(("m1", "m2"), [(1, 1), (2, 5), (4, 3)])
def test_ranks_are_those_worked_out_cell_by_cell(m1, m2):
    rng = np.random.default_rng(54)
    for _ in range(20):
        table, among = rng.integers(-2, 3, (m1, m2)).astype(float), rng.random((m1, m2)) < 0.7
        ranks, places = highs_ranked_backend.dense_ranks(table, among), highs_ranked_backend.places(table, among)
        cells = [tuple(cell) for cell in np.argwhere(among)]
        for i, j in cells:
            lower = {table[i, k] for k in range(m2) if among[i, k] and table[i, k] < table[i, j]}
            not_among = any(not among[i, k] for k in range(m2))
            assert ranks[i, j] == len(lower) + not_among
            behind = [c for c in cells if (-table[c], c) > (-table[i, j], (i, j))]
            assert places[i, j] == 1 + len(behind)
