"""What an on-policy learner remembers of decisions of two agents in two games, by hand."""

import gymnasium
import numpy as np
import pytest

from safemarl_bench.contract import AgentContext, Features, Observation, Transition
from safemarl_bench.errors import CheckpointError
from safemarl_bench.learning.encoding import Encoding
from safemarl_bench.learning.policies import Categorical
from safemarl_bench.learning.rollouts import RolloutMemory

SPACE = gymnasium.spaces.Box(0.0, 9.0, (1,), np.float32)
DISCRETE = gymnasium.spaces.Discrete(3)
NUMBER = Features(("x",), (1.0,), (2.0,))
CONTEXT = AgentContext(
    observation_spaces={"l": SPACE, "f": SPACE},
    action_spaces={"l": DISCRETE, "f": DISCRETE},
    state_space=SPACE,
    leader=("l",),
    followers=("f",),
    cost_limits={"l": (0.5,), "f": (0.5, 1.0)},
    gamma=0.9,
    horizon=2,
    neutral_actions={"l": 0, "f": 0},
    observation_features={"l": NUMBER, "f": NUMBER},
    state_features=NUMBER,
    num_envs=2,
    training_steps=100,
    seed=0,
)
ENCODINGS = (Encoding(NUMBER), {"l": Encoding(NUMBER), "f": Encoding(NUMBER)})


def flags(pairs):
    array = np.array(pairs, bool)
    return {"l": array[:, 0], "f": array[:, 1]}


def seen(values, alive):
    column = np.array(values, np.float32)[:, None]
    return Observation({"l": column, "f": column + 1}, column, flags(alive), np.zeros(2, np.int64))


def transition(*, before, after, terminated, cut, costs, over, rewards=((1, 2), (3, 4))):
    costs, rewards = np.array(costs, float), np.array(rewards, float)
    return Transition(
        seen([1, 3], before),
        {"l": np.array([0, 1]), "f": np.array([2, 0])},
        {"l": rewards[:, 0], "f": rewards[:, 1]},
        {"l": costs[:, :1], "f": costs[:, 1:]},
        flags(terminated),
        flags(cut),
        seen([5, 7], after),
        np.array(over),
    )


def memory(length=2):
    policies = dict.fromkeys(("l", "f"), Categorical(DISCRETE))
    return RolloutMemory(length, CONTEXT, policies)


DRAWN = {"l": np.array([0, 1]), "f": np.array([2, 0])}
EVERYBODY, NOBODY = [[1, 1], [1, 1]], [[0, 0], [0, 0]]
FIRST = transition(  # game 0: the follower terminates; game 1: the clock cuts the leader, the follower was done before
    before=[[1, 1], [1, 0]],
    after=[[1, 0], [0, 0]],
    terminated=[[0, 1], [0, 0]],
    cut=[[0, 0], [1, 0]],
    costs=[[1, 0, 2], [4, 0, 0]],
    over=[False, True],
)
SECOND = transition(
    before=EVERYBODY, after=EVERYBODY, terminated=NOBODY, cut=NOBODY, costs=[[1, 1, 1], [9, 9, 9]], over=[True, False]
)


def test_rows_are_decisions_then_games_and_numbers_are_normalised():
    collected = memory()
    collected.add(FIRST, DRAWN)
    assert not collected.full
    collected.add(SECOND, DRAWN)
    assert collected.full
    rollout = collected.rollout(*ENCODINGS)
    assert rollout.states[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert rollout.next_states[:, 0].tolist() == [2.0, 3.0, 2.0, 3.0]
    assert rollout.observations[1][:, 0].tolist() == [0.5, 1.5, 0.5, 1.5]
    assert rollout.drawn[1].tolist() == [2, 0, 2, 0]
    rewards, costs = [[1, 3, 1, 3], [2, 4, 2, 4]], [[1, 4, 1, 9], [0, 0, 1, 9], [2, 0, 1, 9]]
    assert rollout.payoffs.tolist() == rewards + costs


def test_the_terminated_end_the_cut_bootstrap_and_only_those_who_go_on_carry():
    collected = memory()
    collected.add(FIRST, DRAWN)
    collected.add(SECOND, DRAWN)
    rollout = collected.rollout(*ENCODINGS)
    assert rollout.alive.int().tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]
    assert rollout.bootstraps.int().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert rollout.carries.int().tolist() == [[1, 0, 1, 1], [0, 0, 1, 1]]


def test_mean_costs_are_those_of_the_episodes_that_finished_from_their_start():
    collected = memory()
    assert collected.mean_costs() is None
    collected.add(FIRST, DRAWN)
    assert collected.mean_costs().tolist() == [4, 0, 0]
    collected.add(SECOND, DRAWN)
    assert collected.mean_costs().tolist() == [(4 + 2) / 2, 1 / 2, 3 / 2]
    collected.clear()
    assert collected.mean_costs() is None
    collected.add(FIRST, DRAWN)  # game 1 has paid 9, 9, 9 in the rollout before
    assert collected.mean_costs().tolist() == [13, 9, 9]


def test_a_memory_restored_in_the_middle_is_the_same():
    first, second = memory(3), memory(3)
    first.add(FIRST, DRAWN)
    first.add(SECOND, DRAWN)
    arrays, counters = first.state()
    second.restore({name: array.copy() for name, array in arrays.items()}, counters)
    for each in (first, second):
        each.add(FIRST, DRAWN)
    assert first.mean_costs().tolist() == second.mean_costs().tolist()
    for one, other in zip(first.rollout(*ENCODINGS)[2:], second.rollout(*ENCODINGS)[2:], strict=True):
        assert one.tolist() == other.tolist()


def test_a_memory_of_another_shape_is_refused():
    first = memory()
    first.add(FIRST, DRAWN)
    arrays, counters = first.state()
    for broken in ({**arrays, "rollout.states": np.zeros((1, 3, 1), np.float32)}, {}):
        with pytest.raises(CheckpointError, match=r"rollout\.states"):
            memory().restore(broken, counters)
    with pytest.raises(CheckpointError, match="rollout"):
        memory(1).restore(arrays, counters)
