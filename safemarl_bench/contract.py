"""What a suite's game and an agent promise each other.

A **game** is a `pettingzoo.ParallelEnv` (dicts by agent name) that also has, on top of PettingZoo:

- `infos[agent]["cost"]`: float64 vector, one entry per constraint, in every step, for every live agent;
- `env.cost_limits[agent]`: its limits, same length, undiscounted cost per episode;
- `env.state()` and `env.state_space`: the global state;
- `env.metadata["roles"]` = ``{"leader": [...], "followers": [...]}``.

An **agent** controls every role of a game at once (centralised training and execution) and sees
only arrays: never the suite's name, never its simulator. The exception declares itself `privileged`:
it is given a simulator and told which episode is played, and the leaderboard says so. All arrays
that an agent is given or returns have a leading axis E, the number of games played side by side: in
training the `num_envs` of the agent's config (1 without that key), in evaluation 1.

A **weakly coupled** suite (kind "weakly_coupled") has one operator of N sub-problems that share an exogenous state and
a resource (*Weakly Coupled Deep Q-Networks*). Its game has the attribute `weakly_coupled`, a `WeaklyCoupled`, and in
the operator's infos `exogenous`, `sub_states`, `feasible`, `capacity`, `sub_rewards` and `resource_use` (the last two
are 0 before the first decision). A joint action that is not feasible is an error.

In the second half of training the policy is validated now and then (`safemarl_bench.validation`): `act` is
called with ``explore=False`` on other games, 1 of them or, where the config has the key `num_envs`, many.
Training must go on as if nothing had happened: a greedy `act` leaves no trace.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np

from safemarl_bench.errors import RegistryError, nearest
from safemarl_bench.rng import draw_cells

Arrays = dict[str, np.ndarray]
"""One array per agent name."""


@dataclasses.dataclass(frozen=True)
class WeaklyCoupled:
    """How the sub-problems of a weakly coupled suite hang together.

    Attributes:
        allocations: (A, N) int64, what each joint action gives to each sub-problem, which is what it uses.
        feasible: (W, A) bool, the joint actions allowed at each exogenous state shown.
        capacity: (W,) int64, b(w), what may be used at each exogenous state shown.
        sub_states: S_i, the number of states of each of the N sub-problems.
    """

    allocations: np.ndarray
    feasible: np.ndarray
    capacity: np.ndarray
    sub_states: tuple[int, ...]

    @property
    def n_exogenous(self) -> int:
        """W."""
        return len(self.feasible)

    @property
    def n_actions(self) -> int:
        """A."""
        return len(self.allocations)

    @property
    def n_subproblems(self) -> int:
        """N."""
        return len(self.sub_states)

    @property
    def sub_actions(self) -> int:
        """Number of levels of an allocation, from 0 on."""
        return int(self.allocations.max()) + 1

    def draw(self, exogenous: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return uniform feasible joint actions, (E,) int64, for exogenous states (E,)."""
        return draw_cells(self.feasible[exogenous], rng)


class SubProblems(NamedTuple):
    """Where the sub-problems of E weakly coupled problems are.

    Attributes:
        exogenous: (E,) int64, number of the exogenous state shown. states: (E, N) int64, of each sub-problem's state.
    """

    exogenous: np.ndarray
    states: np.ndarray


class Observation(NamedTuple):
    """What an agent sees before a decision in E games.

    Attributes:
        by_agent: agent -> (E, n_i) float32, each agent's own observation, raw units.
        state: (E, n_s) float32, the global state, raw units.
        alive: agent -> (E,) bool; a done agent's action is replaced by its neutral one.
        step: (E,) int64, decisions taken so far in the episode.
        sub_problems: of a weakly coupled suite; None elsewhere.
    """

    by_agent: Arrays
    state: np.ndarray
    alive: Arrays
    step: np.ndarray
    sub_problems: SubProblems | None = None

    def take(self, games: Any) -> Observation:
        """Return the observation of some of the games; games: an index of the leading axis (a slice copies nothing)."""
        where = self.sub_problems
        return Observation(
            by_agent={agent: array[games] for agent, array in self.by_agent.items()},
            state=self.state[games],
            alive={agent: array[games] for agent, array in self.alive.items()},
            step=self.step[games],
            sub_problems=where and SubProblems(where.exogenous[games], where.states[games]),
        )


class Transition(NamedTuple):
    """One decision in E games.

    Attributes:
        observation: before the decision.
        actions: agent -> (E,) int64 (discrete) or (E, k) float32; as executed, so a done agent's is neutral.
        rewards: agent -> (E,) float64; 0 for a done agent.
        costs: agent -> (E, K_i) float64; 0 for a done agent.
        terminations: agent -> (E,) bool, true where this decision ended the agent's task: no bootstrap.
        truncations: agent -> (E,) bool, true where only the clock ended it: values bootstrap.
        next_observation: after the decision (of the finished episode, never of the next one).
        episode_over: (E,) bool, true where every agent is done.
        sub_rewards: (E, N) float64, each sub-problem's own, in a weakly coupled suite; None elsewhere.
    """

    observation: Observation
    actions: Arrays
    rewards: Arrays
    costs: Arrays
    terminations: Arrays
    truncations: Arrays
    next_observation: Observation
    episode_over: np.ndarray
    sub_rewards: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Features:
    """An affine map of raw features to the order of one: ``(raw - center) / scale``.

    Attributes:
        names: n feature names with their units.
        center: n floats.
        scale: n positive floats.
    """

    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]

    def normalise(self, raw: np.ndarray) -> np.ndarray:
        """Return ``(raw - center) / scale``; raw: (..., n), result: (..., n) float32."""
        center, scale = self._arrays
        normalised: np.ndarray = ((raw - center) / scale).astype(np.float32)
        return normalised

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.center), np.asarray(self.scale)


@dataclasses.dataclass(frozen=True)
class AgentContext:
    """All that an agent is told about the game it will play.

    Attributes:
        observation_spaces, action_spaces: agent -> space.
        state_space: space of the global state.
        leader: the leaders' names, in order.
        followers: the followers' names, in order.
        cost_limits: agent -> K_i undiscounted limits per episode.
        gamma: discount in (0, 1].
        horizon: decisions until the time limit.
        neutral_actions: agent -> the action executed for it once it is done.
        observation_features: agent -> scale of its observation.
        state_features: scale of the global state.
        num_envs: E, games played side by side in training.
        training_steps: decisions per game that training will last (for schedules).
        seed: in [0, 2**63 - 1].
        simulator: None for an ordinary agent. For a privileged one the game's own: ``simulator(num_envs)``
            returns a new batched simulator of the very game, or None where the suite has none.
        weakly_coupled: the structure of a weakly coupled suite; None elsewhere.
    """

    observation_spaces: Mapping[str, gymnasium.Space[Any]]
    action_spaces: Mapping[str, gymnasium.Space[Any]]
    state_space: gymnasium.Space[Any]
    leader: tuple[str, ...]
    followers: tuple[str, ...]
    cost_limits: Mapping[str, tuple[float, ...]]
    gamma: float
    horizon: int
    neutral_actions: Mapping[str, Any]
    observation_features: Mapping[str, Features]
    state_features: Features
    num_envs: int
    training_steps: int
    seed: int
    simulator: Callable[[int], Any] | None = None
    weakly_coupled: WeaklyCoupled | None = None

    @property
    def agents(self) -> tuple[str, ...]:
        """Leaders, then followers."""
        return self.leader + self.followers


def discounted_limit(limit: float, gamma: float, horizon: int) -> float:
    """Return the limit on a discounted cost-to-go that means the same steady violation rate.

    ``d (1 - gamma^T) / ((1 - gamma) T)``, and d itself at gamma = 1.

    Args:
        limit: d, undiscounted cost per episode.
        gamma: in (0, 1].
        horizon: T, decisions per episode.
    """
    if gamma == 1.0:
        return limit
    return limit * (1.0 - gamma**horizon) / ((1.0 - gamma) * horizon)


@dataclasses.dataclass(frozen=True)
class NoConfig:
    """The config of an agent that has nothing to set."""


class Agent(ABC):
    """Base class of every agent; `act` is all that a policy without learning must define.

    Class attributes:
        version: bump it when the same config and seed give another result.
        suite_kinds: the kinds of suite it can play: "game", "weakly_coupled".
        action_kinds: the kinds of action space it can play: "discrete", "continuous".
        pairs_only: it plays exactly one leader and one follower.
        learns: False skips training (budget steps are not spent).
        deterministic: untrained and independent of the seed: one record is enough.
        stationary: its greedy action depends on the observation alone, so that its value can be computed exactly
            where a suite has few states.
        privileged: "" for an ordinary agent, "planner" or "oracle" for one that uses the simulator.
        needs_backend: "", or a backend that a suite must have for the agent to run on it.
        made_for: setting of a suite's ``[env]`` -> the values that the agent can do with, None where the suite may
            leave it out; for agents that know the simulator of some scenarios.
        Config: a frozen dataclass; its fields are the keys that a suite file or `--set` may give. With a field
            `num_envs` the agent is trained on that many games side by side.
    """

    version: ClassVar[str] = "1"
    suite_kinds: ClassVar[tuple[str, ...]] = ("game",)
    action_kinds: ClassVar[tuple[str, ...]] = ("discrete", "continuous")
    pairs_only: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    deterministic: ClassVar[bool] = False
    stationary: ClassVar[bool] = False
    privileged: ClassVar[str] = ""
    needs_backend: ClassVar[str] = ""
    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    Config: ClassVar[type] = NoConfig

    @classmethod
    def for_actions(cls, action_kind: str) -> type[Agent]:
        """Return the class that plays in this one's name where actions are of that kind, one of `action_kinds`.

        The class itself, unless an algorithm takes two forms with settings of their own.
        """
        return cls

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build an untrained agent.

        Args:
            context: the game's shapes, scales, limits and the seed.
            config: an instance of `Config`.
        """
        self.context = context
        self.config = config

    def start_episode(self, stream: str, seed: int, episode: int) -> None:  # noqa: B027 - ordinary agents are not told
        """Prepare for the episode that (stream, seed, episode) names.

        Called before the first `act` of every evaluation episode for privileged agents, never for ordinary ones.
        """

    @abstractmethod
    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Choose one action per agent in each of E games.

        Args:
            observation: see `Observation`.
            explore: False means greedy: the result must then not depend on `rng` unless the policy itself is random.
            rng: fresh generator for this decision; the only source of randomness to use here.

        Returns:
            agent -> (E,) int64 in a discrete space, (E, k) float32 in a box.
        """

    def observe(self, transition: Transition) -> None:  # noqa: B027 - a policy without learning ignores it
        """Take in what one decision led to (training only)."""

    def learn(self) -> dict[str, float]:
        """Do the updates due after one observed decision; return metrics (losses, multipliers) by name."""
        return {}

    def save(self, path: Path, *, training: bool) -> None:  # noqa: B027 - nothing to save by default
        """Write into the folder `path` what `act` needs, and with `training` all that resuming needs.

        Files: tensors as safetensors, the rest as JSON (see `safemarl_bench.checkpoint`); no pickles.
        """

    def load(self, path: Path) -> None:  # noqa: B027 - nothing to load by default
        """Read what `save` wrote."""


def build_config(agent_class: type[Agent], values: Mapping[str, Any]) -> Any:
    """Return an instance of ``agent_class.Config`` with `values` in place of defaults.

    An int is accepted for a float field, a list for a tuple.

    Raises:
        RegistryError: an unknown key (with the nearest one), or a value of another type than the default's.
    """
    if not dataclasses.is_dataclass(agent_class.Config):
        raise RegistryError(f"Config of agent {agent_class.__name__} must be a dataclass, got {agent_class.Config!r}")
    fields = {field.name: field for field in dataclasses.fields(agent_class.Config)}
    converted = {}
    for key, value in values.items():
        if key not in fields:
            raise RegistryError(f"agent {agent_class.__name__} has no config key {key!r}: {nearest(key, fields)}")
        default = fields[key].default
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if default is not dataclasses.MISSING and type(value) is not type(default):
            expected, given = type(default).__name__, type(value).__name__
            raise RegistryError(
                f"config key {key!r} of agent {agent_class.__name__} must be {expected}, got {given} {value!r}"
            )
        converted[key] = value
    return agent_class.Config(**converted)
