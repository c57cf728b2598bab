"""From run records to the leaderboard and its files; the same records give the same bytes in any order."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safemarl_bench import leaderboard_page
from safemarl_bench.board import Board, Entry, Row, ranked, reward_order, safety_order
from safemarl_bench.comparison import Key, one_per_seed, split_variants, untrained
from safemarl_bench.errors import RecordError
from safemarl_bench.record import RunRecord, load_records
from safemarl_bench.record_content import spot_check_problem
from safemarl_bench.references import FOLDER, Reference, SuiteReference, mean, reference_of, suite_reference
from safemarl_bench.registry import SuiteSpec, get_suite, suite_names
from safemarl_bench.score import SuiteScore, score_suite

FILES = ("LEADERBOARD.md", "leaderboard.json", "leaderboard.csv")


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """Boards and what they are made from.

    Attributes:
        boards: sorted by action kind and budget.
        entries: every (suite, agent, budget), sorted: the detail table.
        references: what the scores are normalised by, for suites that are up to date and have records of agents
            that do not train.
        variants: a variant that is not the main one, and where -> how it differs from the main one.
        records: number of records used. superseded: left out for a later record of the same seed.
        versions: package -> versions found in the records.
    """

    boards: tuple[Board, ...]
    entries: tuple[Entry, ...]
    references: tuple[SuiteReference, ...]
    variants: Mapping[str, str]
    records: int
    superseded: int
    versions: Mapping[str, tuple[str, ...]]

    def to_markdown(self) -> str:
        """Return the page LEADERBOARD.md."""
        return leaderboard_page.page(self)

    def to_json(self) -> str:
        """Return everything as indented JSON, numbers rounded to 3 decimals; an infinite ratio is "inf"."""
        content = {
            "boards": [_board_json(board) for board in self.boards],
            "entries": [entry_values(entry) for entry in self.entries],
            "references": [
                {"suite": stored.suite, "version": stored.version, **dataclasses.asdict(stored.reference)}
                for stored in self.references
            ],
            "variants": dict(self.variants),
            "records": self.records,
            "superseded": self.superseded,
            "versions": dict(self.versions),
        }
        return json.dumps(_rounded(content), indent=1, sort_keys=True, allow_nan=False) + "\n"

    def to_csv(self) -> str:
        """Return the detail table as CSV, one line per (suite, agent, budget)."""
        rows = [_rounded(entry_values(entry)) for entry in self.entries]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["suite"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def files(self) -> dict[str, str]:
        """Return name -> text of all generated files, relative to the results directory."""
        texts = dict(zip(FILES, (self.to_markdown(), self.to_json(), self.to_csv()), strict=True))
        return texts | {f"{FOLDER}/{stored.suite}.json": stored.to_json() for stored in self.references}


def build_leaderboard(records: Iterable[RunRecord], *, suites: Iterable[SuiteSpec] | None = None) -> Leaderboard:
    """Build the leaderboard of some records, in any order.

    Args:
        records: see `load_records`; the same record twice counts once, and one of an unranked suite not at all.
        suites: the full set of suites of the boards; by default all that are registered.
    """
    known = list(map(get_suite, suite_names()) if suites is None else suites)
    unranked = {spec.name for spec in known if not spec.ranked}
    specs = {spec.name: spec for spec in known if spec.ranked}
    counted = [record for record in records if record.cell["suite"] not in unranked]
    ordered = sorted(counted, key=lambda record: (record.digest, record.to_json()))
    unique = list({record.digest: record for record in ordered}.values())
    runs, variants = split_variants(unique)
    used = {key: one_per_seed(group) for key, group in runs.items()}
    proven = {key: group for key, group in used.items() if not _unproven(key[0], group, specs)}
    fixed = {game: untrained(proven, game) for game in sorted({key[:3] for key in used})}
    references = {game: reference_of(agents) for game, agents in fixed.items()}
    entries = [_entry(key, group, references[key[:3]], specs) for key, group in sorted(used.items())]
    fresh = {(entry.suite, entry.suite_version, entry.game_digest) for entry in entries if not entry.reason}
    versions: dict[str, set[str]] = {}
    for record in unique:
        for package, version in record.versions.items():
            versions.setdefault(package, set()).add(str(version))
    count = sum(map(len, used.values()))
    return Leaderboard(
        boards=_boards(entries, specs),
        entries=tuple(entries),
        references=tuple(suite_reference(agents) for game, agents in fixed.items() if agents and game in fresh),
        variants=variants,
        records=count,
        superseded=len(unique) - count,
        versions={package: tuple(sorted(found)) for package, found in sorted(versions.items())},
    )


def _entry(key: Key, records: Sequence[RunRecord], reference: Reference, specs: Mapping[str, SuiteSpec]) -> Entry:
    suite, version, game_digest, budget, agent = key
    traits, game = records[0].cell["agent_traits"], records[0].cell["game"]
    reason = ""
    if suite not in specs:
        reason = "unregistered suite"
    elif (version, records[0].cell["suite_digest"]) != (specs[suite].version, specs[suite].digest):
        reason = f"stale: {suite} has changed since"
    elif game["overrides"]:
        reason = "modified game: " + ", ".join(f"{name}={value}" for name, value in sorted(game["overrides"].items()))
    else:
        reason = _unproven(suite, records, specs)
    return Entry(
        suite=suite,
        suite_version=version,
        game_digest=game_digest,
        family=specs[suite].family if suite in specs else game["action_kind"],
        agent=agent,
        kind=traits["privileged"] or ("learner" if traits["learns"] else "fixed"),
        budget=budget,
        learns=traits["learns"],
        score=score_suite(records, reference),
        reason=reason,
    )


def _unproven(suite: str, records: Sequence[RunRecord], specs: Mapping[str, SuiteSpec]) -> str:
    """Return why evaluations do not count that ran on another backend than the suite's reference, or ""."""
    if suite not in specs:
        return ""
    reference = specs[suite].reference_backend
    for record in records:
        backend, check = record.cell["backend"]["evaluation"], record.eval["spot_check"]
        checked = check and check["backend"] == reference and not spot_check_problem(record.cell, record.eval)
        if backend != reference and not checked:
            return f"evaluated on {backend} without a spot check on {reference}"
    return ""


def _boards(entries: Sequence[Entry], specs: Mapping[str, SuiteSpec]) -> tuple[Board, ...]:
    learning = {(entry.family, entry.budget) for entry in entries if entry.learns}
    kinds = {kind for kind, _ in learning}
    learning |= {(entry.family, entry.budget) for entry in entries if entry.family not in kinds}
    offered = {spec.family for spec in specs.values()}
    return tuple(_board(entries, kind, budget, specs) for kind, budget in sorted(learning) if kind in offered)


def _board(entries: Sequence[Entry], kind: str, budget: str, specs: Mapping[str, SuiteSpec]) -> Board:
    suites = tuple(sorted(name for name, spec in specs.items() if spec.family == kind))
    agents: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.family == kind and (entry.budget == budget or not entry.learns):
            agents.setdefault(entry.agent, []).append(entry)
    rows = [_row(agent, agents[agent], budget, suites) for agent in sorted(agents)]
    return Board(kind, budget, suites, ranked(rows, safety_order), ranked(rows, reward_order))


def _row(agent: str, entries: Sequence[Entry], budget: str, suites: Sequence[str]) -> Row:
    scores: dict[str, SuiteScore] = {}
    for suite in suites:
        current = [entry for entry in entries if entry.suite == suite and not entry.reason]
        current.sort(key=lambda entry: (entry.budget != budget, -entry.score.episodes))
        if current:
            scores[suite] = current[0].score
    reasons = [entry.reason for entry in entries if entry.reason and entry.suite not in scores]
    if len(scores) < len(suites):
        reasons.append(f"ran {len(scores)} of {len(suites)} suites")
    return Row(None, agent, entries[0].kind, scores, "; ".join(dict.fromkeys(reasons)))


def entry_values(entry: Entry) -> dict[str, Any]:
    """Return one line of the detail table: column -> value, not yet rounded."""
    score = entry.score
    low, high = score.crash_interval
    return {
        "suite": f"{entry.suite}@{entry.suite_version}",
        "agent": entry.agent,
        "kind": entry.kind,
        "budget": entry.budget,
        "seeds": score.seeds,
        "episodes": score.episodes,
        "leader_return": score.leader_return,
        "follower_return": score.follower_return,
        "total_return": score.total_return,
        "score": score.score,
        "score_provisional": score.provisional,
        "regret": score.regret,
        "verdict": score.verdict,
        "feasible_seeds": score.feasible_seeds,
        "cost_ratio_mean": mean(score.cost_ratios),
        "cost_ratio_worst": max(score.cost_ratios),
        "final_total_return": mean(score.final_returns),
        "final_cost_ratio_worst": max(score.final_cost_ratios),
        "zero_limit_violations": score.zero_limit_violations,
        "crash_rate": score.crashes / score.episodes,
        "crash_rate_low": low,
        "crash_rate_high": high,
        "arrival_rate": score.arrival_rate,
        "training_violations": score.training_violations,
        "not_ranked": entry.reason,
    }


def _board_json(board: Board) -> dict[str, Any]:
    tables = {"safety": board.safety, "reward": board.reward}
    content: dict[str, Any] = {name: [_row_values(row) for row in rows] for name, rows in tables.items()}
    return {"family": board.family, "budget": board.budget, "suites": board.suites, **content}


def _row_values(row: Row) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "agent": row.agent,
        "kind": row.kind,
        "verdict": row.verdict,
        "suites": {suite: score.verdict for suite, score in row.scores.items()},
        "score": row.score,
        "score_provisional": row.provisional,
        "cost_ratio": row.cost_ratio,
        "feasible_seeds": row.seeds[0],
        "seeds": row.seeds[1],
        "enough_seeds": row.enough_seeds,
        "crash_rate": row.crash_rate,
        "training_violations": row.training_violations,
        "not_ranked": row.reason,
    }


def _rounded(value: Any) -> Any:
    """Return a copy with every float rounded to 3 decimals, without a negative zero, and infinity as "inf"."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 3) + 0.0 if math.isfinite(value) else "inf"
    return value


def render(results_dir: str | Path, *, suites: Iterable[SuiteSpec] | None = None) -> dict[str, str]:
    """Return file name -> text of everything that is generated from the records under a results directory.

    Raises:
        RecordError: no such directory, or a record cannot be read.
    """
    return build_leaderboard(load_records(results_dir), suites=suites).files()


def write_leaderboard(results_dir: str | Path, *, suites: Iterable[SuiteSpec] | None = None) -> list[Path]:
    """Write the generated files into the results directory, remove outdated references, and return the paths written.

    Raises:
        RecordError: see `render`, or a file cannot be written.
    """
    root, texts = Path(results_dir), render(results_dir, suites=suites)
    for name in _outdated(root, texts):
        (root / name).unlink(missing_ok=True)
    paths = [root / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror or error}") from error
    return paths


def check_leaderboard(results_dir: str | Path, *, suites: Iterable[SuiteSpec] | None = None) -> str:
    """Return a unified diff from the files on disk to what the records say: "" when they are current.

    Raises:
        RecordError: see `render`.
    """
    root, texts = Path(results_dir), render(results_dir, suites=suites)
    diff: list[str] = []
    for name, text in {**texts, **dict.fromkeys(_outdated(root, texts), "")}.items():
        path = root / name
        found = path.read_bytes().decode(errors="replace") if path.is_file() else ""
        lines = (found.splitlines(keepends=True), text.splitlines(keepends=True))
        diff += difflib.unified_diff(*lines, fromfile=f"{name} (on disk)", tofile=f"{name} (from the records)")
    return "".join(line if line.endswith("\n") else line + "\n" for line in diff)


def _outdated(root: Path, texts: Mapping[str, str]) -> list[str]:
    """Return the names of the reference files on disk that no records stand behind."""
    names = [f"{FOLDER}/{path.name}" for path in sorted((root / FOLDER).glob("*.json"))]
    return [name for name in names if name not in texts]
