"""What the driving benchmarks measure: upstream highway-env with two cars, and rounds of the kernel.

Both play the same kind of episodes, started anew when they end: uniformly random meta-actions or accelerations; on the
racetrack, where random steering leaves the road before the first bend, a lane follower with steering noise, which
drives all of its 200 decisions and meets every bend.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from highway_env.envs.common.abstract import AbstractEnv
from highway_env.envs.intersection_env import IntersectionEnv
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.racetrack_env import RacetrackEnv
from highway_env.envs.roundabout_env import RoundaboutEnv

from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.driving.frenet import lane_numbers
from safemarl_bench.driving.scenario import SCENARIOS
from safemarl_bench.driving.settings import SIMULATION_HZ
from safemarl_bench.registry import SuiteSpec, get_suite

UPSTREAM: dict[str, type[AbstractEnv]] = {
    "merge": MergeEnv,
    "roundabout": RoundaboutEnv,
    "intersection": IntersectionEnv,
    "racetrack": RacetrackEnv,
}
SUITES = tuple(suite for suite in UPSTREAM if "kernel" in get_suite(suite).backends)
FOLLOW_LANE = np.array([-0.5, -1.6, 0.5])
"""Steering per metre of offset, radian of heading error, and radian of bend in the next 5 m."""
STEERING_NOISE = 0.05
FEATURES = ["x", "y", "vx", "vy"]
ROUNDS, WARMUP_ROUNDS = 10, 2


def frames_per_decision(spec: SuiteSpec) -> int:
    """Return how many frames of 1/15 s one decision lasts."""
    return SIMULATION_HZ // int(spec.env.get("policy_frequency", 1))


def upstream(suite: str) -> Any:
    """Return upstream's environment with the suite's two cars, no traffic, and its own observation of both cars."""
    spec = get_suite(suite)
    ours, scenario = SCENARIOS[spec.env["scenario"]], UPSTREAM[suite]

    class TwoCars(scenario):  # type: ignore[misc, valid-type]
        def _make_vehicles(self, *_: Any) -> None:
            self.controlled_vehicles = []
            for agent, lane_index in zip(spec.roles, ours.LANES, strict=True):
                lane = self.road.network.get_lane(lane_index)
                along, speed = spec.env["spawn_position"][agent], spec.env["spawn_speed"][agent]
                heading = lane.heading_at(along)
                car = self.action_type.vehicle_class(self.road, lane.position(along, 0), heading=heading, speed=speed)
                if ours.DESTINATION is not None:
                    car.plan_route_to(ours.DESTINATION)
                self.road.vehicles.append(car)
                self.controlled_vehicles.append(car)

        def _reward(self, action: Any) -> float:
            return 0.0

        def _info(self, obs: Any, action: Any = None) -> dict[str, Any]:
            return {}

    return TwoCars(config=_upstream_config(spec))


def _upstream_config(spec: SuiteSpec) -> dict[str, Any]:
    actions: dict[str, Any]
    if spec.action_kind == "discrete":
        actions = {"type": "DiscreteMetaAction", "target_speeds": list(spec.env["target_speeds"])}
    else:
        steers = spec.env["scenario"] == "racetrack"
        actions = {"type": "ContinuousAction", "longitudinal": not steers, "lateral": steers}
    rate = SIMULATION_HZ // frames_per_decision(spec)
    single = {"type": "Kinematics", "vehicles_count": 2, "features": FEATURES, "absolute": True, "normalize": False}
    return {
        "simulation_frequency": SIMULATION_HZ,
        "policy_frequency": rate,
        "duration": spec.horizon / rate,
        "spawn_probability": 0.0,  # of the intersection's traffic
        "observation": {"type": "MultiAgentObservation", "observation_config": {**single, "include_obstacles": False}},
        "action": {"type": "MultiAgentAction", "action_config": actions},
    }


class Upstream:
    """Upstream's environment of a suite, driven on from round to round; its episodes end where upstream ends them."""

    def __init__(self, suite: str) -> None:
        """Build the environment."""
        self.spec, self.game, self.rng = get_suite(suite), upstream(suite), np.random.default_rng(0)
        self.over = True

    def rate(self, decisions: int) -> float:
        """Return the decisions per second of that many, resets and the choice of actions not counted."""
        spent = 0.0
        for _ in range(decisions):
            if self.over:
                self.game.reset()
            actions = self._choose()
            start = time.perf_counter()
            _, _, terminated, truncated, _ = self.game.step(actions)
            spent += time.perf_counter() - start
            self.over = terminated or truncated
        return decisions / spent

    def _choose(self) -> tuple[Any, ...]:
        if self.spec.action_kind == "discrete":
            return tuple(self.rng.integers(5, size=2).tolist())
        if self.spec.env["scenario"] == "racetrack":
            seen = np.array([lane_numbers(car)[:3] for car in self.game.controlled_vehicles])
            return tuple(_follow_lane(seen, self.rng)[:, None])
        return tuple(self.rng.uniform(-1.0, 1.0, size=(2, 1)).astype(np.float32))


def kernel_rounds(suite: str, num_envs: int, calls: int) -> tuple[BatchedDriving, Callable[[], None]]:
    """Return the simulator and a function that takes its next `calls` joint decisions in every environment.

    Enough actions for all rounds are drawn beforehand.
    """
    core = BatchedDriving(get_suite(suite), num_envs, episode_stride=num_envs)
    joint = iter(_draw_actions(suite, num_envs, calls * (ROUNDS + WARMUP_ROUNDS)))

    def drive() -> None:
        for _ in range(calls):
            core.step(next(joint))

    return core, drive


def _draw_actions(suite: str, num_envs: int, steps: int) -> list[np.ndarray]:
    """Return the (E, 2) actions of each step."""
    spec, rng = get_suite(suite), np.random.default_rng(0)
    if spec.action_kind == "discrete":
        return list(rng.integers(5, size=(steps, num_envs, 2)))
    if spec.env["scenario"] == "racetrack":
        return _lane_followers_actions(num_envs, steps, rng)
    return list(rng.uniform(-1.0, 1.0, size=(steps, num_envs, 2)).astype(np.float32))


def _lane_followers_actions(num_envs: int, steps: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Drive the twin suite that shows lane offsets, with the same episodes, and return what it played."""
    core = BatchedDriving(get_suite("racetrack-frenet"), num_envs, episode_stride=num_envs)
    seen, played = core.reset().obs, []
    for _ in range(steps):
        played.append(_follow_lane(seen[:, :, :3], rng))
        seen = core.step(played[-1]).obs
    return played


def _follow_lane(seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (..., float32) steering in [-1, 1] from (..., 3) offset [m], heading error and bend ahead [rad]."""
    steering = seen @ FOLLOW_LANE
    noise = rng.normal(0.0, STEERING_NOISE, size=steering.shape)
    actions: np.ndarray = np.clip(steering + noise, -1.0, 1.0).astype(np.float32)
    return actions
