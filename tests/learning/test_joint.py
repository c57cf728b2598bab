"""Joint action tables: indexing, done agents, limits, draws."""

import dataclasses

import gymnasium
import numpy as np
import pytest

from safemarl_bench.contract import AgentContext, Features
from safemarl_bench.errors import ContractError
from safemarl_bench.learning.joint import JointActions, discounted_limits, respect_done
from safemarl_bench.rng import draw_cells

BOX = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
SCALE = Features(("x", "y"), (0.0, 0.0), (1.0, 1.0))
CONTEXT = AgentContext(
    observation_spaces={"boss": BOX, "staff": BOX},
    action_spaces={"boss": gymnasium.spaces.Discrete(2), "staff": gymnasium.spaces.Discrete(3, start=5)},
    state_space=BOX,
    leader=("boss",),
    followers=("staff",),
    cost_limits={"boss": (0.25,), "staff": (0.5, 2.0)},
    gamma=0.95,
    horizon=20,
    neutral_actions={"boss": 1, "staff": 6},
    observation_features={"boss": SCALE, "staff": SCALE},
    state_features=SCALE,
    num_envs=1,
    training_steps=100,
    seed=0,
)


def test_pairs_are_row_major_and_actions_start_where_their_space_does():
    joint = JointActions.of(CONTEXT)
    assert (joint.shape, joint.neutral) == ((2, 3), (1, 1))
    pairs = joint.pairs({"boss": np.array([0, 1, 1]), "staff": np.array([5, 5, 7])})
    assert pairs.tolist() == [0, 3, 5]
    actions = joint.actions(np.arange(6), np.ones((2, 6), bool))
    assert actions["boss"].tolist() == [0, 0, 0, 1, 1, 1]
    assert actions["staff"].tolist() == [5, 6, 7, 5, 6, 7]
    assert joint.pairs(actions).tolist() == list(range(6))


def test_done_agents_get_their_neutral_action():
    joint = JointActions.of(CONTEXT)
    actions = joint.actions(np.array([0, 0]), np.array([[False, True], [True, False]]))
    assert actions["boss"].tolist() == [1, 0]
    assert actions["staff"].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leader": ("boss", "staff"), "followers": ()}, "one leader and one follower"),
        ({"followers": ("staff", "staff")}, "one leader and one follower"),
        ({"action_spaces": {"boss": BOX, "staff": BOX}}, "need Discrete actions, 'boss' has Box"),
    ],
)
def test_other_games_are_refused(change, message):
    with pytest.raises(ContractError, match=message):
        JointActions.of(dataclasses.replace(CONTEXT, **change))


def test_a_done_agent_has_no_choice_and_nothing_at_stake():
    inf = float("inf")
    tables = np.array([[[1.0, 2, 3], [4, 5, 6]], [[7, inf, 9], [-1, -2, -3]]])[:, None].repeat(3, axis=1)
    alive = np.array([[True, False, True], [True, True, False]])
    respected = respect_done(tables, alive, np.array([0, 1]), neutral=(1, 2))
    assert respected[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert respected[1, 0].tolist() == [[7, inf, 9], [-1, -2, -3]]
    assert respected[0, 1].tolist() == [[0, 0, 0], [0, 0, 0]]  # the leader is done: nothing of its own,
    assert respected[1, 1].tolist() == [[-1, -2, -3], [-1, -2, -3]]  # and the follower sees the neutral row
    assert respected[0, 2].tolist() == [[3, 3, 3], [6, 6, 6]]
    assert respected[1, 2].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_limits_are_those_of_the_discounted_cost_to_go():
    # 0.25 (1 - 0.95^20) / (0.05 * 20) = 0.25 * 0.641514...
    assert discounted_limits(CONTEXT, "boss").tolist() == pytest.approx([0.160379], abs=1e-6)
    assert discounted_limits(CONTEXT, "staff").tolist() == pytest.approx([0.320757, 1.283028], abs=1e-6)
    with pytest.raises(ContractError, match="'boss' has none"):
        discounted_limits(dataclasses.replace(CONTEXT, cost_limits={"boss": ()}), "boss")


def test_cells_are_drawn_uniformly_from_each_rows_mask():
    mask = np.array([[False, True, True, False, True], [True, False, False, False, False]]).repeat(3000, axis=0)
    cells = draw_cells(mask, np.random.default_rng(0))
    counts = np.bincount(cells[:3000], minlength=5)
    assert counts[[0, 3]].tolist() == [0, 0]
    assert np.abs(counts[[1, 2, 4]] - 1000).max() < 130  # five standard deviations
    assert (cells[3000:] == 0).all()
