"""Speed of the driving kernel on one core, and its ratio to upstream highway-env in the same run.

    pytest suites/perf/bench_kernel.py -n0 --benchmark-only

A decision is one joint action of one environment. The denominator is highway-env as it is: two vehicles, upstream's
road network, stepping and pandas observation of both. The kernel is measured on the core, random actions, finished
episodes restarted in the same call; actions are drawn beforehand.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

import numpy as np
import pytest
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.roundabout_env import RoundaboutEnv

from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.driving.scenario import Merge, Roundabout
from safemarl_bench.registry import get_suite

UPSTREAM = {"merge": (MergeEnv, Merge), "roundabout": (RoundaboutEnv, Roundabout)}
BATCHES = (1, 16, 256, 4096)
FEATURES = ["x", "y", "vx", "vy"]
DECISIONS = 200


def upstream(suite: str) -> Any:
    """Return upstream's environment with the suite's two vehicles and upstream's own observation of them."""
    environment, ours = UPSTREAM[suite]
    spec = get_suite(suite)

    class TwoCars(environment):  # type: ignore[misc, valid-type]
        def _make_vehicles(self) -> None:
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

    single = {"type": "Kinematics", "vehicles_count": 2, "features": FEATURES, "absolute": True, "normalize": False}
    actions = {"type": "DiscreteMetaAction", "target_speeds": list(spec.env["target_speeds"])}
    config = {
        "simulation_frequency": 15,
        "policy_frequency": 1,
        "observation": {"type": "MultiAgentObservation", "observation_config": {**single, "include_obstacles": False}},
        "action": {"type": "MultiAgentAction", "action_config": actions},
    }
    return TwoCars(config=config)


@functools.cache
def upstream_rate(suite: str) -> float:
    """Return upstream's decisions per second, episodes of 12 decisions with random actions, resets not counted."""
    game, rng = upstream(suite), np.random.default_rng(0)
    spent = 0.0
    for _ in range(DECISIONS // 12):
        game.reset()
        joint = [tuple(map(int, pair)) for pair in rng.integers(5, size=(12, 2))]
        start = time.perf_counter()
        for pair in joint:
            game.step(pair)
        spent += time.perf_counter() - start
    return DECISIONS // 12 * 12 / spent


@pytest.mark.parametrize("suite", sorted(UPSTREAM))
@pytest.mark.parametrize("num_envs", BATCHES)
def test_decisions_per_second(benchmark: Any, suite: str, num_envs: int) -> None:
    core = BatchedDriving(get_suite(suite), num_envs, episode_stride=num_envs)
    actions = itertools.cycle(list(np.random.default_rng(0).integers(5, size=(64, num_envs, 2))))
    calls = max(4096 // num_envs, 1)

    def drive() -> None:
        for _ in range(calls):
            core.step(next(actions))

    benchmark.pedantic(drive, rounds=20, warmup_rounds=2)
    if benchmark.stats:
        rate = calls * num_envs / benchmark.stats.stats.median
        benchmark.extra_info.update(suite=suite, num_envs=num_envs, decisions_per_second=round(rate))
        benchmark.extra_info.update(
            upstream_decisions_per_second=round(upstream_rate(suite)), ratio=round(rate / upstream_rate(suite))
        )
