"""CS-MADDPG and continuous Bi-AC: gradients by finite differences, targets by hand, a game solved in closed form.

The forward passes that gradients and targets are compared with are written here, in NumPy.
"""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from safemarl_bench.baselines.bi_ac import BiAC, ContinuousBiAC
from safemarl_bench.baselines.cs_maddpg import CSMADDPG, lagrangian_weights, next_multipliers

from safemarl_bench.contract import AgentContext, Features, Observation, Transition, build_config
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import Batch
from safemarl_bench.rng import generator


def features(count):
    return Features(tuple(map(str, range(count))), (0.0,) * count, (1.0,) * count)


def box(size, low=-1.0, high=1.0):
    return gymnasium.spaces.Box(low, high, (size,), np.float32)


# States of 2 numbers, observations of 3 and 4, actions of 2 and 1, the leader's from [-2, 4].
CONTEXT = AgentContext(
    observation_spaces={"l": box(3, -9, 9), "f": box(4, -9, 9)},
    action_spaces={"l": box(2, -2, 4), "f": box(1)},
    state_space=box(2, -9, 9),
    leader=("l",),
    followers=("f",),
    cost_limits={"l": (0.5, 2.0), "f": (0.25,)},
    gamma=0.9,
    horizon=20,
    neutral_actions={"l": [1.0, 2.5], "f": [0.25]},
    observation_features={"l": features(3), "f": features(4)},
    state_features=features(2),
    num_envs=4,
    training_steps=400,
    seed=5,
)
NEUTRAL = np.array([0.0, 0.5, 0.25])  # as a point of the cube
OWNER = np.array([0, 1, 0, 0, 1])  # Q1, Q2, two costs of the leader, one of the follower
CONFIG = {"hidden": [8, 6], "batch_size": 16, "learning_starts": 16}


def build(cls=CSMADDPG, context=CONTEXT, **changes):
    return cls(context, build_config(cls, {**CONFIG, **changes}))


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def randomise(agent, scale=0.6):
    """Give every network, slow ones too, other random parameters."""
    rng = torch.Generator().manual_seed(11)
    for trained in (agent.critics, agent.leader, agent.follower):
        for network in (trained.online, trained.target):
            network.parameters.normal_(0.0, scale, generator=rng)


def random_batch(rows, alive, continues):
    rng = np.random.default_rng(2)
    actions = np.tanh(rng.standard_normal((rows, 3)))
    owner = np.array([0, 0, 1])
    actions = np.where(np.asarray(alive)[owner].T, actions, NEUTRAL)
    dtype = torch.empty(0).numpy().dtype
    features, next_features = (rng.standard_normal((rows, 9)).astype(dtype) for _ in range(2))
    payoffs = rng.standard_normal((5, rows)).astype(dtype)
    return Batch(features, next_features, actions.astype(dtype), payoffs, alive, continues)


def perceptron(network, inputs, member=0):
    """Evaluate one member of an ensemble at inputs (B, n)."""
    values, flat, start = inputs, network.parameters.numpy(), 0
    for layer, (fan_in, fan_out) in enumerate(zip(network.widths, network.widths[1:], strict=False)):
        weights, biases = network.members * fan_in * fan_out, network.members * fan_out
        weight = flat[start : start + weights].reshape(-1, fan_in, fan_out)[member]
        bias = flat[start + weights : start + weights + biases].reshape(-1, fan_out)[member]
        values = (np.maximum(values, 0) if layer else values) @ weight + bias
        start += weights + biases
    return values


def bounded(u, alive, neutral):
    return np.where(alive[:, None], np.tanh(u), neutral)


def answers(leader, follower, seen, alive):
    """Return (a1, a2) of equation (12) with networks `leader` and `follower`."""
    a1 = bounded(perceptron(leader, seen[:, 2:5]), alive[0], NEUTRAL[:2])
    u2 = perceptron(follower, np.concatenate((seen[:, 5:], a1), axis=1))
    return a1, bounded(u2, alive[1], NEUTRAL[2:])


def actor_losses(agent, batch, lam, penalty):
    """Return the losses of leader and follower, done agents counting 0."""
    seen, alive, remembered = batch.features, batch.alive, batch.actions
    u1 = perceptron(agent.leader.online, seen[:, 2:5])
    own, losses = bounded(u1, alive[0], NEUTRAL[:2]), []
    for a1 in (own, remembered[:, :2]):
        u2 = perceptron(agent.follower.online, np.concatenate((seen[:, 5:], a1), axis=1))
        a2 = bounded(u2, alive[1], NEUTRAL[2:])
        inputs = np.concatenate((seen, a1, a2), axis=1)
        q1, q2, g1, g1_too, g2 = (perceptron(agent.critics.online, inputs, k)[:, 0] for k in range(5))
        l1 = (q1 - lam[0] * g1 - lam[1] * g1_too) / (1 + lam[0] + lam[1])
        l2 = (q2 - lam[2] * g2) / (1 + lam[2])
        losses.append([penalty * (u1**2).sum(1) - l1, penalty * (u2**2).sum(1) - l2] * alive)
    return np.mean(losses[0][0]), np.mean([losses[0][1], losses[1][1]])


def by_finite_differences(parameters, loss, step=1e-6):
    gradient = np.zeros(len(parameters))
    for index in range(len(parameters)):
        for sign in (1, -1):
            parameters[index] += sign * step
            gradient[index] += sign * loss() / (2 * step)
            parameters[index] -= sign * step
    return gradient


ALIVE = np.ones((2, 6), bool)
SOME_DONE = np.array([[1, 1, 0, 1, 0, 1], [1, 0, 1, 1, 0, 1]], bool)


@pytest.mark.parametrize("alive", [ALIVE, SOME_DONE], ids=["all alive", "some done"])
@pytest.mark.parametrize("lam", [(0.0, 0.0, 0.0), (2.0, 0.5, 3.0)], ids=["no multipliers", "multipliers"])
@pytest.mark.usefixtures("double_precision")
def test_both_actors_gradients_are_finite_differences_of_their_losses_through_the_hierarchy(alive, lam):
    agent = build(saturation_penalty=0.03)
    randomise(agent)
    agent.lam = torch.tensor(lam)
    batch = random_batch(6, alive, alive)
    gradients = [gradient.numpy().copy() for gradient in agent.actor_gradients(batch)[:2]]
    for role, actor in enumerate((agent.leader.online, agent.follower.online)):
        expected = by_finite_differences(
            actor.parameters, lambda role=role: actor_losses(agent, batch, lam, 0.03)[role]
        )
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(gradients[role], expected, atol=1e-8)


@pytest.mark.usefixtures("double_precision")
def test_an_update_moves_each_actor_down_its_own_loss():
    agent = build(saturation_penalty=0.03, actor_rate=1e-4)
    randomise(agent)
    batch = random_batch(6, ALIVE, ALIVE)
    for role, actor in enumerate((agent.leader, agent.follower)):
        before = actor.online.parameters.clone()
        loss = actor_losses(agent, batch, agent.lam.numpy(), 0.03)[role]
        agent.after_update(np.arange(6), batch, None, None)
        after = actor.online.parameters.clone()
        randomise(agent)
        actor.online.parameters.copy_(after)
        assert actor_losses(agent, batch, (0, 0, 0), 0.03)[role] < loss
        assert not torch.equal(before, after)
        randomise(agent)


def targets(agent, batch, seen):
    """Return r + gamma Q_targ(s', mu1_targ(o1), mu2_targ(o2, a1)), (5, B), with o1, o2 from features `seen`."""
    continues = batch.continues
    a1, a2 = answers(agent.leader.target, agent.follower.target, seen, continues)
    inputs = np.concatenate((batch.next_features, a1, a2), axis=1)
    values = np.stack([perceptron(agent.critics.target, inputs, k)[:, 0] for k in range(5)])
    return batch.payoffs + 0.9 * np.where(continues[OWNER], values, 0.0)


@pytest.mark.parametrize("target_pair_at_s", [False, True])
@pytest.mark.usefixtures("double_precision")
def test_errors_bootstrap_on_the_target_actors_at_the_next_observation_or_in_the_ablation_at_this_one(target_pair_at_s):
    agent = build(target_pair_at_s=target_pair_at_s)
    randomise(agent)
    # Rows: both go on; the leader ends; both end; the follower ended before; the leader ended before; both before.
    alive = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0]], bool)
    continues = np.array([[1, 0, 0, 1, 0, 0], [1, 1, 0, 0, 1, 0]], bool)
    batch = random_batch(6, alive, continues)
    inputs = np.concatenate((batch.features, batch.actions), axis=1)
    values = np.stack([perceptron(agent.critics.online, inputs, k)[:, 0] for k in range(5)])
    seen = batch.features if target_pair_at_s else batch.next_features
    _, errors = agent.evaluate(batch)
    expected = np.where(alive[OWNER], values - targets(agent, batch, seen), 0.0)
    np.testing.assert_allclose(errors, expected, atol=1e-12)


@pytest.mark.usefixtures("double_precision")
def test_the_mean_done_mask_of_released_codes_takes_a_share_of_every_bootstrap():
    agent = build(mean_done_mask=True)
    randomise(agent)
    batch = random_batch(4, ALIVE[:, :4], np.array([[1, 1, 0, 1], [1, 0, 0, 0]], bool))
    shares = np.array([0.75, 0.25])[OWNER][:, None]
    a1, a2 = answers(agent.leader.target, agent.follower.target, batch.next_features, batch.continues)
    inputs = np.concatenate((batch.next_features, a1, a2), axis=1)
    bootstrap = np.stack([perceptron(agent.critics.target, inputs, k)[:, 0] for k in range(5)])
    inputs = np.concatenate((batch.features, batch.actions), axis=1)
    values = np.stack([perceptron(agent.critics.online, inputs, k)[:, 0] for k in range(5)])
    expected = values - batch.payoffs - 0.9 * shares * bootstrap
    np.testing.assert_allclose(agent.evaluate(batch)[1], expected, atol=1e-12)


def test_lagrangian_weights_by_hand():
    weights = lagrangian_weights(torch.tensor([2.0, 0.5, 3.0]), torch.tensor(OWNER))
    assert weights.tolist() == pytest.approx([1 / 3.5, 1 / 4, -2 / 3.5, -0.5 / 3.5, -3 / 4])


def test_multipliers_rise_fall_and_stay_between_0_and_their_limit():
    lam = next_multipliers(torch.tensor([1.0, 1.0, 0.1, 9.9]), torch.tensor([2.0, -2.0, -2.0, 2.0]), 0.1, 10.0)
    assert lam.tolist() == pytest.approx([1.2, 0.8, 0.0, 10.0])


def with_constant_costs(costs, **changes):
    agent = build(hidden=[], learning_rate=0.0, lam_start=1.0, lam_rate=0.5, **changes)
    agent.critics.online.parameters.zero_()
    agent.critics.online.parameters[-3:] = torch.tensor(costs)
    return agent


def test_limits_are_the_discounted_ones():
    share = (1 - 0.9**20) / (0.1 * 20)
    assert build().d.tolist() == pytest.approx([0.5 * share, 2.0 * share, 0.25 * share])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, lambda d: 1 + 0.5 * (np.array([3.0, 0.0, 0.0]) - d)),
        ({"lam_only_rises": True}, lambda d: [1 + 0.5 * (3.0 - d[0]), 1.0, 1.0]),
        ({"vacuous_limits": True}, lambda d: [0.0, 0.0, 0.0]),
    ],
)
def test_an_update_moves_the_multipliers_by_the_signed_violation(changes, expected):
    agent = with_constant_costs([3.0, 0.0, 0.0], **changes)
    d = build().d.numpy()
    # The second row does not count for the leader, who was done, nor the third for the follower.
    batch = random_batch(3, np.array([[1, 0, 1], [1, 1, 0]], bool), ALIVE[:, :3])
    agent.after_update(np.arange(3), batch, None, None)
    assert agent.lam.tolist() == pytest.approx(list(expected(d)), rel=1e-5)


def test_where_nobody_has_anything_at_stake_multipliers_stay():
    agent = with_constant_costs([3.0, 3.0, 3.0])
    agent.after_update(np.arange(3), random_batch(3, ~ALIVE[:, :3], ~ALIVE[:, :3]), None, None)
    assert agent.lam.tolist() == [1.0, 1.0, 1.0]


class Games:
    """E games of random states that last three decisions; truncated every other time."""

    def __init__(self, num_envs=4):
        self.num_envs, self.step = num_envs, 0

    def observe(self, step=None, over=False):
        step = self.step if step is None else step
        rng = generator("train", 0, step)
        alive = {role: rng.random(self.num_envs) < (0.0 if over else 0.8) for role in ("l", "f")}
        state, seen, own = (rng.standard_normal((self.num_envs, n)).astype(np.float32) for n in (2, 3, 4))
        return Observation({"l": seen, "f": own}, state, alive, np.full(self.num_envs, step % 3))

    def play(self, agent):
        before, last = self.observe(), self.step % 3 == 2
        actions = agent.act(before, explore=True, rng=generator("explore", 0, self.step))
        rng = generator("policy", 0, self.step)
        ends = [{role: before.alive[role] & last & (self.step % 2 == kind) for role in "lf"} for kind in (0, 1)]
        agent.observe(
            Transition(
                before,
                actions,
                {role: rng.standard_normal(self.num_envs) for role in "lf"},
                {"l": rng.random((self.num_envs, 2)), "f": rng.random((self.num_envs, 1))},
                *ends,
                self.observe(self.step + 1, over=last),
                np.full(self.num_envs, last),
            )
        )
        self.step += 1


def train(agent, games, decisions):
    for _ in range(decisions):
        games.play(agent)
        agent.learn()
    return agent


LEARNERS = {"cs_maddpg": CSMADDPG, "bi_ac": ContinuousBiAC}


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    whole = train(build(LEARNERS[name], lam_rate=0.1) if name == "cs_maddpg" else build(LEARNERS[name]), Games(), 90)
    changes = {"lam_rate": 0.1} if name == "cs_maddpg" else {}
    first, games = build(LEARNERS[name], **changes), Games()
    train(first, games, 40).save(tmp_path, training=True)
    second = build(LEARNERS[name], context=dataclasses.replace(CONTEXT), **changes)
    second.load(tmp_path)
    train(second, games, 50)
    assert whole.critics.updates > 80
    for tensor_name, tensor in whole.tensors(training=True).items():
        assert torch.equal(tensor, second.tensors(training=True)[tensor_name]), tensor_name
    assert whole.counters() == second.counters()
    if name == "cs_maddpg":
        assert whole.lam.max() > 0.0


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_checkpoint_for_acting_is_small_and_acts_the_same(name, tmp_path):
    agent = train(build(LEARNERS[name]), Games(), 40)
    agent.save(tmp_path / "act", training=False)
    agent.save(tmp_path / "train", training=True)
    sizes = {kind: (tmp_path / kind / "agent.safetensors").stat().st_size for kind in ("act", "train")}
    assert sizes["act"] < sizes["train"] / 3
    other = build(LEARNERS[name], context=dataclasses.replace(CONTEXT, seed=99))
    other.load(tmp_path / "act")
    actions = [each.act(Games().observe(), explore=False, rng=np.random.default_rng(0)) for each in (agent, other)]
    for role in "lf":
        assert np.array_equal(actions[0][role], actions[1][role])


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_acting_in_many_games_is_acting_in_each_of_them(name):
    agent = build(LEARNERS[name])
    seen = Games().observe()
    together = agent.act(seen, explore=False, rng=np.random.default_rng(0))
    for game in range(4):
        one = slice(game, game + 1)
        alone = Observation(
            {role: array[one] for role, array in seen.by_agent.items()},
            seen.state[one],
            {role: array[one] for role, array in seen.alive.items()},
            seen.step[one],
        )
        actions = agent.act(alone, explore=False, rng=np.random.default_rng(1))
        for role in "lf":
            np.testing.assert_allclose(actions[role][0], together[role][game], rtol=1e-5)


def test_done_agents_act_neutral_whether_exploring_or_not():
    seen = Games(200).observe()
    for explore in (False, True):
        actions = build().act(seen, explore=explore, rng=np.random.default_rng(0))
        for role, neutral in CONTEXT.neutral_actions.items():
            assert (actions[role][~seen.alive[role]] == neutral).all()
            assert (actions[role][seen.alive[role]] != neutral).any(axis=1).all()


def test_exploration_falls_over_the_first_half_of_training_to_a_floor():
    agent = build(epsilon_start=0.5, epsilon_end=0.1, sigma_start=0.3, sigma_end=0.1)
    seen = []
    for decisions in (0, 100, 200, 400, 4000):
        agent.decisions = decisions
        seen.append((agent.epsilon, agent.sigma))
    assert seen == [pytest.approx(pair) for pair in ((0.5, 0.3), (0.3, 0.2), (0.1, 0.1), (0.1, 0.1), (0.1, 0.1))]


@pytest.mark.parametrize(("epsilon", "sigma"), [(0.0, 0.1), (0.2, 0.0)])
def test_noise_has_its_size_and_uniform_actions_their_share(epsilon, sigma):
    agent = build(epsilon_start=epsilon, sigma_start=sigma)
    for actor in (agent.leader, agent.follower):
        actor.online.parameters.zero_()
    seen = Games(4000).observe()
    playing = seen.alive["l"]
    points = agent.encode(agent.act(seen, explore=True, rng=np.random.default_rng(0)))[playing][:, :2]
    if sigma:
        assert points.std(axis=0) == pytest.approx([sigma, sigma], rel=0.05)
    else:
        assert (points != 0).all(axis=1).mean() == pytest.approx(epsilon, rel=0.1)
        assert np.abs(points).max(axis=0) == pytest.approx([1.0, 1.0], rel=0.01)


def test_the_follower_answers_the_action_that_the_leader_takes():
    agent = build(hidden=[])
    agent.leader.online.parameters.zero_()
    agent.follower.online.parameters.zero_()
    agent.follower.online.parameters[4] = 2.0  # weight of the leader's first number
    alive = torch.ones(2, 1, dtype=torch.bool)
    noise = torch.tensor([[0.3, 0.0, 0.1]])
    point = agent.joint_action(torch.zeros(1, 9), alive, (agent.leader.online, agent.follower.online), noise)
    assert point.tolist() == [pytest.approx([0.3, 0.0, np.tanh(0.6) + 0.1])]


@pytest.mark.parametrize("part", ["critics", "leader", "follower"])
def test_divergence_is_named_when_learning_and_saving(part, tmp_path):
    agent = train(build(), Games(), 20)
    getattr(agent, part).online.parameters[-1] = float("nan")
    culprit = {"critics": "g_follower_0", "leader": "mu_leader", "follower": "mu_follower"}[part]
    with pytest.raises(ContractError, match=f"parameters of .*{culprit} must be finite"):
        agent.save(tmp_path, training=True)
    with pytest.raises(ContractError, match="must be finite, got NaN or inf"):
        train(agent, Games(), 120)


def test_losses_values_exploration_and_multipliers_are_reported_every_hundred_updates():
    agent, games, reports = build(), Games(), []
    while agent.critics.updates < 100:
        games.play(agent)
        reports.append(agent.learn())
    assert not any(reports[:-1])
    critics = ["q_leader", "q_follower", "g_leader_0", "g_leader_1", "g_follower_0"]
    lam = ["lam_leader_0", "lam_leader_1", "lam_follower_0"]
    of_critics = [[f"{kind}_{name}" for name in critics] for kind in ("loss", "value")]
    assert list(reports[-1]) == [*of_critics[0], "epsilon", "sigma", *of_critics[1], *lam]


def test_bi_ac_is_one_agent_with_settings_for_each_kind_of_action():
    assert BiAC.for_actions("discrete") is BiAC
    assert BiAC.for_actions("continuous") is ContinuousBiAC
    agent = build(ContinuousBiAC)
    assert agent.critics.names == ("q_leader", "q_follower")


# One decision: r1 = -(a1 - 0.6)^2 - a2, r2 = -(a2 - a1 / 2)^2, c1 = a1 + 1 and c2 = 1 - a2.
# The follower answers a1 / 2, so the leader's best is 0.6 - 1/4; it would be 0.6 if it looked at its own part only.
# With c1 <= 1.1 and c2 <= 0.8 it is a1 = 0.1, a2 = 0.2.
ONE_SHOT = dataclasses.replace(
    CONTEXT,
    observation_spaces={"l": box(1), "f": box(1)},
    action_spaces={"l": box(1), "f": box(1)},
    state_space=box(1),
    cost_limits={"l": (1.1,), "f": (0.8,)},
    horizon=1,
    neutral_actions={"l": [0.0], "f": [0.0]},
    observation_features={"l": features(1), "f": features(1)},
    state_features=features(1),
    num_envs=16,
    training_steps=1200,
)
ONE_SHOT_CONFIG = {
    "hidden": [32, 32],
    "batch_size": 64,
    "reward_scale": 1.0,
    "learning_rate": 3e-3,
    "actor_rate": 1e-3,
    "rho": 0.95,
    "epsilon_start": 1.0,
    "epsilon_end": 0.5,
    "saturation_penalty": 0.0,
}


def train_one_shot(agent):
    nothing, ones = np.zeros((16, 1), np.float32), np.ones(16, bool)
    seen = Observation({"l": nothing, "f": nothing}, nothing, {"l": ones, "f": ones}, np.zeros(16, np.int64))
    after = seen._replace(alive={"l": ~ones, "f": ~ones})
    for step in range(ONE_SHOT.training_steps):
        actions = agent.act(seen, explore=True, rng=generator("explore", 0, step))
        a1, a2 = (actions[role][:, 0].astype(float) for role in "lf")
        rewards = {"l": -((a1 - 0.6) ** 2) - a2, "f": -((a2 - a1 / 2) ** 2)}
        costs = {"l": a1[:, None] + 1, "f": 1 - a2[:, None]}
        ended, never = {"l": ones, "f": ones}, {"l": ~ones, "f": ~ones}
        agent.observe(Transition(seen, actions, rewards, costs, ended, never, after, ones))
        agent.learn()
    actions = agent.act(seen, explore=False, rng=np.random.default_rng(0))
    return actions["l"][0, 0], actions["f"][0, 0]


def test_an_unconstrained_leader_anticipates_the_answer_to_its_action():
    a1, a2 = train_one_shot(build(ContinuousBiAC, ONE_SHOT, **ONE_SHOT_CONFIG))
    assert abs(a1 - 0.35) < 0.15  # a leader that does not comes to 0.6
    assert abs(a2 - a1 / 2) < 0.1


def test_a_constrained_pair_settles_where_both_limits_are_met_exactly():
    agent = build(CSMADDPG, ONE_SHOT, **ONE_SHOT_CONFIG, lam_rate=0.01)
    a1, a2 = train_one_shot(agent)
    assert (a1, a2) == (pytest.approx(0.1, abs=0.1), pytest.approx(0.2, abs=0.1))
    assert agent.lam.min() > 0.1
