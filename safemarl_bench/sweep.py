"""Tuning: several configs of one agent on one suite, compared on validation episodes and on nothing else.

The evaluation episodes, which the leaderboard counts, must not choose a config. What a trial is judged by is the
validation of its runs: what the policy that each run keeps did on the validation episodes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safemarl_bench.errors import SafeMARLBenchError
from safemarl_bench.record import RunRecord
from safemarl_bench.record_content import cost_ratio
from safemarl_bench.references import mean
from safemarl_bench.runner import Cell, find_record, resolve_cell, run_cell

EPISODES = 20
"""Evaluation episodes of a trial's records: few, since nobody looks at them."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One config and what its runs reached on the validation episodes.

    Attributes:
        changes: config values in place of the suite's tuned ones.
        returns: total return of each seed's policy. cost_ratios: its largest mean cost / limit.
    """

    changes: Mapping[str, Any]
    returns: tuple[float, ...]
    cost_ratios: tuple[float, ...]

    @property
    def merit(self) -> tuple[float, float]:
        """What trials are ranked by: the share of seeds within the limits, then the mean return."""
        return mean([float(ratio <= 1.0) for ratio in self.cost_ratios]), mean(self.returns)


def sweep(
    suite: str,
    agent: str,
    trials: Sequence[Mapping[str, Any]],
    *,
    seeds: int = 2,
    budget: str = "quick",
    results_dir: str | Path = "smb-sweep",
    progress: bool = True,
) -> list[Trial]:
    """Run every trial with every seed, and return the trials, the best one first (ties: in the order given).

    A run that is in `results_dir` already is not repeated, so that an interrupted sweep goes on where it was.

    Args:
        suite, agent, budget: see `safemarl_bench.runner.resolve_cell`.
        trials: config values of each, in place of the suite's tuned ones; {} is the config as it is.
        seeds: runs per trial, with the seeds 0, 1, ...
        results_dir: where records go; keep them apart from results to be shown.
        progress: show progress bars.

    Raises:
        SafeMARLBenchError: no trial, no seed, an agent that does not learn, or see `resolve_cell`; nothing is run then.
        Interrupted: after Ctrl-C.
    """
    if not trials or seeds < 1:
        raise SafeMARLBenchError(f"a sweep needs at least one trial and one seed, got {len(trials)} and {seeds}")
    cells = [
        [
            resolve_cell(suite, agent, seed=seed, budget=budget, episodes=EPISODES, config=changes)
            for seed in range(seeds)
        ]
        for changes in trials
    ]
    if not cells[0][0].steps:
        raise SafeMARLBenchError(f"agent {agent!r} does not learn: there is nothing to tune")
    found = [
        _judged(changes, [_record(cell, Path(results_dir), progress) for cell in row])
        for changes, row in zip(trials, cells, strict=True)
    ]
    return sorted(found, key=lambda trial: trial.merit, reverse=True)


def _record(cell: Cell, results: Path, progress: bool) -> RunRecord:
    return find_record(cell, results) or run_cell(cell, results, progress=progress)


def _judged(changes: Mapping[str, Any], records: Sequence[RunRecord]) -> Trial:
    return Trial(changes, *zip(*map(_validated, records), strict=True))


def _validated(record: RunRecord) -> tuple[float, float]:
    """Return (total return, cost ratio) of the kept policy on the validation episodes."""
    validation: Mapping[str, Any] = record.validation or {}
    kept = validation["kept"]
    costs = {role: validation["costs"][role][kept] for role in record.roles}
    return math.fsum(validation["returns"][role][kept] for role in record.roles), cost_ratio(costs, record.cost_limits)


def table(trials: Sequence[Trial]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table of trials, the header first."""
    yield "rank", "within limits", "return", "cost/limit: mean", "worst", "config"
    for rank, trial in enumerate(trials, start=1):
        within = sum(ratio <= 1.0 for ratio in trial.cost_ratios)
        changes = " ".join(f"{key}={value}" for key, value in trial.changes.items())
        yield (
            str(rank),
            f"{within}/{len(trial.cost_ratios)}",
            f"{mean(trial.returns):.2f}",
            f"{mean(trial.cost_ratios):.2f}",
            f"{max(trial.cost_ratios):.2f}",
            changes or "(as it is)",
        )
