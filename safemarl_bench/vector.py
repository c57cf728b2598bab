"""E games side by side as a `gymnasium.vector.VectorEnv`, for learners that control all agents of a game at once.

One environment is one game; rows are agents, leaders first. Works on any batched simulator with the interface of
`safemarl_bench.driving.core.BatchedDriving`; a game that runs on one has it as ``game.core`` and makes larger ones
with ``game.simulator(num_envs)``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from safemarl_bench.errors import ContractError, RegistryError, nearest
from safemarl_bench.registry import Game, get_suite, make
from safemarl_bench.rng import STREAMS, check_seed

OPTIONS = ("episode", "reset_mask", "stream")
STREAM_NAMES = {number: name for name, number in STREAMS.items()}


def make_vec(
    suite: str,
    num_envs: int,
    *,
    backend: str = "auto",
    autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
    **overrides: Any,
) -> VectorGame:
    """Build E games of a suite that has a batched simulator.

    Args:
        suite: a registered name.
        num_envs: E >= 1.
        backend: one of the suite's backends that is batched (driving: "kernel"); "auto" is the first of them.
        autoreset_mode: what happens to a game that is over; gymnasium's enumeration or its value, "SameStep",
            "NextStep" or "Disabled".
        overrides: settings in place of the data file's ``[env]``, and ``render_mode`` ("rgb_array").

    Raises:
        RegistryError: unknown suite, backend, setting, autoreset or render mode, or there is no batched simulator.
        SafeMARLBenchError: E is out of range.
    """
    spec = get_suite(suite)
    for name in spec.backends if backend == "auto" else (backend,):
        game = make(suite, backend=name, **overrides)
        if hasattr(game, "core"):
            return VectorGame(game, num_envs, _mode(autoreset_mode))
    what = f"its backends are {', '.join(spec.backends)}" if backend == "auto" else f"backend {backend!r} has none"
    raise RegistryError(f"suite {suite} has no batched simulator for make_vec: {what}; make() gives one game at a time")


def _mode(given: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(given)
    except ValueError:
        known = [mode.value for mode in AutoresetMode]
        raise RegistryError(f"unknown autoreset mode {given!r}: {nearest(str(given), known)}") from None


class VectorGame(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """E games with A agents each; the arrays that it returns are the caller's to keep.

    **Spaces** of one environment: observations (A, n) float32, actions A integers or A floats float32.
    `cost_limits` is (A, K) float64, undiscounted cost per agent, constraint and episode.

    **Rewards** (E,) float64 are sums over the agents. A game is over when all its agents are done. Then it has
    terminated if each agent's task ended by itself, and is truncated if the clock cut at least one agent that was
    live, since the values of that agent bootstrap: never both. (A crash of the leader and, later, the clock for the
    follower is a truncation.)

    **Infos**, each with gymnasium's mask ``_key``: of the decision, `reward` (E, A), `cost` (E, A, K), and
    `terminated` and `truncated` (E, A), true where it ended the agent's task; as things are, `state` (E, m) float32
    and what else the simulator shows: on the driving suites `crashed`, `off_road` (E, A) bool, `arrival_rank` (E, A)
    int64 (0: not arrived) and `gap` (E,) float64, m. An agent that is done has reward and cost 0.

    **Autoreset** as gymnasium defines it. With SAME_STEP a finished game starts the next episode in the same step:
    `obs` and how things are belong to the new episode, ``final_obs`` and ``final_info`` to the finished one. What the
    decision led to stays in sight in every mode: ``infos["cost"]`` belongs to the same decision as the rewards.
    With NEXT_STEP it starts in the next step, which ignores its action; with DISABLED by `reset` with a mask.

    **Seeds**: as in gymnasium, environment k is seeded with ``seed + k``. It plays episodes 0, 1, 2, ... of its seed,
    as ``make(suite)`` does when it is reset with that seed and then without, whatever E is. Seeds closer than E
    share games: for independent runs give lists, or seeds at least E apart.
    """

    def __init__(self, game: Game, num_envs: int, autoreset_mode: AutoresetMode) -> None:
        """Build the batch.

        Args:
            game: has spaces, limits, `core`, `simulator`, and draws.
            num_envs: E >= 1.
            autoreset_mode: see above.

        Raises:
            SafeMARLBenchError: E is out of range. RegistryError: a render mode other than "rgb_array".
        """
        self._game: Any = game
        self.render_mode = game.render_mode
        if self.render_mode not in (None, "rgb_array"):
            raise RegistryError(
                f"make_vec only draws images: render_mode must be 'rgb_array', not {self.render_mode!r}"
            )
        self._core = self._game.simulator(num_envs)
        self.num_envs = num_envs
        self.metadata = {**game.metadata, "render_modes": ["rgb_array"], "autoreset_mode": autoreset_mode}
        agents = game.possible_agents
        self.single_observation_space = _stacked([game.observation_space(agent) for agent in agents])
        self.single_action_space = _joint([game.action_space(agent) for agent in agents])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.cost_limits = np.stack([self._game.cost_limits[agent] for agent in agents])
        self._started = False
        self._over = np.zeros(num_envs, bool)
        self._live = np.zeros((num_envs, len(agents)), bool)
        self._seeds = secrets.randbelow(2**31) + np.arange(num_envs)
        self._next_episodes = np.zeros(num_envs, np.int64)
        self._streams = np.full(num_envs, STREAMS["train"])

    def reset(self, *, seed: Any = None, options: Mapping[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start episodes.

        Args:
            seed: an integer, environment k gets ``seed + k``; or one for each environment. None, also in a list,
                goes on to the environment's next episode, of a seed from the operating system the first time.
            options: "reset_mask", (E,) bool, the environments to start, all by default; "stream" ("train" by default
                with a seed, "evaluation" or "search"); "episode", an integer or (E,), the first to play, 0 by default
                with a seed.

        Returns:
            observations of all environments, infos of those that start.

        Raises:
            ContractError: closed, an unknown option or stream, a wrong shape or dtype.
            SafeMARLBenchError: a number out of range. Either way nothing has changed.
        """
        self._check_open("reset")
        options = dict(options or {})
        for unknown in sorted(set(options) - set(OPTIONS)):
            raise ContractError(f"reset has no option {unknown!r}: {nearest(unknown, OPTIONS)}")
        mask = self._read_mask(options.get("reset_mask"))
        seeds, given = self._read_seeds(seed)
        streams = np.where(given, STREAMS["train"], self._streams)
        if "stream" in options:
            streams = np.full(self.num_envs, _stream_number(options["stream"]))
        episodes = np.where(given, 0, self._next_episodes)
        if "episode" in options:
            episodes = np.asarray(options["episode"])
        if episodes.ndim == 0:
            episodes = np.full(self.num_envs, check_seed(options["episode"], "episode"))
        shown = self._start(mask, seeds, episodes, streams)
        self._started = True
        return shown.obs.copy(), _infos(_outcome(shown, np.zeros_like(self._live)) | _situation(shown), mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one decision in every environment.

        Args:
            actions: (E, A) in `action_space`; those of done agents are ignored.

        Returns:
            observations (E, A, n) float32, rewards (E,) float64, terminations and truncations (E,) bool, infos.

        Raises:
            ContractError: closed, not reset, over with DISABLED, or actions of a wrong shape, dtype or range. Nothing
                has moved.
        """
        self._check_ready()
        shown, restarted = self._core.step(actions), self._over
        if restarted.any():  # only with NEXT_STEP
            shown = self._start_next(restarted)
        cut = shown.truncated[:, None] & self._live & ~shown.terminated
        self._live &= ~(shown.terminated | cut)
        self._over = over = shown.over.copy()
        truncations = cut.any(axis=1)
        outcome, infos = _infos(_outcome(shown, cut)), {}
        if self.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and over.any():
            infos = _final(shown, cut, over)
            shown = self._start_next(over)
        infos.update(outcome | _infos(_situation(shown)))
        return shown.obs.copy(), outcome["reward"].sum(axis=1), over & ~truncations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """Draw every game; E images (height, width, 3) uint8.

        Raises:
            ContractError: made without a render mode, closed, or not reset.
        """
        self._check_open("render")
        if self.render_mode is None:
            raise ContractError("render: there is no render mode; make it with render_mode='rgb_array'")
        if not self._started:
            raise ContractError("render: no episode is running; call reset first")
        images = []
        for state in self._core.get_state():
            self._game.core.set_state(state[None])
            images.append(self._game.render())
        return tuple(images)

    def close_extras(self, **kwargs: Any) -> None:
        """Close the renderer."""
        self._game.close()

    def _start_next(self, mask: np.ndarray) -> Any:
        return self._start(mask, self._seeds, self._next_episodes, self._streams)

    def _start(self, mask: np.ndarray, seeds: np.ndarray, episodes: np.ndarray, streams: np.ndarray) -> Any:
        """Start these episodes where `mask` is true; the simulator takes one stream at a time."""
        for number in np.unique(streams[mask]):
            chosen = mask & (streams == number)
            shown = self._core.reset(chosen, seeds=seeds, episodes=episodes, stream=STREAM_NAMES[number])
        self._seeds[mask], self._streams[mask] = seeds[mask], streams[mask]
        self._next_episodes[mask] = episodes[mask] + 1
        self._live[mask] = True
        self._over = self._over & ~mask
        return shown

    def _read_mask(self, given: Any) -> np.ndarray:
        if given is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(given)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ContractError(
                f"reset_mask must be bool of shape ({self.num_envs},), true somewhere, got {mask.dtype} of shape "
                f"{mask.shape}{'' if mask.any() else ', true nowhere'}"
            )
        if not (self._started or mask.all()):
            raise ContractError("reset: the first reset starts all environments; leave reset_mask out")
        return mask

    def _read_seeds(self, given: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the environments' seeds, (E,) int64, and whether each was given, (E,) bool."""
        if given is None:
            given = [None] * self.num_envs
        if np.ndim(given) == 0:
            first = check_seed(given)
            check_seed(first + self.num_envs - 1, f"seed + {self.num_envs - 1}, of the last environment,")
            given = range(first, first + self.num_envs)
        if len(given) != self.num_envs:
            raise ContractError(f"seed must be an integer or {self.num_envs} of them, got {len(given)}")
        seeds = self._seeds.copy()
        for k, seed in enumerate(given):
            if seed is not None:
                seeds[k] = check_seed(seed, f"seed of environment {k}")
        return seeds, np.array([seed is not None for seed in given])

    def _check_open(self, what: str) -> None:
        if self.closed:
            raise ContractError(f"{what}: the environment is closed; make a new one")

    def _check_ready(self) -> None:
        self._check_open("step")
        if not self._started:
            raise ContractError("step: no episode is running; call reset first")
        if self.metadata["autoreset_mode"] is AutoresetMode.DISABLED and self._over.any():
            over = np.flatnonzero(self._over)
            raise ContractError(
                f"step: {len(over)} games are over, the first in environment {over[0]}; "
                "start them with reset(options={'reset_mask': terminations | truncations})"
            )


def _outcome(shown: Any, cut: np.ndarray) -> dict[str, np.ndarray]:
    """Return what a decision led to."""
    return {"reward": shown.reward, "cost": shown.cost, "terminated": shown.terminated, "truncated": cut}


_NO_SITUATION = {"obs", "final_obs", "final_state", "reward", "cost", "terminated", "truncated", "over"}


def _situation(shown: Any) -> dict[str, np.ndarray]:
    """Return how things are."""
    return {name: array for name, array in shown._asdict().items() if name not in _NO_SITUATION}


def _infos(values: Mapping[str, np.ndarray], mask: np.ndarray | None = None) -> dict[str, Any]:
    """Return copies in gymnasium's form: zeros where `mask` is false, and the mask beside each; None is everywhere."""
    infos: dict[str, Any] = {}
    for name, array in values.items():
        if mask is None:
            infos[name], infos[f"_{name}"] = array.copy(), np.ones(len(array), bool)
        else:
            infos[name], infos[f"_{name}"] = np.zeros_like(array), mask.copy()
            infos[name][mask] = array[mask]
    return infos


def _final(shown: Any, cut: np.ndarray, over: np.ndarray) -> dict[str, Any]:
    """Return the last observations, one array per finished game and None elsewhere, and the last infos."""
    final_obs = np.full(len(over), None, dtype=object)
    for k in np.flatnonzero(over):
        final_obs[k] = shown.obs[k].copy()
    infos = {"final_obs": final_obs, "final_info": _infos(_outcome(shown, cut) | _situation(shown), over)}
    return {**infos, "_final_obs": over.copy(), "_final_info": over.copy()}


def _stacked(spaces: list[Any]) -> gymnasium.spaces.Box:
    """Return the space of the agents' observations, one row each."""
    low, high = np.stack([space.low for space in spaces]), np.stack([space.high for space in spaces])
    return gymnasium.spaces.Box(low, high, dtype=spaces[0].dtype)


def _joint(spaces: list[Any]) -> gymnasium.spaces.MultiDiscrete | gymnasium.spaces.Box:
    """Return the space of the agents' actions, one number each."""
    if isinstance(spaces[0], gymnasium.spaces.Discrete):
        return gymnasium.spaces.MultiDiscrete([space.n for space in spaces])
    low, high = np.concatenate([space.low for space in spaces]), np.concatenate([space.high for space in spaces])
    return gymnasium.spaces.Box(low, high, dtype=spaces[0].dtype)


def _stream_number(name: Any) -> int:
    if not isinstance(name, str) or name not in STREAMS:
        raise ContractError(f"unknown random stream {name!r}: {nearest(str(name), STREAMS)}")
    return STREAMS[name]
