"""PrunedRoadNetwork against upstream's exhaustive search."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from highway_env.envs.intersection_env import IntersectionEnv
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.racetrack_env import RacetrackEnv
from highway_env.envs.roundabout_env import RoundaboutEnv
from highway_env.road.lane import CircularLane, PolyLaneFixedWidth, SineLane, StraightLane
from highway_env.road.road import RoadNetwork
from hypothesis import given, settings
from hypothesis import strategies as st

import safemarl_bench as smb
from safemarl_bench.driving.network import PrunedRoadNetwork, lower_bound

UPSTREAM: dict[str, RoadNetwork] = {
    "intersection": IntersectionEnv({"initial_vehicle_count": 1, "spawn_probability": 0.0}).road.network,
    "merge": MergeEnv().road.network,
    "racetrack": RacetrackEnv().road.network,
    "roundabout": RoundaboutEnv().road.network,
}
CENTERS = {"intersection": (0.0, 0.0), "merge": (230.0, 6.0), "racetrack": (60.0, -15.0), "roundabout": (0.0, 0.0)}
PRUNED = {name: PrunedRoadNetwork(network) for name, network in UPSTREAM.items()}
SCENARIOS = sorted(UPSTREAM)


def assert_same(name: str, position: np.ndarray, heading: float | None) -> None:
    expected = UPSTREAM[name].get_closest_lane_index(position, heading)
    assert PRUNED[name].get_closest_lane_index(position, heading) == expected, (position, heading)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_lanes_are_upstreams(name: str) -> None:
    game = smb.make(name, backend="highway")
    mine, theirs = game.scene.road.network, UPSTREAM[name]
    assert isinstance(mine, PrunedRoadNetwork)
    assert list(mine.lanes_dict()) == list(theirs.lanes_dict())
    assert str(mine.to_config()) == str(theirs.to_config())


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_closest_lane_is_upstreams_anywhere(name: str) -> None:
    rng = np.random.default_rng(1)
    for spread in (3.0, 30.0, 200.0, 1e5):
        for position in rng.normal(CENTERS[name], spread, size=(400, 2)):
            assert_same(name, position, float(rng.uniform(-7.0, 7.0)))
            assert_same(name, position, None)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_closest_lane_is_upstreams_on_and_beside_every_lane_centre(name: str) -> None:
    for lane in UPSTREAM[name].lanes_list():
        shares, offsets = (-0.01, 0.0, 0.5, 1.0, 1.01), (0.0, 2.0, -2.0, 1e-9)
        for share, offset, turn in itertools.product(shares, offsets, (0.0, 0.3, math.pi)):
            along = share * lane.length
            assert_same(name, lane.position(along, offset), lane.heading_at(along) + turn)


TIES = {
    "intersection": [(0.0, 4.0), (-11.0, 2.0), (-8.0, 0.0), (3.0, 5.0), (11.0, 11.0)],
    "racetrack": [(77.0, 2.5), (122.5, -25.0)],
    "merge": [(100.0, 2.0), (230.0, 0.0), (230.0, 2.0), (230.0, 4.0), (310.0, 2.0), (310.0, 6.0), (-5.0, 2.0)],
    "roundabout": [(22.0, 0.0), (0.0, 22.0), (-22.0, 0.0), (0.0, 42.5), (0.0, 100.0), (60.0, 0.0)],
}


@pytest.mark.parametrize(("name", "x", "y"), [(name, *point) for name in SCENARIOS for point in TIES[name]])
def test_an_exact_tie_goes_to_the_first_lane_as_upstream(name: str, x: float, y: float) -> None:
    position = np.array([x, y])
    distances = [lane.distance(position) for lane in UPSTREAM[name].lanes_list()]
    assert distances.count(min(distances)) > 1
    assert_same(name, position, None)
    for heading in (0.0, math.pi / 2, -math.pi / 2, math.pi):
        assert_same(name, position, heading)


@given(
    name=st.sampled_from(SCENARIOS),
    x=st.floats(-1e4, 1e4),
    y=st.floats(-1e4, 1e4),
    heading=st.none() | st.floats(-10.0, 10.0),
)
@settings(derandomize=True, max_examples=500, deadline=None)
def test_the_closest_lane_is_upstreams_for_any_position_and_heading(
    name: str, x: float, y: float, heading: float | None
) -> None:
    assert_same(name, np.array([x, y]), heading)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_bound_never_exceeds_the_distance(name: str) -> None:
    rng = np.random.default_rng(2)
    for lane in UPSTREAM[name].lanes_list():
        low = lower_bound(lane)
        for spread in (5.0, 100.0, 1e4):
            for position in rng.normal(0.0, spread, size=(50, 2)) + lane.position(0.0, 0.0):
                assert low(*position.tolist()) <= lane.distance(position) + 1e-9


def test_the_bound_is_the_distance_itself_for_a_straight_lane_and_within_the_amplitude_for_a_sine() -> None:
    rng = np.random.default_rng(3)
    straight = StraightLane([3.0, 4.0], [30.0, 40.0])
    sine = SineLane([3.0, 4.0], [30.0, 40.0], 2.0, 0.3, 0.1)
    for position in rng.normal(10.0, 40.0, size=(100, 2)):
        assert lower_bound(straight)(*position) == pytest.approx(straight.distance(position), abs=1e-9)
        assert lower_bound(sine)(*position) >= sine.distance(position) - 2 * 2.0 - 1e-9


def test_the_bound_of_a_circle_is_the_distance_from_it() -> None:
    circle = CircularLane([1.0, 2.0], 20.0, 0.0, math.pi / 2)
    assert lower_bound(circle)(1.0, 25.0) == pytest.approx(3.0)
    assert lower_bound(circle)(1.0, 2.0) == pytest.approx(20.0)


def test_a_lane_of_another_kind_is_never_pruned() -> None:
    lane = PolyLaneFixedWidth([(0.0, 0.0), (10.0, 0.0), (20.0, 5.0), (30.0, 5.0)])
    assert lower_bound(lane)(1e6, 1e6) == 0.0


@pytest.mark.parametrize(
    ("name", "most"), [("intersection", 6.0), ("merge", 4.0), ("racetrack", 6.0), ("roundabout", 6.0)]
)
def test_only_a_few_lanes_are_measured(name: str, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0

    def count(measure: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            nonlocal measured
            measured += 1
            return measure(*args, **kwargs)

        return counting

    monkeypatch.setattr(StraightLane, "distance_with_heading", count(StraightLane.distance_with_heading))
    monkeypatch.setattr(CircularLane, "distance_with_heading", count(CircularLane.distance_with_heading))
    lanes = UPSTREAM[name].lanes_list()
    for lane in lanes:
        PRUNED[name].get_closest_lane_index(lane.position(lane.length / 2, 0.5), lane.heading_at(lane.length / 2))
    assert measured / len(lanes) <= most
