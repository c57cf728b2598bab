"""The driving scenarios as subclasses of highway-env's environments.

Roads and vehicle dynamics are upstream's. What is ours: two controlled vehicles and no traffic, where
they spawn, a look at every simulation frame, and no pandas observation, which would take half the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
from highway_env.envs.common.abstract import AbstractEnv
from highway_env.envs.common.graphics import EnvViewer
from highway_env.envs.common.observation import ObservationType
from highway_env.envs.intersection_env import IntersectionEnv
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.racetrack_env import RacetrackEnv
from highway_env.envs.roundabout_env import RoundaboutEnv
from highway_env.road.road import Road
from highway_env.vehicle.kinematics import Vehicle

from safemarl_bench.driving.network import PrunedRoadNetwork
from safemarl_bench.driving.settings import SIMULATION_HZ, Settings, Spawn

BAND_REWARD = 2.0
STEERING_PENALTY = 0.3
CENTERING = 4.0
"""Weight of the squared lateral offset in the racetrack's reward, 1/m^2."""


class _NoObservation(ObservationType):  # type: ignore[misc]
    """The game reads the vehicles itself."""

    def space(self) -> gymnasium.Space[Any]:
        return gymnasium.spaces.Discrete(1)

    def observe(self) -> None:
        return None


class TwoVehicles(AbstractEnv):  # type: ignore[misc]
    """Mixin over an upstream environment: two controlled vehicles, watched in every frame.

    Class attributes:
        NEEDS: settings that its suite file must give.
        LANES: spawn lane of each vehicle. DESTINATION: route that both plan, or None.
        CONTINUOUS: one number in [-1, 1] is an action, not one of five meta-actions.
        TRUNCATES: the time limit only cuts the episode off: values bootstrap, and the clock is not observed.
    """

    NEEDS: ClassVar[tuple[str, ...]]
    LANES: ClassVar[tuple[tuple[str, str, int], ...]]
    DESTINATION: ClassVar[str | None] = None
    CONTINUOUS: ClassVar[bool] = False
    TRUNCATES: ClassVar[bool] = False
    viewer: EnvViewer | None
    road: Road

    def __init__(self, settings: Settings, render_mode: str | None = None) -> None:
        """Build the scene, with the vehicles at their mean spawns."""
        self.settings = settings
        agents = list(settings.spawn_position)
        self.spawns = [Spawn(settings.spawn_position[agent], settings.spawn_speed[agent]) for agent in agents]
        self.after_frame: Callable[[], None] = lambda: None
        self._network: PrunedRoadNetwork | None = None
        config = {
            "simulation_frequency": SIMULATION_HZ,
            "policy_frequency": settings.policy_frequency,
            "action": {"type": "MultiAgentAction", "action_config": self.action_config()},
        }
        super().__init__(config=config, render_mode=render_mode)

    def spawn(self, spawns: list[Spawn]) -> None:
        """Start an episode with one vehicle at each spawn."""
        self.spawns = spawns
        super().reset(seed=0)  # the generator that upstream hands around is never drawn from here

    def define_spaces(self) -> None:
        """Set the action type; there is no observation for upstream to make."""
        self.config["observation"] = {"type": "Kinematics"}  # what the viewer of upstream expects to find
        super().define_spaces()
        self.observation_type = _NoObservation(self)
        self.observation_space = self.observation_type.space()

    def action_config(self) -> dict[str, Any]:
        """Return upstream's description of one vehicle's actions."""
        return {"type": "DiscreteMetaAction", "target_speeds": list(self.settings.target_speeds)}

    def _reset(self) -> None:
        self._make_road()
        self._make_vehicles()

    def _make_vehicles(self) -> None:
        if self._network is None:
            self._network = PrunedRoadNetwork(self.road.network)
        self.road.network = self._network
        self.controlled_vehicles = []
        for lane_index, spawn in zip(self.LANES, self.spawns, strict=True):
            lane = self.road.network.get_lane(lane_index)
            position = lane.position(spawn.position, spawn.lateral)
            heading = lane.heading_at(spawn.position) + spawn.heading
            vehicle = self._make_vehicle(position, heading, spawn.speed)
            if self.DESTINATION is not None:
                vehicle.plan_route_to(self.DESTINATION)
            self.road.vehicles.append(vehicle)
            self.controlled_vehicles.append(vehicle)

    def _make_vehicle(self, position: Any, heading: float, speed: float) -> Any:
        return self.action_type.vehicle_class(self.road, position, heading=heading, speed=speed)

    def simulate(self, actions: tuple[Any, ...]) -> None:
        """Drive one decision: upstream's frame loop, with `after_frame` called after every frame.

        Args:
            actions: one per vehicle, a meta-action or a (1,) float32 vector, which upstream scales in float32; that
                of a vehicle which has left the scene is ignored.
        """
        frames = SIMULATION_HZ // self.settings.policy_frequency
        self.time += 1 / self.settings.policy_frequency
        for action, action_type in zip(actions, self.action_type.agents_action_types, strict=True):
            if action_type.controlled_vehicle in self.road.vehicles:
                action_type.act(action)
        for frame in range(frames):
            self.road.act()
            self.road.step(1 / SIMULATION_HZ)
            self.steps += 1
            self.after_frame()
            if frame < frames - 1:
                self._automatic_rendering()
        self.enable_auto_render = False

    def render(self) -> Any:
        """Draw the scene; upstream leaves the image black under SDL's dummy driver, common on headless machines."""
        if self.viewer is None:
            self.viewer = EnvViewer(self)
        self.viewer.enabled = True
        return super().render()

    def in_zone(self, vehicle: Any) -> bool:
        """Whether a vehicle is where the gap counts."""
        raise NotImplementedError

    def past_finish(self, vehicle: Any) -> float:
        """Return how far past the finish line a vehicle is, m; negative before it or on another road."""
        return -math.inf

    def off_road(self, vehicle: Any) -> bool:
        """Whether a vehicle has left the road; never where its controller keeps it on a lane."""
        return False

    def driving_reward(self, vehicle: Any, action: Any) -> float:
        """Return the reward of a decision that ends with the vehicle as it is, arrival apart."""
        low, high = self.settings.speed_band
        return BAND_REWARD if low <= vehicle.speed <= high else 0.0

    def _info(self, obs: Any, action: Any = None) -> dict[str, Any]:
        return {}


class Merge(TwoVehicles, MergeEnv):  # type: ignore[misc]
    """Leader on the right main lane, follower on the ramp, which ends at an obstacle at x = 310 m."""

    NEEDS = ("finish", "speed_band", "target_speeds")
    LANES = (("a", "b", 1), ("j", "k", 0))

    def in_zone(self, vehicle: Any) -> bool:
        """Both lanes count: side by side is too close."""
        return bool(vehicle.position[0] >= self.settings.zone)

    def past_finish(self, vehicle: Any) -> float:
        """Any lane; the line itself is not past it."""
        past = float(vehicle.position[0]) - self.settings.finish
        return past if past > 0.0 else -math.inf


class Roundabout(TwoVehicles, RoundaboutEnv):  # type: ignore[misc]
    """Leader enters from the west, follower from the south; both plan to leave by the north exit."""

    NEEDS = ("finish", "speed_band", "target_speeds")
    LANES = (("wer", "wes", 0), ("ser", "ses", 0))
    DESTINATION = "nxs"
    EXIT_ROAD = ("nxs", "nxr")

    def in_zone(self, vehicle: Any) -> bool:
        """Within a circle around the roundabout's centre."""
        return _from_centre(vehicle) <= self.settings.zone

    def past_finish(self, vehicle: Any) -> float:
        """Only on the north exit road; the line itself counts."""
        past = self.settings.finish - float(vehicle.position[1])
        return past if past >= 0.0 and vehicle.lane_index[:2] == self.EXIT_ROAD else -math.inf


class ClippedVehicle(Vehicle):  # type: ignore[misc]
    """A vehicle whose speed is clipped after every frame: upstream only steers it back, so that it reverses a little.

    Attributes:
        MIN_SPEED, MAX_SPEED: m/s.
    """

    speed: float

    def step(self, dt: float) -> None:
        """Move for `dt` seconds."""
        super().step(dt)
        self.speed = min(max(self.speed, self.MIN_SPEED), self.MAX_SPEED)


class Intersection(TwoVehicles, IntersectionEnv):  # type: ignore[misc]
    """Leader from the south to the north, follower from the west to the east; both go straight and accelerate."""

    NEEDS = ("finish", "speed_band")
    LANES = (("o0", "ir0", 0), ("o1", "ir1", 0))
    CONTINUOUS = True

    def action_config(self) -> dict[str, Any]:
        """Acceleration only; [-1, 1] is [-5, 5] m/s^2."""
        return {"type": "ContinuousAction", "longitudinal": True, "lateral": False}

    def _make_road(self) -> None:
        """Put upstream's lanes on a plain road: its regulated one never acts on controlled vehicles, but costs time."""
        super()._make_road()
        self.road = Road(self.road.network, np_random=self.np_random)

    def _make_vehicle(self, position: Any, heading: float, speed: float) -> Any:
        if self.settings.speed_range is None:
            return super()._make_vehicle(position, heading, speed)
        vehicle = ClippedVehicle(self.road, position, heading=heading, speed=speed)
        vehicle.MIN_SPEED, vehicle.MAX_SPEED = self.settings.speed_range
        return vehicle

    def in_zone(self, vehicle: Any) -> bool:
        """Within a circle around the centre of the crossing."""
        return _from_centre(vehicle) <= self.settings.zone

    def past_finish(self, vehicle: Any) -> float:
        """Each in its own direction; the line itself counts."""
        x, y = vehicle.position.tolist()
        past: float = (-y if vehicle is self.controlled_vehicles[0] else x) - self.settings.finish
        return past if past >= 0.0 else -math.inf

    def off_road(self, vehicle: Any) -> bool:
        """Off its closest lane."""
        return not vehicle.on_road


class Racetrack(TwoVehicles, RacetrackEnv):  # type: ignore[misc]
    """Leader on the inner lane of a closed track, follower beside it on the outer one; constant speed, both steer."""

    NEEDS = ("noise_heading", "noise_lateral")
    LANES = (("a", "b", 0), ("a", "b", 1))
    CONTINUOUS = True
    TRUNCATES = True

    def action_config(self) -> dict[str, Any]:
        """Steering only; [-1, 1] is [-pi/4, pi/4] rad."""
        return {"type": "ContinuousAction", "longitudinal": False, "lateral": True}

    def off_road(self, vehicle: Any) -> bool:
        """Off its closest lane."""
        return not vehicle.on_road

    def driving_reward(self, vehicle: Any, action: Any) -> float:
        """Between 0.37 and 1 on the road, by the offset to the closest lane's centre and the steering; 0 off it."""
        if self.off_road(vehicle):
            return 0.0
        _, lateral = vehicle.lane.local_coordinates(vehicle.position)
        centered, steered = 1.0 / (1.0 + CENTERING * (lateral * lateral)), abs(float(action[0]))
        return float(centered - STEERING_PENALTY * steered + 1.0) / 2.0


def _from_centre(vehicle: Any) -> float:
    """Return a vehicle's distance from the origin, m; by square root, since `math.hypot` differs between Pythons."""
    x, y = vehicle.position.tolist()
    return math.sqrt(x * x + y * y)


SCENARIOS: dict[str, type[TwoVehicles]] = {
    "merge": Merge,
    "roundabout": Roundabout,
    "intersection": Intersection,
    "racetrack": Racetrack,
}
