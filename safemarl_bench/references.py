"""What the returns of a suite are measured against: the agents that do not train, in one file per suite.

A game may tell the value of the best policy (``game.optimum()``) and of uniformly random play
(``game.random_value()``); they then take the place of what was found by playing. Where it knows no optimum, it may tell
a number that no policy exceeds (``game.upper_bound()``). Lagrangian bounds (``game.duality()``) stand beside it.

`safemarl-bench leaderboard` derives ``<results>/reference/<suite>.json`` from the run records, and `--check` says
whether they are current; nothing else writes them. Those of this project's own records are part of the package.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from safemarl_bench.canonical_json import canonical
from safemarl_bench.errors import RecordError, RegistryError
from safemarl_bench.record import RunRecord
from safemarl_bench.registry import SuiteSpec, get_suite, make, suite_names

RANDOM = "random"
BEST = ("planner_safe", "lane_follower", "lagrangian_greedy", "script")
"""Agents whose mean total return stands for the score 1, in order of preference; the script is provisional."""

FOLDER = "reference"
PACKAGE = "safemarl_bench.reference_data"
"""The package that holds the files of this project's own records; in the repository it is ``results/reference``."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Mean undiscounted total returns (all agents together) on the held-out episodes of one suite.

    Attributes:
        optimum: the best that the constraints allow, where it is known exactly, else None.
        random: J_random, of uniformly random actions, score 0; None if that agent has no records.
        heuristics: agent -> total return, for every other agent that does not train: planners, scripts, rules. What
            a planner's search finds is not the optimum.
        bounds: (low, high) of the optimum: low is the best return among the heuristics that keep every limit, on
            these very episodes, high is infinite where nothing is proven; None if no heuristic keeps them.
        source: where the numbers come from.
        more: further values by what they are, each policy -> value; of games that compute their own reference.
    """

    optimum: float | None = None
    random: float | None = None
    heuristics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    source: str = ""
    more: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def best_name(self) -> str:
        """What stands for the score 1: "optimum", an agent of `BEST`, or ""."""
        if self.optimum is not None:
            return "optimum"
        return next((name for name in BEST if name in self.heuristics), "")

    @property
    def best(self) -> float | None:
        """J_reference, the total return of score 1; None if nothing stands for it."""
        return self.optimum if self.optimum is not None else self.heuristics.get(self.best_name)

    @property
    def provisional(self) -> bool:
        """Whether the script stands for the score 1, because nothing better has records."""
        return self.best_name == BEST[-1]


@dataclasses.dataclass(frozen=True)
class SuiteReference:
    """A suite's reference and how it was obtained: the content of its file.

    Attributes:
        suite, version, digest: of the game.
        reference: the returns.
        obtained: agent -> what was run and what came out (config, seeds, episodes, costs, package versions, code
            commits, records, commands).
    """

    suite: str
    version: int
    digest: str
    reference: Reference
    obtained: Mapping[str, Any]

    def to_json(self) -> str:
        """Return the file's text: indented JSON; an infinite bound is null."""
        content = dataclasses.asdict(self)
        if not self.reference.more:
            del content["reference"]["more"]
        if bounds := self.reference.bounds:
            content["reference"]["bounds"] = [bound if math.isfinite(bound) else None for bound in bounds]
        return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> SuiteReference:
        """Read what `to_json` wrote.

        Raises:
            RecordError: it is something else.
        """
        try:
            content = json.loads(text)
            stored = content.pop("reference")
            if stored["bounds"]:
                low, high = stored["bounds"]
                stored["bounds"] = (low, math.inf if high is None else high)
            return cls(**content, reference=Reference(**stored))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(f"{where}: {error!r}; it must be as `safemarl-bench leaderboard` writes it") from error


def reference_of(untrained: Mapping[str, Sequence[RunRecord]]) -> Reference:
    """Return the reference that records give.

    Args:
        untrained: agent -> its records on one suite, one per seed, for the agents that do not train.
    """
    totals = {name: mean([record.total_return for record in records]) for name, records in untrained.items()}
    heuristics = {name: total for name, total in sorted(totals.items()) if name != RANDOM}
    feasible = [total for name, total in heuristics.items() if all(run.cost_ratio <= 1.0 for run in untrained[name])]
    known = Known()
    if untrained:
        cell = next(iter(untrained.values()))[0].cell
        known = known_values(cell["suite"], cell["suite_digest"])
    drawn = totals.get(RANDOM) if known.random is None else known.random
    if known.optimum is not None:
        source = "score 1 is the optimum, by dynamic programming over all joint states; "
        source += "the others: run records" if known.random is None else "score 0 likewise; the others: run records"
        return Reference(known.optimum, drawn, heuristics, (known.optimum, known.optimum), source, known.duality)
    reference = Reference(
        random=drawn,
        heuristics=heuristics,
        bounds=(max(feasible), known.upper_bound) if feasible else None,
        more=known.duality,
    )
    return dataclasses.replace(reference, source=_source(untrained.get(reference.best_name, ())))


def _source(best: Sequence[RunRecord]) -> str:
    """Return where score 1 comes from; `best`: the records of the agent that stands for it."""
    if not best:
        return ""
    first = best[0]
    if first.cell["agent_traits"]["privileged"]:
        what = "an agent that uses the simulator; it need not find the best, so this is a lower bound of the optimum"
    else:
        what = "an agent that does not train"
    return f"run records of {first.suite}@{first.suite_version}; score 1 is {first.agent}, {what}"


def suite_reference(untrained: Mapping[str, Sequence[RunRecord]]) -> SuiteReference:
    """Return the reference of the suite of some records, at least one, and how it was obtained; see `reference_of`."""
    cell = next(iter(untrained.values()))[0].cell
    obtained = {name: _obtained(records) for name, records in sorted(untrained.items())}
    game = (cell["suite"], cell["suite_version"], cell["suite_digest"])
    return SuiteReference(*game, reference_of(untrained), obtained)


class Known(NamedTuple):
    """What a game can tell of itself.

    Attributes:
        optimum: the best expected return. random: that of random play. None where it cannot tell.
        upper_bound: no policy's expected return exceeds it. duality: further values, by what they are.
    """

    optimum: float | None = None
    random: float | None = None
    upper_bound: float = math.inf
    duality: Mapping[str, Mapping[str, float]] = {}


@functools.cache
def known_values(suite: str, digest: str) -> Known:
    """Return what a suite's game can tell of itself.

    Args:
        suite, digest: of the records; nothing is told where the suite is not registered, or is another game by now.
    """
    if suite not in suite_names() or get_suite(suite).digest != digest:
        return Known()
    game = make(suite)
    tellers = {name: getattr(game, name, None) for name in ("optimum", "random_value", "upper_bound", "duality")}
    told = {name.removesuffix("_value"): teller() for name, teller in tellers.items() if teller}
    return Known(**told)


def _obtained(records: Sequence[RunRecord]) -> dict[str, Any]:
    cell, evaluation = records[0].cell, records[0].eval
    versions = {package: {str(run.versions.get(package)) for run in records} for package in records[0].versions}
    return {
        "agent_version": cell["agent_version"],
        "kind": cell["agent_traits"]["privileged"] or "fixed",
        "distribution": cell["distribution"],
        "config": cell["config"],
        "backend": cell["backend"],
        "episodes": {"stream": evaluation["stream"], "seed": evaluation["seed"], "count": evaluation["episodes"]},
        "total_return": mean([run.total_return for run in records]),
        "costs": {role: [mean(costs) for costs in _costs(records, role)] for role in records[0].roles},
        "crash_rate": mean([run.crash_rate for run in records]),
        "arrival_rate": mean([run.arrival_rate for run in records]),
        "versions": {package: ", ".join(sorted(found)) for package, found in versions.items()},
        "runs": [
            {
                "seed": run.seed,
                "record": run.relative_path,
                "code": run.provenance.get("git_sha"),
                "command": _command(run),
            }
            for run in records
        ],
    }


def _costs(records: Sequence[RunRecord], role: str) -> list[tuple[float, ...]]:
    """Return for each constraint of an agent its mean cost in every record."""
    return list(zip(*(run.mean_costs(role) for run in records), strict=True))


def _command(record: RunRecord) -> str:
    """Return the command that makes the record again, its config spelled out."""
    cell = record.cell
    words = ["safemarl-bench", "run", record.suite, record.agent, "--seed", str(record.seed)]
    words += ["--budget", record.budget, "--episodes", str(cell["evaluation_episodes"])]
    words += [word for key, value in sorted(cell["config"].items()) for word in ("--set", f"{key}={value!r}")]
    return shlex.join(words)


def mean(values: Sequence[float]) -> float:
    """Return the mean of some numbers, at least one, in any order the same."""
    return math.fsum(values) / len(values)


def reference(suite: str, *, results_dir: str | Path | None = None, **overrides: Any) -> Reference:
    """Return the stored reference of a suite.

    Args:
        suite: a registered name.
        results_dir: where `safemarl-bench leaderboard` wrote ``reference/``; by default the files of this package.
        overrides: settings as for `make`; only ones that change nothing have a stored reference, but a game that can
            compute its own (``game.reference()``; EV charging, in any preset and size) does so.

    Raises:
        RegistryError: unknown suite or setting, or the overrides make another game.
        RecordError: nothing is stored for the suite as it is now; the message says how to compute it.
    """
    spec = get_suite(suite)
    if results_dir is None and spec.kind == "weakly_coupled":
        game = make(suite, **overrides)
        if hasattr(game, "reference"):
            computed: Reference = game.reference()
            return computed
    _refuse_changes(spec, overrides)
    folder = files(PACKAGE) if results_dir is None else Path(results_dir) / FOLDER
    path = folder / f"{suite}.json"
    how = f"`safemarl-bench run {suite} random`, the same with a planner or another rule, `safemarl-bench leaderboard`"
    if not path.is_file():
        raise RecordError(f"no reference of suite {suite} in {folder}; to make it: {how}; then give its results_dir")
    stored = SuiteReference.from_json(path.read_text(encoding="utf-8"), str(path))
    if (stored.suite, stored.version, stored.digest) != (spec.name, spec.version, spec.digest):
        raise RecordError(f"{path} is of another {suite} than version {spec.version} of today; to make it anew: {how}")
    return stored.reference


def _refuse_changes(spec: SuiteSpec, overrides: Mapping[str, Any]) -> None:
    """Raise `RegistryError` unless the overrides leave the game as it is."""
    changed = {
        key: value
        for key, value in overrides.items()
        if key not in spec.env or canonical(value, key) != canonical(spec.env[key], key)
    }
    if changed:
        make(spec.name, **changed).close()  # an unknown or senseless setting is named first
        settings = ", ".join(f"{key}={value!r}" for key, value in changed.items())
        raise RegistryError(
            f"{spec.name} with {settings} is another game, of which no reference is stored: write it into a suite "
            "file of its own (smb.register_suite), smb.run random and a planner on it, and read "
            "smb.build_leaderboard(smb.load_records(results_dir)).references"
        )
