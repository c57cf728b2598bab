"""Training one agent on one game: the loop, its log, and checkpoints that resume it exactly.

Spawns and exploration are pure functions of (seed, episode, step), so a checkpoint is the agent, where the games are,
and a few counters; nothing of random state is kept.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import signal
import threading
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from safemarl_bench.checkpoint import read_checkpoint, write_checkpoint
from safemarl_bench.collection import Finished, Games
from safemarl_bench.contract import Agent
from safemarl_bench.errors import CheckpointError, ContractError
from safemarl_bench.rng import generator
from safemarl_bench.rollout import calling
from safemarl_bench.validation import Outcome, validation_steps

LOG_POINTS = 64
MAX_METRICS = 24
"""Names of metrics that one learner may report: with more of them a record could outgrow its 64 kB."""

METRIC_DIGITS = 6
"""Significant digits that the log keeps of a metric."""

CHECKPOINT_SECONDS = 20.0


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, with everything saved."""


@dataclasses.dataclass
class TrainLog:
    """What training has seen so far: at most 64 log-spaced points, and running sums for the next one.

    Attributes:
        steps, episodes: decisions and finished episodes at each point.
        returns: agent -> mean return per episode since the last point.
        costs: agent -> mean cost vector per episode since the last point.
        collisions: episodes with a crash so far.
        metrics: name -> mean of what the learner reported since the last point; None where it reported nothing.
        totals: episodes, collisions, violating_steps (decisions in which some agent paid a cost).
        pending: the finished episodes since the last point: [returns by role, costs by role].
        pending_metrics: name -> [sum, count] of what was reported since the last point.
    """

    roles: tuple[str, ...]
    steps: list[int] = dataclasses.field(default_factory=list)
    episodes: list[int] = dataclasses.field(default_factory=list)
    returns: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    costs: dict[str, list[list[float]]] = dataclasses.field(default_factory=dict)
    collisions: list[int] = dataclasses.field(default_factory=list)
    metrics: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    totals: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"episodes": 0, "collisions": 0, "violating_steps": 0}
    )
    pending: list[list[Any]] = dataclasses.field(default_factory=list)
    pending_metrics: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Give every role its series."""
        for role in self.roles:
            self.returns.setdefault(role, [])
            self.costs.setdefault(role, [])

    def add(self, episode: Finished) -> None:
        """Count a finished episode."""
        self.totals["episodes"] += 1
        self.totals["collisions"] += episode.crashed
        self.pending.append(
            [[episode.returns[role] for role in self.roles], [episode.costs[role] for role in self.roles]]
        )

    def report(self, metrics: Mapping[str, float]) -> None:
        """Take in what `Agent.learn` returned.

        Raises:
            ContractError: it is no dict of finite floats by name, or there are too many names by now.
        """
        check_metrics(metrics)
        for name, value in metrics.items():
            mean = self.pending_metrics.setdefault(name, [0.0, 0])
            mean[0] += value
            mean[1] += 1
        if metrics and len(self.metrics.keys() | self.pending_metrics.keys()) > MAX_METRICS:
            raise ContractError(f"learn may report {MAX_METRICS} metrics at most, got {', '.join(sorted(metrics))}")

    def close_point(self, step: int) -> None:
        """End a point at `step`; a point in which no episode finished is left to the next one."""
        if not self.pending:
            return
        for name in sorted(self.metrics.keys() | self.pending_metrics.keys()):
            total, count = self.pending_metrics.get(name, (0.0, 0))
            series = self.metrics.setdefault(name, [None] * len(self.steps))
            series.append(float(f"{total / count:.{METRIC_DIGITS}g}") if count else None)
        self.steps.append(step)
        self.episodes.append(self.totals["episodes"])
        self.collisions.append(self.totals["collisions"])
        for index, role in enumerate(self.roles):
            self.returns[role].append(float(np.mean([returns[index] for returns, _ in self.pending])))
            self.costs[role].append(np.mean([costs[index] for _, costs in self.pending], axis=0).tolist())
        self.pending, self.pending_metrics = [], {}

    def section(self) -> dict[str, Any]:
        """Return the ``train`` section of a run record; without ``metrics`` where nothing was reported."""
        left_out = {"roles", "pending", "pending_metrics", *(() if self.metrics else ("metrics",))}
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out}


def check_metrics(metrics: Any) -> None:
    """Raise `ContractError` unless `metrics`, from `Agent.learn`, is a dict of finite floats by name."""
    if not isinstance(metrics, Mapping):
        raise ContractError(f"learn must return a dict of metrics, got {type(metrics).__name__}")
    for name, value in metrics.items():
        if not isinstance(name, str) or not isinstance(value, float) or not math.isfinite(value):
            raise ContractError(f"learn must return finite floats by name, got {name!r}: {value!r}")


def log_steps(total: int) -> set[int]:
    """Return at most 64 log-spaced decision counts that end at `total`."""
    if total < 1:
        return set()
    return {round(point) for point in np.geomspace(max(1, total / 1000), total, LOG_POINTS)}


def passed(points: Sequence[int], before: int, now: int) -> bool:
    """Return whether a point, of some in order, lies in (before, now]."""
    return bisect(points, now) > bisect(points, before)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; the second one interrupts at once.

    Outside the main thread signals cannot be caught: the event is then never set.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: Any) -> None:
        requested.set()
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, request)
    try:
        yield requested
    finally:
        restore()


@dataclasses.dataclass
class Trainer:
    """Trains an agent for a number of decisions, resumably.

    Attributes:
        games: where it is trained. agent: the learner. name: what errors call it.
        total: decisions, a multiple of the number of games. folder: where checkpoints and validated policies go.
        validate: says how the agent does after so many decisions; None: nobody asks.
        step: decisions taken so far, of all games together. log: what they led to.
        outcomes: of the policies validated so far, which are in `policy_folder`.
    """

    games: Games
    agent: Agent
    name: str
    total: int
    folder: Path
    validate: Callable[[int], Outcome] | None = None
    step: int = 0
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    log: TrainLog = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Start at decision 0."""
        self.log = TrainLog(self.games.spec.roles)
        self._started, self._seconds_before = time.perf_counter(), 0.0
        self._validation_steps = validation_steps(self.total)

    def resume(self) -> bool:
        """Load the newest complete checkpoint, if there is one.

        Raises:
            CheckpointError: it cannot be read (delete the folder to start again).
        """
        newest = max(self._complete_checkpoints(), default=None)
        if newest is None:
            return False
        try:
            games, state = read_checkpoint(newest, "trainer")
            self.agent.load(newest)
            self.games.restore(games)
            self.step, self._seconds_before = int(state["step"]), float(state["seconds"])
            self.log = TrainLog(**{**state["log"], "roles": self.games.spec.roles})
            self.outcomes = [Outcome(**outcome) for outcome in state["outcomes"]]
        except (CheckpointError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"cannot resume from {newest}: {error}; delete that folder to start again") from error
        return True

    def save(self) -> None:
        """Write a checkpoint; it counts only once its last file, trainer.json, is in place."""
        folder = self.folder / f"step-{self.step:012d}"
        try:
            if folder.exists() and not (folder / "trainer.json").exists():
                shutil.rmtree(folder)
            if not folder.exists():
                folder.mkdir(parents=True)
                with calling(self.name, "save", self.step):
                    self.agent.save(folder, training=True)
                state = {"step": self.step, "seconds": self.seconds(), "log": dataclasses.asdict(self.log)}
                state["outcomes"] = [dataclasses.asdict(outcome) for outcome in self.outcomes]
                write_checkpoint(folder, "trainer", self.games.save(), state)
            for older in self._complete_checkpoints():
                if older != folder:
                    shutil.rmtree(older)
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoint {folder}: {error.strerror or error}") from error

    def policy_folder(self, step: int) -> Path:
        """Return where the policy of after `step` decisions is kept."""
        return self.folder / f"policy-{step:012d}"

    def save_policy(self) -> None:
        """Keep the policy of now."""
        folder = self.policy_folder(self.step)
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed after it
        folder.mkdir(parents=True)
        with calling(self.name, "save", self.step):
            self.agent.save(folder, training=False)

    def seconds(self) -> float:
        """Return the wall seconds spent on this run so far, interruptions left out."""
        return self._seconds_before + time.perf_counter() - self._started

    def _complete_checkpoints(self) -> list[Path]:
        return [path.parent for path in self.folder.glob("step-*/trainer.json")]

    def run(self, bar: Any) -> None:
        """Train to the last decision.

        Args:
            bar: a tqdm bar over decisions.

        Raises:
            Interrupted: a stop was asked for; the checkpoint is written.
            ContractError: the agent or the game broke its contract.
        """
        points = sorted(log_steps(self.total))
        saved = time.monotonic()
        with stop_requests() as stop:
            while self.step < self.total:
                self._decide(points, bar)
                if stop.is_set() or self.step == self.total or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = time.monotonic()
                if stop.is_set():
                    raise Interrupted(f"stopped at decision {self.step:,} of {self.total:,}")

    def _decide(self, points: Sequence[int], bar: Any) -> None:
        """Take one decision in every game and learn from it."""
        games, number = self.games, self.step // self.games.num_envs
        with calling(self.name, "act", self.step):
            rng = generator("explore", games.seed, number)
            actions = self.agent.act(games.observation, explore=True, rng=rng)
        transition, finished = games.step(actions, by=f"{self.name} (training)")
        with calling(self.name, "observe", self.step):
            self.agent.observe(transition)
        with calling(self.name, "learn", self.step):
            self.log.report(self.agent.learn())
        paid = np.concatenate(list(transition.costs.values()), axis=1).any(axis=1)
        self.log.totals["violating_steps"] += int(np.count_nonzero(paid))
        for episode in finished:
            self.log.add(episode)
        before, self.step = self.step, self.step + games.num_envs
        if passed(points, before, self.step):
            self.log.close_point(self.step)
        if self.validate and passed(self._validation_steps, before, self.step):
            self.save_policy()
            self.outcomes.append(self.validate(self.step))
        if finished:
            last = sum(finished[-1].returns.values())
            bar.set_postfix_str(f"return {last:.1f}, collisions {self.log.totals['collisions']}", refresh=False)
        bar.update(games.num_envs)
