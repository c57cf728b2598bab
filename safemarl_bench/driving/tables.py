"""The kernel's tables, read off an upstream scene: lanes, roads, routes, obstacles, spawns and rules."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from highway_env.road.lane import CircularLane, SineLane, StraightLane
from highway_env.road.road import LaneIndex, RoadNetwork
from highway_env.vehicle.kinematics import Vehicle

from safemarl_bench.driving import kernel
from safemarl_bench.driving.clearance import clearances
from safemarl_bench.driving.entry import is_official
from safemarl_bench.driving.scenario import Intersection, Merge, Racetrack, Roundabout, TwoVehicles
from safemarl_bench.driving.settings import SIMULATION_HZ
from safemarl_bench.errors import RegistryError
from safemarl_bench.registry import SuiteSpec

SCENARIO_CODES = {
    Merge: kernel.MERGE,
    Roundabout: kernel.ROUNDABOUT,
    Intersection: kernel.INTERSECTION,
    Racetrack: kernel.RACETRACK,
}


@dataclasses.dataclass(frozen=True)
class Tables:
    """What the kernel knows of one suite; columns are the constants of `safemarl_bench.driving.kernel`.

    Attributes:
        lane_indices: L upstream lane indices, in the network's order.
        spawns: (2, SPAWN_WIDTH). speeds: (n,) target speeds, m/s. obstacles: (O, 2) m.
        lanes: (L, LANE_WIDTH). clear: (L, cells) m, see `clearances`. roads: (R, 4 + successors).
        routes: (L, steps, 2), road and lane number or -1. rules: (RULES_WIDTH,).
    """

    lane_indices: tuple[LaneIndex, ...]
    spawns: np.ndarray
    speeds: np.ndarray
    obstacles: np.ndarray
    lanes: np.ndarray
    clear: np.ndarray
    roads: np.ndarray
    routes: np.ndarray
    rules: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays in the kernel's order."""
        given = (self.spawns, self.speeds, self.obstacles, self.lanes, self.clear)
        return (*given, self.roads, self.routes, self.rules)


def read_tables(spec: SuiteSpec, scene: TwoVehicles) -> Tables:
    """Return the tables of a suite.

    Args:
        spec: gives roles and horizon. scene: built from its settings.

    Raises:
        RegistryError: a scenario or a kind of lane that the kernel does not know.
    """
    if type(scene) not in SCENARIO_CODES:
        raise RegistryError(f"the kernel does not know the scenario {type(scene).__name__}")
    network = scene.road.network
    roads = [(start, end) for start, ends in network.graph.items() for end in ends]
    indices = tuple((*road, number) for road in roads for number in range(len(network.graph[road[0]][road[1]])))
    lanes = np.array([lane_row(network.get_lane(index), roads.index(index[:2]), index[2]) for index in indices])
    lanes[:, kernel.STEEPNESS], clear = clearances(lanes)
    obstacles = np.array([thing.position for thing in scene.road.objects], np.float64).reshape(-1, 2)
    return Tables(
        lane_indices=indices,
        spawns=_spawn_table(scene, spec.roles, indices),
        speeds=np.array(scene.settings.target_speeds, np.float64),
        obstacles=obstacles,
        lanes=lanes,
        clear=clear,
        roads=_road_table(network, roads, indices),
        routes=_route_table(network, roads, indices, scene.DESTINATION),
        rules=_rule_row(spec, scene, roads),
    )


def lane_row(lane: Any, road: int, number: int) -> np.ndarray:
    """Return a lane's row of the lane table.

    Args:
        lane: an upstream lane. road: its row of the road table. number: its place in the road.

    Raises:
        RegistryError: it is neither straight nor sine nor circular.
    """
    row = np.zeros(kernel.LANE_WIDTH, np.float64)
    row[[kernel.LENGTH, kernel.WIDTH, kernel.FORBIDDEN]] = lane.length, lane.width, lane.forbidden
    row[[kernel.ROAD, kernel.NUMBER]] = road, number
    if type(lane) is CircularLane:
        row[[kernel.KIND, kernel.RADIUS, kernel.SIGN]] = kernel.CIRCULAR, lane.radius, lane.direction
        row[[kernel.X0, kernel.Y0]], row[kernel.PHASE] = lane.center, lane.start_phase
        return row
    if type(lane) not in (StraightLane, SineLane):
        raise RegistryError(f"the kernel knows straight, sine and circular lanes, not {type(lane).__name__}")
    row[[kernel.X0, kernel.Y0]], row[kernel.LANE_HEADING] = lane.start, lane.heading
    row[[kernel.DIRECTION_X, kernel.DIRECTION_Y]] = lane.direction
    row[[kernel.LATERAL_X, kernel.LATERAL_Y]] = lane.direction_lateral
    row[kernel.KIND] = kernel.STRAIGHT
    if type(lane) is SineLane:
        row[[kernel.KIND, kernel.AMPLITUDE]] = kernel.SINE, lane.amplitude
        row[[kernel.PULSATION, kernel.PHASE]] = lane.pulsation, lane.phase
    return row


def _road_table(network: RoadNetwork, roads: list[Any], indices: tuple[LaneIndex, ...]) -> np.ndarray:
    nodes = sorted({node for road in roads for node in road})
    following = [[roads.index((end, further)) for further in network.graph.get(end, {})] for _, end in roads]
    table = np.full((len(roads), kernel.SUCCESSORS + max(map(len, following))), -1, np.int64)
    for row, (start, end) in zip(table, roads, strict=True):
        row[kernel.FIRST_LANE] = indices.index((start, end, 0))
        row[kernel.LANE_COUNT] = len(network.graph[start][end])
        row[[kernel.FROM_NODE, kernel.TO_NODE]] = nodes.index(start), nodes.index(end)
    for row, further in zip(table, following, strict=True):
        row[kernel.SUCCESSORS : kernel.SUCCESSORS + len(further)] = further
    return table


def _route_table(
    network: RoadNetwork, roads: list[Any], indices: tuple[LaneIndex, ...], destination: str | None
) -> np.ndarray:
    """Return upstream's own plan from every lane, ended by -1; all -1 where nothing is planned."""
    plans: list[list[tuple[int, int]]] = []
    for start, end, number in indices:
        plan = []
        if destination is not None:
            try:
                path = network.shortest_path(end, destination)
            except KeyError:  # a dead end, where upstream drives on without a plan
                path = []
            plan = [(roads.index((start, end)), number)]
            plan += [(roads.index(road), -1) for road in itertools.pairwise(path)]
        plans.append(plan)
    table = np.full((len(plans), max(map(len, plans)) + 1, 2), -1, np.int64)
    for row, plan in zip(table, plans, strict=True):
        row[: len(plan)] = np.array(plan, np.int64).reshape(-1, 2)
    return table


def _spawn_table(scene: TwoVehicles, roles: tuple[str, ...], indices: tuple[LaneIndex, ...]) -> np.ndarray:
    settings = scene.settings
    return np.array(
        [
            [
                indices.index(lane),
                settings.spawn_position[agent],
                settings.spawn_speed[agent],
                settings.noise_position,
                settings.noise_speed,
                settings.noise_heading,
                settings.noise_lateral,
            ]
            for agent, lane in zip(roles, scene.LANES, strict=True)
        ],
        np.float64,
    )


def _rule_row(spec: SuiteSpec, scene: TwoVehicles, roads: list[Any]) -> np.ndarray:
    settings, row = scene.settings, np.zeros(kernel.RULES_WIDTH, np.float64)
    row[kernel.SCENARIO], row[kernel.HORIZON] = SCENARIO_CODES[type(scene)], spec.horizon
    row[[kernel.GAP, kernel.ZONE, kernel.FINISH]] = settings.gap, settings.zone, settings.finish
    row[[kernel.BAND_LOW, kernel.BAND_HIGH]] = settings.speed_band
    row[kernel.FRAMES], row[kernel.FRAME_SECONDS] = SIMULATION_HZ // settings.policy_frequency, 1 / SIMULATION_HZ
    row[kernel.EXIT_ROAD] = roads.index(scene.EXIT_ROAD) if isinstance(scene, Roundabout) else -1
    row[[kernel.FIRST_REWARD, kernel.SECOND_REWARD]] = settings.arrival_rewards
    row[kernel.CLIPS] = settings.speed_range is not None
    row[[kernel.SLOWEST, kernel.FASTEST]] = settings.speed_range or (Vehicle.MIN_SPEED, Vehicle.MAX_SPEED)
    row[kernel.OFFICIAL] = is_official(spec)
    row[kernel.FRENET], row[kernel.NORMAL] = settings.observation == "frenet", settings.noise == "normal"
    return row
