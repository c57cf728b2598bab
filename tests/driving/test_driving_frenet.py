"""The observation relative to the lane, against geometry worked out by hand."""

from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import safemarl_bench as smb
from safemarl_bench.driving.frenet import heading_ahead, relative_numbers

Place = Callable[..., Any]
GAME = smb.make("racetrack-frenet", backend="highway")
NETWORK = GAME.scene.road.network


@pytest.fixture
def frenet(make_quiet: Callable[..., Any]) -> Any:
    """Return a racetrack-frenet game without spawn noise, reset."""
    return make_quiet("racetrack-frenet")


def observe(game: Any) -> dict[str, list[float]]:
    """Return the observations of the vehicles where they are."""
    return {agent: [float(x) for x in row] for agent, row in game._observations(game.possible_agents).items()}


def test_side_by_side_on_the_straight_only_the_other_is_seen(frenet: Any) -> None:
    seen = observe(frenet)
    assert seen["leader"] == pytest.approx([0, 0, 0, 0, 0, 0, 0, 5, 0])
    assert seen["follower"] == pytest.approx([0, 0, 0, 0, 0, 0, 0, -5, 0])


def test_offset_and_heading_error_are_positive_to_the_right(frenet: Any, place: Place) -> None:
    place(frenet, "leader", 60.0, 0.75, heading=0.2)
    place(frenet, "follower", 60.0, 4.0, heading=2 * math.pi - 0.3)
    seen = observe(frenet)
    assert seen["leader"][:2] == pytest.approx([0.75, 0.2])
    assert seen["follower"][:2] == pytest.approx([-1.0, -0.3])


def test_the_bend_ahead_is_seen_over_the_lanes_end(frenet: Any, place: Place) -> None:
    place(frenet, "leader", 93.0, 0.0)  # 7 m before a left bend of radius 20 m
    place(frenet, "follower", 93.0, 5.0)  # of radius 25 m
    seen = observe(frenet)
    assert seen["leader"][2:6] == pytest.approx([0, -3 / 20, -8 / 20, -13 / 20])
    assert seen["follower"][2:6] == pytest.approx([0, -3 / 25, -8 / 25, -13 / 25])


def test_in_a_bend_the_heading_changes_at_its_curvature(frenet: Any, place: Place) -> None:
    angle = math.radians(60)  # of the place seen from the bend's centre; travel is towards smaller angles
    place(frenet, "leader", 100 + 20 * math.cos(angle), -20 + 20 * math.sin(angle), heading=angle - math.pi / 2)
    assert observe(frenet)["leader"][:6] == pytest.approx([0, 0, -5 / 20, -10 / 20, -15 / 20, -20 / 20], abs=1e-6)


def test_the_other_is_seen_from_the_own_seat(frenet: Any, place: Place) -> None:
    place(frenet, "leader", 60.0, 0.0, heading=math.pi / 2)
    place(frenet, "follower", 70.0, 5.0, heading=-math.pi / 2 + 0.1)
    seen = observe(frenet)
    assert seen["leader"][6:] == pytest.approx([5.0, -10.0, -math.pi + 0.1])
    assert seen["follower"][6:] == pytest.approx(
        [5 * math.cos(0.1) - 10 * math.sin(0.1), -10 * math.cos(0.1) - 5 * math.sin(0.1), math.pi - 0.1]
    )


class Car:
    def __init__(self, place: complex, heading: float) -> None:
        self.position, self.heading = np.array([place.real, place.imag]), heading


COORDINATE, ANGLE = st.floats(-100.0, 100.0), st.floats(-7.0, 7.0)


@given(x=COORDINATE, y=COORDINATE, own=ANGLE, dx=COORDINATE, dy=COORDINATE, other=ANGLE)
@settings(derandomize=True, max_examples=200, deadline=None)
def test_the_relative_place_is_a_rotation_whatever_the_own_place(
    x: float, y: float, own: float, dx: float, dy: float, other: float
) -> None:
    here = complex(x, y)
    ahead, right, turn = relative_numbers(Car(here, own), Car(here + complex(dx, dy), other))
    turned = complex(dx, dy) * cmath.exp(-1j * own)
    assert complex(ahead, right) == pytest.approx(turned, abs=1e-9)
    assert -math.pi <= turn <= math.pi
    assert cmath.exp(1j * turn) == pytest.approx(cmath.exp(1j * (other - own)), abs=1e-9)


def test_one_who_left_the_road_is_not_seen_and_sees_nothing(frenet: Any, place: Place, idle: Any) -> None:
    place(frenet, "leader", 70.0, -3.0)
    observations, *_ = idle(frenet)
    assert observations["leader"].tolist() == [0.0] * 9
    assert observations["follower"][6:].tolist() == [0.0] * 3


@pytest.mark.parametrize(("lane", "length"), [(0, 348.0), (1, 382.0)])
def test_a_whole_lap_ahead_is_the_same_place(lane: int, length: float) -> None:
    roads = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "a"]
    lap = sum(NETWORK.get_lane((start, end, lane)).length for start, end in itertools.pairwise(roads))
    assert lap == pytest.approx(length, abs=1.0)
    for along in (0.5, 30.0):
        here = heading_ahead(NETWORK, ("c", "d", lane), along)
        assert heading_ahead(NETWORK, ("c", "d", lane), along + 2 * lap) == pytest.approx(here)


def test_the_state_is_the_racetracks(frenet: Any, racetrack: Any, step_by_number: Any) -> None:
    for number in range(8):
        answers = [step_by_number(game, number) for game in (frenet, racetrack)]
        np.testing.assert_array_equal(frenet.state(), racetrack.state())
        assert answers[0][1:4] == answers[1][1:4]
    spec = frenet.spec
    assert spec.state_features.center == smb.get_suite("racetrack").features.center
    assert spec.state_features.scale == smb.get_suite("racetrack").features.scale


def test_a_lane_follower_earns_386_of_400_and_never_leaves_the_road() -> None:
    returns = []
    for episode in range(5):
        seen, _ = GAME.reset(seed=0, options={"stream": "evaluation", "episode": episode})
        returns.append(0.0)
        while GAME.agents:
            steering = {agent: -0.5 * row[0] - 1.6 * row[1] + 0.5 * row[2] for agent, row in seen.items()}
            actions = {agent: np.clip(np.array([steering[agent]], np.float32), -1, 1) for agent in GAME.agents}
            seen, rewards, terminations, truncations, infos = GAME.step(actions)
            returns[-1] += sum(rewards.values())
            assert not any(info["cost"].any() for info in infos.values())
        assert set(truncations.values()) == {True}
        assert set(terminations.values()) == {False}
    assert returns == pytest.approx([386.0] * 5, abs=1.0)
