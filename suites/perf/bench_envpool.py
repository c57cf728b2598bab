"""The driving kernel beside EnvPool's Highway family (C++), one thread each, in the same run.

    pytest suites/perf/bench_envpool.py -n0 --benchmark-only

They do not simulate the same thing, so that decisions per second alone say little: EnvPool's tasks have fixed
configurations of their own, with traffic, one ego (but for the multi-agent intersection), no costs, and other
observations. The second number is how many vehicles are moved by one frame of 1/15 s, per second. Both sides play
random actions (the racetracks: EnvPool small random steering, the kernel lane followers) and start finished episodes
anew; EnvPool's resetting calls take time, but are no decisions. Rounds alternate; ratios are medians over rounds.
"""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from safemarl_bench.suites.perf.driving import (
    ROUNDS,
    STEERING_NOISE,
    SUITES,
    WARMUP_ROUNDS,
    frames_per_decision,
    kernel_rounds,
)

from safemarl_bench.driving import kernel
from safemarl_bench.registry import get_suite

pytestmark = pytest.mark.skipif(
    not kernel.COMPILED, reason="the kernel is not compiled here; the extra `kernel` brings numba"
)
TASKS = {
    "Merge-v0": "merge",
    "Roundabout-v0": "roundabout",
    "Intersection-v1": "intersection",
    "IntersectionMultiAgent-v1": "intersection",
    "Racetrack-v0": "racetrack",
}
"""EnvPool's task -> the suite that is closest to it."""
BATCHES = (1, 16, 256)
POOL_STEPS, KERNEL_DECISIONS = 1024, 4096
"""In each round, all environments together."""


class Pool:
    """EnvPool's environments of one task, in synchronous batches on one thread."""

    def __init__(self, envpool: Any, task: str, num_envs: int) -> None:
        """Start them and draw the actions of one round."""
        self.envs = envpool.make_gymnasium(task, num_envs=num_envs, batch_size=num_envs, num_threads=1, seed=0)
        self.envs.reset()
        config = self.envs.config
        self.agents: int = config["max_num_players"]
        self.frames_per_decision: int = config["simulation_frequency"] // config["policy_frequency"]
        self.observation = "x".join(map(str, self.envs.observation_space.shape))
        self.actions_of_a_car = self._describe_actions()
        self.elapsed: list[np.ndarray] = []
        drawn = self._draw(POOL_STEPS // num_envs, num_envs * self.agents, task.startswith("Racetrack"))
        self.actions = [self._step_argument(actions, num_envs) for actions in drawn]

    def _describe_actions(self) -> str:
        space = self.envs.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return f"{space.n} meta-actions"
        return "1 number" if space.shape == (1,) else f"{space.shape[0]} numbers"

    def _draw(self, calls: int, agents: int, steers: bool) -> np.ndarray:
        space, rng = self.envs.action_space, np.random.default_rng(0)
        if isinstance(space, gymnasium.spaces.Discrete):
            return rng.integers(space.n, size=(calls, agents), dtype=np.int32)
        bound = STEERING_NOISE if steers else 1.0
        return rng.uniform(-bound, bound, size=(calls, agents, *space.shape)).astype(np.float32)

    def _step_argument(self, actions: np.ndarray, num_envs: int) -> Any:
        if self.agents == 1:
            return actions
        environments = np.arange(num_envs, dtype=np.int32)
        players = np.repeat(environments, self.agents)
        return {"env_id": environments, "players.env_id": players, "players.action": actions}

    def round(self) -> None:
        """Step the environments `POOL_STEPS` times, all together."""
        self.elapsed = [self.envs.step(actions)[4]["elapsed_step"] for actions in self.actions]

    def decisions(self) -> int:
        """Return how many steps of the last round were decisions: a finished environment's next step resets it."""
        return int(sum((elapsed > 0).sum() for elapsed in self.elapsed))

    def cars(self) -> float:
        """Return the mean number of vehicles on the road now."""
        return float(np.mean([len(state.vehicles) for state in self.envs.debug_states()]))


@pytest.mark.benchmark(group="envpool")
@pytest.mark.parametrize("num_envs", BATCHES)
@pytest.mark.parametrize("task", [task for task, suite in TASKS.items() if suite in SUITES])
def test_beside_envpool(benchmark: Any, task: str, num_envs: int) -> None:
    envpool = pytest.importorskip("envpool", reason="EnvPool is not installed; the extra `compare` brings it")
    suite, pool = TASKS[task], Pool(envpool, task, num_envs)
    core, drive = kernel_rounds(suite, num_envs, KERNEL_DECISIONS // num_envs)
    rates: list[float] = []
    cars: list[tuple[float, float]] = []

    def alternate() -> None:
        start = time.perf_counter()
        pool.round()
        rates.append(pool.decisions() / (time.perf_counter() - start))
        cars.append((2.0 * core.get_state()[:, :, kernel.PRESENT].mean(), pool.cars()))

    benchmark.pedantic(drive, setup=alternate, rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS)
    pool.envs.close()
    if not benchmark.stats:
        return
    ours, theirs = KERNEL_DECISIONS / np.array(benchmark.stats.stats.data), np.array(rates[-ROUNDS:])
    our_cars, their_cars = np.mean(cars[-ROUNDS:], axis=0).tolist()
    frames, their_frames = frames_per_decision(get_suite(suite)), pool.frames_per_decision
    ratio, more_work = float(np.median(ours / theirs)), our_cars * frames / (their_cars * their_frames)
    benchmark.extra_info.update(
        suite=suite,
        task=task,
        num_envs=num_envs,
        agents=2,
        envpool_agents=pool.agents,
        cars=our_cars,
        envpool_cars=their_cars,
        frames_per_decision=frames,
        envpool_frames_per_decision=their_frames,
        actions="5 meta-actions" if core.spec.action_kind == "discrete" else "1 number",
        envpool_actions=pool.actions_of_a_car,
        observation=str(core.reset().obs.shape[-1]),
        envpool_observation=pool.observation,
        decisions_per_second=float(np.median(ours)),
        envpool_decisions_per_second=float(np.median(theirs)),
        decisions_ratio=ratio,
        vehicle_frames_per_second=float(np.median(ours)) * our_cars * frames,
        envpool_vehicle_frames_per_second=float(np.median(theirs)) * their_cars * their_frames,
        vehicle_frames_ratio=ratio * more_work,
    )
