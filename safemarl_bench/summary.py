"""Records as text for a terminal: the table after a session, and one record in full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from safemarl_bench.curves import curves
from safemarl_bench.record import RunRecord, read_record
from safemarl_bench.score import verdict
from safemarl_bench.stats import clopper_pearson

BLOCKS = "▁▂▃▄▅▆▇█"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text aligned in columns, the first row being the header."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def results_table(paths: Sequence[Path]) -> str:
    """Return one row per record file: returns, cost against its limit, crashes, verdict, where it is.

    The verdict is that of all the given records of the same suite and agent.
    """
    records = [(read_record(path), path) for path in paths]
    names = "suite agent seed budget return leader follower cost/limit crashes verdict evaluation record"
    rows = []
    for record, path in records:
        same = [other for other, _ in records if (other.suite, other.agent) == (record.suite, record.agent)]
        rows.append(
            (
                record.suite,
                record.agent,
                str(record.seed),
                record.budget,
                f"{record.total_return:.2f}",
                f"{record.leader_return:.2f}",
                f"{record.follower_return:.2f}",
                f"{record.cost_ratio:.2f}",
                f"{100 * record.crash_rate:.1f} %",
                verdict(
                    [other.cost_ratio for other in same], deterministic=record.cell["agent_traits"]["deterministic"]
                ),
                _evaluated_on(record),
                str(path),
            )
        )
    note = "cost/limit: largest mean cost per episode over its limit (at most 1 is within); a verdict needs 5 seeds"
    return format_table(names.split(), rows) + "\n" + note


def _evaluated_on(record: RunRecord) -> str:
    """Return the backend that evaluated, and what of it was checked: ``kernel, 20 checked on highway``."""
    check = record.eval["spot_check"]
    checked = f", {check['episodes']} checked on {check['backend']}" if check else ""
    return f"{record.cell['backend']['evaluation']}{checked}"


def sparkline(values: Sequence[float | None]) -> str:
    """Return one block character per value, scaled from the smallest to the largest, and a blank per None."""
    known = [value for value in values if value is not None]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    steps = (len(BLOCKS) - 1) / span if span else 0.0
    return "".join(" " if value is None else BLOCKS[round((value - low) * steps)] for value in values)


def curves_table(record: RunRecord) -> str:
    """Return one row per learning curve: its numbers, and its shape over the training points."""
    rows = []
    for name, _, values, limit, log in curves(record):
        known = [value for value in values if value is not None]
        numbers = (f"{number:.4g}" for number in (known[0], known[-1], min(known), max(known)))
        scaled = [value if value is None or not log else math.log10(value) for value in values]
        shown = f"{name} (limit {limit:g})" if limit is not None else name + " (log)" * log
        rows.append((shown, *numbers, sparkline(scaled)))
    steps = record.train["steps"]
    axis = f"{len(steps)} points, decisions {steps[0]:,} to {steps[-1]:,} (log scale)"
    note = "each point: the mean since the last one; a gap where nothing was reported; (log): heights are logarithms"
    return format_table(("curve", "first", "last", "min", "max", axis), rows) + "\n" + note


def describe(record: RunRecord) -> str:
    """Return a record's numbers, its learning curve and its provenance, for reading."""
    low, high = clopper_pearson(record.crash_episodes, record.episodes)
    cell, provenance = record.cell, record.provenance
    lines = [
        f"{record.suite}@{record.suite_version}  {record.agent} (version {cell['agent_version']})  seed {record.seed}",
        f"budget {record.budget}: {cell['training_steps']:,} training decisions, {record.episodes} evaluation episodes",
        "",
        f"return      {record.total_return:.3f}",
    ]
    for role in record.roles:
        limits = cell["game"]["cost_limits"][role]
        pairs = zip(record.mean_costs(role), limits, strict=True)
        costs = ", ".join(f"{cost:.3f} (limit {limit:g})" for cost, limit in pairs)
        lines.append(f"  {role:<10}{record.mean_return(role):.3f}   cost {costs}")
    lines += [
        f"cost/limit  {record.cost_ratio:.3f}",
        f"crash rate  {100 * record.crash_rate:.2f} % (95 % interval {100 * low:.2f} to {100 * high:.2f})",
        f"arrivals    {100 * record.arrival_rate:.1f} %",
        f"length      {record.mean_length:.2f} decisions",
    ]
    if record.train["steps"]:
        lines += [
            "",
            f"training    {record.train['totals']['episodes']:,} episodes,"
            f" {record.train['totals']['collisions']:,} with a collision,"
            f" {record.training_violations:.1f} violating decisions per 1,000",
            "",
            curves_table(record),
        ]
    elif not record.cell["training_steps"]:
        lines += ["", "training    none"]
    lines += ["", f"backends    trained on {cell['backend']['train']}, evaluated on {_evaluated_on(record)}"]
    if check := record.eval["spot_check"]:
        lines += [
            f"spot check  {check['decisions']:,} decisions, all events equal; largest difference: return"
            f" {check['largest_return_difference']:g}, cost {check['largest_cost_difference']:g},"
            f" observation {check['largest_observation_difference']:g}"
        ]
    lines += [f"config      {cell['config']}", f"digest      {record.digest}"]
    lines += [f"made with   {', '.join(f'{key} {value}' for key, value in record.versions.items())}"]
    lines += [f"{key:<11} {value}" for key, value in provenance.items()]
    return "\n".join(lines)
