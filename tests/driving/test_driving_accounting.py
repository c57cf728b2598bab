"""Rewards, costs and endings, each against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Place = Callable[..., Any]
Idle = Callable[[Any], Any]

CLOCKED = ("merge", "roundabout", "intersection")
ACTIONS = np.array([0.125], np.float32), np.array([-0.125], np.float32)
NORTH = -math.pi / 2
"""Heading towards negative y, which is up on the screen."""


def costs_of(infos: Any) -> dict[str, float]:
    return {agent: float(info["cost"][0]) for agent, info in infos.items()}


@pytest.mark.parametrize(("waits", "bonus"), [(0, 10 + 5 * 19), (7, 10 + 5 * 12), (18, 10 + 5), (19, 10)])
def test_an_arrival_earns_the_bonus_and_five_for_each_decision_that_remains(
    merge: Any, place: Place, idle: Idle, waits: int, bonus: int
) -> None:
    place(merge, "follower", 20.0, 14.5)
    for _ in range(waits):
        place(merge, "leader", 100.0, 4.0)
        idle(merge)
    place(merge, "leader", 340.0, 4.0, speed=25.0)
    _, rewards, terminations, truncations, infos = idle(merge)
    assert rewards == {"leader": 2.0 + bonus, "follower": 0.0}
    assert terminations == {"leader": True, "follower": waits == 19}
    assert truncations == {"leader": False, "follower": False}
    assert (infos["leader"]["arrived"], infos["leader"]["arrival_rank"]) == (True, 1)
    assert (infos["follower"]["arrived"], infos["follower"]["arrival_rank"]) == (False, 0)


def test_of_two_arrivals_in_one_decision_the_one_further_past_the_line_is_first(
    merge: Any, place: Place, idle: Idle
) -> None:
    place(merge, "leader", 340.0, 4.0, speed=25.0)
    place(merge, "follower", 345.0, 0.0, speed=25.0)
    _, rewards, _, _, infos = idle(merge)
    assert rewards == {"leader": 2.0 + 5 + 95, "follower": 2.0 + 10 + 95}
    assert [infos[agent]["arrival_rank"] for agent in ("leader", "follower")] == [2, 1]
    assert merge.agents == []


def test_an_exact_tie_at_the_line_goes_to_the_leader(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 340.0, 4.0, speed=25.0)
    place(merge, "follower", 340.0, 0.0, speed=25.0)
    _, rewards, _, _, _ = idle(merge)
    leader, follower = merge.scene.controlled_vehicles
    assert leader.position[0] == follower.position[0]
    assert rewards == {"leader": 2.0 + 10 + 95, "follower": 2.0 + 5 + 95}


def test_who_arrives_in_a_later_decision_is_second(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 20.0, 4.0)
    place(merge, "follower", 340.0, 0.0, speed=25.0)
    _, rewards, _, _, _ = idle(merge)
    assert rewards == {"leader": 0.0, "follower": 2.0 + 10 + 95}
    assert merge.agents == ["leader"]
    place(merge, "leader", 340.0, 4.0, speed=25.0)
    _, rewards, _, _, infos = idle(merge)
    assert rewards == {"leader": 2.0 + 5 + 90}
    assert infos["leader"]["arrival_rank"] == 2


def test_who_arrives_after_the_other_crashed_is_first(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 20.0, 4.0)
    place(merge, "follower", 300.0, 8.0, speed=25.0)
    _, _, terminations, _, _ = idle(merge)
    assert terminations == {"leader": False, "follower": True}
    place(merge, "leader", 340.0, 4.0, speed=25.0)
    _, rewards, _, _, _ = idle(merge)
    assert rewards == {"leader": 2.0 + 10 + 90}


def test_a_crash_in_the_decision_of_the_crossing_wins(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 341.0, 4.0, speed=30.0)
    place(merge, "follower", 349.0, 4.0, speed=20.0)
    _, rewards, terminations, _, infos = idle(merge)
    assert all(vehicle.position[0] > 350.0 for vehicle in merge.scene.controlled_vehicles)
    for agent in ("leader", "follower"):
        assert (infos[agent]["crashed"], infos[agent]["arrived"], infos[agent]["arrival_rank"]) == (True, False, 0)
    assert rewards == {"leader": 0.0, "follower": 0.0}
    assert costs_of(infos) == {"leader": 6.0, "follower": 6.0}
    assert terminations == {"leader": True, "follower": True}


@pytest.mark.parametrize(
    ("suite", "speed", "reward"),
    [
        ("merge", 24.5, 2.0),
        ("merge", math.nextafter(24.5, 0.0), 0.0),
        ("merge", 30.5, 2.0),
        ("merge", math.nextafter(30.5, 99.0), 0.0),
        ("roundabout", 7.5, 2.0),
        ("roundabout", math.nextafter(7.5, 0.0), 0.0),
        ("roundabout", 12.5, 2.0),
        ("roundabout", math.nextafter(12.5, 99.0), 0.0),
        ("intersection", 8.0, 2.0),
        ("intersection", math.nextafter(8.0, 0.0), 0.0),
        ("intersection", 12.0, 2.0),
        ("intersection", math.nextafter(12.0, 99.0), 0.0),
    ],
)
def test_the_speed_band_includes_its_ends(
    make_quiet: Any, place: Place, idle: Idle, suite: str, speed: float, reward: float
) -> None:
    game = make_quiet(suite)
    starts = {"merge": (50.0, 4.0, 0.0), "roundabout": (2.0, 150.0, NORTH), "intersection": (2.0, 90.0, NORTH)}
    x, y, heading = starts[suite]
    place(game, "leader", x, y, speed=speed, heading=heading)
    _, rewards, _, _, _ = idle(game)
    assert game.scene.controlled_vehicles[0].speed == speed
    assert rewards["leader"] == reward


def test_the_band_is_paid_in_the_step_of_a_crash(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 20.0, 4.0)
    place(merge, "follower", 278.0, 8.0, speed=30.0)
    _, rewards, terminations, _, infos = idle(merge)
    assert infos["follower"]["crashed"]
    assert terminations["follower"]
    assert rewards["follower"] == 2.0
    assert costs_of(infos) == {"leader": 0.0, "follower": 5.0}


@pytest.mark.parametrize(
    ("suite", "leader", "follower", "cost"),
    [
        ("merge", (300.0, 4.0), (274.001, 4.0), 1.0),
        ("merge", (300.0, 4.0), (274.0, 4.0), 0.0),  # at the gap, not below it
        ("merge", (230.0, 4.0), (230.0, 0.0), 1.0),  # side by side counts, and so does the zone's edge
        ("merge", (230.0, 4.0), (229.999, 0.0), 0.0),  # one of the two outside the zone
        ("merge", (100.0, 4.0), (110.0, 4.0), 0.0),
        ("merge", (390.0, 4.0), (380.0, 4.0), 1.0),
        ("roundabout", (30.0, 0.0), (18.0, 0.0), 1.0),
        ("roundabout", (30.0, 0.0), (14.0, 0.0), 0.0),
        ("roundabout", (30.001, 0.0), (18.0, 0.0), 0.0),
        ("roundabout", (0.0, 24.0), (0.0, 40.0), 0.0),
        ("roundabout", (2.0, -24.0), (-10.0, -20.0), 1.0),
        ("intersection", (2.0, 9.999), (2.0, -2.0), 1.0),
        ("intersection", (2.0, 10.0), (2.0, -2.0), 0.0),
        ("intersection", (-12.0, 2.0), (-19.89, 2.0), 1.0),  # 19.99 m from the centre
        ("intersection", (-12.0, 2.0), (-19.91, 2.0), 0.0),  # 20.01 m
        ("intersection", (2.0, 30.0), (2.0, 36.0), 0.0),
    ],
)
def test_the_gap_costs_one_each_inside_the_zone_only(
    make_quiet: Any,
    place: Place,
    idle: Idle,
    suite: str,
    leader: tuple[float, float],
    follower: tuple[float, float],
    cost: float,
) -> None:
    game = make_quiet(suite, finish={"merge": 1e6, "roundabout": -1e6, "intersection": 1e6}[suite])
    place(game, "leader", *leader)
    place(game, "follower", *follower)
    _, _, _, _, infos = idle(game)
    assert [vehicle.position.tolist() for vehicle in game.scene.controlled_vehicles] == [list(leader), list(follower)]
    assert costs_of(infos) == {"leader": cost, "follower": cost}
    assert infos["leader"]["gap"] == pytest.approx(math.dist(leader, follower))


def test_a_violation_in_a_middle_frame_counts_though_both_ends_of_the_decision_are_clear(
    make_quiet: Any, place: Place, idle: Idle
) -> None:
    game = make_quiet("merge", gap=6.0)
    leader = place(game, "leader", 240.0, 4.0, speed=30.0)
    follower = place(game, "follower", 245.0, 0.0, speed=20.0)
    assert math.dist(leader.position, follower.position) > 6.0
    _, _, _, _, infos = idle(game)
    assert infos["leader"]["gap"] == pytest.approx(math.hypot(5.0, 4.0))
    assert costs_of(infos) == {"leader": 1.0, "follower": 1.0}
    _, _, _, _, infos = idle(game)
    assert costs_of(infos) == {"leader": 0.0, "follower": 0.0}


def test_a_live_agent_pays_near_a_wreck_and_the_done_agent_gets_nothing(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 20.0, 4.0)
    place(merge, "follower", 303.0, 8.0, speed=25.0)
    _, _, _, _, infos = idle(merge)
    assert costs_of(infos) == {"leader": 0.0, "follower": 5.0}
    assert merge.agents == ["leader"]
    place(merge, "leader", 290.0, 4.0)
    observations, rewards, terminations, truncations, infos = idle(merge)
    assert costs_of(infos) == {"leader": 1.0}
    assert not infos["leader"]["crashed"]
    for answer in (observations, rewards, terminations, truncations, infos):
        assert set(answer) == {"leader"}


def test_a_wreck_stays_visible_and_can_be_hit(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 20.0, 4.0)
    wreck = place(merge, "follower", 303.0, 8.0, speed=25.0)
    idle(merge)
    place(merge, "leader", float(wreck.position[0]) - 20.0, 8.0, speed=20.0)
    observations, _, terminations, _, infos = idle(merge)
    np.testing.assert_array_equal(observations["leader"][4:6], wreck.position.astype(np.float32))
    np.testing.assert_array_equal(merge.state()[4:6], wreck.position.astype(np.float32))
    assert costs_of(infos) == {"leader": 6.0}
    assert terminations == {"leader": True}
    assert merge.agents == []


def test_an_arrived_vehicle_leaves_the_scene(merge: Any, place: Place, idle: Idle) -> None:
    place(merge, "leader", 340.0, 4.0, speed=25.0)
    place(merge, "follower", 20.0, 4.0)
    observations, _, _, _, infos = idle(merge)
    leader, follower = merge.scene.controlled_vehicles
    assert merge.scene.road.vehicles == [follower]
    np.testing.assert_array_equal(observations["leader"][:4], np.zeros(4))
    np.testing.assert_array_equal(observations["follower"], np.array([20, 4, 0, 0, 0, 0, 0, 0, 0.95], np.float32))
    np.testing.assert_array_equal(merge.state(), np.array([0, 0, 0, 0, 20, 4, 0, 0, 0.95], np.float32))
    assert math.isinf(infos["follower"]["gap"])

    place(merge, "follower", 240.0, 4.0, speed=25.0)
    leader.position = np.array([250.0, 4.0])
    _, _, terminations, _, infos = idle(merge)
    assert follower.position[0] > 260.0
    assert not infos["follower"]["crashed"]
    assert costs_of(infos) == {"follower": 0.0}
    assert terminations == {"follower": False}


@pytest.mark.parametrize("suite", ["merge", "roundabout", "intersection"])
def test_the_time_limit_is_a_termination(make_quiet: Any, place: Place, idle: Idle, suite: str) -> None:
    game = make_quiet(suite)
    y = 2.0 if suite == "intersection" else 0.0
    place(game, "leader", 10.0, y)
    place(game, "follower", -100.0, y)
    for decision in range(1, 21):
        observations, rewards, terminations, truncations, _ = idle(game)
        assert observations["leader"][8] == np.float32(1.0 - decision / 20)
        assert rewards == {"leader": 0.0, "follower": 0.0}
        assert set(terminations.values()) == {decision == 20}
        assert set(truncations.values()) == {False}
    assert game.agents == []


@pytest.mark.parametrize(
    ("suite", "x", "y", "heading", "arrived"),
    [
        ("merge", 350.0, 4.0, 0.0, False),
        ("merge", math.nextafter(350.0, 999.0), 4.0, 0.0, True),
        ("merge", math.nextafter(350.0, 999.0), 0.0, 0.0, True),
        ("roundabout", 2.0, -62.5, NORTH, True),
        ("roundabout", 2.0, math.nextafter(-62.5, 0.0), NORTH, False),
        ("roundabout", -2.0, -80.0, -NORTH, False),  # the north entry
        ("roundabout", 2.0, 120.0, NORTH, False),  # the south entry
        ("intersection", 2.0, -16.0, NORTH, True),
        ("intersection", 2.0, math.nextafter(-16.0, 0.0), NORTH, False),
        ("intersection", 16.0, 2.0, 0.0, False),  # the follower's line
    ],
)
def test_the_finish_line_is_where_the_suite_says(
    make_quiet: Any, place: Place, idle: Idle, suite: str, x: float, y: float, heading: float, arrived: bool
) -> None:
    game = make_quiet(suite)
    place(game, "leader", x, y, heading=heading)
    _, _, terminations, _, infos = idle(game)
    assert infos["leader"]["arrived"] is arrived
    assert terminations["leader"] is arrived


@pytest.mark.parametrize(("x", "arrived"), [(16.0, True), (math.nextafter(16.0, 0.0), False)])
def test_in_the_intersection_the_followers_line_is_in_the_east(
    intersection: Any, place: Place, idle: Idle, x: float, arrived: bool
) -> None:
    place(intersection, "follower", x, 2.0)
    _, rewards, terminations, _, infos = idle(intersection)
    assert infos["follower"]["arrived"] is arrived
    assert terminations == {"leader": False, "follower": arrived}
    assert rewards["follower"] == (10.0 + 5 * 19) * arrived


def test_in_the_intersection_the_one_further_past_its_own_line_is_first(
    intersection: Any, place: Place, idle: Idle
) -> None:
    place(intersection, "leader", 2.0, -18.0, heading=NORTH)
    place(intersection, "follower", 17.0, 2.0)
    _, rewards, _, _, _ = idle(intersection)
    assert rewards == {"leader": 10.0 + 95, "follower": 5.0 + 95}


@pytest.mark.parametrize(("away", "seen"), [(200.0, True), (200.001, False)])
def test_the_other_is_seen_up_to_two_hundred_metres(
    merge: Any, place: Place, idle: Idle, away: float, seen: bool
) -> None:
    place(merge, "leader", 300.0, 4.0)
    place(merge, "follower", 300.0 - away, 4.0)
    observations, _, _, _, infos = idle(merge)
    assert infos["leader"]["gap"] == pytest.approx(away)
    np.testing.assert_array_equal(observations["leader"][4:8], np.array([300.0 - away, 4, 0, 0], np.float32) * seen)
    np.testing.assert_array_equal(observations["follower"][4:8], np.array([300.0, 4, 0, 0], np.float32) * seen)
    np.testing.assert_array_equal(merge.state()[[0, 4]], np.array([300.0, 300.0 - away], np.float32))


@pytest.mark.parametrize("suite", [f"{name}{end}" for name in (*CLOCKED, "racetrack") for end in ("", "-official")])
def test_observations_are_in_the_order_of_the_suites_features(make_quiet: Any, suite: str) -> None:
    game = make_quiet(suite)
    for decision in range(4):
        leader_action, follower_action = (3, (1, 4)[decision % 2]) if "discrete" in game.spec.action_kind else ACTIONS
        observations, *_ = game.step({"leader": leader_action, "follower": follower_action})
    names = game.spec.features.names
    assert len(set(names)) == len(names) == 8 + (suite in CLOCKED)
    leader, follower = game.scene.controlled_vehicles
    assert leader.heading != 0.0 or "merge" in suite
    for agent, own, other in (("leader", leader, follower), ("follower", follower, leader)):
        expected = {"time left [1]": 1.0 - 4 / 20}
        for prefix, vehicle in (("", own), ("other ", other)):
            expected[f"{prefix}x [m]"], expected[f"{prefix}y [m]"] = vehicle.position
            expected[f"{prefix}vx [m/s]"] = vehicle.speed * math.cos(vehicle.heading)
            expected[f"{prefix}vy [m/s]"] = vehicle.speed * math.sin(vehicle.heading)
        wanted = np.array([expected[name] for name in names], np.float32)
        assert observations[agent].dtype == np.float32
        np.testing.assert_array_equal(observations[agent], wanted)
        if agent == "leader":
            np.testing.assert_array_equal(game.state(), wanted)
