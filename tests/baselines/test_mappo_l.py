"""MAPPO-L's equations against hand numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from paying_games import PayingGames, paying_context, train_paying
from safemarl_bench.baselines.mappo_l import (
    MAPPOL,
    MAPPOLConfig,
    clipped_surrogate,
    lagrangian_advantage,
    updated_lam,
)

from safemarl_bench.contract import build_config
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import loss_and_gradient


def build(context=None, **changes):
    values = {"hidden": [8], "rollout_steps": 16, "num_envs": 32, "minibatches": 1, **changes}
    return MAPPOL(context or paying_context("discrete"), build_config(MAPPOL, values))


def test_below_the_limit_a_multiplier_falls_linearly_to_zero_and_stays():
    lam, path = np.array([0.78]), []
    for _ in range(8):
        lam = updated_lam(lam, 0.05, np.array([-3.0]))
        path.append(lam[0])
    assert path == pytest.approx([0.63, 0.48, 0.33, 0.18, 0.03, 0.0, 0.0, 0.0])


def test_one_unit_of_excess_adds_eta_to_its_own_multiplier():
    assert updated_lam(np.array([0.78, 1.0]), 0.05, np.array([1.0, 0.0])) == pytest.approx([0.83, 1.0])


def test_a_learner_moves_its_multipliers_once_per_iteration_by_the_costs_of_finished_episodes():
    agent, games = build(eta=0.05, lam=0.78), PayingGames("discrete")
    finished = np.zeros(2)
    for _ in range(16):
        over = games.second.copy()
        paid = games.play(agent)
        finished += [agent.memory.finished_costs[0], paid["f"].sum()] if over.all() else 0
    costs = agent.memory.mean_costs()
    agent.learn()
    for k, role in enumerate(("l", "f")):
        limit = {"l": 0.6, "f": 0.3}[role]
        assert agent.lam[role].item() == pytest.approx(0.78 + 0.05 * (costs[k] - limit))


def test_an_iteration_without_a_finished_episode_leaves_the_multipliers():
    agent, games = build(), PayingGames("discrete")
    train_paying(agent, games, 16)
    before = {role: lam.clone() for role, lam in agent.lam.items()}
    for _ in range(16):
        games.play(agent)
    agent.memory.finished = 0
    costs = agent.mean_costs.clone()
    agent.learn()
    assert agent.iterations == 2
    assert agent.lam == before
    assert torch.equal(agent.mean_costs, costs)


def test_the_authors_rule_moves_multipliers_in_every_minibatch_by_discounted_costs():
    config = {"minibatch_multipliers": True, "eta": 0.5, "lam": 1.0, "epochs": 1, "minibatches": 1}
    agent, games = build(**config, learning_rate=0.0), PayingGames("discrete")
    seen = {}
    improve = agent.improve
    agent.improve = lambda role, experience, batches: (
        seen.update({role: experience}) or improve(role, experience, batches)
    )
    train_paying(agent, games, 16)
    for role, experience in seen.items():  # nothing learned: every ratio is 1
        alive = experience.weights > 0
        drift = 0.1 * experience.excess[0] + experience.cost_advantages[0][alive].mean().item()
        assert agent.lam[role].item() == pytest.approx(1.0 + 0.5 * drift, abs=1e-5)


def test_the_lagrangian_advantage_prices_every_constraint():
    advantage = lagrangian_advantage(
        torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 0.0], [0.5, -1.0]]), torch.tensor([2.0, 4.0])
    )
    assert advantage.tolist() == [1.0 - 2.0 - 2.0, 2.0 + 4.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.1, 2.0, -2.2, -2.0),
        (1.5, 2.0, -2.4, 0.0),  # clipped: no reason to go further
        (0.5, 2.0, -1.0, -2.0),
        (0.5, -2.0, 1.6, 0.0),
        (1.5, -2.0, 3.0, 2.0),
    ],
)
def test_the_surrogate_is_clipped_on_the_side_of_its_gain(ratio, advantage, expected, slope):
    ratio, advantage, one = torch.tensor([ratio]), torch.tensor([advantage]), torch.ones(1)
    value, derivative = loss_and_gradient(lambda x: clipped_surrogate(x, advantage, one, one, 0.2), ratio)
    assert value.item() == pytest.approx(expected)
    assert derivative.item() == pytest.approx(slope)


def test_the_surrogate_is_weighted_with_m_and_leaves_out_done_agents():
    m, weights = torch.tensor([3.0, 1.0, 9.0]), torch.tensor([1.0, 1.0, 0.0])
    surrogate = clipped_surrogate(torch.ones(3), torch.tensor([1.0, 2.0, 50.0]), m, weights, 0.2)
    assert surrogate.item() == -(3.0 + 2.0) / 2


def test_several_constraints_have_a_multiplier_each():
    context = paying_context("discrete", cost_limits={"l": (0.6, 9.0), "f": (0.3, 9.0)})
    agent, games = build(context, eta=0.1, lam=0.78), PayingGames("discrete", constraints=2)
    train_paying(agent, games, 320)
    for lam in agent.lam.values():
        assert lam.shape == (2,)
        assert lam[1] == 0.0
        assert lam[0] > 0.0


def test_without_constraints_it_is_mappo():
    context = paying_context("discrete", cost_limits={"l": (), "f": ()})
    agent, games = build(context, learning_rate=0.01), PayingGames("discrete", constraints=0)
    train_paying(agent, games, 320)
    assert agent.act(games.observe(np.zeros(1, bool), np.zeros(1, bool)), explore=False, rng=None)["l"].tolist() == [4]


def test_entropy_is_rewarded():
    agents = [build(entropy_bonus=bonus, learning_rate=0.01, lam=0.0, eta=0.0) for bonus in (0.0, 10.0)]
    entropies = [train_paying(agent, PayingGames("discrete"), 320)[-1]["entropy_f"] for agent in agents]
    assert entropies[0] < 0.3
    assert entropies[1] > 0.6


@pytest.mark.parametrize("name", ["clip", "entropy_bonus", "lam", "eta"])
def test_negative_numbers_are_refused_by_name(name):
    with pytest.raises(ContractError, match=name):
        dataclasses.replace(MAPPOLConfig(), **{name: -0.1})
