"""The driving scenarios as data and as subclasses of highway-env's environments.

Roads and vehicle dynamics are upstream's. What is ours: two controlled vehicles and no traffic, where
they spawn, a look at every simulation frame, and no pandas observation, which would take half the time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import gymnasium
from highway_env.envs.common.abstract import AbstractEnv
from highway_env.envs.common.graphics import EnvViewer
from highway_env.envs.common.observation import ObservationType
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.roundabout_env import RoundaboutEnv

from safemarl_bench.driving.network import PrunedRoadNetwork
from safemarl_bench.errors import RegistryError, nearest
from safemarl_bench.registry import SuiteSpec

SIMULATION_HZ = 15
POLICY_HZ = 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of a scenario that its suite file gives.

    Attributes:
        gap: centre distance below which a decision costs, m.
        zone: where the gap counts: merge, both at x >= zone; roundabout, both within `zone` of the centre, m.
        finish: the finish line: merge, x > finish; roundabout, y <= finish on the north exit road, m.
        speed_band: (low, high) true speed that is rewarded, m/s.
        target_speeds: what FASTER and SLOWER choose from, m/s, evenly spaced.
        spawn_position: agent -> metres along its spawn lane.
        spawn_speed: agent -> m/s.
        noise_position, noise_speed: half-widths of the uniform spawn noise, m and m/s.
    """

    gap: float
    zone: float
    finish: float
    speed_band: tuple[float, float]
    target_speeds: tuple[float, ...]
    spawn_position: Mapping[str, float]
    spawn_speed: Mapping[str, float]
    noise_position: float
    noise_speed: float

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Build settings from a suite file's table and overrides.

        Raises:
            RegistryError: a key is missing or unknown (with the nearest one).
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for unknown in sorted(set(values) - set(names)):
            raise RegistryError(f"driving suites have no setting {unknown!r}: {nearest(unknown, names)}")
        missing = sorted(set(names) - set(values))
        if missing:
            raise RegistryError(f"a driving suite needs the settings {', '.join(missing)}")
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


@dataclasses.dataclass(frozen=True)
class Spawn:
    """Where and how fast one vehicle starts: metres along its lane, and m/s."""

    position: float
    speed: float


class _NoObservation(ObservationType):  # type: ignore[misc]
    """The game reads the vehicles itself."""

    def space(self) -> gymnasium.Space[Any]:
        return gymnasium.spaces.Discrete(1)

    def observe(self) -> None:
        return None


class TwoVehicles(AbstractEnv):  # type: ignore[misc]
    """Mixin over an upstream environment: two controlled vehicles, watched in every frame.

    Class attributes:
        LANES: spawn lane of each vehicle. DESTINATION: route that both plan, or None.
    """

    LANES: ClassVar[tuple[tuple[str, str, int], ...]]
    DESTINATION: ClassVar[str | None] = None
    viewer: EnvViewer | None

    def __init__(self, settings: Settings, render_mode: str | None = None) -> None:
        """Build the scene, with the vehicles at their mean spawns."""
        self.settings = settings
        agents = list(settings.spawn_position)
        self.spawns = [Spawn(settings.spawn_position[agent], settings.spawn_speed[agent]) for agent in agents]
        self.after_frame: Callable[[], None] = lambda: None
        self._network: PrunedRoadNetwork | None = None
        config = {
            "simulation_frequency": SIMULATION_HZ,
            "policy_frequency": POLICY_HZ,
            "action": {
                "type": "MultiAgentAction",
                "action_config": {"type": "DiscreteMetaAction", "target_speeds": list(settings.target_speeds)},
            },
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

    def _make_vehicles(self) -> None:
        if self._network is None:
            self._network = PrunedRoadNetwork(self.road.network)
        self.road.network = self._network
        self.controlled_vehicles = []
        for lane_index, spawn in zip(self.LANES, self.spawns, strict=True):
            lane = self.road.network.get_lane(lane_index)
            position, heading = lane.position(spawn.position, 0.0), lane.heading_at(spawn.position)
            vehicle = self.action_type.vehicle_class(self.road, position, heading=heading, speed=spawn.speed)
            if self.DESTINATION is not None:
                vehicle.plan_route_to(self.DESTINATION)
            self.road.vehicles.append(vehicle)
            self.controlled_vehicles.append(vehicle)

    def simulate(self, actions: tuple[int, ...]) -> None:
        """Drive one decision: upstream's frame loop, with `after_frame` called after every frame.

        Args:
            actions: one meta-action per vehicle; that of a vehicle which has left the road is ignored.
        """
        self.time += 1 / POLICY_HZ
        for action, action_type in zip(actions, self.action_type.agents_action_types, strict=True):
            if action_type.controlled_vehicle in self.road.vehicles:
                action_type.act(action)
        for frame in range(SIMULATION_HZ // POLICY_HZ):
            self.road.act()
            self.road.step(1 / SIMULATION_HZ)
            self.steps += 1
            self.after_frame()
            if frame < SIMULATION_HZ // POLICY_HZ - 1:
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
        raise NotImplementedError

    def _info(self, obs: Any, action: Any = None) -> dict[str, Any]:
        return {}


class Merge(TwoVehicles, MergeEnv):  # type: ignore[misc]
    """Leader on the right main lane, follower on the ramp, which ends at an obstacle at x = 310 m."""

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

    LANES = (("wer", "wes", 0), ("ser", "ses", 0))
    DESTINATION = "nxs"
    EXIT_ROAD = ("nxs", "nxr")

    def in_zone(self, vehicle: Any) -> bool:
        """Within a circle around the roundabout's centre."""
        x, y = vehicle.position.tolist()
        return math.sqrt(x * x + y * y) <= self.settings.zone

    def past_finish(self, vehicle: Any) -> float:
        """Only on the north exit road; the line itself counts."""
        past = self.settings.finish - float(vehicle.position[1])
        return past if past >= 0.0 and vehicle.lane_index[:2] == self.EXIT_ROAD else -math.inf


SCENARIOS: dict[str, type[TwoVehicles]] = {"merge": Merge, "roundabout": Roundabout}


def scene_of(spec: SuiteSpec, render_mode: str | None = None, **overrides: Any) -> TwoVehicles:
    """Build a suite's scene.

    Args:
        overrides: values in place of the data file's ``[env]``, see `Settings`.

    Raises:
        RegistryError: an unknown setting, or a spawn that is not given for each agent.
    """
    values = dict(spec.env)
    scenario = SCENARIOS[values.pop("scenario")]
    settings = Settings.from_values({**values, **overrides})
    for key in ("spawn_position", "spawn_speed"):
        given = getattr(settings, key)
        if not isinstance(given, Mapping) or set(given) != set(spec.roles):
            raise RegistryError(f"{key} needs one number for each of {', '.join(spec.roles)}, got {given!r}")
    return scenario(settings, render_mode)
