"""MAPPO-L and MACPO on games whose constrained optimum is known, and what both promise as agents."""

import dataclasses

import numpy as np
import pytest
import torch
from paying_games import LIMITS, PayingGames, paying_context, train_paying
from safemarl_bench.baselines.macpo import MACPO
from safemarl_bench.baselines.mappo_l import MAPPOL

from safemarl_bench.contract import build_config
from safemarl_bench.errors import CheckpointError, ContractError
from safemarl_bench.learning import OnPolicyConfig, loss_and_gradient, updated_m, value_losses

LEARNERS = {"mappo_l": MAPPOL, "macpo": MACPO}
KINDS = ["discrete", "continuous"]
CONFIG = {"hidden": [16], "rollout_steps": 16, "learning_rate": 0.01, "num_envs": 32, "minibatches": 1}
TUNED = {"mappo_l": {"lam": 0.0, "eta": 0.3, "entropy_bonus": 0.0}, "macpo": {"step_fraction": 1.0}}


def build(name, kind, *, context=None, **changes):
    config = build_config(LEARNERS[name], {**CONFIG, **TUNED[name], **changes})
    return LEARNERS[name](context or paying_context(kind), config)


# MAPPO-L's multipliers circle around a linear problem's; only where return is concave in effort do they settle.
@pytest.mark.parametrize(
    ("name", "kind", "concave"),
    [("macpo", "discrete", False), ("macpo", "continuous", False), ("mappo_l", "continuous", True)],
)
def test_each_agent_spends_its_limit_and_no_more(name, kind, concave):
    agent, games = build(name, kind), PayingGames(kind, concave=concave)
    train_paying(agent, games, 800)
    spent = dict.fromkeys(("l", "f"), 0.0)
    for _ in range(320):
        for role, paid in games.play(agent).items():
            spent[role] += paid.sum() / (320 * 32 / 2)  # an episode has two decisions
        agent.learn()
    assert spent == {role: pytest.approx(limit, abs=0.07) for role, (limit,) in LIMITS.items()}
    for lam in agent.lam.values() if name == "mappo_l" else ():
        assert lam.item() == pytest.approx(2.0 - 2.0 * 0.3, abs=0.1)  # the derivative of 2 u - u^2 at u = 0.3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_without_a_limit_that_binds_each_agent_makes_all_the_effort(name, kind):
    agent, games = build(name, kind, limit_scale=100.0), PayingGames(kind)
    train_paying(agent, games, 960)
    never = np.zeros(2, bool)
    actions = agent.act(games.observe(np.array([False, True]), never), explore=False, rng=np.random.default_rng(0))
    best = {"discrete": [4, 4, 4], "continuous": [1.0, 1.0, 1.0]}[kind]
    assert [*actions["l"].ravel().tolist(), actions["f"].ravel()[0]] == pytest.approx(best, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_critics_learn_discounted_values_and_costs(name, kind):
    agent = build(
        name,
        kind,
        context=paying_context(kind, training_steps=640),
        learning_rate=0.02,
        gae_lambda=1.0,
        minibatches=4,
    )
    games = PayingGames(kind)
    # Policies that never change: play goes on with the initial ones, u = 1/2 on average.
    agent.improve = lambda *_: {}
    train_paying(agent, games, 640)
    outputs = agent.critics.outputs(torch.eye(2)).squeeze(2)
    values = agent.normaliser.denormalise(outputs).tolist()
    leader, follower = [0.5 + 0.9 * 0.5, 0.5], 0.5
    for of_leader, of_follower in (values[:2], values[2:]):
        assert of_leader == pytest.approx(leader, abs=0.06)
        assert of_follower[0] == pytest.approx(follower, abs=0.06)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, kind, tmp_path):
    whole, games = build(name, kind), PayingGames(kind)
    train_paying(whole, games, 100)
    first, games = build(name, kind), PayingGames(kind)
    train_paying(first, games, 41)
    first.save(tmp_path, training=True)
    second = build(name, kind)
    second.load(tmp_path)
    train_paying(second, games, 59)
    assert whole.counters() == second.counters()
    assert whole.counters()["iterations"] == 6
    expected, found = (agent.tensors(training=True) for agent in (whole, second))
    assert expected.keys() == found.keys()
    for tensor_name, tensor in expected.items():
        assert torch.equal(tensor, found[tensor_name]), tensor_name
    for one, other in zip(whole.memory.state()[0].values(), second.memory.state()[0].values(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_checkpoint_for_acting_holds_only_the_actors_and_acts_the_same(name, kind, tmp_path):
    agent, games = build(name, kind), PayingGames(kind)
    train_paying(agent, games, 40)
    agent.save(tmp_path / "act", training=False)
    agent.save(tmp_path / "train", training=True)
    sizes = [(tmp_path / folder / "agent.safetensors").stat().st_size for folder in ("act", "train")]
    assert sizes[0] < sizes[1] / 4
    loaded = build(name, kind, context=paying_context(kind, seed=99))
    loaded.load(tmp_path / "act")
    observation = games.observe(games.second, np.zeros(32, bool))
    actions = [each.act(observation, explore=False, rng=np.random.default_rng(0)) for each in (agent, loaded)]
    for role in ("l", "f"):
        assert np.array_equal(actions[0][role], actions[1][role])


def test_a_checkpoint_of_another_agent_or_width_is_refused(tmp_path):
    build("macpo", "discrete").save(tmp_path, training=False)
    with pytest.raises(CheckpointError, match="is of agent 'MACPO', not 'MAPPOL'"):
        build("mappo_l", "discrete").load(tmp_path)
    with pytest.raises(CheckpointError, match=r"'actor.l' must have shape"):
        build("macpo", "discrete", hidden=[17]).load(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_only_exploring_depends_on_the_generator(name, kind):
    agent, observation = build(name, kind), PayingGames(kind).observe(np.zeros(400, bool), np.zeros(400, bool))
    for explore in (False, True):
        first, again = (
            agent.act(observation, explore=explore, rng=np.random.default_rng(seed))["f"].tolist() for seed in (0, 1)
        )
        assert (first == again) is not explore


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_learning_waits_for_a_full_rollout_which_is_at_most_a_quarter_of_training(name):
    agent, games = build(name, "discrete"), PayingGames("discrete")
    reports = []
    for _ in range(48):
        games.play(agent)
        reports.append(agent.learn())
    assert [k for k, report in enumerate(reports) if report] == [15, 31, 47]
    of_actors = ("kl", "entropy", *(("loss", "lam_0") if name == "mappo_l" else ("case", "nu", "step")))
    of_critics = {"loss_v_l", "loss_v_f", "loss_vc_l_0", "loss_vc_f_0"}
    assert set(reports[-1]) == of_critics | {f"{metric}_{role}" for metric in of_actors for role in "lf"}
    assert build(name, "discrete", context=paying_context("discrete", training_steps=20)).memory.length == 5


def test_the_deviation_of_gaussian_actions_is_reported():
    agent = build("mappo_l", "continuous")
    found = train_paying(agent, PayingGames("continuous"), 16)[-1]
    sigma = np.exp(found["entropy_f"] - 0.5 * (1.0 + np.log(2.0 * np.pi)))  # of one normal number
    assert found["std_f"] == pytest.approx(sigma, rel=1e-5)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_learning_rate_falls_to_zero_over_training(name):
    agent = build(name, "discrete")
    rates = []
    for decisions in (16, 816, 1616):
        agent.decisions = decisions
        rates.append(agent.rate)
    assert rates == pytest.approx([0.01, 0.005, 0.0])


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_divergence_is_named_when_learning_and_saving(name, tmp_path):
    agent, games = build(name, "discrete"), PayingGames("discrete")
    train_paying(agent, games, 16)
    agent.actors["f"].parameters[0] = float("nan")
    with pytest.raises(ContractError, match=r"parameters of the actor of 'f' must be finite"):
        agent.save(tmp_path, training=True)
    agent = build(name, "discrete")
    agent.critics.parameters[0] = float("inf")
    with pytest.raises(ContractError, match="loss_v_l"):
        train_paying(agent, games, 16)


def test_a_decision_that_was_not_drawn_cannot_be_learned_from():
    agent, games = build("mappo_l", "continuous"), PayingGames("continuous")
    agent.act(games.observe(games.second, np.zeros(32, bool)), explore=False, rng=np.random.default_rng(0))
    quiet = type("Quiet", (), {"act": lambda *_, **__: {role: np.zeros((32, 1)) for role in "lf"}})()
    quiet.observe = agent.observe
    with pytest.raises(ContractError, match="explore=True"):
        games.play(quiet)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": (0,)}, "hidden"),
        ({"num_envs": 0}, "num_envs"),
        ({"epochs": 0}, "epochs"),
        ({"value_clip": 0.0}, "value_clip"),
        ({"limit_scale": -1.0}, "limit_scale"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"gae_lambda": 1.5}, "gae_lambda"),
    ],
)
def test_a_config_out_of_range_is_refused_by_name(changes, message):
    with pytest.raises(ContractError, match=message):
        dataclasses.replace(OnPolicyConfig(), **changes)


def test_m_is_the_product_of_ratios_of_agents_that_acted():
    m = torch.tensor([2.0, 2.0, 3.0])
    new, old = torch.tensor([0.5, 0.2, 0.9]).log(), torch.tensor([0.25, 0.4, 0.1]).log()
    assert updated_m(m, new, old, torch.tensor([1.0, 1.0, 0.0])).tolist() == pytest.approx([4.0, 1.0, 3.0])


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_second_agent_sees_how_the_first_one_changed(name):
    agent, games = build(name, "discrete"), PayingGames("discrete")
    order, seen, before = [], {}, {}
    improve = agent.improve

    def spy(role, experience, batches):
        order.append(role)
        seen[role] = experience
        before[role] = agent.actors[role].parameters.clone()
        return improve(role, experience, batches)

    agent.improve = spy
    train_paying(agent, games, 16)
    first, second = order
    assert torch.equal(seen[first].m, torch.ones(16 * 32))
    mine = seen[first]
    after = agent.actors[first].outputs(mine.observations)[0].softmax(1)
    agent.actors[first].parameters.copy_(before[first])
    start = agent.actors[first].outputs(mine.observations)[0].softmax(1)
    rows = torch.arange(16 * 32)
    ratio = after[rows, mine.drawn] / start[rows, mine.drawn]
    expected = torch.where(mine.weights > 0, ratio, torch.ones_like(ratio))
    torch.testing.assert_close(seen[second].m, expected)
    assert not torch.equal(expected, torch.ones_like(expected))


def test_the_order_of_agents_varies():
    agent, games, orders = build("mappo_l", "discrete"), PayingGames("discrete"), []
    agent.improve = lambda role, *_: orders.append(role) or {}
    train_paying(agent, games, 16 * 20)
    assert 2 < orders[::2].count("l") < 18


def test_the_value_loss_is_the_larger_of_plain_and_clipped_huber():
    values, old, targets = torch.tensor([[1.0, 0.1, 30.0]]), torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]])
    losses = value_losses(values, old, targets, torch.tensor([[1.0, 1.0, 2.0]]), clip=0.2)
    # Row 0: the clipped value 0.2 misses by 0.8. Row 1: inside the clip. Row 2: linear beyond 10.
    expected = (0.8**2 / 2 + 0.9**2 / 2 + 2 * (10 * 30 - 50)) / 4
    assert losses.tolist() == pytest.approx([expected])


def test_large_negative_errors_cost_as_much_as_positive_ones():
    ones = torch.ones(1, 1)
    losses = [value_losses(x * ones, x * ones, -x * ones, ones, clip=0.2) for x in (20.0, -20.0)]
    assert losses[0].item() == losses[1].item() == 10 * 40 - 50


def test_a_loss_and_its_derivative():
    value, derivative = loss_and_gradient(lambda x: x.square().sum(dim=0), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert value.tolist() == [10.0, 20.0]
    assert derivative.tolist() == [[2.0, 4.0], [6.0, 8.0]]
