"""The batched simulator: E driving games in preallocated arrays, stepped by the kernel.

Environment k depends on its own key (stream, seed, episode) and actions only: it equals a batch of one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.driving import kernel
from safemarl_bench.driving.entry import is_official, scene_of
from safemarl_bench.driving.scenario import TwoVehicles
from safemarl_bench.driving.settings import Settings
from safemarl_bench.driving.tables import Tables, read_tables
from safemarl_bench.errors import ContractError, SafeMARLBenchError
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.rng import MAX_SEED, check_seed, stream_number

STATE_COLUMNS = (
    *("x", "y", "heading", "speed", "target_speed", "steering", "acceleration", "impact_x", "impact_y"),
    *("lane", "target_lane", "crashed", "impact", "present", "live", "off_road"),
    *("arrival_rank", "route", "route_step", "decision"),
)
"""Columns of `get_state`; the unit is m, rad, s; lanes are rows of `Tables.lane_indices`; flags are 0 or 1."""

SLOW_SECONDS = 1.5

_ready = False


class Step(NamedTuple):
    """What one decision shows of E environments. The arrays are the simulator's own: the next call overwrites them.

    Attributes:
        obs: (E, 2, n) float32, both agents' observations; of the next episode's start where one was started.
        state: (E, m) float32, the global state, likewise.
        final_obs, final_state: the same at the end of this decision, never of the next episode.
        reward: (E, 2) float64. cost: (E, 2, 1) float64.
        terminated: (E, 2) bool, true where this decision ended the agent's task.
        truncated: (E,) bool, true where this decision's clock, and nothing else, ended the task of those agents that
            were live and are not terminated; only on the racetrack, elsewhere the time limit is part of the task.
        over: (E,) bool, both agents are done.
        crashed, off_road: (E, 2) bool. arrival_rank: (E, 2) int64, 1, 2, or 0.
        gap: (E,) float64, distance of the centres, m, inf when one vehicle has left.
    """

    obs: np.ndarray
    state: np.ndarray
    final_obs: np.ndarray
    final_state: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    over: np.ndarray
    crashed: np.ndarray
    off_road: np.ndarray
    arrival_rank: np.ndarray
    gap: np.ndarray


class BatchedDriving:
    """E games of one driving suite.

    A done agent's action is ignored. With `episode_stride` > 0 a finished environment starts the episode that many
    further on, in the same step; with 0 it stays as it is, without reward or cost, until it is reset.
    """

    def __init__(
        self, spec: SuiteSpec, num_envs: int, *, episode_stride: int = 0, scene: TwoVehicles | None = None, **env: Any
    ) -> None:
        """Allocate the arrays; the first call of a process loads or compiles the kernel.

        Args:
            spec: a driving suite.
            num_envs: E >= 1.
            episode_stride: see above.
            scene: where roads and settings are read off; built from the suite by default.
            env: settings in place of the data file's ``[env]``.

        Raises:
            SafeMARLBenchError: E or the stride is out of range. RegistryError: an unknown setting.
        """
        if check_seed(num_envs, "num_envs") < 1:
            raise SafeMARLBenchError(f"num_envs must be at least 1, got {num_envs}")
        scene = scene_of(spec, **env) if scene is None else scene
        self.spec = spec
        self.settings: Settings = scene.settings
        self.tables: Tables = read_tables(spec, scene)
        self.num_envs = num_envs
        self._stride = np.uint64(check_seed(episode_stride, "episode_stride"))
        self._cars = np.zeros((2 * num_envs, kernel.STATE_WIDTH), np.float64)
        self._keys = np.zeros((num_envs, 3), np.uint64)
        self._arrays = self.tables.arrays
        self._continuous = scene.CONTINUOUS
        self._actions = np.zeros((num_envs, 2), np.float64)
        self._step = _allocate(num_envs, *_widths(scene, spec))
        self._out = tuple(self._step)
        with _announced():
            self.reset()
            kernel.step_batch(self._cars[:0], self._keys, self._actions, self._stride, self._arrays, self._out)

    @property
    def nbytes(self) -> int:
        """Bytes held for all environments together."""
        return sum(array.nbytes for array in (self._cars, self._keys, self._actions, *self._out))

    @property
    def episodes(self) -> np.ndarray:
        """(E,) int64, the episode that each environment plays."""
        return self._keys[:, 2].astype(np.int64)

    def reset(self, mask: Any = None, *, seeds: Any = 0, episodes: Any = None, stream: str = "train") -> Step:
        """Start episodes; the other environments stay as they are.

        Args:
            mask: (E,) bool, which environments; None is all.
            seeds: one integer or (E,), in [0, 2**63 - 1].
            episodes: the same; None is environment k's own number k.
            stream: "train", "evaluation" or "search".

        Raises:
            SafeMARLBenchError: a wrong shape or dtype, a number out of range, an unknown stream; nothing has changed.
        """
        chosen = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != bool:
            raise ContractError(f"mask must be bool of shape ({self.num_envs},), got {_described(chosen)}")
        number = stream_number(stream)
        numbers = (
            self._words(seeds, "seeds"),
            self._words(np.arange(self.num_envs) if episodes is None else episodes, "episodes"),
        )
        self._keys[chosen, 0] = number
        self._keys[chosen, 1] = numbers[0][chosen]
        self._keys[chosen, 2] = numbers[1][chosen]
        kernel.reset_batch(self._cars, self._keys, chosen, self._arrays, self._out)
        return self._step

    def _words(self, values: Any, what: str) -> np.ndarray:
        if np.ndim(values) == 0:
            return np.full(self.num_envs, check_seed(values, what), np.uint64)
        array = np.asarray(values)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise SafeMARLBenchError(
                f"{what} must be an integer or integers of shape ({self.num_envs},), got {_described(array)}"
            )
        if int(array.min()) < 0 or int(array.max()) > MAX_SEED:
            raise SafeMARLBenchError(f"{what} must be in [0, 2**63 - 1], got {array.min()} to {array.max()}")
        return array.astype(np.uint64)

    def step(self, actions: np.ndarray) -> Step:
        """Take one decision in every environment.

        Args:
            actions: (E, 2), the leader's and the follower's: integers in 0..4, meta-actions, or floats in [-1, 1],
                acceleration or steering, which count in float32.

        Raises:
            ContractError: a wrong shape or dtype, or an action of a live agent out of range or NaN; nothing has moved.
        """
        kinds, expected, span = ("f", "floats", "[-1, 1]") if self._continuous else ("iu", "integers", "0..4")
        shape = self._actions.shape
        if not isinstance(actions, np.ndarray) or actions.shape != shape or actions.dtype.kind not in kinds:
            raise ContractError(f"actions must be {expected} of shape {shape}, got {_described(actions)}")
        self._actions[:] = actions
        bad = kernel.step_batch(self._cars, self._keys, self._actions, self._stride, self._arrays, self._out)
        if bad >= 0:
            k, agent = divmod(bad, 2)
            raise ContractError(
                f"action of {self.spec.roles[agent]!r} in environment {k} must be in {span}, got {actions[k, agent]}"
            )
        return self._step

    def get_state(self) -> np.ndarray:
        """Return a copy of the full state, (E, 2, 20) float64, columns `STATE_COLUMNS`; a row per vehicle."""
        return self._cars.copy().reshape(self.num_envs, 2, kernel.STATE_WIDTH)

    def set_state(self, state: np.ndarray) -> Step:
        """Put every environment into a state that `get_state` returned; the keys of the episodes stay.

        Raises:
            ContractError: a wrong shape or dtype, a number that is not finite, or a lane, flag, rank, route or
                decision that is not a possible one; nothing has changed.
        """
        shape = (self.num_envs, 2, kernel.STATE_WIDTH)
        if not isinstance(state, np.ndarray) or state.shape != shape or state.dtype != np.float64:
            raise ContractError(f"state must be float64 of shape {shape}, got {_described(state)}")
        self._check_columns(state)
        self._cars[:] = state.reshape(self._cars.shape)
        kernel.report_batch(self._cars, self._arrays, self._out)
        return self._step

    def _check_columns(self, state: np.ndarray) -> None:
        """Refuse what would lead the kernel astray: it checks no index."""
        finite = np.isfinite(state)
        if not finite.all():
            k, agent, column = np.argwhere(~finite)[0]
            raise ContractError(f"state[{k}, {agent}] has a {STATE_COLUMNS[column]} that is {state[k, agent, column]}")
        for column, low, high in self._integer_columns():
            values = state[:, :, column]
            wrong = (values != np.floor(values)) | (values < low) | (values > high)
            if wrong.any():
                k, agent = np.argwhere(wrong)[0]
                raise ContractError(
                    f"state[{k}, {agent}] has {STATE_COLUMNS[column]} {values[k, agent]}; "
                    f"it must be an integer in {low}..{high}"
                )
        clocks = state[:, :, kernel.DECISION]
        if (clocks[:, 0] != clocks[:, 1]).any():
            raise ContractError("both vehicles of a state must have the same decision")

    def _integer_columns(self) -> Iterator[tuple[int, int, int]]:
        lanes, (_, steps, _) = len(self.tables.lanes) - 1, self.tables.routes.shape
        yield from ((column, 0, lanes) for column in (kernel.LANE, kernel.TARGET_LANE))
        flags = (kernel.CRASHED, kernel.IMPACT, kernel.PRESENT, kernel.LIVE, kernel.OFF_ROAD)
        yield from ((column, 0, 1) for column in flags)
        yield from ((kernel.RANK, 0, 2), (kernel.ROUTE, -1, lanes), (kernel.ROUTE_STEP, 0, steps - 1))
        yield kernel.DECISION, 0, self.spec.horizon


def _widths(scene: TwoVehicles, spec: SuiteSpec) -> tuple[int, int]:
    """Return the numbers in an agent's observation and in the global state."""
    clock = 0 if scene.TRUNCATES or is_official(spec) else 1
    return 9 if scene.settings.observation == "frenet" else 8 + clock, 8 + clock


def _allocate(num_envs: int, n_observation: int, n_state: int) -> Step:
    """Return what the kernel writes into."""
    return Step(
        obs=np.zeros((num_envs, 2, n_observation), np.float32),
        state=np.zeros((num_envs, n_state), np.float32),
        final_obs=np.zeros((num_envs, 2, n_observation), np.float32),
        final_state=np.zeros((num_envs, n_state), np.float32),
        reward=np.zeros((num_envs, 2), np.float64),
        cost=np.zeros((num_envs, 2, 1), np.float64),
        terminated=np.zeros((num_envs, 2), bool),
        truncated=np.zeros(num_envs, bool),
        over=np.zeros(num_envs, bool),
        crashed=np.zeros((num_envs, 2), bool),
        off_road=np.zeros((num_envs, 2), bool),
        arrival_rank=np.zeros((num_envs, 2), np.int64),
        gap=np.zeros(num_envs, np.float64),
    )


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"{type(value).__name__} {value!r}"


@contextmanager
def _announced() -> Iterator[None]:
    """Say on stderr what is happening when the first use of the kernel takes long: compilation, once per machine."""
    global _ready
    if _ready or not kernel.COMPILED:
        yield
        return
    message = "safemarl_bench: compiling the driving kernel (about 10 s, cached for later runs)"
    timer = threading.Timer(SLOW_SECONDS, print, (message,), {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    _ready = True
