"""The official profile: the quirks of the released code, each against numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import safemarl_bench as smb

Place = Callable[..., Any]
Idle = Callable[[Any], Any]
NORTH = -math.pi / 2
SUITES = ("merge-official", "roundabout-official", "intersection-official", "racetrack-official")


def costs_of(infos: Any) -> dict[str, float]:
    return {agent: float(info["cost"][0]) for agent, info in infos.items()}


@pytest.mark.parametrize("suite", SUITES)
def test_an_official_suite_is_no_leaderboard_suite(suite: str) -> None:
    assert not smb.get_suite(suite).ranked
    assert smb.get_suite(suite.removesuffix("-official")).ranked


@pytest.mark.parametrize(
    ("suite", "limit", "steps"),
    [
        ("merge-official", 5.0, 20_000),
        ("roundabout-official", 5.0, 10_000),
        ("intersection-official", 5.0, 20_000),
        ("racetrack-official", 1.0, 500_000),
    ],
)
def test_limits_and_published_training_steps(suite: str, limit: float, steps: int) -> None:
    spec = smb.get_suite(suite)
    assert spec.cost_limits == {"leader": (limit,), "follower": (limit,)}
    assert spec.budget_steps("full") == steps


@pytest.mark.parametrize("suite", SUITES)
def test_a_time_out_is_a_termination_of_both_and_the_clock_is_not_seen(
    make_quiet: Any, place: Place, idle: Idle, suite: str
) -> None:
    game = make_quiet(suite)
    spots = {"merge": (4.0, 4.0), "roundabout": (0.0, 0.0), "intersection": (2.0, 2.0), "racetrack": (0.0, 5.0)}
    leader_y, follower_y = spots[suite.removesuffix("-official")]
    place(game, "leader", 80.0, leader_y)
    place(game, "follower", 60.0, follower_y)
    if "intersection" in suite:
        place(game, "follower", -60.0, 2.0)
    for decision in range(1, game.spec.horizon + 1):
        observations, _, terminations, truncations, _ = idle(game)
        assert observations["leader"].shape == observations["follower"].shape == game.state().shape == (8,)
        assert terminations == dict.fromkeys(("leader", "follower"), decision == game.spec.horizon)
        assert truncations == dict.fromkeys(("leader", "follower"), False)
    assert game.agents == []


def test_the_merge_pays_for_the_commanded_speed(make_quiet: Any, place: Place) -> None:
    game = make_quiet("merge-official")
    place(game, "leader", 50.0, 4.0, speed=20.0)
    place(game, "follower", 50.0, 14.5, speed=25.0)
    _, rewards, *_ = game.step({"leader": 3, "follower": 4})
    leader, follower = game.scene.controlled_vehicles
    assert (leader.target_speed, follower.target_speed) == (25, 20)
    assert leader.speed < 24.5 < 25 > follower.speed
    assert rewards == {"leader": 2.0, "follower": 0.0}


@pytest.mark.parametrize(
    ("suite", "speed", "reward"),
    [
        ("roundabout-official", 10.0, 2.0),
        ("roundabout-official", math.nextafter(10.0, 0.0), 0.0),
        ("roundabout-official", 15.0, 2.0),
        ("roundabout-official", math.nextafter(15.0, 99.0), 0.0),
        ("intersection-official", 8.0, 2.0),
        ("intersection-official", math.nextafter(8.0, 0.0), 0.0),
        ("intersection-official", 12.0, 2.0),
        ("intersection-official", math.nextafter(12.0, 99.0), 0.0),
    ],
)
def test_the_others_pay_for_the_true_speed(
    make_quiet: Any, place: Place, idle: Idle, suite: str, speed: float, reward: float
) -> None:
    game = make_quiet(suite)
    place(game, "leader", 2.0, 100.0, speed=speed, heading=NORTH)
    assert idle(game)[1]["leader"] == reward


def test_in_the_merge_arrivals_pay_ten_and_five_once_and_the_arrived_drive_on(
    make_quiet: Any, place: Place, idle: Idle
) -> None:
    game = make_quiet("merge-official")
    place(game, "leader", 340.0, 4.0, speed=25.0)
    place(game, "follower", 240.0, 4.0, speed=25.0)
    rewards, terminations, infos = [], [], []
    while game.agents:
        _, reward, termination, _, info = idle(game)
        rewards.append(reward)
        terminations.append(termination)
        infos.append(info)
    assert [reward["leader"] for reward in rewards] == [12.0, 2.0, 2.0, 2.0, 2.0]
    assert [reward["follower"] for reward in rewards] == [2.0, 2.0, 2.0, 2.0, 7.0]
    assert [termination["leader"] for termination in terminations] == [False] * 4 + [True]
    assert [info["leader"]["arrival_rank"] for info in infos] == [1] * 5
    assert infos[-1]["follower"]["arrival_rank"] == 2
    assert all(set(costs_of(info).values()) == {0.0} for info in infos)  # 26 m apart or not
    assert game.scene.controlled_vehicles[0].position[0] > 450.0
    assert len(game.scene.road.vehicles) == 2


def test_in_the_roundabout_every_decision_past_the_line_pays_five_to_each(
    make_quiet: Any, place: Place, idle: Idle
) -> None:
    game = make_quiet("roundabout-official")
    place(game, "leader", 2.0, -63.0, speed=4.0, heading=NORTH)
    place(game, "follower", 2.0, -55.0, speed=4.0, heading=NORTH)
    _, first, terminations, _, infos = idle(game)
    assert first == {"leader": 5.0, "follower": 0.0}
    assert terminations == {"leader": False, "follower": False}
    _, second, terminations, _, infos = idle(game)
    assert second == {"leader": 5.0, "follower": 5.0}
    assert terminations == {"leader": True, "follower": True}
    assert [infos[agent]["arrival_rank"] for agent in ("leader", "follower")] == [1, 2]


def test_in_the_intersection_arrivals_pay_five_and_two(make_quiet: Any, place: Place, idle: Idle) -> None:
    game = make_quiet("intersection-official")
    place(game, "leader", 2.0, -10.0, heading=NORTH, speed=5.0)
    place(game, "follower", 12.0, 2.0, speed=5.0)
    answers = [idle(game) for _ in range(2)]
    assert [answer[1] for answer in answers] == [{"leader": 0.0, "follower": 5.0}, {"leader": 2.0, "follower": 0.0}]
    assert game.agents == []


def test_being_close_costs_nothing(make_quiet: Any, place: Place, idle: Idle) -> None:
    for suite, leader, follower in [
        ("merge-official", (260.0, 4.0), (250.0, 4.0)),
        ("roundabout-official", (2.0, 24.0), (10.0, 20.0)),
        ("intersection-official", (2.0, 10.0), (-8.0, 2.0)),
    ]:
        game = make_quiet(suite)
        place(game, "leader", *leader)
        place(game, "follower", *follower)
        assert costs_of(idle(game)[4]) == {"leader": 0.0, "follower": 0.0}


def test_a_crash_costs_five_in_reward_and_cost_as_long_as_the_episode_lasts(
    make_quiet: Any, place: Place, idle: Idle
) -> None:
    game = make_quiet("merge-official", speed_band=[40, 50])
    place(game, "leader", 20.0, 4.0)
    place(game, "follower", 303.0, 8.0, speed=25.0)
    for decision in range(1, 21):
        _, rewards, terminations, _, infos = idle(game)
        assert rewards == {"leader": 0.0, "follower": -5.0}
        assert costs_of(infos) == {"leader": 0.0, "follower": 5.0}
        assert infos["follower"]["crashed"]
        assert set(terminations.values()) == {decision == 20}


def test_two_that_crash_end_the_episode_at_once(make_quiet: Any, idle: Idle) -> None:
    game, answers = make_quiet("intersection-official"), []
    while game.agents:
        answers.append(idle(game))
    assert len(answers) == 5
    assert answers[-1][1] == {"leader": 2.0 - 5.0, "follower": 2.0 - 5.0}
    assert costs_of(answers[-1][4]) == {"leader": 5.0, "follower": 5.0}
    assert set(answers[-1][2].values()) == {True}


def test_in_the_intersection_a_car_can_reverse(make_quiet: Any) -> None:
    game = make_quiet("intersection-official")
    for _ in range(20):
        game.step(dict.fromkeys(game.agents, np.array([-1.0], np.float32)))
    leader, follower = game.scene.controlled_vehicles
    assert leader.speed < -40.0
    assert leader.position[1] > 300.0
    assert follower.position[0] < -300.0
    assert game.agents == []


def test_off_the_racetrack_half_is_charged_and_nothing_paid_as_long_as_it_lasts(
    make_quiet: Any, place: Place, idle: Idle
) -> None:
    game = make_quiet("racetrack-official")
    place(game, "follower", 90.0, 5.0)
    for decision, (y, reward, cost) in enumerate(
        [(0.0, 1.0, 0.0), (-3.0, 0.0, 0.5), (-3.0, 0.0, 0.5), (0.0, 1.0, 0.0)]
    ):
        place(game, "leader", 70.0, y)
        _, rewards, terminations, truncations, infos = idle(game)
        assert rewards == {"leader": reward, "follower": 1.0}
        assert costs_of(infos) == {"leader": cost, "follower": 0.0}
        assert infos["leader"]["off_road"] is (decision > 0)
        assert set(terminations.values()) == set(truncations.values()) == {False}
    place(game, "follower", 90.0, 8.0)  # the leader is back on the road, but its task has ended
    _, rewards, terminations, _, _ = idle(game)
    assert rewards == {"leader": 1.0, "follower": 0.0}
    assert terminations == {"leader": True, "follower": True}


def test_a_crash_on_the_racetrack_takes_a_half_and_costs_one(make_quiet: Any, place: Place, idle: Idle) -> None:
    game = make_quiet("racetrack-official")
    place(game, "leader", 70.0, 0.0)
    place(game, "follower", 62.0, 0.0, speed=10.0)
    while game.agents:
        _, rewards, _, _, infos = idle(game)
    assert infos["leader"]["crashed"]
    assert rewards == {"leader": 1.0 - 0.5, "follower": 1.0 - 0.5}
    assert costs_of(infos) == {"leader": 1.0, "follower": 1.0}


def test_a_crash_off_the_racetrack_costs_both(make_quiet: Any, place: Place, idle: Idle) -> None:
    game = make_quiet("racetrack-official")
    place(game, "leader", 70.0, -4.0)
    place(game, "follower", 72.0, -4.0)
    _, rewards, terminations, _, infos = idle(game)
    assert rewards == {"leader": 0.0, "follower": 0.0}
    assert costs_of(infos) == {"leader": 1.5, "follower": 1.5}
    assert set(terminations.values()) == {True}
