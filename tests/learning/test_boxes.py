"""Joint continuous actions as points of a cube."""

import types

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safemarl_bench.errors import ContractError
from safemarl_bench.learning import JointBoxes

SPACES = {
    "boss": gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([4.0, 1.0], np.float32)),
    "staff": gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
}


def game(**changes):
    return types.SimpleNamespace(
        leader=("boss",),
        followers=("staff",),
        action_spaces=SPACES | changes,
        neutral_actions={"boss": [1.0, 0.0], "staff": [0.5]},
    )


def test_the_middle_of_every_range_is_0_and_its_ends_are_1_apart():
    boxes = JointBoxes.of(game())
    raw = {"boss": np.array([[1, 0.5], [-2, 1], [2.5, 0]], np.float32), "staff": np.array([[0], [1], [-0.5]])}
    points = boxes.points(raw)
    assert points.tolist() == [[0, 0, 0], [-1, 1, 1], [0.5, -1, -0.5]]
    assert points.dtype == np.float32
    assert boxes.sizes == (2, 1)
    assert boxes.owner.tolist() == [0, 0, 1]


@settings(derandomize=True)
@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3))
def test_a_point_comes_back_and_its_actions_are_inside_the_spaces(point):
    boxes = JointBoxes.of(game())
    actions = boxes.actions(np.array([point]), np.ones((2, 1), bool))
    assert all(SPACES[agent].contains(actions[agent][0]) for agent in SPACES)
    np.testing.assert_allclose(boxes.points(actions)[0], point, atol=1e-6)


def test_a_done_agent_plays_its_neutral_action_and_the_other_its_own():
    boxes = JointBoxes.of(game())
    points = np.full((3, 3), 0.5, np.float32)
    actions = boxes.actions(points, np.array([[False, True, False], [True, False, False]]))
    assert actions["boss"].tolist() == [[1, 0], [2.5, 0.75], [1, 0]]
    assert actions["staff"].tolist() == [[0.5], [0.5], [0.5]]
    alive = boxes.actions(-points, np.ones((2, 3), bool))
    assert alive["staff"].tolist() == [[-0.5]] * 3


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Discrete(3),
        gymnasium.spaces.Box(-np.inf, 1.0, (1,), np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32),
    ],
)
def test_spaces_that_are_no_bounded_vectors_are_refused(space):
    with pytest.raises(ContractError, match="need a bounded Box of one axis as action space, 'staff' has"):
        JointBoxes.of(game(staff=space))
