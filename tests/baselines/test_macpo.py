"""MACPO's equations against a convex solver, an explicit Hessian and hand numbers."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch
from paying_games import PayingGames, paying_context, train_paying
from safemarl_bench.baselines.macpo import MACPO, MACPOConfig, acceptable, dual, kl_hessian_product, lam_intervals
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from safemarl_bench.contract import build_config
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import Categorical, Gaussian

DELTA = 0.01
SIZE = 4


def build(kind="discrete", context=None, **changes):
    values = {"hidden": [6], "rollout_steps": 16, "num_envs": 32, "minibatches": 1, "epochs": 1, **changes}
    return MACPO(context or paying_context(kind), build_config(MACPO, values))


def instance(seed, c_share):
    """A random H, g, b, and c as a share of sqrt(2 delta s), the most that a step in the trust region can change."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((SIZE, SIZE))
    h, g, b = root @ root.T + 0.3 * np.eye(SIZE), rng.standard_normal(SIZE), rng.standard_normal(SIZE)
    return h, g, b, c_share * math.sqrt(2.0 * DELTA * b @ np.linalg.solve(h, b))


def step_of(h, g, b, c):
    """The dual's answer and its y, with exact solutions in place of conjugate gradients."""
    x_g, x_b = np.linalg.solve(h, g), np.linalg.solve(h, b)
    answer = dual(g @ x_g, g @ x_b, b @ x_b, c, DELTA, b @ b)
    if answer.case == 0:
        return answer, math.sqrt(2.0 * DELTA / (b @ x_b)) * x_b
    return answer, (x_g + answer.nu * x_b) / answer.lam


def solve_convex(h, g, b, c):
    """Return (status, y) of ``max g.y subject to c - b.y <= 0, y.H y / 2 <= delta`` by a conic solver."""
    cvxpy = pytest.importorskip("cvxpy")
    y = cvxpy.Variable(SIZE)
    constraints = [c - b @ y <= 0, cvxpy.quad_form(y, cvxpy.psd_wrap(h)) <= 2.0 * DELTA]
    problem = cvxpy.Problem(cvxpy.Maximize(g @ y), constraints)
    problem.solve(solver=cvxpy.CLARABEL)
    return problem.status, y.value


CASES = {4: (0.0, -0.4, 3.0), 3: (-1.1, -5.0), 2: (-0.05, -0.4, -0.9), 1: (0.0, 0.05, 0.4, 0.9)}


@pytest.mark.parametrize(("case", "c_share"), [(case, share) for case, shares in CASES.items() for share in shares])
@pytest.mark.parametrize("seed", range(8))
def test_the_step_is_the_one_of_a_convex_solver(case, c_share, seed):
    h, g, b, c = instance(seed, c_share)
    if case == 4:  # no gradient: c cannot be changed
        c, b = c_share, np.zeros(SIZE)
    answer, y = step_of(h, g, b, c)
    assert answer.case == case
    status, expected = solve_convex(h, g, b, min(c, 0.0) if case == 4 else c)
    assert status == "optimal"
    assert g @ y == pytest.approx(g @ expected, rel=1e-4, abs=1e-7)
    np.testing.assert_allclose(y, expected, rtol=1e-2, atol=1e-4)
    assert y @ h @ y <= 2.0 * DELTA * (1 + 1e-9)
    assert case == 4 or c - b @ y <= 1e-9


def test_the_instances_have_constraints_that_bind_and_such_that_do_not():
    for share in CASES[2]:
        answers = [step_of(*instance(seed, share))[0] for seed in range(8)]
        binding = [answer.nu > 0 for answer in answers]
        assert any(binding) or share == -0.9
        assert not all(binding)


@pytest.mark.parametrize("seed", range(8))
def test_where_no_step_is_feasible_the_step_leads_straight_back(seed):
    h, g, b, c = instance(seed, 1.2)
    answer, y = step_of(h, g, b, c)
    assert answer.case == 0
    assert solve_convex(h, g, b, c)[0] in ("infeasible", "infeasible_inaccurate")
    _, best = solve_convex(h, b, b, 0.0)  # the most that b.y can be
    np.testing.assert_allclose(y, best, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("c", [-0.01, 0.0, 0.01])
def test_an_objective_without_gradient_divides_by_nothing(c):
    h, _, b, _ = instance(0, 0.0)
    answer, y = step_of(h, np.zeros(SIZE), b, c)
    assert answer.case == (2 if c < 0 else 1)
    assert np.isfinite(y).all()
    assert c - b @ y <= 1e-9
    assert y @ h @ y <= 2.0 * DELTA * (1 + 1e-9)


def test_the_multipliers_of_a_binding_constraint_by_hand():
    # H = I, g = (1, 0), b = (-1, 0): as far along g as c allows, y = (-c, 0): 1 - (nu) = lam y.
    answer = dual(1.0, -1.0, 1.0, -0.05, DELTA, 1.0)
    assert answer.case == 2
    assert (1.0 - answer.nu) / answer.lam == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("r", "c", "tight", "loose"),
    [
        (-2.0, -1.0, (0.0, 2.0), (2.0, math.inf)),
        (2.0, -1.0, None, (0.0, math.inf)),
        (2.0, 1.0, (2.0, math.inf), (0.0, 2.0)),
        (-2.0, 1.0, (0.0, math.inf), None),
        (-2.0, 0.0, (0.0, math.inf), None),
        (2.0, 0.0, None, (0.0, math.inf)),
    ],
)
def test_the_intervals_are_where_the_constraint_binds_and_where_not(r, c, tight, loose):
    for interval, expected in zip(lam_intervals(r, c), (tight, loose), strict=True):
        assert interval == expected if expected else interval[0] > interval[1]
    for lam in (0.5, 1.0, 1.9, 2.1, 7.0):
        inside = [low <= lam <= high for low, high in lam_intervals(r, c)]
        assert inside == [lam * c - r > 0, lam * c - r <= 0]


POLICIES = {
    "categorical": Categorical(gymnasium.spaces.Discrete(3)),
    "gaussian": Gaussian(gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32), 0.5),
}


def torch_distribution(name, outputs):
    if name == "categorical":
        return TorchCategorical(logits=outputs)
    return Independent(Normal(outputs[:, :2], 0.5 * outputs[:, 2:].exp()), 1)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_products_with_the_hessian_are_those_of_an_explicit_one(name):
    policy, rng = POLICIES[name], torch.Generator().manual_seed(0)
    actor = policy.actor(3, (5,), rng)
    actor.parameters += 0.3 * torch.randn(len(actor.parameters), generator=rng)
    actor.head[0][..., policy.dependent :] = 0.0
    observations, weights = torch.randn(20, 3, generator=rng), (torch.rand(20, generator=rng) < 0.7).float()

    def outputs(flat):
        """The actor's outputs as a differentiable function of its parameters."""
        width = policy.width
        w1, b1, w2, b2 = flat.split([3 * 5, 5, 5 * width, width])
        hidden = torch.relu(observations.double() @ w1.view(3, 5) + b1)
        hidden = torch.nn.functional.layer_norm(hidden, (5,))
        dependent = torch.arange(width) < policy.dependent
        return hidden @ (w2.view(5, width) * dependent) + b2

    flat = actor.parameters.double()
    old = torch_distribution(name, outputs(flat).detach())

    def mean_kl(new):
        return (kl_divergence(old, torch_distribution(name, outputs(new))) * weights).sum() / weights.sum()

    hessian = torch.autograd.functional.hessian(mean_kl, flat)
    product = kl_hessian_product(actor, policy, observations, weights)
    # Directions that training can take: gradients, which leave the weights of constant outputs alone.
    direction = actor.backward(actor.forward(observations), torch.randn(1, 20, policy.width, generator=rng)).clone()
    expected = hessian @ direction.double()
    torch.testing.assert_close(product(direction).double(), expected, rtol=1e-3, atol=1e-4 * expected.abs().max())


@pytest.mark.parametrize(
    ("case", "c", "kl", "loss_change", "cost_change", "accepted"),
    [
        (2, -0.1, 0.005, -1.0, 0.0, True),
        (2, -0.1, 0.005, -1.0, 0.1, True),  # what is left of the limit may be spent
        (2, -0.1, 0.005, -1.0, 0.11, False),
        (2, -0.1, 0.01, -1.0, 0.0, False),  # too far
        (3, -0.1, 0.005, 0.0, 0.0, False),  # no gain
        (4, 0.5, 0.005, 1.0, 0.0, False),
        (1, 0.1, 0.005, 1.0, 0.0, True),  # back to safety may cost reward
        (0, 0.1, 0.005, 1.0, -0.1, True),
        (0, 0.1, 0.005, -1.0, 0.01, False),
        (2, -0.1, math.nan, -1.0, 0.0, False),
    ],
)
def test_the_line_search_accepts_what_keeps_the_promise(case, c, kl, loss_change, cost_change, accepted):
    assert acceptable(case, c, kl, loss_change, cost_change, DELTA) is accepted


def test_a_step_is_in_the_trust_region_and_no_longer_than_the_longest():
    agent = build(max_norm=0.03)
    size = len(agent.actors["l"].parameters)
    g, b = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    for c in (-0.05, 0.0, 0.05, 9.0):
        answer, step = agent.step(lambda v: 2.0 * v, g, b, c)
        assert 0.0 < step.norm() <= 0.03 * (1 + 1e-5)
        assert step.square().sum() <= 2.0 * 0.01 * (1 + 1e-5)
        assert answer.case == (0 if c == 9.0 else 2 if c < 0 else 1)


def test_where_no_step_is_acceptable_the_policy_stays(monkeypatch):
    monkeypatch.setattr("safemarl_bench.baselines.macpo.acceptable", lambda *_: False)
    agent, games = build(), PayingGames("discrete")
    before = {role: actor.parameters.clone() for role, actor in agent.actors.items()}
    metrics = train_paying(agent, games, 16)[-1]
    assert metrics["step_l"] == metrics["step_f"] == 0.0
    for role, actor in agent.actors.items():
        assert torch.equal(actor.parameters, before[role])


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_an_update_stays_within_the_divergence_that_it_reports(kind):
    agent, games, seen = build(kind, step_fraction=1.0), PayingGames(kind), {}
    improve = agent.improve
    agent.improve = lambda role, experience, batches: (
        seen.update({role: experience}) or improve(role, experience, batches)
    )
    metrics = train_paying(agent, games, 16)[-1]
    for role, experience in seen.items():
        outputs = agent.actors[role].outputs(experience.observations)[0]
        kl = agent.policies[role].kl(experience.outputs, outputs)[experience.weights > 0].mean().item()
        assert kl == pytest.approx(metrics[f"kl_{role}"], rel=1e-4)
        assert 0.0 < kl < 0.01


def test_several_constraints_or_none_are_refused():
    for limits, count in (((0.6, 1.0), 2), ((), 0)):
        context = paying_context("discrete", cost_limits={"l": (0.6,), "f": limits})
        with pytest.raises(ContractError, match=f"'f' has {count}; MAPPO-L takes any number"):
            build(context=context)


@pytest.mark.parametrize("name", ["delta", "cg_steps", "max_norm", "step_fraction", "backtracks", "damping"])
def test_numbers_out_of_range_are_refused_by_name(name):
    with pytest.raises(ContractError, match=name):
        dataclasses.replace(MACPOConfig(), **{name: -1})
