"""The driving game: leader and follower on one highway-env scene, behind PettingZoo's parallel API.

Rewards, costs and endings are those of Zheng and Gu, sections 4-5, with the gaps of the text filled:

- reward: +2 for a decision that ends in the speed band (racetrack: for keeping to a lane's centre with little
  steering); at the finish line +10 to the first, +5 to the second, and +5 for every decision that remains, so
  that it never pays to dawdle;
- cost: 5 at the decision in which a collision or a road departure begins, and 1 for each decision in which, in
  any frame, both vehicles are inside the conflict zone closer than the gap (each live agent pays);
- an agent is done when it crashed, left the road, arrived, or time is up. All of these are terminations, since
  the clock is in the observation; on the racetrack, where it is not, the time limit truncates. A crashed vehicle
  stays as an obstacle, one that arrived or left the road leaves the scene.

A decision is judged as a whole at its end: a vehicle that crosses the line in its middle is on the road until
then, and a crash in the decision of the crossing, or of the departure, wins.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pettingzoo

from safemarl_bench.driving.actions import action_space, check_action
from safemarl_bench.driving.frenet import lane_numbers, relative_numbers
from safemarl_bench.driving.scenario import TwoVehicles
from safemarl_bench.driving.settings import Spawn
from safemarl_bench.episodes import Episode, read_reset
from safemarl_bench.errors import ContractError
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.rng import generator

if TYPE_CHECKING:
    from safemarl_bench.driving.core import BatchedDriving

REMAINING_REWARD = 5.0
COLLISION_COST = 5.0
GAP_COST = 1.0
RENDER_MODES = ("human", "rgb_array")
SIGHT = 200.0
"""The other vehicle is not observed beyond this distance, m."""


class DrivingGame(pettingzoo.ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]
    """Leader and follower, with five meta-actions each, or one number in [-1, 1]: acceleration or steering.

    Observation of an agent, float32, raw: own x, y [m], vx, vy [m/s]; the other's four, zeros when it has left the
    scene or is more than 200 m away; the fraction of time left where rewards depend on it. `state()` is the same for
    the leader, then the follower, without the limit of sight. With the setting ``observation = "frenet"`` an agent
    sees the numbers of `safemarl_bench.driving.frenet` instead, own six and the other's three; the state stays.
    Seeds: ``reset(seed, options={"stream", "episode"})`` starts that episode of that seed; ``reset()`` goes on to
    the next episode.

    Infos of a live agent: cost (1,) float64, crashed, off_road, arrived, arrival_rank (1, 2, or 0), gap (centre
    distance [m], inf when the other has left).
    """

    def __init__(self, spec: SuiteSpec, scene: TwoVehicles) -> None:
        """Wrap a scene; `spec` gives roles, horizon, limits and neutral actions."""
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
        self.action_spaces = {agent: action_space(scene.CONTINUOUS) for agent in self.possible_agents}
        self._neutral = {
            agent: np.array(action, np.float32) if scene.CONTINUOUS else action
            for agent, action in spec.neutral_actions.items()
        }
        scene.after_frame = self._watch_frame
        self._clear()
        self._next_episode = Episode("train", secrets.randbelow(2**31), 0)
        self.state_space = unbounded(len(self._state()))
        self.observation_spaces = dict.fromkeys(self.possible_agents, unbounded(len(self._seen_by(0))))

    def _clear(self) -> None:
        """Forget the last episode."""
        self._decision = 0
        self._ranks: dict[str, int] = {}
        self._off_road: set[str] = set()
        self._gone: set[str] = set()
        self._too_close = False

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
            ContractError: an unknown stream.
            SafeMARLBenchError: a number out of range. Either way the running episode is left as it is.
        """
        episode = read_reset(seed, options, self._next_episode)
        self._start(*episode)
        self._next_episode = episode.following
        self.agents = list(self.possible_agents)
        return self._observations(self.agents), self._infos(self.agents, dict.fromkeys(self.agents, 0.0))

    def _start(self, stream: str, seed: int, episode: int) -> None:
        self.scene.spawn(self._draw_spawns(stream, seed, episode))
        self._clear()

    def _draw_spawns(self, stream: str, seed: int, episode: int) -> list[Spawn]:
        """Draw position, speed, heading and lateral offset, in this order, from a generator of each agent's own."""
        settings, spawns = self.scene.settings, []
        for index, agent in enumerate(self.possible_agents):
            draws = generator(stream, seed, episode, index).random(4).tolist()
            position, speed, heading, lateral = NOISES[settings.noise](draws)
            spawns.append(
                Spawn(
                    settings.spawn_position[agent] + settings.noise_position * position,
                    settings.spawn_speed[agent] + settings.noise_speed * speed,
                    settings.noise_heading * heading,
                    settings.noise_lateral * lateral,
                )
            )
        return spawns

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Take one decision.

        Args:
            actions: live agent -> 0 LANE_LEFT, 1 IDLE, 2 LANE_RIGHT, 3 FASTER, 4 SLOWER, or where actions are
                continuous a float array of shape (1,) in [-1, 1].

        Returns:
            observations, rewards, terminations, truncations, infos, each by the agents that were live.

        Raises:
            ContractError: no episode is running, or an action is missing, surplus or not in its space.
        """
        live = self.agents
        played = {**self._neutral, **self._check_actions(actions)}
        self._too_close = False
        self.scene.simulate(tuple(played[agent] for agent in self.possible_agents))
        self._decision += 1
        rewards, costs, done = self._judge(live, played)
        terminations, truncations = self._endings(live, done)
        self.agents = [agent for agent in live if not (terminations[agent] or truncations[agent])]
        if self.scene.render_mode == "human":
            self.scene.render()
        return self._observations(live), rewards, terminations, truncations, self._infos(live, costs)

    def _judge(self, live: list[str], played: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float], set[str]]:
        """Return rewards, costs, and who is done by what happened; who arrived or left the road leaves the scene."""
        crashed = {agent for agent in live if self._vehicle(agent).crashed}
        departed = {agent for agent in live if agent not in crashed and self.scene.off_road(self._vehicle(agent))}
        arrived = self._rank_arrivals([agent for agent in live if agent not in crashed | departed])
        rewards = {agent: self.scene.driving_reward(self._vehicle(agent), played[agent]) for agent in live}
        for agent in arrived:
            rewards[agent] += self.scene.settings.arrival_rewards[self._ranks[agent] - 1]
            rewards[agent] += REMAINING_REWARD * (self.spec.horizon - self._decision)
        ended = crashed | departed
        costs = {agent: COLLISION_COST * (agent in ended) + GAP_COST * self._too_close for agent in live}
        self._off_road |= departed
        for agent in departed.union(arrived):
            self._gone.add(agent)
            self.scene.road.vehicles.remove(self._vehicle(agent))
        return rewards, costs, ended.union(arrived)

    def _endings(self, live: list[str], done: set[str]) -> tuple[dict[str, bool], dict[str, bool]]:
        """Return terminations and truncations."""
        time_is_up = self._decision >= self.spec.horizon
        terminates, truncates = time_is_up and not self.scene.TRUNCATES, time_is_up and self.scene.TRUNCATES
        terminations = {agent: agent in done or terminates for agent in live}
        return terminations, {agent: truncates and agent not in done for agent in live}

    def _check_actions(self, actions: Mapping[str, Any]) -> dict[str, Any]:
        if not self.agents:
            raise ContractError("step: no episode is running; call reset first")
        if not isinstance(actions, Mapping) or set(actions) != set(self.agents):
            given = list(actions) if isinstance(actions, Mapping) else type(actions).__name__
            raise ContractError(f"step takes one action for each live agent {self.agents}, got {given}")
        return {agent: check_action(agent, action, self.scene.CONTINUOUS) for agent, action in actions.items()}

    def _watch_frame(self) -> None:
        """Note whether both vehicles are in the zone and too close in this frame."""
        vehicles, gap = self.scene.road.vehicles, self.scene.settings.gap
        if gap and len(vehicles) == 2 and not self._too_close and all(map(self.scene.in_zone, vehicles)):
            self._too_close = _distance(*vehicles) < gap

    def _rank_arrivals(self, candidates: list[str]) -> list[str]:
        """Rank who crossed the line in this decision: the one further past it first, exact ties to the leader."""
        past = {agent: self.scene.past_finish(self._vehicle(agent)) for agent in candidates}
        arrived = sorted((agent for agent in candidates if past[agent] >= 0.0), key=lambda agent: -past[agent])
        for agent in arrived:
            self._ranks[agent] = len(self._ranks) + 1
        return arrived

    def _vehicle(self, agent: str) -> Any:
        return self.scene.controlled_vehicles[self.possible_agents.index(agent)]

    def _row(self, index: int) -> list[float]:
        """Return x, y, vx, vy of a vehicle, zeros when it has left the scene."""
        vehicle = self.scene.controlled_vehicles[index]
        return [0.0] * 4 if self.possible_agents[index] in self._gone else [*vehicle.position, *vehicle.velocity]

    def _clock(self) -> list[float]:
        """Return the fraction of time left, where it is observed."""
        return [] if self.scene.TRUNCATES else [1.0 - self._decision / self.spec.horizon]

    def _state(self) -> list[float]:
        return [*self._row(0), *self._row(1), *self._clock()]

    def state(self) -> np.ndarray:
        """Return the global state, float32: leader's x, y, vx, vy, the follower's, and the clock where observed."""
        return np.array(self._state(), np.float32)

    def _seen_by(self, index: int) -> list[float]:
        """Return what the agent of that index observes."""
        vehicles = self.scene.controlled_vehicles
        seen = not self._gone and _distance(*vehicles) <= SIGHT
        if self.scene.settings.observation == "frenet":
            own, other = vehicles[index], vehicles[1 - index]
            gone = self.possible_agents[index] in self._gone
            return [*([0.0] * 6 if gone else lane_numbers(own)), *(relative_numbers(own, other) if seen else [0.0] * 3)]
        return [*self._row(index), *(self._row(1 - index) if seen else [0.0] * 4), *self._clock()]

    def _observations(self, agents: list[str]) -> dict[str, np.ndarray]:
        return {agent: np.array(self._seen_by(self.possible_agents.index(agent)), np.float32) for agent in agents}

    def _infos(self, agents: list[str], costs: Mapping[str, float]) -> dict[str, dict[str, Any]]:
        gap = math.inf if self._gone else _distance(*self.scene.controlled_vehicles)
        return {
            agent: {
                "cost": np.array([costs[agent]], np.float64),
                "crashed": bool(self._vehicle(agent).crashed),
                "off_road": agent in self._off_road,
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


def _uniform(draws: list[float]) -> list[float]:
    """Return four draws from [0, 1) as draws from [-1, 1)."""
    return [-1.0 + 2.0 * draw for draw in draws]


def _normal(draws: list[float]) -> list[float]:
    """Return four draws from [0, 1) as standard normal ones (Box and Muller)."""
    polar = [(math.sqrt(-2.0 * math.log(1.0 - draws[i])), 2 * math.pi * draws[i + 1]) for i in (0, 2)]
    return [radius * turn(angle) for radius, angle in polar for turn in (math.cos, math.sin)]


NOISES = {"uniform": _uniform, "normal": _normal}


def _distance(one: Any, other: Any) -> float:
    """Return the distance of two vehicles' centres, m; by square root, since `math.hypot` differs between Pythons."""
    dx, dy = (one.position - other.position).tolist()
    return math.sqrt(dx * dx + dy * dy)


def unbounded(size: int) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
