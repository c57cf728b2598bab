"""The run record: one immutable JSON file per (suite, agent, config, seed, budget).

A record lives at ``<results>/runs/<suite>@<version>/<agent>/seed<k>-<digest12>.json``. Its digest covers
what was run and what came out (cell, package versions, train, eval, checkpoint); provenance (git, machine,
times) is kept beside it and may differ between two runs of equal digest.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

from safemarl_bench import record_content
from safemarl_bench.canonical_json import canonical, dump, sha256
from safemarl_bench.errors import RecordError
from safemarl_bench.record_content import summarise_evaluation

__all__ = [
    "RunRecord",
    "load_records",
    "read_record",
    "summarise_evaluation",
    "write_record",
]

SCHEMA = 2
MAX_BYTES = 64_000
SECTIONS = ("cell", "versions", "provenance", "train", "eval", "checkpoint")
OPTIONAL = ("validation",)
"""Sections that are left out where there is nothing to say, so that what they were added to keeps its digest."""

UNDIGESTED = "provenance"
TEMPORARY_SUFFIX = ".tmp"


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What was run, where, and what came out. Treat the contents as read-only.

    Numbers are brought to one canonical form (NumPy values to Python's, whole floats to ints, tuples to
    lists), so that a record and its file have the same digest.

    Attributes:
        cell: suite, agent, full config, seed, budget; see `record_content` for the keys.
        versions: package -> version.
        provenance: git sha, dirty flag, machine, times; not part of the digest.
        train: at most 64 points of return, cost and the learner's metrics; empty for agents that do not learn.
        validation: what the policies did from which the evaluated one was chosen, and what the last one reaches in
            the evaluation episodes (see `safemarl_bench.validation`); None, and left out of the file, for agents that
            do not learn.
        eval: per-episode results of the chosen policy, greedy, on the fixed evaluation episodes, or their
            summary (see `summarise_evaluation`); the properties below read both forms.
        checkpoint: sha256 and bytes of the saved agent.

    Raises:
        RecordError: a key is missing, a value has the wrong type or is not finite.
    """

    cell: dict[str, Any]
    versions: dict[str, Any]
    provenance: dict[str, Any]
    train: dict[str, Any]
    eval: dict[str, Any]
    checkpoint: dict[str, Any]
    validation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in (*SECTIONS, *OPTIONAL):
            object.__setattr__(self, name, canonical(getattr(self, name), name))
        record_content.check_keys({name: getattr(self, name) for name in (*SECTIONS, *OPTIONAL)})

    def _sections(self) -> dict[str, Any]:
        optional = {name: value for name in OPTIONAL if (value := getattr(self, name)) is not None}
        return {name: getattr(self, name) for name in SECTIONS} | optional

    @functools.cached_property
    def digest(self) -> str:
        """Sha256 (64 hex digits) over everything but the provenance."""
        return sha256({name: section for name, section in self._sections().items() if name != UNDIGESTED})

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return str(self.cell["suite"])

    @property
    def suite_version(self) -> int:
        """Version of the suite's data file."""
        return int(self.cell["suite_version"])

    @property
    def agent(self) -> str:
        """Registered name of the agent, or ``package.module:Class``."""
        return str(self.cell["agent"])

    @property
    def seed(self) -> int:
        """Training seed."""
        return int(self.cell["seed"])

    @property
    def budget(self) -> str:
        """Name of the training budget."""
        return str(self.cell["budget"])

    @property
    def roles(self) -> tuple[str, ...]:
        """Agent names: leaders, then followers."""
        game = self.cell["game"]
        return (*game["leader"], *game["followers"])

    @property
    def episodes(self) -> int:
        """Number n of evaluation episodes."""
        return int(self.eval["episodes"])

    @property
    def relative_path(self) -> str:
        """Where the record belongs under a results directory."""
        folder = f"{_file_name(self.suite)}@{self.suite_version}/{_file_name(self.agent)}"
        return f"runs/{folder}/seed{self.seed}-{self.digest[:12]}.json"

    def mean_return(self, agent: str) -> float:
        """Return the mean return of one agent over the evaluation episodes, or the expected one where it is known.

        By the suite's criterion: undiscounted, or discounted where ``cell.game.criterion`` says so.
        """
        if exact := self.eval.get("exact_returns"):
            return float(exact[agent])
        return record_content.mean(self.eval["returns"][agent])

    @property
    def leader_return(self) -> float:
        """Mean return, summed over the leaders."""
        return math.fsum(self.mean_return(agent) for agent in self.cell["game"]["leader"])

    @property
    def follower_return(self) -> float:
        """Mean return, summed over the followers."""
        return math.fsum(self.mean_return(agent) for agent in self.cell["game"]["followers"])

    @property
    def total_return(self) -> float:
        """Mean return, summed over all agents."""
        return math.fsum(self.mean_return(agent) for agent in self.roles)

    def mean_costs(self, agent: str) -> tuple[float, ...]:
        """Return the K mean undiscounted costs per episode of one agent."""
        return tuple(record_content.mean(column) for column in record_content.cost_columns(self.eval, agent))

    def violating_episodes(self, agent: str) -> tuple[int, ...]:
        """Return, for each of the K constraints of one agent, in how many episodes its cost was above 0."""
        return tuple(record_content.positive(column) for column in record_content.cost_columns(self.eval, agent))

    @property
    def cost_ratio(self) -> float:
        """Largest mean cost / limit over agents and constraints; at a limit of 0 any cost counts as infinite."""
        return record_content.cost_ratio({agent: self.mean_costs(agent) for agent in self.roles}, self.cost_limits)

    @property
    def cost_limits(self) -> dict[str, list[float]]:
        """Agent -> K limits on the mean undiscounted cost per episode."""
        return dict(self.cell["game"]["cost_limits"])

    @property
    def final_return(self) -> float:
        """Mean total return of the policy at the end of training; of the evaluated one where there is no other."""
        if self.validation is None:
            return self.total_return
        return math.fsum(self.validation["final"]["returns"].values())

    @property
    def final_cost_ratio(self) -> float:
        """As `cost_ratio`, of the policy at the end of training."""
        if self.validation is None:
            return self.cost_ratio
        return record_content.cost_ratio(self.validation["final"]["costs"], self.cost_limits)

    @property
    def crash_episodes(self) -> int:
        """Number of evaluation episodes in which at least one agent crashed."""
        return record_content.episodes_with(self.eval, "crashed")

    @property
    def off_road_episodes(self) -> int:
        """Number of evaluation episodes in which at least one agent left the road."""
        return record_content.episodes_with(self.eval, "off_road")

    @property
    def crash_rate(self) -> float:
        """Share of evaluation episodes in which at least one agent crashed, in [0, 1]."""
        return self.crash_episodes / self.episodes

    @property
    def arrival_rate(self) -> float:
        """Share of (episode, agent) pairs in which the agent arrived, in [0, 1]."""
        ranks = self.eval["arrival_rank"].values()
        stayed = sum(record_content.count(ranks_of_agent, 0) for ranks_of_agent in ranks)
        return 1.0 - stayed / (self.episodes * len(ranks))

    @property
    def mean_length(self) -> float:
        """Mean decisions per evaluation episode."""
        return record_content.mean(self.eval["length"])

    @property
    def training_violations(self) -> float | None:
        """Violating steps per 1,000 training steps; None for an agent that does not train."""
        steps = self.cell["training_steps"]
        if not self.cell["agent_traits"]["learns"] or not steps:
            return None
        return 1000.0 * float(self.train["totals"]["violating_steps"]) / float(steps)

    def to_json(self) -> str:
        """Return the file's text: one line of compact JSON with sorted keys.

        Raises:
            RecordError: it is longer than 64 kB.
        """
        text = dump({"schema": SCHEMA, "digest": self.digest, **self._sections()}) + "\n"
        if len(text) > MAX_BYTES:
            raise RecordError(f"a record must be smaller than {MAX_BYTES} bytes, this one has {len(text)}")
        return text

    @classmethod
    def from_json(cls, text: str, source: str = "record") -> RunRecord:
        """Read a record's text.

        Args:
            text: what `to_json` returned.
            source: file name for error messages.

        Raises:
            RecordError: truncated, not JSON, of an unknown schema, incomplete, or altered since it was written.
        """
        content = _parse(text, source)
        missing = [key for key in ("schema", "digest", *SECTIONS) if key not in content]
        unknown = sorted(set(content) - {"schema", "digest", *SECTIONS, *OPTIONAL})
        if "schema" in content and content["schema"] != SCHEMA:
            raise RecordError(f"{source}: unknown schema {content['schema']!r}, this version reads schema {SCHEMA}")
        if missing or unknown:
            raise RecordError(f"{source}: not a run record: lacks {missing}, has unknown {unknown}")
        try:
            record = cls(**{name: content[name] for name in (*SECTIONS, *OPTIONAL) if name in content})
        except RecordError as error:
            raise RecordError(f"{source}: {error}") from error
        if content["digest"] != record.digest:
            given, actual = str(content["digest"])[:12], record.digest[:12]
            raise RecordError(f"{source}: edited after it was written: says digest {given}, its content has {actual}")
        return record


def write_record(record: RunRecord, results_dir: str | Path) -> tuple[Path, bool]:
    """Write a record once; never overwrite.

    Args:
        record: what to write.
        results_dir: the folder that holds (or will hold) ``runs/``.

    Returns:
        Its path, and whether it was created: False when the same run is on file already.

    Raises:
        RecordError: the record is malformed, the directory cannot be written, or another file is in the way.
    """
    problems = record_content.series_problems(record.cell, record.train, record.validation, record.eval)
    if problems:
        raise RecordError(f"malformed record of {record.agent} on {record.suite}: {problems[0]}")
    path = Path(results_dir) / record.relative_path
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    text = record.to_json()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        if read_record(path).digest != record.digest:
            raise RecordError(f"{path}: another record has this name") from None
        return path, False
    except OSError as error:
        raise RecordError(f"cannot write a record under {results_dir}: {error.strerror or error}") from error
    return path, True


def read_record(path: str | Path) -> RunRecord:
    """Read one record's file.

    Raises:
        RecordError: it cannot be read, or see `RunRecord.from_json`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}") from error
    return RunRecord.from_json(text, str(path))


def load_records(results_dir: str | Path) -> list[RunRecord]:
    """Return all records under ``<results_dir>/runs``, sorted by path.

    Leftover temporary files are ignored (`safemarl_bench.record_check` reports them).

    Raises:
        RecordError: no such directory, or any record cannot be read.
    """
    root = Path(results_dir)
    if not root.is_dir():
        raise RecordError(f"no results directory {root}")
    return [read_record(path) for path in record_files(root) if path.suffix == ".json"]


def record_files(root: Path) -> list[Path]:
    """Return every file below ``<root>/runs``, whatever it is, sorted."""
    return sorted((path for path in (root / "runs").rglob("*") if not path.is_dir()), key=lambda path: path.parts)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=_reject_constant)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or not text.rstrip().endswith("}"):
            raise RecordError(f"{source}: truncated after {len(text)} characters") from error
        raise RecordError(f"{source}: not JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{source}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RecordError(f"{source}: not a run record but a JSON {type(content).__name__}")
    return content


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _file_name(name: str) -> str:
    """Return a portable, readable and reversible file name: ``package.module:Class`` -> ``package.module+Class``."""
    quoted = urllib.parse.quote(name, safe="").replace("%3A", "+")
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted
