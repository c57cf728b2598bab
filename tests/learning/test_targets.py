"""Done masks, truncation, and targets at s', on numbers computed by hand.

The critics are linear in one-hot states (no hidden layer), so that every table is written down here.
"""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from safemarl_bench.baselines.csq import CSQ, CSQConfig
from safemarl_bench.baselines.mip_pcsq import MIPPCSQ, MIPPCSQConfig

from safemarl_bench.contract import AgentContext, Features, Observation, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import Batch, squared_losses, squared_losses_gradient, td_errors
from safemarl_bench.learning.ensemble import TrainedEnsemble

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
ONE_HOT = Features(("at s", "at s'"), (0.0, 0.0), (1.0, 1.0))
CONTEXT = AgentContext(
    observation_spaces={"l": BOX, "f": BOX},
    action_spaces={"l": gymnasium.spaces.Discrete(2), "f": gymnasium.spaces.Discrete(2)},
    state_space=BOX,
    leader=("l",),
    followers=("f",),
    cost_limits={"l": (1.0,), "f": (1.0,)},
    gamma=0.5,
    horizon=1,  # the discounted limit is the limit itself
    neutral_actions={"l": 1, "f": 0},
    observation_features={"l": ONE_HOT, "f": ONE_HOT},
    state_features=ONE_HOT,
    num_envs=1,
    training_steps=10,
    seed=0,
)

# Online tables at s and s', [Q1, Q2, G1, G2]; at s the equilibrium is (0, 0), at s' it is (1, 1):
# row 0 answers 1 (Q2 = 4) for Q1 = 3, row 1 answers 1 (Q2 = 7) for Q1 = 6.
ONLINE_S = [[[9, 0], [0, 0]], [[9, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]
ONLINE_NEXT = [[[8, 3], [9, 6]], [[1, 4], [2, 7]], [[0, 0], [0, 0.5]], [[0, 0], [0, 0.5]]]
# The target networks at s' are told apart cell by cell; at s they would give 1000 and more.
TARGET_S = (1000 + np.arange(16).reshape(4, 2, 2)).tolist()
TARGET_NEXT = [[[10, 11], [12, 13]], [[20, 21], [22, 23]], [[30, 31], [32, 33]], [[40, 41], [42, 43]]]


def write(network, at_s, at_next):
    """Make a linear network output the tables (4, 2, 2) at the two one-hot states."""
    weights = torch.tensor([at_s, at_next], dtype=torch.float32).view(2, 4, 4).transpose(0, 1)
    network.parameters.zero_()
    network.parameters[: weights.numel()] = weights.flatten()


@pytest.fixture
def agent():
    agent = CSQ(CONTEXT, CSQConfig(hidden=(), reward_scale=0.1))
    write(agent.critics.online, ONLINE_S, ONLINE_NEXT)
    write(agent.critics.target, TARGET_S, TARGET_NEXT)
    return agent


def flags(leader, follower):
    return {"l": np.array([leader]), "f": np.array([follower])}


def observation(state, alive=(True, True)):
    one_hot = np.eye(2, dtype=np.float32)[[state]]
    return Observation({"l": one_hot, "f": one_hot}, one_hot, flags(*alive), np.array([0]))


def transition(*, terminated=(False, False), truncated=(False, False), before=(True, True), after=(True, True)):
    """The pair (1, 0) at s, rewards 50 and 70, costs 2 and 3; dead agents get nothing."""
    return Transition(
        observation=observation(0, before),
        actions={"l": np.array([1]), "f": np.array([0])},
        rewards={"l": np.array([50.0 * before[0]]), "f": np.array([70.0 * before[1]])},
        costs={"l": np.array([[2.0 * before[0]]]), "f": np.array([[3.0 * before[1]]])},
        terminations=flags(*terminated),
        truncations=flags(*truncated),
        next_observation=observation(1, after),
        episode_over=np.array([not any(after)]),
    )


def errors(agent, *transitions):
    for each in transitions:
        agent.observe(each)
    return agent.evaluate(Batch.of(agent.replay.gather(np.arange(len(transitions)))))[1]


# Values at (s, 1, 0) are 0, so an error is minus the target. The next pair is (1, 1) at s'.
ONGOING = [-(5 + 0.5 * 13), -(7 + 0.5 * 23), -(2 + 0.5 * 33), -(3 + 0.5 * 43)]
ENDED = [-5, -7, -2, -3]


def test_targets_use_the_online_equilibrium_at_the_next_state_and_the_target_networks_values(agent):
    assert errors(agent, transition())[:, 0].tolist() == pytest.approx(ONGOING)


def test_a_termination_of_both_stops_every_bootstrap(agent):
    ended = transition(terminated=(True, True), after=(False, False))
    assert errors(agent, ended)[:, 0].tolist() == pytest.approx(ENDED)


def test_a_truncation_of_both_bootstraps_as_if_the_game_went_on(agent):
    cut = transition(truncated=(True, True), after=(False, False))
    assert errors(agent, cut)[:, 0].tolist() == pytest.approx(ONGOING)


def test_an_agent_that_terminates_at_the_time_limit_does_not_bootstrap(agent):
    both = transition(terminated=(True, True), truncated=(True, True), after=(False, False))
    assert errors(agent, both)[:, 0].tolist() == pytest.approx(ENDED)


def test_where_the_leader_ended_the_follower_answers_its_neutral_action(agent):
    # Row 1 is the neutral one: the follower answers 1 there, and the next pair is (1, 1).
    one_ended = transition(terminated=(True, False), after=(False, True))
    assert errors(agent, one_ended)[:, 0].tolist() == pytest.approx([-5, ONGOING[1], -2, ONGOING[3]])


def test_where_the_follower_ended_the_leader_maximises_its_neutral_column(agent):
    # Column 0: Q1 = 8, 9 at s', so the leader plays 1 and the next pair is (1, 0).
    one_ended = transition(terminated=(False, True), after=(True, False))
    expected = [-(5 + 0.5 * 12), -7, -(2 + 0.5 * 32), -3]
    assert errors(agent, one_ended)[:, 0].tolist() == pytest.approx(expected)


def test_an_ended_agents_untrained_outputs_do_not_enter_the_choice(agent):
    # As above, but the ended follower's networks call every pair of row 1 unsafe.
    tables = [ONLINE_NEXT[0], [[99, 0], [0, 99]], ONLINE_NEXT[2], [[0, 0], [500, 500]]]
    write(agent.critics.online, ONLINE_S, tables)
    one_ended = transition(terminated=(False, True), after=(True, False))
    assert errors(agent, one_ended)[0, 0].item() == pytest.approx(-(5 + 0.5 * 12))


def test_an_agent_that_was_done_before_has_no_loss(agent):
    write(agent.critics.online, np.full((4, 2, 2), 100.0).tolist(), ONLINE_NEXT)
    late = transition(before=(False, True), after=(False, True))
    late_errors = errors(agent, late)
    assert late_errors[:, 0].tolist() == pytest.approx([0, 100 + ONGOING[1], 0, 100 + ONGOING[3]])
    assert squared_losses(late_errors, np.ones(1, np.float32))[[0, 2]].tolist() == [0, 0]


def test_masks_belong_to_their_own_row_of_a_batch(agent):
    # A (B, 1) mask against (B,) values would broadcast to (B, B) and mix these rows.
    batch_errors = errors(
        agent,
        transition(),
        transition(terminated=(True, True), after=(False, False)),
        transition(truncated=(True, True), after=(False, False)),
    )
    assert batch_errors.shape == (4, 3)
    assert batch_errors.T.tolist() == [pytest.approx(ONGOING), pytest.approx(ENDED), pytest.approx(ONGOING)]


@pytest.mark.parametrize(("decisions", "beta"), [(0, 0.4), (5, 0.7), (10, 1.0)])
def test_prioritised_updates_descend_the_weighted_squared_errors(decisions, beta):
    agent = MIPPCSQ(CONTEXT, MIPPCSQConfig(hidden=(), batch_size=4, learning_starts=0, learning_rate=0.0))
    agent.critics.online.parameters.zero_()
    agent.critics.target.parameters.zero_()
    ended = transition(terminated=(True, True), after=(False, False))
    for scale in (1.0, 2.0, 4.0):
        agent.observe(ended._replace(costs={"l": np.array([[scale]]), "f": np.array([[0.0]])}))
    agent.replay.update(np.arange(3), np.array([1.0, 1.0, 2.0]))  # the four strata are rows 0, 1, 2, 2
    agent.decisions = decisions
    agent.learn()
    # N P = 3/4, 3/4, 3/2: weights 1, 1, 2^-beta. The errors of G1 are minus the costs.
    by_hand = 2 / 4 * (-1 * 1 - 1 * 2 - 2 * 2**-beta * 4)
    biases = agent.critics.online.gradient[-16:].view(4, 4)
    assert biases[2].tolist() == pytest.approx([0, 0, by_hand, 0])
    # Priorities are |dQ1| + |dQ2| + |dG1| + |dG2| = 5 + 7 + cost.
    assert agent.replay.priorities[0, :3] == pytest.approx((12.001 + np.array([1, 2, 4])) ** 0.6)


def test_games_that_are_over_are_not_remembered(agent):
    agent.observe(transition(before=(False, False), after=(False, False)))
    assert agent.replay.size == 0


def test_td_errors_by_hand():
    values = np.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]], np.float32)
    bootstrap = np.array([[10.0, np.inf], [30.0, 40.0], [np.nan, 40.0]], np.float32)
    payoffs = np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]], np.float32).T  # as a batch shows its rows
    continues, alive = np.array([[True, False], [True, True]]), np.array([[True, True], [False, True]])
    errors = td_errors(values, bootstrap, payoffs, continues, alive, np.array([0, 1, 1]), 0.5)
    assert errors.tolist() == [[10 - 6, 20 - 2], [0, 40 - 24], [0, 60 - 26]]
    assert errors.dtype == np.float32


def test_losses_and_their_gradient_by_hand_and_by_autograd():
    errors = torch.tensor([[1.0, -2.0], [3.0, 0.0]], requires_grad=True)
    weights = torch.tensor([1.0, 0.5])
    losses = squared_losses(errors.detach().numpy(), weights.numpy())
    assert losses.tolist() == [(1 * 1 + 0.5 * 4) / 2, 9 / 2]
    (errors.square() * weights).mean(1).sum().backward()
    gradient = squared_losses_gradient(errors.detach().numpy(), weights.numpy())
    assert gradient.tolist() == errors.grad.tolist()


def test_a_step_moves_the_chosen_pair_only_and_the_target_every_interval():
    critics = TrainedEnsemble(
        "critics", ("a", "b"), (1, 3), rate=0.1, rho=0.75, target_interval=2, generator=torch.Generator().manual_seed(0)
    )
    inputs = torch.ones(1, 1)
    gradient = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, -1.0, 0.0]]])
    before = critics.online.outputs(inputs)
    assert torch.equal(before, critics.target.outputs(inputs))
    slow = critics.target.parameters.clone()
    for update in (1, 2):
        critics.descend(critics.online.backward(critics.online.forward(inputs), gradient))
        assert torch.equal(slow, critics.target.parameters) is (update == 1)
    # Two Adam steps of 0.1 on weight and bias each: 0.4 down for a, up for b, the other pairs untouched.
    moved = critics.online.outputs(inputs) - before
    torch.testing.assert_close(moved[:, 0], torch.tensor([[0.0, -0.4, 0.0], [0.0, 0.4, 0.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(critics.target.parameters, 0.75 * slow + 0.25 * critics.online.parameters)


def test_several_constraints_per_agent_have_a_critic_each(agent):
    limits = {"l": (1.0, 2.0), "f": (1.0, 2.0, 3.0)}
    many = CSQ(dataclasses.replace(CONTEXT, cost_limits=limits), CSQConfig(hidden=()))
    assert many.critics.names[2:] == ("g_leader_0", "g_leader_1", "g_follower_0", "g_follower_1", "g_follower_2")
    costs = {"l": np.array([[1.0, 2.0]]), "f": np.array([[3.0, 4.0, 5.0]])}
    ended = transition(terminated=(True, True), after=(False, False))._replace(costs=costs)
    many.critics.online.parameters.zero_()
    assert errors(many, ended)[:, 0].tolist() == pytest.approx([-5, -7, -1, -2, -3, -4, -5])


@pytest.mark.parametrize(
    ("key", "value"), [("batch_size", 0), ("updates_per_step", 0), ("rho", 1.5), ("epsilon_start", -0.1)]
)
def test_config_values_out_of_range_are_named(key, value):
    with pytest.raises(ContractError, match=f"config key '{key}' must be"):
        CSQConfig(**{key: value})
