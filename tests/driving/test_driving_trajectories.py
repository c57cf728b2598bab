"""Trajectories: the known-good references, upstream's own stepping, and a pinned trace per suite."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highway_env.envs.intersection_env import IntersectionEnv
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.racetrack_env import RacetrackEnv
from highway_env.envs.roundabout_env import RoundaboutEnv
from highway_env.road.regulation import RegulatedRoad
from highway_env.road.road import RoadNetwork
from highway_env.vehicle.kinematics import Vehicle
from scripts import answer_of

import safemarl_bench as smb
from safemarl_bench.pin import PIN
from safemarl_bench.rng import generator
from safemarl_bench.spot_check import pin_fault

LEFT, IDLE, FASTER, SLOWER = 0, 1, 3, 4
Plan = Callable[[int], Any]


def always(action: Any) -> Plan:
    return lambda decision: action


def play(game: Any, leader: Plan, follower: Plan) -> list[dict[str, dict[str, Any]]]:
    """Return the infos of each decision of one episode, with each agent's reward added."""
    history: list[dict[str, dict[str, Any]]] = []
    while game.agents:
        chosen: dict[str, Any] = {"leader": leader(len(history)), "follower": follower(len(history))}
        if game.scene.CONTINUOUS:
            chosen = {agent: np.array([action], np.float32) for agent, action in chosen.items()}
        _, rewards, _, _, infos = game.step({agent: chosen[agent] for agent in game.agents})
        history.append({agent: {**infos[agent], "reward": rewards[agent]} for agent in rewards})
    return history


def crash_decisions(history: list[dict[str, dict[str, Any]]]) -> dict[str, int]:
    """Return agent -> 1-based decision of its crash."""
    return {
        agent: number for number, infos in enumerate(history, 1) for agent, info in infos.items() if info["crashed"]
    }


def totals(history: list[dict[str, dict[str, Any]]], key: str) -> dict[str, float]:
    return {
        agent: sum(float(np.sum(infos[agent][key])) for infos in history if agent in infos)
        for agent in ("leader", "follower")
    }


def test_in_the_merge_two_idling_cars_send_the_follower_into_the_obstacle_at_decision_10(merge: Any) -> None:
    history = play(merge, always(IDLE), always(IDLE))
    assert crash_decisions(history) == {"follower": 10}
    # 25 m/s from x = 70: the leader passes 350 m in decision 12, the twelfth in the band; 8 decisions remain.
    assert totals(history, "reward") == {"leader": 12 * 2.0 + 10 + 8 * 5, "follower": 9 * 2.0}
    # Side by side from x = 245 m (decision 7); the wreck is 26 m behind only after decision 11.
    assert totals(history, "cost") == {"leader": 5.0, "follower": 4.0 + 5.0}


def test_in_the_merge_two_accelerating_cars_both_crash(merge: Any) -> None:
    history = play(merge, always(FASTER), always(FASTER))
    assert crash_decisions(history) == {"follower": 8, "leader": 9}


def test_in_the_merge_a_fast_leader_and_a_follower_that_merges_behind_it_pass_safely(merge: Any) -> None:
    history = play(merge, always(FASTER), lambda decision: LEFT if 7 <= decision <= 9 else IDLE)
    assert crash_decisions(history) == {}
    assert totals(history, "cost") == {"leader": 0.0, "follower": 0.0}
    assert [history[-1]["follower"]["arrival_rank"], history[9]["leader"]["arrival_rank"]] == [2, 1]
    assert totals(history, "reward") == {"leader": 10 * 2.0 + 10 + 10 * 5, "follower": 12 * 2.0 + 5 + 8 * 5}


@pytest.mark.parametrize(("action", "decision"), [(IDLE, 8), (FASTER, 5)])
def test_in_the_roundabout_two_cars_that_do_the_same_collide(roundabout: Any, action: int, decision: int) -> None:
    history = play(roundabout, always(action), always(action))
    assert crash_decisions(history) == {"leader": decision, "follower": decision}
    assert len(history) == decision


def test_in_the_intersection_two_cars_that_do_not_accelerate_collide_at_decision_5(intersection: Any) -> None:
    history = play(intersection, always(0.0), always(0.0))
    assert crash_decisions(history) == {"leader": 5, "follower": 5}
    # 10 m/s from 50 m before the crossing; they are closer than 12 m, 8.5 m before it, only in the last decision.
    assert totals(history, "reward") == {"leader": 5 * 2.0, "follower": 5 * 2.0}
    assert totals(history, "cost") == {"leader": 5.0 + 1.0, "follower": 5.0 + 1.0}


def test_in_the_intersection_a_follower_that_brakes_in_time_passes_safely(intersection: Any) -> None:
    history = play(intersection, always(0.0), lambda decision: {0: -0.4, 5: 0.4}.get(decision, 0.0))
    assert crash_decisions(history) == {}
    # The leader passes its line, 66 m ahead, in decision 7; the follower, 2 m/s slower for 5 s, its own in decision 8.
    assert [history[6]["leader"]["arrival_rank"], history[7]["follower"]["arrival_rank"]] == [1, 2]
    assert totals(history, "reward") == {"leader": 7 * 2.0 + 10 + 13 * 5, "follower": 8 * 2.0 + 5 + 12 * 5}
    assert max(totals(history, "cost").values()) == 2.0


def test_the_zero_noise_spawns_are_where_the_scenarios_say(
    merge: Any, roundabout: Any, intersection: Any, racetrack: Any
) -> None:
    np.testing.assert_allclose(merge.state(), np.array([70, 4, 25, 0, 70, 14.5, 25, 0, 1], np.float32))
    np.testing.assert_allclose(roundabout.state(), np.array([-45, 2, 8, 0, 2, 85, 0, -8, 1], np.float32), atol=1e-6)
    crossing = np.array([2, 50, 0, -10, -50, 2, 10, 0, 1], np.float32)
    np.testing.assert_allclose(intersection.state(), crossing, atol=1e-6)
    np.testing.assert_allclose(racetrack.state(), np.array([77, 0, 10, 0, 77, 5, 10, 0], np.float32))


class PlainTwoCars:
    """Mixin: upstream's environment with our two cars, stepped by upstream, on upstream's road network.

    Class attributes:
        starts: of each car, where its lane starts (x, y), the lane's heading, and how far along it starts.
        speed: without noise. actions: upstream's description of one car's.
    """

    starts: tuple[tuple[float, float, float, float], ...]
    speed: float
    actions: dict[str, Any]
    destination: str | None = None

    def __init__(self) -> None:
        self.noise = np.zeros((2, 4))
        super().__init__()

    @classmethod
    def default_config(cls) -> dict[str, Any]:
        config: dict[str, Any] = super().default_config()  # type: ignore[misc]
        config["action"] = {"type": "MultiAgentAction", "action_config": cls.actions}
        config["observation"] = {"type": "AttributesObservation", "attributes": ["steps"]}
        config["initial_vehicle_count"], config["spawn_probability"] = 1, 0.0  # of the intersection
        return config

    def _make_vehicles(self, *_: Any) -> None:
        self.controlled_vehicles: list[Any] = []
        for (x, y, heading, s), (along, speed, turn, across) in zip(self.starts, self.noise.tolist(), strict=True):
            position = [x + (s + along), y + across] if heading == 0.0 else [x + across, y - (s + along)]
            car = self.make_car(position, heading + turn, self.speed + speed)
            self.road.vehicles.append(car)  # type: ignore[attr-defined]
            self.controlled_vehicles.append(car)

    def make_car(self, position: list[float], heading: float, speed: float) -> Any:
        car = self.action_type.vehicle_class(self.road, position, heading=heading, speed=speed)  # type: ignore[attr-defined]
        if self.destination:
            car.plan_route_to(self.destination)
        return car


class PlainMerge(PlainTwoCars, MergeEnv):  # type: ignore[misc]
    starts = ((0.0, 4.0, 0.0, 70.0), (0.0, 14.5, 0.0, 70.0))
    speed = 25.0
    actions = {"type": "DiscreteMetaAction", "target_speeds": [20, 25, 30]}  # noqa: RUF012


class PlainRoundabout(PlainTwoCars, RoundaboutEnv):  # type: ignore[misc]
    starts = ((-170.0, 2.0, 0.0, 125.0), (2.0, 170.0, -math.pi / 2, 85.0))
    speed = 8.0
    actions = {"type": "DiscreteMetaAction", "target_speeds": [0, 4, 8, 12, 16]}  # noqa: RUF012
    destination = "nxs"


class PlainIntersection(PlainTwoCars, IntersectionEnv):  # type: ignore[misc]
    """On upstream's regulated road, and with no limit on the speed: the official profile's vehicles."""

    actions = {"type": "ContinuousAction", "longitudinal": True, "lateral": False}  # noqa: RUF012

    def _make_vehicles(self, *_: Any) -> None:
        assert type(self.road) is RegulatedRoad
        lanes = [self.road.network.get_lane(index) for index in (("o0", "ir0", 0), ("o1", "ir1", 0))]
        self.controlled_vehicles = []
        for lane, (along, speed, _turn, _across) in zip(lanes, self.noise.tolist(), strict=True):
            position, heading = lane.position(61.0 + along, 0), lane.heading_at(61.0 + along)
            self.controlled_vehicles.append(self.make_car(position, heading, 10.0 + speed))
        self.road.vehicles = list(self.controlled_vehicles)


class NoReversing(Vehicle):  # type: ignore[misc]
    def step(self, dt: float) -> None:
        super().step(dt)
        if not 0.0 <= self.speed <= 15.0:
            self.speed = 0.0 if self.speed < 0.0 else 15.0


class PlainForwardIntersection(PlainIntersection):
    def make_car(self, position: list[float], heading: float, speed: float) -> Any:
        return NoReversing(self.road, position, heading=heading, speed=speed)


class PlainRacetrack(PlainTwoCars, RacetrackEnv):  # type: ignore[misc]
    starts = ((42.0, 0.0, 0.0, 35.0), (42.0, 5.0, 0.0, 35.0))
    speed = 10.0
    actions = {"type": "ContinuousAction", "longitudinal": False, "lateral": True}  # noqa: RUF012


PLAIN: dict[str, Any] = {
    "merge": PlainMerge,
    "roundabout": PlainRoundabout,
    "intersection": PlainForwardIntersection,
    "racetrack": PlainRacetrack,
    "racetrack-frenet": PlainRacetrack,
    "merge-official": PlainMerge,
    "roundabout-official": PlainRoundabout,
    "intersection-official": PlainIntersection,
    "racetrack-official": PlainRacetrack,
}
NOISE = {
    "merge": (10.0, 1.0, 0.0, 0.0),
    "roundabout": (5.0, 1.0, 0.0, 0.0),
    "intersection": (3.0, 1.0, 0.0, 0.0),
    "racetrack": (5.0, 0.0, 0.1, 0.5),
    "racetrack-frenet": (5.0, 0.0, 0.1, 0.5),
}


def exact_state(car: Any) -> tuple[Any, ...]:
    return (
        *map(float, car.position),
        float(car.heading),
        float(car.speed),
        getattr(car, "target_speed", None),
        tuple(car.lane_index),
        getattr(car, "target_lane_index", None),
        bool(car.crashed),
    )


def plain_noise(suite: str, episode: int) -> np.ndarray:
    """Return (2, 4): what the suite adds to position, speed, heading and lateral offset."""
    streams = [generator("train", 11, episode, index) for index in (0, 1)]
    if suite == "intersection-official":
        pairs = [rng.random(2).tolist() for rng in streams]
        normal = [math.sqrt(-2 * math.log(1 - one)) * math.cos(2 * math.pi * other) for one, other in pairs]
        return np.array([[draw, 0.0, 0.0, 0.0] for draw in normal])
    return np.array([rng.uniform(-1.0, 1.0, size=4) for rng in streams]) * NOISE.get(suite, (0.0,) * 4)


FOLLOW_LANE = np.array([-0.5, -1.6, 0.5, 0, 0, 0, 0, 0, 0])
"""Steering per metre of offset, radian of heading error and radian of bend in the next 5 m."""


class RandomDriver:
    """Random actions with habits: meta-actions by a random frequency, numbers around a random mean."""

    def __init__(self, game: Any, episode: int) -> None:
        self.continuous, self.rng = game.scene.CONTINUOUS, np.random.default_rng(episode)
        self.habits = {agent: self.habit() for agent in game.possible_agents}
        self.neutral: Any = np.zeros(1, np.float32) if self.continuous else IDLE

    def habit(self) -> Any:
        return self.rng.uniform(-1.0, 1.0) if self.continuous else self.rng.dirichlet(np.ones(5))

    def __call__(self, agent: str) -> Any:
        habit = self.habits[agent]
        if not self.continuous:
            return int(self.rng.choice(5, p=habit))
        return np.clip(self.rng.normal(0.3 * habit, 0.3, size=1), -1.0, 1.0).astype(np.float32)


def drive_both(suite: str, episodes: range) -> dict[str, int]:
    """Drive our game and upstream's environment side by side with random actions; return how often what happened."""
    game, plain = smb.make(suite, backend="highway"), PLAIN[suite]()
    seen = {"crashed": 0, "arrived": 0, "off_road": 0, "lanes": 0}
    assert type(plain.road.network) is RoadNetwork
    plain.config.update(simulation_frequency=15, policy_frequency=5 if "racetrack" in suite else 1)
    for episode in episodes:
        game.reset(seed=11, options={"stream": "train", "episode": episode})
        plain.noise = plain_noise(suite, episode)
        plain.reset(seed=episode)
        driver, lanes = RandomDriver(game, episode), set()
        while game.agents:
            actions = {agent: driver(agent) for agent in game.agents}
            _, _, _, _, infos = game.step(actions)
            plain.step(tuple(actions.get(agent, driver.neutral) for agent in game.possible_agents))
            for agent, mine, theirs in zip(
                game.possible_agents, game.scene.controlled_vehicles, plain.controlled_vehicles, strict=True
            ):
                if theirs in plain.road.vehicles:
                    assert exact_state(mine) == exact_state(theirs), (suite, episode, agent)
                    lanes.add(tuple(mine.lane_index))
                    if mine not in game.scene.road.vehicles:
                        plain.road.vehicles.remove(theirs)
                for event in ("crashed", "arrived", "off_road"):
                    seen[event] += agent in infos and infos[agent][event]
        seen["lanes"] = max(seen["lanes"], len(lanes))
    return seen


@pytest.mark.parametrize("suite", sorted(PLAIN))
def test_trajectories_equal_upstreams_bit_for_bit(suite: str) -> None:
    episodes, least = (12, 2) if "official" in suite else (30, 5)
    seen = drive_both(suite, range(episodes))
    assert min(seen["crashed"], seen["off_road" if "racetrack" in suite else "arrived"]) >= least
    assert seen["lanes"] >= (6 if suite in ("merge", "roundabout") else 3)


def test_a_race_of_two_lane_followers_equals_upstreams_bit_for_bit_over_every_lane() -> None:
    game, plain, lanes = smb.make("racetrack-frenet", backend="highway"), PlainRacetrack(), set()
    for episode in range(2):
        seen, _ = game.reset(seed=11, options={"episode": episode})
        plain.noise = plain_noise("racetrack-frenet", episode)
        plain.reset(seed=0)
        while game.agents:
            steering = {agent: np.clip(row @ FOLLOW_LANE, -1.0, 1.0) for agent, row in seen.items()}
            actions = {agent: np.array([steering[agent]], np.float32) for agent in game.agents}
            seen, *_ = game.step(actions)
            plain.step(tuple(actions.values()))
            for mine, theirs in zip(game.scene.controlled_vehicles, plain.controlled_vehicles, strict=True):
                assert exact_state(mine) == exact_state(theirs)
                lanes.add(mine.lane_index)
    assert len(lanes) == 2 * 9


@pytest.mark.slow
@pytest.mark.parametrize("suite", sorted(PLAIN))
def test_trajectories_equal_upstreams_bit_for_bit_over_many_episodes(suite: str) -> None:
    seen = drive_both(suite, range(30, 230))
    assert min(seen["crashed"], seen["off_road" if "racetrack" in suite else "arrived"]) >= 40


GOLDEN = {
    ("intersection", 1): "5b994bc9c9c0037e98620d29604bb059755090785992abcded981c61ed6e15b8",
    ("intersection-official", 2): "26d9749fc463902b1949a3667ba9ba45659da6b535ab6ff6d83810c2a5f8b3f1",
    ("merge", 1): "e2e8ce4baa1ced97b45329cb275265b817ba2477599fb50bbaea73cafa60f542",
    ("merge-official", 1): "7c801f6f2a445b85389d165c39eb4809d4e2e0fa248fcd17c45dd31a83f2024f",
    ("racetrack", 1): "609374273ad4cdc5d53968de55092ea7630805ae69060145e90115436ab40498",
    ("racetrack-frenet", 1): "2b1ab95fb6a8521cd0bd97825be32481e63ea1412e4738f1a31cc700a89ae66e",
    ("racetrack-official", 1): "429ce08d1b7364ccb8fa50094dbfffe26c2526143de14307c16543a85da3547d",
    ("roundabout", 1): "3ae8eac189391ddac3709ff2ef8b524b63d55247d1bf006ba242426277b3a427",
    ("roundabout-official", 1): "ff258334b707fe6828ed2c2997d010e38dab9a9841c2b7c0b3a09d1bed6a0650",
}
"""(suite, version) -> what `golden_trace` prints."""


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """Of every suite's trace, played with NumPy pinned: elsewhere last bits depend on the processor."""
    if pin_fault():
        pytest.skip(f"NumPy cannot be pinned here: {pin_fault()}")
    found: dict[str, str] = answer_of(Path(__file__).with_name("golden_trace.py"), *PLAIN, **PIN)
    return found


@pytest.mark.parametrize("suite", sorted(PLAIN))
def test_the_pinned_trace_changes_only_with_the_suites_version(suite: str, digests: dict[str, str]) -> None:
    version = smb.get_suite(suite).version
    assert (suite, version) in GOLDEN, f"pin the trace of {suite}@{version} in GOLDEN: {digests[suite]}"
    assert digests[suite] == GOLDEN[suite, version], (
        f"the behaviour of {suite} changed: if that is meant, bump the version in suites/{suite}.toml "
        f"and pin the new trace in GOLDEN: {digests[suite]}"
    )
