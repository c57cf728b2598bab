"""Trajectories: the known-good references, upstream's own stepping, and a pinned trace per suite."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.roundabout_env import RoundaboutEnv
from highway_env.road.road import RoadNetwork

import safemarl_bench as smb
from safemarl_bench.rng import generator

LEFT, IDLE, FASTER, SLOWER = 0, 1, 3, 4
Plan = Callable[[int], int]


def always(action: int) -> Plan:
    return lambda decision: action


def play(game: Any, leader: Plan, follower: Plan) -> list[dict[str, dict[str, Any]]]:
    """Return the infos of each decision of one episode, with each agent's reward added."""
    history: list[dict[str, dict[str, Any]]] = []
    while game.agents:
        chosen = {"leader": leader(len(history)), "follower": follower(len(history))}
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


def test_the_zero_noise_spawns_are_where_the_scenarios_say(merge: Any, roundabout: Any) -> None:
    np.testing.assert_allclose(merge.state(), np.array([70, 4, 25, 0, 70, 14.5, 25, 0, 1], np.float32))
    np.testing.assert_allclose(roundabout.state(), np.array([-45, 2, 8, 0, 2, 85, 0, -8, 1], np.float32), atol=1e-6)


class PlainTwoCars:
    """Mixin: upstream's environment with our two cars, stepped by upstream, on upstream's road network.

    Attributes:
        cars: (position, heading, speed) of each.
    """

    cars: tuple[tuple[list[float], float, float], ...]
    speeds: tuple[float, ...]
    destination: str | None = None

    def __init__(self) -> None:
        self.cars = self.spawns(np.zeros((2, 2)))
        super().__init__()

    @staticmethod
    def spawns(noise: np.ndarray) -> tuple[tuple[list[float], float, float], ...]:
        """Return both cars; noise: (2, 2) in [-1, 1], a row (position, speed) per car."""
        raise NotImplementedError

    @classmethod
    def default_config(cls) -> dict[str, Any]:
        config: dict[str, Any] = super().default_config()  # type: ignore[misc]
        single = {"type": "DiscreteMetaAction", "target_speeds": list(cls.speeds)}
        config["action"] = {"type": "MultiAgentAction", "action_config": single}
        config["observation"] = {"type": "AttributesObservation", "attributes": ["steps"]}
        return config

    def _make_vehicles(self) -> None:
        self.controlled_vehicles: list[Any] = []
        for position, heading, speed in self.cars:
            car = self.action_type.vehicle_class(self.road, position, heading=heading, speed=speed)  # type: ignore[attr-defined]
            if self.destination:
                car.plan_route_to(self.destination)
            self.road.vehicles.append(car)  # type: ignore[attr-defined]
            self.controlled_vehicles.append(car)


class PlainMerge(PlainTwoCars, MergeEnv):  # type: ignore[misc]
    speeds = (20.0, 25.0, 30.0)

    @staticmethod
    def spawns(noise: np.ndarray) -> tuple[tuple[list[float], float, float], ...]:
        (s0, v0), (s1, v1) = (noise * (10.0, 1.0) + (70.0, 25.0)).tolist()
        return ([s0, 4.0], 0.0, v0), ([s1, 14.5], 0.0, v1)


class PlainRoundabout(PlainTwoCars, RoundaboutEnv):  # type: ignore[misc]
    speeds = (0.0, 4.0, 8.0, 12.0, 16.0)
    destination = "nxs"

    @staticmethod
    def spawns(noise: np.ndarray) -> tuple[tuple[list[float], float, float], ...]:
        (s0, v0), (s1, v1) = (noise * (5.0, 1.0) + [(125.0, 8.0), (85.0, 8.0)]).tolist()
        return ([s0 - 170.0, 2.0], 0.0, v0), ([2.0, 170.0 - s1], -math.pi / 2, v1)


PLAIN: dict[str, Any] = {"merge": PlainMerge, "roundabout": PlainRoundabout}


def exact_state(car: Any) -> tuple[Any, ...]:
    return (
        *map(float, car.position),
        float(car.heading),
        float(car.speed),
        float(car.target_speed),
        tuple(car.lane_index),
        tuple(car.target_lane_index),
        bool(car.crashed),
    )


def drive_both(suite: str, episodes: range) -> dict[str, int]:
    """Drive our game and upstream's environment side by side with random actions; return how often what happened."""
    game, plain, seen = smb.make(suite), PLAIN[suite](), {"crashed": 0, "arrived": 0, "lanes": 0}
    assert type(plain.road.network) is RoadNetwork
    for episode in episodes:
        game.reset(seed=11, options={"stream": "train", "episode": episode})
        noise = [generator("train", 11, episode, index).uniform(-1.0, 1.0, size=2) for index in (0, 1)]
        plain.cars = plain.spawns(np.array(noise))
        plain.reset(seed=episode)
        rng = np.random.default_rng(episode)
        habits = {agent: rng.dirichlet(np.ones(5)) for agent in game.possible_agents}
        lanes = set()
        while game.agents:
            actions = {agent: int(rng.choice(5, p=habits[agent])) for agent in game.agents}
            _, _, _, _, infos = game.step(actions)
            plain.step(tuple(actions.get(agent, IDLE) for agent in game.possible_agents))
            for agent, mine, theirs in zip(
                game.possible_agents, game.scene.controlled_vehicles, plain.controlled_vehicles, strict=True
            ):
                if theirs in plain.road.vehicles:
                    assert exact_state(mine) == exact_state(theirs), (suite, episode, agent)
                    lanes.add(tuple(mine.lane_index))
                if agent in infos and infos[agent]["arrived"]:
                    plain.road.vehicles.remove(theirs)
                seen["crashed"] += agent in infos and infos[agent]["crashed"]
                seen["arrived"] += agent in infos and infos[agent]["arrived"]
        seen["lanes"] = max(seen["lanes"], len(lanes))
    return seen


@pytest.mark.parametrize("suite", sorted(PLAIN))
def test_trajectories_equal_upstreams_bit_for_bit(suite: str) -> None:
    seen = drive_both(suite, range(30))
    assert min(seen["crashed"], seen["arrived"]) >= 5
    assert seen["lanes"] >= 6


@pytest.mark.slow
@pytest.mark.parametrize("suite", sorted(PLAIN))
def test_trajectories_equal_upstreams_bit_for_bit_over_many_episodes(suite: str) -> None:
    seen = drive_both(suite, range(30, 230))
    assert min(seen["crashed"], seen["arrived"]) >= 40


PATTERNS = ((3, 3), (1, 1), (3, 4), (3, 0), (1, 3), (0, 2), (4, 3))
"""(leader's, follower's) meta-actions, taken in turn; each episode starts one further on."""

GOLDEN = {
    ("merge", 1): "e2e8ce4baa1ced97b45329cb275265b817ba2477599fb50bbaea73cafa60f542",
    ("roundabout", 1): "f824bc7752b812d8c64c88f0848364fcb90478875f854f42456c7699310b3391",
}
"""(suite, version) -> sha256 of `golden_lines`."""


def golden_lines(suite: str) -> list[str]:
    """Return what 14 episodes show, one line per decision, numbers to 6 decimals."""
    game, lines = smb.make(suite), []
    for episode in range(2 * len(PATTERNS)):
        stream = ("train", "evaluation")[episode % 2]
        game.reset(seed=2024, options={"stream": stream, "episode": episode})
        numbers: list[Any] = game.state().tolist()
        for decision in range(game.spec.horizon + 1):
            lines.append(" ".join(f"{round(float(number), 6) + 0.0:.6f}" for number in numbers))
            if not game.agents:
                break
            pattern = PATTERNS[(episode + decision // 6) % len(PATTERNS)]
            actions = dict(zip(game.possible_agents, pattern, strict=True))
            seen, rewards, terminations, truncations, infos = game.step(
                {agent: actions[agent] for agent in game.agents}
            )
            numbers = game.state().tolist()
            for car in game.scene.controlled_vehicles:
                numbers += [*car.position, car.speed, car.heading]
            for agent, info in infos.items():
                numbers += [*seen[agent], rewards[agent], terminations[agent], truncations[agent], *info["cost"]]
                numbers += [info["crashed"], info["off_road"], info["arrival_rank"], info["gap"]]
    return lines


@pytest.mark.parametrize("suite", sorted(PLAIN))
def test_the_pinned_trace_changes_only_with_the_suites_version(suite: str) -> None:
    version = smb.get_suite(suite).version
    digest = hashlib.sha256("\n".join(golden_lines(suite)).encode()).hexdigest()
    assert (suite, version) in GOLDEN, f"pin the trace of {suite}@{version} in GOLDEN: {digest}"
    assert digest == GOLDEN[suite, version], (
        f"the behaviour of {suite} changed: if that is meant, bump the version in suites/{suite}.toml "
        f"and pin the new trace in GOLDEN: {digest}"
    )
