"""Which records may be compared with which.

One board per family of suites and budget; a game with overridden settings is another game. Records of one
(suite, agent, budget) that differ in anything else that could matter (agent version, config, training steps,
evaluation episodes) are variants and never mixed. The main variant carries the agent's name: the one of the newest
agent version, then with most seeds, most evaluation episodes, first started. Every other variant is an entry of
its own, named by the config values in which it differs, ``agent [key=value]``, or where it differs in more than a few
of them ``agent #hash``. Of several records of one seed in one variant (after a package upgrade, say) the one
started last counts. An agent that does not train spends no budget, so its records enter the boards of every budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safemarl_bench.canonical_json import dump, sha256
from safemarl_bench.record import RunRecord

Key = tuple[str, int, str, str, str]  # suite, version, digest of the game, budget, agent (variant)
Runs = dict[Key, list[RunRecord]]

MAX_NAMED = 3
"""Config values that a variant's name may spell out."""

VARIANT_KEYS = ("agent_version", "agent_traits", "config", "training_steps", "evaluation_episodes", "backend")


def variant_of(record: RunRecord) -> dict[str, Any]:
    """Return all that may set two runs of one (suite, agent, budget) apart, apart from the seed."""
    return {key: record.cell[key] for key in VARIANT_KEYS}


def split_variants(records: Sequence[RunRecord]) -> tuple[Runs, dict[str, str]]:
    """Return the records by key, and for every variant that is not the main one how it differs from it."""
    groups: dict[Key, dict[str, list[RunRecord]]] = {}
    for record in records:
        key = (*_suite_key(record), record.budget, record.agent)
        groups.setdefault(key, {}).setdefault(sha256(variant_of(record)), []).append(record)
    runs: Runs = {}
    differences: dict[str, str] = {}
    for key, variants in groups.items():
        suite, version, _, budget, agent = key
        main, *others = sorted(variants, key=lambda name: _main_first(name, variants[name]))
        runs[key] = variants[main]
        for name in others:
            changed = _changed(variant_of(variants[name][0]), variant_of(variants[main][0]))
            label = f"{agent} {_short(changed) or f'#{name[:6]}'}"
            runs[*key[:4], label] = variants[name]
            where = f"{label} on {suite}@{version}, budget {budget}"
            differences[where] = ", ".join(f"{leaf}={ours} (main {theirs})" for leaf, (ours, theirs) in changed.items())
    return runs, dict(sorted(differences.items()))


def _suite_key(record: RunRecord) -> tuple[str, int, str]:
    """Return the game that was played: overridden settings make another one."""
    overrides = record.cell["game"]["overrides"]
    game = str(record.cell["suite_digest"]) + (dump(overrides) if overrides else "")
    return record.suite, record.suite_version, game


def _started(record: RunRecord) -> str:
    return str(record.provenance.get("started", ""))


def _main_first(name: str, records: Sequence[RunRecord]) -> tuple[Any, ...]:
    """Sort key that puts the main variant first."""
    cell = records[0].cell
    version = [int(part) if part.isdigit() else 0 for part in cell["agent_version"].split(".")]
    seeds = len({record.seed for record in records})
    newest = [*(-part for part in version), 1]  # 1.2 before 1
    started = min(map(_started, records))
    return (newest, -seeds, -cell["evaluation_episodes"], started, name)


def _changed(variant: Mapping[str, Any], main: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return leaf -> (value of the variant, of the main one) for every leaf that differs, sorted."""
    ours, theirs = _leaves(variant), _leaves(main)
    leaves = sorted(leaf for leaf in ours.keys() | theirs.keys() if ours.get(leaf) != theirs.get(leaf))
    return {leaf: (ours.get(leaf), theirs.get(leaf)) for leaf in leaves}


def _short(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return ``[key=value ...]`` where a few config values are all that differs, else ""."""
    if len(changed) > MAX_NAMED or not all(leaf.startswith("config.") for leaf in changed):
        return ""
    values = [f"{leaf.removeprefix('config.')}={ours}" for leaf, (ours, _) in changed.items()]
    return f"[{' '.join(values)}]"


def _leaves(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {leaf: item for key in value for leaf, item in _leaves(value[key], f"{name}.{key}".lstrip(".")).items()}


def one_per_seed(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the records in order of their seeds, of several of one seed the one started last."""
    by_seed = {record.seed: record for record in sorted(records, key=lambda record: (_started(record), record.digest))}
    return [by_seed[seed] for seed in sorted(by_seed)]


def untrained(runs: Runs, suite: tuple[str, int, str]) -> dict[str, list[RunRecord]]:
    """Return agent -> records on a game, of the agents that do not train; of several budgets, most episodes first."""
    found: dict[str, list[RunRecord]] = {}
    for key, group in sorted(runs.items()):
        if key[:3] == suite and key[4] == group[0].agent and not group[0].cell["agent_traits"]["learns"]:
            found[key[4]] = max(found.get(key[4], []), group, key=lambda some: sum(run.episodes for run in some))
    return found
