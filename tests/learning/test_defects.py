"""The switches that bring back defects of released codes: off by default, and each does what it says."""

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import torch
from safemarl_bench.baselines.csq import CSQ, CSQConfig
from safemarl_bench.baselines.mip_pcsq import MIPPCSQ, MIPPCSQConfig

from safemarl_bench.contract import AgentContext, Features
from safemarl_bench.learning import Batch
from safemarl_bench.learning.constrained import max_max_pairs

LIMIT = np.array([1.0], np.float32)
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
    horizon=1,
    neutral_actions={"l": 1, "f": 0},
    observation_features={"l": ONE_HOT, "f": ONE_HOT},
    state_features=ONE_HOT,
    num_envs=1,
    training_steps=10,
    seed=0,
)
# Q1, Q2, G1, G2: the equilibrium is (1, 1); at (0, 0) the leader would earn most, but the follower answers 1 there.
TABLES = np.array([[[9.0, 3.0], [8.0, 6.0]], [[1.0, 4.0], [2.0, 7.0]], [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2], np.float32)


def batch(continues):
    count = len(continues)
    return Batch(
        features=np.array([[1.0, 0.0]] * count, np.float32),
        next_features=np.array([[0.0, 1.0]] * count, np.float32),
        actions=np.zeros(count, np.int64),
        payoffs=np.zeros((4, count), np.float32),
        alive=np.ones((2, count), bool),
        continues=np.array([continues, continues]),
    )


def learner(**switches):
    """A linear learner whose online tables are `TABLES` at s' and turned round at s; targets are 10 to 13 at s'."""
    agent = CSQ(CONTEXT, CSQConfig(hidden=(), **switches))
    for network, at_s, at_next in (
        (agent.critics.online, np.flip(TABLES, (1, 2)), TABLES),
        (agent.critics.target, np.zeros((4, 2, 2)), np.arange(10.0, 14.0).reshape(2, 2) + np.zeros((4, 1, 1))),
    ):
        weights = np.stack([at_s, at_next]).reshape(2, 4, 4).swapaxes(0, 1).ravel()
        network.parameters.zero_()
        network.parameters[: weights.size] = torch.from_numpy(weights)
    return agent


def bootstraps(agent, *continues):
    """Return gamma times the value of the next pair in each row, of the leader's critic."""
    value = agent.critics.online.outputs(torch.tensor([[1.0, 0.0]]))[0, 0, 0].item()
    return (value - agent.evaluate(batch(list(continues)))[1][0]).tolist()


def test_nothing_is_switched_on_by_default():
    for config in (CSQConfig(), MIPPCSQConfig()):
        switches = ("target_pair_at_s", "mean_done_mask", "max_max_leader", "vacuous_limits")
        assert not any(getattr(config, name) for name in switches)


def test_the_next_pair_is_chosen_at_the_next_state_unless_the_switch_says_at_s():
    assert bootstraps(learner(), True) == [0.5 * 13]  # (1, 1) at s'
    assert bootstraps(learner(target_pair_at_s=True), True) == [0.5 * 10]  # (0, 0), the same game turned round


def test_a_shared_mean_mask_lets_ended_tasks_bootstrap_and_running_ones_too_little():
    assert bootstraps(learner(), True, False, True, True) == [6.5, 0.0, 6.5, 6.5]
    # The pairs of an ended row are neutral, (1, 0); its value is 12.
    assert bootstraps(learner(mean_done_mask=True), True, False, True, True) == [4.875, 4.5, 4.875, 4.875]


def test_a_max_max_leader_hopes_for_an_answer_that_the_follower_does_not_give():
    assert max_max_pairs(TABLES[:, None], LIMIT, LIMIT).tolist() == [1]  # row 0 for 9, answered by 1
    assert learner().equilibrium(TABLES[:, None]).tolist() == [3]
    unsafe = TABLES.copy()
    unsafe[2, 0, 0] = 2.0  # the leader's limit rules (0, 0) out: row 1 for 8
    assert max_max_pairs(unsafe[:, None], LIMIT, LIMIT).tolist() == [3]
    unsafe[3, 1, 1] = 2.0  # the follower's limit rules its answer out
    assert max_max_pairs(unsafe[:, None], LIMIT, LIMIT).tolist() == [2]


@pytest.mark.parametrize(("agent", "config"), [(CSQ, CSQConfig), (MIPPCSQ, MIPPCSQConfig)])
def test_vacuous_limits_leave_the_unconstrained_equilibrium(agent, config):
    costly = TABLES.copy()
    costly[2:] = 1000.0
    costly[2:, 0, 0] = 0.0  # alone safe
    constrained, free = (agent(CONTEXT, config(hidden=(), vacuous_limits=switch)) for switch in (False, True))
    assert constrained.equilibrium(costly[:, None]).tolist() == [0]
    assert free.equilibrium(costly[:, None]).tolist() == [3]
    assert math.isinf(free.d_leader[0])
    assert dataclasses.asdict(config(vacuous_limits=True))["vacuous_limits"] is True
