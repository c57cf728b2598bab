"""`verify` accepts every optimal pair and nothing else."""

import ast
import importlib
import inspect
import itertools

import numpy as np
import pytest
import torch

from safemarl_bench import stackelberg
from safemarl_bench.errors import InexactSolve, SolveError
from safemarl_bench.stackelberg import certificate, highs_backend, mip, solver
from safemarl_bench.stackelberg.solver import MIPS

FALLBACKS = ("least_violation", "none", "max_q1")
OPTIONS = list(itertools.product(("mip13", "csq10"), ("optimistic", "pessimistic"), FALLBACKS))


def accepted(case, selection):
    return np.all(stackelberg.verify(case.tables, case.d, selection), axis=0)


@pytest.mark.parametrize(("semantics", "tie", "fallback"), OPTIONS)
def test_the_oracles_answers_pass(instances, kind, semantics, tie, fallback):
    rng = np.random.default_rng(31)
    for constraints, scale in ((None, (1.0, 1.0)), (2, (0.5, 3.0))):
        case = instances(kind, rng, (12,), (3, 4), dtype=np.float32, constraints=constraints)
        options = {"semantics": semantics, "tie": tie, "fallback": fallback, "scale": scale}
        assert accepted(case, stackelberg.solve(*case.args, backend="python", **options)).all()


@pytest.mark.parametrize("tie", ["optimistic", "pessimistic"])
@pytest.mark.parametrize("semantics", ["mip13", "csq10"])
def test_exactly_the_pairs_as_good_as_the_oracles_pass(instances, kind, semantics, tie):
    """Every cell of every state is claimed in turn, with numbers that are true of it."""
    rng = np.random.default_rng(32)
    case = instances(kind, rng, (25,), (3, 3))
    q1, q2, g1, g2 = case.tables
    violation = np.maximum(0, g1 - case.d[0]) + np.maximum(0, g2 - case.d[1])
    oracle = stackelberg.solve(*case.args, semantics=semantics, tie=tie)
    follower_violation = violation if semantics == "mip13" else np.maximum(0, g2 - case.d[1])
    states = np.arange(25)
    for i, j in itertools.product(range(3), range(3)):
        claim = oracle._replace(
            leader=np.full(25, i),
            follower=np.full(25, j),
            value_leader=q1[:, i, j],
            value_follower=q2[:, i, j],
            violation=violation[:, i, j],
        )
        passes = accepted(case, claim)
        assert passes[(oracle.leader == i) & (oracle.follower == j)].all()
        # As good: the same leader's value and violation, by a reply that is the follower's best to row i.
        least = follower_violation[:, i].min(-1)
        best = np.where(follower_violation[:, i] == least[:, None], q2[:, i], -np.inf).max(-1)
        good = (follower_violation[states, i, j] == least) & (q2[:, i, j] == best)
        good &= (q1[:, i, j] == oracle.value_leader) & (violation[:, i, j] == oracle.violation)
        assert not (passes & ~good).any()
        if tie == "optimistic":
            assert (passes == good).all()


CORRUPTIONS = [
    ("leader", lambda x: 1 - x, "leader_best"),
    ("leader", lambda x: x + 7, "in_range"),
    ("leader", lambda x: x - 7, "in_range"),
    ("follower", lambda x: x + 1, "follower_best"),
    ("feasible", lambda x: ~x, "safe"),
    ("violation", lambda x: x + 1, "safe"),
    ("value_leader", lambda x: x + 1, "leader_best"),
    ("value_leader", lambda x: x * np.nan, "leader_best"),
    ("value_follower", lambda x: np.nextafter(x, 9), "follower_best"),
]


@pytest.mark.parametrize(("name", "corrupt", "claim"), CORRUPTIONS)
@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_a_corrupted_selection_is_rejected_by_the_claim_it_breaks(name, corrupt, claim, library):
    # Row 0: reply 0 is best for the follower; row 1 the same, with less for the leader. All is safe.
    q1, q2 = np.array([[[5.0, 9.0], [4.0, 9.0]]]), np.array([[[2.0, 1.0], [2.0, 1.0]]])
    tables = [library(table) for table in (q1, q2, np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))]
    selection = stackelberg.solve(*tables, 0, 0)
    assert all(bool(held.all()) for held in stackelberg.verify(tables, (0, 0), selection))
    corrupted = selection._replace(**{name: library(corrupt(np.asarray(getattr(selection, name))))})
    held = stackelberg.verify(tables, (0, 0), corrupted)
    assert not bool(getattr(held, claim)[0])
    assert isinstance(held.safe, type(tables[0]))


def test_a_tie_broken_against_the_rule_is_rejected_by_tie_rule_alone():
    q1, q2 = np.array([[5.0, 3.0]]), np.array([[1.0, 1.0]])
    zero = np.zeros((1, 2))
    kind = stackelberg.solve(q1, q2, zero, zero, 0, 0)
    held = stackelberg.verify((q1, q2, zero, zero), (0, 0), kind._replace(tie="pessimistic"))
    assert (bool(held.follower_best), bool(held.tie_rule), bool(held.leader_best)) == (True, False, False)


def test_an_unsafe_pair_is_rejected():
    q1, q2, g1 = np.array([[5.0, 3.0]]), np.array([[2.0, 1.0]]), np.array([[1.0, 0.0]])
    free = stackelberg.solve(q1, q2, np.zeros((1, 2)), np.zeros((1, 2)), 0, 0)
    held = stackelberg.verify((q1, q2, g1, np.zeros((1, 2))), (0, 0), free)
    assert not held.safe
    assert not held.follower_best


def test_a_row_that_violates_more_is_rejected_by_leader_best_though_its_reward_is_the_same():
    q, g1, zero = np.ones((2, 1)), np.array([[2.0], [1.0]]), np.zeros((2, 1))
    least = stackelberg.solve(q, q, g1, zero, 0, 0)
    assert (least.leader, least.violation) == (1, 1.0)
    held = stackelberg.verify((q, q, g1, zero), (0, 0), least._replace(leader=np.array(0), violation=np.array(2.0)))
    assert (bool(held.safe), bool(held.follower_best), bool(held.leader_best)) == (True, True, False)


def test_nothing_selected_passes_only_where_nothing_is_safe():
    ones = np.ones((1, 2))
    none = stackelberg.solve(ones, ones, ones, ones, 0, 0, fallback="none")
    assert none.leader == -1
    assert all(stackelberg.verify((ones, ones, ones, ones), (0, 0), none))
    assert not stackelberg.verify((ones, ones, ones, ones), (1, 1), none).in_range
    assert not stackelberg.verify((ones, ones, ones, ones), (0, 0), none._replace(leader=np.array(0))).in_range


FALSEHOODS = {
    "leader": [lambda x: x + 3, lambda x: -x - 1],
    "follower": [lambda x: (x + 1) % 4, lambda x: x + 4, lambda x: x - 4],
    "feasible": [lambda x: ~x],
    "value_leader": [lambda x: np.nextafter(x, np.inf), lambda x: x * np.nan],
    "value_follower": [lambda x: np.nextafter(x, -np.inf), lambda x: x * np.nan],
    "violation": [lambda x: x + 1, lambda x: x * np.nan],
}
"""Of an answer to 3x4 tables of continuous rewards: claims that are false in every state."""


@pytest.mark.parametrize("semantics", ["mip13", "csq10"])
@pytest.mark.parametrize("backend", stackelberg.BACKENDS)
def test_one_falsehood_about_one_state_is_rejected_there_and_nowhere_else(instances, backend, semantics):
    case = instances("sparse safe", np.random.default_rng(34), (2, 4), (3, 4))
    selection = stackelberg.solve(*case.args, semantics=semantics, backend=backend)
    assert accepted(case, selection).all()
    for (name, corruptions), state in itertools.product(FALSEHOODS.items(), np.ndindex(2, 4)):
        for corrupt in corruptions:
            corrupted = getattr(selection, name).copy()
            corrupted[state] = corrupt(corrupted[state])
            rejected = ~accepted(case, selection._replace(**{name: corrupted}))
            assert list(zip(*np.nonzero(rejected), strict=True)) == [state]


@pytest.mark.parametrize("backend", MIPS)
def test_a_solver_that_names_another_pair_is_found_out_by_solve(instances, backend, monkeypatch):
    rng = np.random.default_rng(35)
    module = {"highs_ranked": highs_backend}.get(backend) or importlib.import_module(solver._load(backend).__module__)

    def beside(y, shape):
        row, column = mip.chosen_cell(y, shape)
        return row, (column + 1) % shape[1]

    for _ in range(6):
        case = instances("normal", rng, (), (3, 4))
        assert stackelberg.solve(*case.args, backend=backend).feasible
        with monkeypatch.context() as patch:
            patch.setattr(module, "chosen_cell", beside)
            with pytest.raises(InexactSolve, match=rf"^backend '{backend}' returned pair"):
                stackelberg.solve(*case.args, backend=backend)


def test_the_certificate_shares_only_the_input_checks_with_the_backends():
    nodes = ast.walk(ast.parse(inspect.getsource(certificate)))
    ours = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and "stackelberg" in node.module}
    assert ours == {"safemarl_bench.stackelberg.inputs", "safemarl_bench.stackelberg.selection"}


@pytest.mark.parametrize("states", [(), (0,), (1,), (2, 3)])
def test_a_batch_of_any_shape_is_verified(states):
    rng = np.random.default_rng(36)
    tables = tuple(rng.integers(-1, 2, (*axis, *states, 3, 2)).astype(float) for axis in ((), (), (2,), ()))
    d = (np.zeros((2, *states)), np.zeros(states))
    held = stackelberg.verify(tables, d, stackelberg.solve(*tables, *d))
    assert all(claim.shape == states and claim.dtype == bool and claim.all() for claim in held)


def test_verify_refuses_a_selection_for_other_states():
    tables = np.zeros((4, 3, 2, 2))
    selection = stackelberg.solve(*tables, 0, 0)
    with pytest.raises(SolveError, match=r"\(2,\).*\(3,\)"):
        stackelberg.verify(tuple(table[:2] for table in tables), (0, 0), selection)


def test_check_raises_when_a_backend_is_wrong(monkeypatch):
    tables = np.zeros((4, 3, 2, 2))
    right = solver._load("numpy")
    monkeypatch.setitem(solver._loaded, "numpy", lambda problem: right(problem)._replace(follower=np.array([0, 5, 0])))
    stackelberg.solve(*tables, 0, 0)
    with pytest.raises(InexactSolve, match=r"'numpy' returned pair \(0, 5\) at state \(1,\).*in_range"):
        stackelberg.solve(*tables, 0, 0, check=True)
