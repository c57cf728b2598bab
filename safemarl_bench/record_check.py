"""Is a results directory what it claims to be? Every record and checkpoint, one line per problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from safemarl_bench import record_content
from safemarl_bench.canonical_json import sha256
from safemarl_bench.checkpoint import folder_digest
from safemarl_bench.errors import CheckpointError, RecordError
from safemarl_bench.record import TEMPORARY_SUFFIX, RunRecord, read_record, record_files


def check_records(results_dir: str | Path) -> list[str]:
    """Return everything that is wrong with the records under ``<results_dir>/runs``, one line per problem.

    Reported, each with the file's name: what `read_record` rejects; ragged, missing or impossible series; a
    name, folder or text other than the record's own; a record made from a tree with uncommitted changes;
    equal results under different seeds (of an agent that is not deterministic); different results of the
    same cell with the same versions on the same kind of machine; a checkpoint that is missing or was altered;
    leftover temporary and stray files.

    Raises:
        RecordError: no such directory.
    """
    root = Path(results_dir)
    if not root.is_dir():
        raise RecordError(f"no results directory {root}")
    problems: list[str] = []
    records: dict[str, RunRecord] = {}
    for path in record_files(root):
        name = path.relative_to(root).as_posix()
        if path.suffix != ".json":
            leftover = path.name.startswith(".") and path.suffix == TEMPORARY_SUFFIX
            problems.append(f"{name}: {'left over by a killed run' if leftover else 'stray file'}; it can be deleted")
            continue
        try:
            records[name] = read_record(path)
        except RecordError as error:
            problems.append(str(error).replace(str(path), name, 1))
            continue
        problems += [f"{name}: {problem}" for problem in _file_problems(name, records[name], path)]
        problems += [f"{name}: {problem}" for problem in _checkpoint_problems(records[name], root)]
    return problems + _same_results(records) + _different_results(records)


def _file_problems(name: str, record: RunRecord, path: Path) -> Iterator[str]:
    try:
        yield from record_content.series_problems(record.cell, record.train, record.validation, record.eval)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"malformed series: {error!r}"
    if name != record.relative_path:
        yield f"wrong name or folder, it belongs at {record.relative_path}"
    if path.read_bytes() != record.to_json().encode():
        yield "not written by this program (same content in another form)"
    if record.provenance.get("dirty"):
        yield "made from a source tree with uncommitted changes"


def _checkpoint_problems(record: RunRecord, root: Path) -> Iterator[str]:
    wanted = record.checkpoint["sha256"]
    if wanted is None:
        return
    folder = root / "checkpoints" / wanted[:16]
    try:
        if folder_digest(folder)[0] != wanted:
            yield f"its checkpoint {folder.relative_to(root)} was altered"
    except CheckpointError:
        yield f"its checkpoint {folder.relative_to(root)} is missing"


def _same_results(records: dict[str, RunRecord]) -> list[str]:
    """Report equal results under different seeds: one of them was copied, or the seed is ignored."""
    problems, first = [], dict[str, tuple[str, int]]()
    for name, record in records.items():
        if record.cell["agent_traits"]["deterministic"]:
            continue
        cell = {key: value for key, value in record.cell.items() if key != "seed"}
        other, seed = first.setdefault(sha256([cell, record.train, record.eval]), (name, record.seed))
        if seed != record.seed:
            problems.append(f"{name}: seed {record.seed} has the same results as seed {seed} in {other}")
    return problems


def _different_results(records: dict[str, RunRecord]) -> list[str]:
    """Report different results of one cell with equal versions on one kind of machine: non-determinism."""
    problems, first = [], dict[str, tuple[str, str]]()
    for name, record in records.items():
        machine = [record.provenance.get(key) for key in ("platform", "machine", "cpu")]
        key = sha256([record.cell, record.versions, machine])
        other, digest = first.setdefault(key, (name, record.digest))
        if digest != record.digest:
            problems.append(f"{name}: non-determinism: {other} has other results of the same cell on such a machine")
    return problems
