"""The lane follower: its law by hand, its lane numbers against upstream's lanes, its return on both backends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from safemarl_bench.baselines.lane_follower import LaneFollower, lane_numbers, steer

import safemarl_bench as smb
from safemarl_bench.contract import NoConfig
from safemarl_bench.driving.frenet import lane_numbers as upstream_lane_numbers
from safemarl_bench.evaluation import EpisodeTally, play_episode
from safemarl_bench.registry import get_suite, incompatibility, make_context, suite_names
from safemarl_bench.rollout import Rollout


def play(suite: str, backend: str, episodes: int) -> list[EpisodeTally]:
    spec, game = get_suite(suite), smb.make(suite, backend=backend)
    agent = LaneFollower(make_context(spec, game, steps=0, seed=0, agent_class=LaneFollower), NoConfig())
    tallies = [play_episode(Rollout(spec, game), agent, "lane_follower", episode) for episode in range(episodes)]
    game.close()
    return tallies


@pytest.mark.parametrize(
    ("lateral", "heading_error", "bend", "expected"),
    [(0.0, 0.0, 0.0, 0.0), (0.5, 0.0, 0.0, -0.25), (0.0, 0.1, 0.0, -0.16), (0.0, 0.0, 0.2, 0.1), (-9.0, 0.0, 0.0, 1.0)],
)
def test_steering_is_the_clipped_sum_of_three_terms(
    lateral: float, heading_error: float, bend: float, expected: float
) -> None:
    steering = steer(np.array([lateral]), np.array([heading_error]), np.array([bend]))
    assert steering == pytest.approx([expected])
    assert steering.dtype == np.float32


def test_the_lane_numbers_are_upstreams() -> None:
    game = smb.make("racetrack", backend="highway")
    core = game.simulator(1)
    game.reset(seed=3, options={"stream": "train"})
    core.reset(stream="train", seeds=3)
    bends = set()
    for _ in range(60):
        expected = np.array([upstream_lane_numbers(vehicle)[:3] for vehicle in game.scene.controlled_vehicles]).T
        numbers = lane_numbers(core)
        assert numbers == pytest.approx(expected, abs=1e-9)
        bends |= set(np.sign(np.round(numbers[2], 6)))
        steering = steer(*numbers)
        game.step({agent: steering[[index]] for index, agent in enumerate(game.possible_agents)})
        core.step(steering[None])
    assert bends >= {0.0, -1.0}  # straights and bends
    game.close()


@pytest.mark.parametrize("suite", ["racetrack", "racetrack-frenet"])
@pytest.mark.parametrize(("backend", "episodes"), [("highway", 1), ("kernel", 5)])
def test_it_earns_386_of_400_and_never_leaves_the_road(suite: str, backend: str, episodes: int) -> None:
    for tally in play(suite, backend, episodes):
        assert math.fsum(tally.returns.values()) == pytest.approx(386.0, abs=1.0)
        assert not any(cost.any() for cost in tally.costs.values())
        assert tally.length == 200


def test_it_plays_racetracks_only_and_says_that_it_uses_the_simulator() -> None:
    able: list[Any] = [suite for suite in suite_names() if not incompatibility(get_suite(suite), LaneFollower)]
    assert able == ["racetrack", "racetrack-frenet", "racetrack-official"]
    assert LaneFollower.privileged == "planner"
    assert incompatibility(get_suite("intersection"), LaneFollower) == (
        "LaneFollower is made for scenario racetrack, suite intersection has intersection"
    )
