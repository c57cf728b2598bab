"""Intersection and racetrack: what an action does, the road's edge, the limits of speed and of time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from highway_env.vehicle.behavior import IDMVehicle

import safemarl_bench as smb

Place = Callable[..., Any]
Idle = Callable[[Any], Any]
NORTH = -math.pi / 2


def act(game: Any, leader: float, follower: float) -> Any:
    """Take one decision; an agent that is done is left out."""
    chosen = {"leader": np.array([leader], np.float32), "follower": np.array([follower], np.float32)}
    return game.step({agent: chosen[agent] for agent in game.agents})


def speeds(game: Any) -> list[float]:
    return [float(vehicle.speed) for vehicle in game.scene.controlled_vehicles]


def test_the_action_is_the_acceleration_in_units_of_five(intersection: Any) -> None:
    act(intersection, 0.5, -0.25)
    assert speeds(intersection) == pytest.approx([10 + 2.5, 10 - 1.25])


def test_an_action_is_scaled_in_float32_as_upstream_does(intersection: Any) -> None:
    action = np.float32(0.3)
    act(intersection, float(action), 0.0)
    acceleration = np.float32(np.float32(action + np.float32(1)) * np.float32(10)) / np.float32(2) - np.float32(5)
    assert intersection.scene.controlled_vehicles[0].action["acceleration"] == float(acceleration)
    assert float(acceleration) != 5.0 * float(action)


def test_full_brakes_stop_a_car_and_never_reverse_it(intersection: Any, place: Place) -> None:
    place(intersection, "follower", -100.0, 2.0, speed=10.0)
    lowest, positions = math.inf, []
    watch = intersection.scene.after_frame

    def frame() -> None:
        nonlocal lowest
        lowest = min(lowest, *speeds(intersection))
        watch()

    intersection.scene.after_frame = frame
    while intersection.agents:
        act(intersection, -1.0, -1.0)
        positions.append(intersection.state()[[1, 4]].tolist())
    assert lowest == 0.0
    assert len(positions) == 20
    assert speeds(intersection) == [0.0, 0.0]
    assert positions[2:] == [positions[2]] * 18
    # 10 m/s, 5 m/s^2: 10 m, and half a frame's 10/15 m more, since positions move before speeds
    assert 50.0 - positions[-1][0] == pytest.approx(10.0 + 10 / 30, abs=1e-4)


def test_full_throttle_reaches_fifteen_and_no_more(intersection: Any, place: Place) -> None:
    place(intersection, "leader", 2.0, 110.0, speed=14.9, heading=NORTH)
    highest = 0.0

    def frame() -> None:
        nonlocal highest
        highest = max(highest, *speeds(intersection))

    intersection.scene.after_frame = frame
    for _ in range(2):
        act(intersection, 1.0, -1.0)
    assert highest == 15.0
    assert speeds(intersection)[0] == 15.0


def test_the_limits_of_one_games_speed_are_not_those_of_every_vehicle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTANCE_WANTED", "COMFORT_ACC_MAX", "COMFORT_ACC_MIN"):
        monkeypatch.setattr(IDMVehicle, name, 123.0)
    free, limited = smb.make("intersection-official", backend="highway"), smb.make("intersection", backend="highway")
    for game in (free, limited):
        game.reset(seed=0)
        for _ in range(3):
            act(game, -1.0, -1.0)
    assert speeds(free) == pytest.approx([-5.0, -5.0])
    assert speeds(limited) == [0.0, 0.0]
    assert [IDMVehicle.DISTANCE_WANTED, IDMVehicle.COMFORT_ACC_MAX, IDMVehicle.COMFORT_ACC_MIN] == [123.0] * 3


@pytest.mark.parametrize("suite", ["intersection", "intersection-official", "racetrack"])
def test_there_is_no_traffic(suite: str) -> None:
    game = smb.make(suite, backend="highway")
    for episode in range(5):
        game.reset(seed=0, options={"episode": episode})
        while game.agents:
            assert set(game.scene.road.vehicles) <= set(game.scene.controlled_vehicles)
            assert not game.scene.road.objects
            act(game, 0.1, -0.1)


def test_the_action_is_the_steering_angle_in_units_of_an_eighth_turn(racetrack: Any) -> None:
    act(racetrack, 0.5, -0.25)
    leader, follower = racetrack.scene.controlled_vehicles
    assert leader.action["steering"] == pytest.approx(math.pi / 8)
    assert follower.action["steering"] == pytest.approx(-math.pi / 16)
    # the bicycle turns by v sin(beta) / 2.5 a second, beta = atan(tan(steering) / 2); three frames of 1/15 s
    beta = math.atan(math.tan(math.pi / 8) / 2)
    assert leader.heading == pytest.approx(10.0 * math.sin(beta) / 2.5 * 3 / 15)
    assert speeds(racetrack) == [10.0, 10.0]


@pytest.mark.parametrize("action", [0.0, 0.5, -0.5, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, -1.25, 2.0])
def test_the_racetrack_pays_for_the_lanes_centre_and_little_steering(
    racetrack: Any, place: Place, action: float, offset: float
) -> None:
    place(racetrack, "leader", 60.0, offset, speed=0.0)
    place(racetrack, "follower", 90.0, 5.0 + offset, speed=0.0)
    _, rewards, _, _, _ = act(racetrack, action, action)
    expected = (1.0 / (1.0 + 4.0 * offset**2) - 0.3 * abs(action) + 1.0) / 2.0
    assert rewards == {"leader": pytest.approx(expected), "follower": pytest.approx(expected)}


@pytest.mark.parametrize(("y", "leaves"), [(-2.5, False), (-2.501, True), (7.5, False), (7.501, True)])
def test_who_leaves_the_road_pays_five_gets_nothing_and_is_gone(
    racetrack: Any, place: Place, idle: Idle, y: float, leaves: bool
) -> None:
    place(racetrack, "leader", 70.0, y)
    observations, rewards, terminations, truncations, infos = idle(racetrack)
    assert terminations == {"leader": leaves, "follower": False}
    assert truncations == {"leader": False, "follower": False}
    assert infos["leader"]["off_road"] is leaves
    assert infos["leader"]["cost"].tolist() == [5.0 * leaves]
    assert infos["follower"]["cost"].tolist() == [0.0]
    assert (rewards["leader"] == 0.0) is leaves
    assert (racetrack.scene.controlled_vehicles[0] in racetrack.scene.road.vehicles) is not leaves
    assert racetrack.agents == ["follower"] if leaves else ["leader", "follower"]
    assert (not observations["leader"][:4].any()) is leaves
    assert (not observations["follower"][4:].any()) is leaves
    assert (not racetrack.state()[:4].any()) is leaves
    assert math.isinf(infos["follower"]["gap"]) is leaves


def test_who_passes_the_line_beside_the_road_has_left_it_and_not_arrived(
    intersection: Any, place: Place, idle: Idle
) -> None:
    place(intersection, "leader", 6.0, -30.0, heading=NORTH)
    _, rewards, terminations, _, infos = idle(intersection)
    assert terminations["leader"]
    assert (infos["leader"]["off_road"], infos["leader"]["arrived"]) == (True, False)
    assert infos["leader"]["cost"].tolist() == [5.0]
    assert rewards["leader"] == 0.0


def test_one_who_left_the_road_can_no_longer_be_hit(racetrack: Any, place: Place, idle: Idle) -> None:
    place(racetrack, "leader", 70.0, -3.0)
    idle(racetrack)
    place(racetrack, "follower", 65.0, -2.0, speed=10.0)
    for _ in range(3):
        _, _, terminations, _, infos = idle(racetrack)
    assert terminations == {"follower": False}
    assert not infos["follower"]["crashed"]


def test_a_crash_in_the_decision_of_the_departure_wins(racetrack: Any, place: Place, idle: Idle) -> None:
    place(racetrack, "leader", 70.0, -4.0)
    place(racetrack, "follower", 72.0, -4.0)
    _, rewards, terminations, _, infos = idle(racetrack)
    for agent in ("leader", "follower"):
        assert (infos[agent]["crashed"], infos[agent]["off_road"]) == (True, False)
        assert infos[agent]["cost"].tolist() == [5.0]
    assert rewards == {"leader": 0.0, "follower": 0.0}
    assert set(terminations.values()) == {True}
    assert len(racetrack.scene.road.vehicles) == 2


def test_a_crash_on_the_racetrack_costs_five_and_the_step_is_paid(racetrack: Any, place: Place, idle: Idle) -> None:
    place(racetrack, "leader", 70.0, 0.0)
    place(racetrack, "follower", 62.0, 0.0, speed=10.0)
    while racetrack.agents:
        _, rewards, terminations, _, infos = idle(racetrack)
    assert terminations == {"leader": True, "follower": True}
    assert rewards == {"leader": 1.0, "follower": 1.0}
    assert [infos[agent]["cost"].tolist() for agent in ("leader", "follower")] == [[5.0], [5.0]]
    assert not infos["leader"]["off_road"]


@pytest.mark.parametrize("suite", ["racetrack", "racetrack-frenet"])
def test_the_racetracks_time_limit_truncates(make_quiet: Any, place: Place, idle: Idle, suite: str) -> None:
    game = make_quiet(suite)
    place(game, "leader", 50.0, 0.0)
    place(game, "follower", 90.0, 5.0)
    for decision in range(1, 201):
        _, rewards, terminations, truncations, infos = idle(game)
        assert rewards == {"leader": 1.0, "follower": 1.0}
        assert set(terminations.values()) == {False}
        assert set(truncations.values()) == {decision == 200}
    assert game.agents == []
    assert infos["leader"]["cost"].tolist() == [0.0]


def test_who_leaves_the_road_in_the_last_decision_is_terminated_not_truncated(
    racetrack: Any, place: Place, idle: Idle
) -> None:
    place(racetrack, "leader", 50.0, 0.0)
    place(racetrack, "follower", 90.0, 5.0)
    for _ in range(199):
        idle(racetrack)
    place(racetrack, "leader", 50.0, -3.0)
    _, _, terminations, truncations, _ = idle(racetrack)
    assert terminations == {"leader": True, "follower": False}
    assert truncations == {"leader": False, "follower": True}


def test_being_close_costs_nothing_on_the_racetrack(racetrack: Any, place: Place, idle: Idle) -> None:
    place(racetrack, "leader", 70.0, 0.0)
    place(racetrack, "follower", 70.0, 2.5)
    _, _, _, _, infos = idle(racetrack)
    assert infos["leader"]["cost"].tolist() == [0.0]


def test_uniform_actions_earn_about_eight_on_the_racetrack() -> None:
    game, rng, returns = smb.make("racetrack", backend="highway"), np.random.default_rng(0), []
    for episode in range(100):
        game.reset(seed=0, options={"stream": "evaluation", "episode": episode})
        total = 0.0
        while game.agents:
            total += sum(act(game, *rng.uniform(-1, 1, size=2))[1].values())
        returns.append(total)
    assert 7.0 < np.mean(returns) < 9.5
