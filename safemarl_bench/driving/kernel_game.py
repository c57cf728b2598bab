"""The driving game on the kernel: contract, numbers and infos of `DrivingGame`, without upstream's stepping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.driving.game import DrivingGame, unbounded
from safemarl_bench.driving.scenario import TwoVehicles
from safemarl_bench.registry import SuiteSpec


class KernelGame(DrivingGame):
    """A batch of one behind PettingZoo's parallel API; `scene` gives the roads and draws, and is not stepped."""

    def __init__(self, spec: SuiteSpec, scene: TwoVehicles) -> None:
        """Build the simulator; `spec` gives roles, horizon and limits."""
        super().__init__(spec, scene)
        self.core = BatchedDriving(spec, 1, scene=scene)
        self._shown = self.core.reset()
        width = self._shown.obs.shape[2]
        self.state_space = unbounded(self._shown.state.shape[1])
        self.observation_spaces = dict.fromkeys(self.possible_agents, unbounded(width))

    def _start(self, stream: str, seed: int, episode: int) -> None:
        self._shown = self.core.reset(stream=stream, seeds=seed, episodes=episode)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Take one decision; as `DrivingGame.step`."""
        live, played = self.agents, {**self._neutral, **self._check_actions(actions)}
        joint = np.array([played[agent] for agent in self.possible_agents])
        shown = self._shown = self.core.step(joint.reshape(1, 2))
        numbers = {agent: self.possible_agents.index(agent) for agent in live}
        rewards = {agent: float(shown.reward[0, number]) for agent, number in numbers.items()}
        costs = {agent: float(shown.cost[0, number, 0]) for agent, number in numbers.items()}
        terminations = {agent: bool(shown.terminated[0, number]) for agent, number in numbers.items()}
        cut = bool(shown.truncated[0])
        truncations = {agent: cut and not terminations[agent] for agent in live}
        self.agents = [agent for agent in live if not (terminations[agent] or truncations[agent])]
        if self.render_mode == "human":
            self.render()
        return self._observations(live), rewards, terminations, truncations, self._infos(live, costs)

    def state(self) -> np.ndarray:
        """Return the global state, as `DrivingGame.state`."""
        state: np.ndarray = self._shown.state[0].copy()
        return state

    def _observations(self, agents: list[str]) -> dict[str, np.ndarray]:
        return {agent: self._shown.obs[0, self.possible_agents.index(agent)].copy() for agent in agents}

    def _infos(self, agents: list[str], costs: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        shown, infos = self._shown, {}
        for agent in agents:
            number = self.possible_agents.index(agent)
            infos[agent] = {
                "cost": np.array([costs[agent]], np.float64),
                "crashed": bool(shown.crashed[0, number]),
                "off_road": bool(shown.off_road[0, number]),
                "arrived": bool(shown.arrival_rank[0, number]),
                "arrival_rank": int(shown.arrival_rank[0, number]),
                "gap": float(shown.gap[0]),
            }
        return infos

    def render(self) -> np.ndarray | None:
        """Draw the kernel's state with upstream's renderer; as `DrivingGame.render`."""
        self._pose_scene()
        return super().render()

    def _pose_scene(self) -> None:
        """Put the scene's vehicles where the kernel has them."""
        cars = self.core.get_state()[0]
        vehicles = self.scene.controlled_vehicles
        for car, vehicle in zip(cars, vehicles, strict=True):
            vehicle.position = car[[kernel.X, kernel.Y]]
            vehicle.heading, vehicle.speed = float(car[kernel.HEADING]), float(car[kernel.SPEED])
            vehicle.crashed = bool(car[kernel.CRASHED])
            vehicle.action = {"steering": float(car[kernel.STEERING]), "acceleration": float(car[kernel.ACCELERATION])}
        on_road = cars[:, kernel.PRESENT] != 0.0
        self.scene.road.vehicles = [vehicle for vehicle, here in zip(vehicles, on_road, strict=True) if here]
