"""The driving game: leader and follower on one highway-env scene, behind PettingZoo's parallel API.

Rewards, costs and endings are those of Zheng and Gu, sections 4-5, with the gaps of the text filled:

- reward: +2 for a decision that ends in the speed band; at the finish line +10 to the first, +5 to the
  second, and +5 for every decision that remains, so that it never pays to dawdle;
- cost: 5 at the decision in which a collision begins, and 1 for each decision in which, in any frame, both
  vehicles are inside the conflict zone closer than the gap (each live agent pays);
- an agent is done when it crashed, arrived, or time is up: all of these are terminations, since the clock
  is in the observation. A crashed vehicle stays as an obstacle, an arrived one leaves the scene.

A decision is judged as a whole at its end: a vehicle that crosses the line in its middle is on the road until
then, and a crash in the decision of the crossing wins.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pettingzoo

from safemarl_bench.driving.scenario import Spawn, TwoVehicles, scene_of
from safemarl_bench.errors import ContractError, RegistryError, nearest
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.rng import check_seed, generator

if TYPE_CHECKING:
    from safemarl_bench.driving.core import BatchedDriving

IDLE = 1
ACTION_NAMES = ("LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER")
BAND_REWARD = 2.0
ARRIVAL_REWARDS = (10.0, 5.0)
REMAINING_REWARD = 5.0
COLLISION_COST = 5.0
GAP_COST = 1.0
RENDER_MODES = ("human", "rgb_array")
SIGHT = 200.0
"""The other vehicle is not observed beyond this distance, m."""


def make(spec: SuiteSpec, *, backend: str = "highway", render_mode: str | None = None, **overrides: Any) -> DrivingGame:
    """Build the game of a driving suite (the entry point of its data file).

    Args:
        spec: the suite.
        backend: "highway", upstream highway-env, or "kernel", the same game on `safemarl_bench.driving.kernel`.
        render_mode: None, "rgb_array" or "human".
        overrides: values in place of the data file's ``[env]``, see `Settings`.

    Raises:
        RegistryError: an unknown setting or render mode, or a spawn that is not given for each agent.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise RegistryError(f"unknown render mode {render_mode!r}: {nearest(str(render_mode), RENDER_MODES)}")
    scene = scene_of(spec, render_mode, **overrides)
    if backend == "kernel":
        from safemarl_bench.driving.kernel_game import KernelGame  # loads numba, which the other backend does not need

        return KernelGame(spec, scene)
    return DrivingGame(spec, scene)


class DrivingGame(pettingzoo.ParallelEnv[str, np.ndarray, int]):  # type: ignore[misc]
    """Leader and follower, five meta-actions each.

    Observation of an agent, (9,) float32, raw: own x, y [m], vx, vy [m/s]; the other's four, zeros when it
    has left the scene or is more than 200 m away; the fraction of time left. `state()` is the same for the
    leader, then the follower, without the limit of sight. Seeds: ``reset(seed, options={"stream", "episode"})``
    starts that episode of that seed; ``reset()`` goes on to the next episode.

    Infos of a live agent: cost (1,) float64, crashed, off_road, arrived, arrival_rank (1, 2, or 0), gap (centre
    distance [m], inf when the other has left).
    """

    def __init__(self, spec: SuiteSpec, scene: TwoVehicles) -> None:
        """Wrap a scene; `spec` gives roles, horizon and limits."""
        self.spec = spec
        self.scene = scene
        self.render_mode = scene.render_mode
        self.metadata = {
            "name": f"{spec.name}@{spec.version}",
            "roles": {"leader": list(spec.leader), "followers": list(spec.followers)},
            "render_modes": list(RENDER_MODES),
        }
        self.possible_agents = list(spec.roles)
        self.agents: list[str] = []
        self.cost_limits = {agent: np.array(limits, np.float64) for agent, limits in spec.cost_limits.items()}
        self.state_space = gymnasium.spaces.Box(-np.inf, np.inf, (9,), np.float32)
        box = gymnasium.spaces.Box(-np.inf, np.inf, (9,), np.float32)
        self.observation_spaces = dict.fromkeys(self.possible_agents, box)
        self.action_spaces = {agent: gymnasium.spaces.Discrete(len(ACTION_NAMES)) for agent in self.possible_agents}
        scene.after_frame = self._watch_frame
        self._decision = 0
        self._ranks: dict[str, int] = {}
        self._too_close = False
        self._next_episode = (secrets.randbelow(2**31), "train", 0)

    def observation_space(self, agent: str) -> gymnasium.Space[np.ndarray]:
        """Return the agent's observation space, the same object at each call."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Return the agent's action space, the same object at each call."""
        return self.action_spaces[agent]

    def simulator(self, num_envs: int) -> BatchedDriving:
        """Return a batched simulator of this very game, for privileged agents.

        Args:
            num_envs: E >= 1, games side by side.
        """
        from safemarl_bench.driving.core import BatchedDriving  # loads numba, which the game itself does not need

        return BatchedDriving(self.spec, num_envs, scene=self.scene)

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        """Start an episode.

        Args:
            seed: of the spawn noise; None goes on to the next episode of the last seed and stream, and of a
                seed from the operating system the first time.
            options: "stream" ("train" by default, "evaluation" or "search") and "episode" (0 by default); others
                are ignored, as PettingZoo asks.

        Raises:
            SafeMARLBenchError: an unknown stream, or a number out of range; the running episode is left as it is.
        """
        options = dict(options or {})
        seed, stream, episode = self._next_episode if seed is None else (check_seed(seed), "train", 0)
        stream, episode = options.get("stream", stream), check_seed(options.get("episode", episode), "episode")
        self._start(stream, seed, episode)
        self._next_episode = (seed, stream, episode + 1)
        self.agents = list(self.possible_agents)
        return self._observations(self.agents), self._infos(self.agents, dict.fromkeys(self.agents, 0.0))

    def _start(self, stream: str, seed: int, episode: int) -> None:
        self.scene.spawn(self._draw_spawns(stream, seed, episode))
        self._decision = 0
        self._ranks = {}

    def _draw_spawns(self, stream: str, seed: int, episode: int) -> list[Spawn]:
        settings, spawns = self.scene.settings, []
        for index, agent in enumerate(self.possible_agents):
            noise = generator(stream, seed, episode, index).uniform(-1.0, 1.0, size=2)
            spawns.append(
                Spawn(
                    settings.spawn_position[agent] + settings.noise_position * float(noise[0]),
                    settings.spawn_speed[agent] + settings.noise_speed * float(noise[1]),
                )
            )
        return spawns

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Take one decision.

        Args:
            actions: live agent -> 0 LANE_LEFT, 1 IDLE, 2 LANE_RIGHT, 3 FASTER, 4 SLOWER.

        Returns:
            observations, rewards, terminations, truncations, infos, each by the agents that were live.

        Raises:
            ContractError: no episode is running, or an action is missing, surplus or not one of the five.
        """
        live = self.agents
        played = self._check_actions(actions)
        self._too_close = False
        self.scene.simulate(tuple(played.get(agent, IDLE) for agent in self.possible_agents))
        self._decision += 1
        crashed = {agent for agent in live if self._vehicle(agent).crashed}
        arrived = self._rank_arrivals([agent for agent in live if agent not in crashed])
        rewards = {agent: self._reward(agent, agent in arrived) for agent in live}
        costs = {agent: COLLISION_COST * (agent in crashed) + GAP_COST * self._too_close for agent in live}
        for agent in arrived:
            self.scene.road.vehicles.remove(self._vehicle(agent))
        time_is_up = self._decision >= self.spec.horizon
        terminations = {agent: time_is_up or agent in crashed or agent in arrived for agent in live}
        self.agents = [agent for agent in live if not terminations[agent]]
        if self.scene.render_mode == "human":
            self.scene.render()
        truncations = dict.fromkeys(live, False)
        return self._observations(live), rewards, terminations, truncations, self._infos(live, costs)

    def _check_actions(self, actions: Mapping[str, Any]) -> dict[str, int]:
        if not self.agents:
            raise ContractError("step: no episode is running; call reset first")
        if not isinstance(actions, Mapping) or set(actions) != set(self.agents):
            given = list(actions) if isinstance(actions, Mapping) else type(actions).__name__
            raise ContractError(f"step takes one action for each live agent {self.agents}, got {given}")
        for agent, action in actions.items():
            if not isinstance(action, int | np.integer) or isinstance(action, bool):
                raise ContractError(f"action of {agent!r} must be an integer, got {type(action).__name__} {action!r}")
            if not 0 <= action < len(ACTION_NAMES):
                raise ContractError(f"action of {agent!r} must be in 0..{len(ACTION_NAMES) - 1}, got {action}")
        return {agent: int(action) for agent, action in actions.items()}

    def _watch_frame(self) -> None:
        """Note whether both vehicles are in the zone and too close in this frame."""
        vehicles = self.scene.road.vehicles
        if len(vehicles) == 2 and not self._too_close and all(map(self.scene.in_zone, vehicles)):
            self._too_close = _distance(*vehicles) < self.scene.settings.gap

    def _rank_arrivals(self, candidates: list[str]) -> list[str]:
        """Rank who crossed the line in this decision: the one further past it first, exact ties to the leader."""
        past = {agent: self.scene.past_finish(self._vehicle(agent)) for agent in candidates}
        arrived = sorted((agent for agent in candidates if past[agent] >= 0.0), key=lambda agent: -past[agent])
        for agent in arrived:
            self._ranks[agent] = len(self._ranks) + 1
        return arrived

    def _reward(self, agent: str, arrived: bool) -> float:
        low, high = self.scene.settings.speed_band
        reward = BAND_REWARD if low <= self._vehicle(agent).speed <= high else 0.0
        if arrived:
            reward += ARRIVAL_REWARDS[self._ranks[agent] - 1]
            reward += REMAINING_REWARD * (self.spec.horizon - self._decision)
        return reward

    def _vehicle(self, agent: str) -> Any:
        return self.scene.controlled_vehicles[self.possible_agents.index(agent)]

    def _row(self, agent: str) -> list[float]:
        """Return x, y, vx, vy of a vehicle, zeros when it has left the scene."""
        vehicle = self._vehicle(agent)
        return [0.0] * 4 if agent in self._ranks else [*vehicle.position, *vehicle.velocity]

    def _time_left(self) -> float:
        return 1.0 - self._decision / self.spec.horizon

    def state(self) -> np.ndarray:
        """Return the global state, (9,) float32: leader's x, y, vx, vy, the follower's, fraction of time left."""
        rows = [value for agent in self.possible_agents for value in self._row(agent)]
        return np.array([*rows, self._time_left()], np.float32)

    def _observations(self, agents: list[str]) -> dict[str, np.ndarray]:
        rows = {agent: self._row(agent) for agent in self.possible_agents}
        left = self._time_left()
        seen = not self._ranks and _distance(*self.scene.controlled_vehicles) <= SIGHT
        first, second = self.possible_agents
        other = {first: second, second: first}
        return {
            agent: np.array(
                [*rows[agent], *(rows[other[agent]] if seen else [0.0] * 4), left],
                np.float32,
            )
            for agent in agents
        }

    def _infos(self, agents: list[str], costs: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        gap = math.inf if self._ranks else _distance(*self.scene.controlled_vehicles)
        return {
            agent: {
                "cost": np.array([costs[agent]], np.float64),
                "crashed": bool(self._vehicle(agent).crashed),
                "off_road": False,
                "arrived": agent in self._ranks,
                "arrival_rank": self._ranks.get(agent, 0),
                "gap": gap,
            }
            for agent in agents
        }

    def render(self) -> np.ndarray | None:
        """Draw the scene with upstream's renderer; an image (height, width, 3) uint8 in mode "rgb_array".

        Raises:
            ContractError: the game was made without a render mode.
        """
        if self.render_mode is None:
            raise ContractError("render: the game has no render mode; make it with render_mode='rgb_array' or 'human'")
        image: np.ndarray | None = self.scene.render()
        return image

    def close(self) -> None:
        """Close the renderer."""
        self.scene.close()


def _distance(one: Any, other: Any) -> float:
    """Return the distance of two vehicles' centres, m; by square root, since `math.hypot` differs between Pythons."""
    dx, dy = (one.position - other.position).tolist()
    return math.sqrt(dx * dx + dy * dy)
