"""Pages from the JSON of the benchmarks: ``python -m safemarl_bench.suites.perf.report JSON FOLDER``."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safemarl_bench.errors import RecordError

Benchmarks = list[dict[str, Any]]
"""Entries of pytest-benchmark's JSON."""


def read_benchmarks(path: Path) -> tuple[Benchmarks, str]:
    """Return the benchmarks of a JSON file of pytest-benchmark, and the machine.

    Raises:
        RecordError: the file cannot be read, or is no such file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        benchmarks = [dict(bench) for bench in data["benchmarks"]]
        machine = str(data["machine_info"]["cpu"].get("brand_raw", "unknown processor"))
        machine += f", Python {data['machine_info']['python_version']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a JSON file of pytest-benchmark: {error!r}") from error
    return benchmarks, machine


def table(header: Iterable[str], rows: Iterable[Iterable[str]], *, left: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the first `left` columns are text, the others numbers."""
    names = list(header)
    rule = "".join("---|" if column < left else "---:|" for column in range(len(names)))
    lines = [f"| {' | '.join(line)} |" for line in (names, *rows)]
    return [lines[0], f"|{rule}", *lines[1:], ""]


def infos(benchmarks: Benchmarks, group: str) -> Benchmarks:
    """Return what the benchmarks of a group recorded."""
    return [bench["extra_info"] for bench in benchmarks if bench.get("group") == group and bench["extra_info"]]


def stackelberg_page(benchmarks: Benchmarks, machine: str) -> list[str]:
    """Return the page of `bench_stackelberg.py`, slowest backend first; nothing without its timings."""
    cases: dict[tuple[str, int], dict[int, Mapping[str, float]]] = {}
    for row in (bench["extra_info"] for bench in benchmarks if "us_per_state" in bench["extra_info"]):
        cases.setdefault((row["backend"], row["batch"]), {})[row["size"]] = row
    if not cases:
        return []
    sizes = sorted({size for times in cases.values() for size in times})
    order = sorted(cases, key=lambda case: -cases[case].get(sizes[-1], {"us_per_state": 0.0})["us_per_state"])

    def by_size(key: str, form: str) -> list[str]:
        rows = []
        for backend, batch in order:
            times = cases[backend, batch]
            cells = [format(times[size].get(key, float("nan")), form) if size in times else "" for size in sizes]
            rows.append([backend, str(batch), *cells])
        return table(["backend", "batch", *(f"{size}x{size}" for size in sizes)], rows)

    return [
        "# The equilibrium core: time per state",
        "",
        f"One thread, float32, standard normal tables with a safe pair, median over data sets; {machine}. "
        "MIPs include their certificate. Made by `suites/perf/bench_stackelberg.py` and `suites/perf/report.py`.",
        "",
        "## Microseconds per state",
        "",
        *by_size("us_per_state", ",.2f"),
        "## Time of cvxpy (rebuilt, HiGHS) over time of the backend, per state",
        "",
        *by_size("cvxpy_ratio", ",.1f"),
    ]


def kernel_page(benchmarks: Benchmarks, machine: str) -> list[str]:
    """Return the page of `bench_kernel.py` and `bench_envpool.py`; nothing without rates of the kernel."""
    rates = infos(benchmarks, "kernel")
    if not rates:
        return []
    return [
        "# The driving kernel: speed, memory, start",
        "",
        f"One core; {machine}. Made by `suites/perf/bench_kernel.py`, `suites/perf/bench_envpool.py` and "
        "`suites/perf/report.py`.",
        "",
        *_rates(rates),
        *_memory_and_start(infos(benchmarks, "memory"), infos(benchmarks, "start")),
        *_beside_envpool(infos(benchmarks, "envpool")),
    ]


def _rates(rows: Benchmarks) -> list[str]:
    batches = sorted({row["num_envs"] for row in rows})
    cells: dict[str, dict[int, str]] = {}
    for row in rows:
        cell = f"{row['decisions_per_second']:,.0f} ({row['ratio']:,.0f}x)"
        cells.setdefault(row["suite"], {})[row["num_envs"]] = cell
    lines = []
    for suite, by_batch in cells.items():
        upstream = statistics.median(row["upstream_decisions_per_second"] for row in rows if row["suite"] == suite)
        lines.append([suite, f"{upstream:,.0f}", *(by_batch.get(batch, "") for batch in batches)])
    return [
        "## Decisions per second, and their ratio to highway-env",
        "",
        "A decision is one joint action of one environment of E. highway-env is measured as it is: its road network, "
        "stepping and pandas observation of the same two cars, without rewards; its resets are not counted, while the "
        "kernel gives rewards, costs and observations and starts finished episodes anew. Rounds of the two alternate, "
        "and a ratio is the median over rounds. Actions are uniformly random; on the racetrack, where those leave the "
        "road before the first bend, a lane follower with steering noise drives both. highway-env's intersection has a "
        "regulated road, which never acts on these cars and takes more than half of its time: on a plain road, "
        "highway-env would be 2.5 times as fast there, and the ratio that much smaller.",
        "",
        *table(["suite", "highway-env", *(f"E = {batch}" for batch in batches)], lines),
    ]


def _memory_and_start(memory: Benchmarks, start: Benchmarks) -> list[str]:
    starts = [[row["cache"], f"{row['first_call_seconds']:.2f}", f"{row['import_seconds']:.2f}"] for row in start]
    return [
        "## Memory and start",
        "",
        *table(
            ["suite", "bytes per environment"], [[r["suite"], f"{r['bytes_per_environment']:,.0f}"] for r in memory]
        ),
        "The first call of a process builds a simulator of one environment and takes a decision. Cold: the kernel is "
        "compiled, once for all suites; warm: it is loaded from numba's cache. Importing what it needs comes before.",
        "",
        *table(["cache", "first call [s]", "imports [s]"], starts),
    ]


DIFFERENCES = (("agents", "d"), ("cars", ".1f"), ("frames_per_decision", "d"), ("actions", "s"), ("observation", "s"))
"""Key and format of what differs between EnvPool's tasks and the suites."""

ENVPOOL_TEXT = (
    "EnvPool's tasks are other tasks: highway-env's own scenarios in fixed configurations, with scripted traffic (none "
    "on its racetrack), one controlled car (two in the multi-agent intersection), one reward, no costs, and their own "
    "observation. The suites have two controlled cars, no traffic, and a reward and a cost for each. So decisions per "
    "second alone say little; a vehicle-frame is one car moved by one frame of 1/15 s. Both play random actions and "
    "start finished episodes anew (EnvPool in a call of its own, which takes time but is no decision). On the "
    "racetracks, EnvPool's car gets small random steering, which leaves the road in the first bend, and the kernel's "
    "cars follow the lane. One thread each; rounds alternate; ratios are medians over rounds."
)


def _beside_envpool(rows: Benchmarks) -> list[str]:
    title = ["## Beside EnvPool's Highway", ""]
    if not rows:
        return [*title, "Not measured: EnvPool was not installed; the extra `compare` brings it.", ""]
    differences, speeds = [], []
    for row in {row["task"]: row for row in rows}.values():
        pairs = [f"{row[f'envpool_{key}']:{form}} / {row[key]:{form}}" for key, form in DIFFERENCES]
        differences.append([row["task"], row["suite"], *pairs])
    for row in rows:
        line = [row["task"], str(row["num_envs"])]
        for what in ("decisions", "vehicle_frames"):
            line += [f"{row[f'envpool_{what}_per_second']:,.0f}", f"{row[f'{what}_per_second']:,.0f}"]
            line += [f"{row[f'{what}_ratio']:,.1f}"]
        speeds.append(line)
    both = ["EnvPool", "kernel", "ratio"]
    rates = [f"{what}/s: {who}" for what in ("decisions", "vehicle-frames") for who in both]
    numbers = ["controlled cars", "cars", "frames per decision", "actions of a car", "observation"]
    return [
        *title,
        ENVPOOL_TEXT,
        "",
        "What differs, EnvPool / kernel:",
        "",
        *table(["task", "suite", *numbers], differences, left=2),
        *table(["task", "E", *rates], speeds),
    ]


def learning_page(benchmarks: Benchmarks, machine: str) -> list[str]:
    """Return the page of `bench_learning.py` and `bench_training.py`; nothing without updates' timings."""
    updates = [bench for bench in benchmarks if "updates_per_second" in bench["extra_info"]]
    if not updates:
        return []
    acts = {
        (bench["params"]["name"], bench["params"]["kind"], bool(bench["params"]["explore"])): bench["stats"]["median"]
        for bench in benchmarks
        if "explore" in (bench.get("params") or {})
    }
    rows = []
    for bench in updates:
        name, kind, batch = (bench["params"][key] for key in ("name", "kind", "batch"))
        info, seconds = bench["extra_info"], (acts.get((name, kind, explore)) for explore in (False, True))
        rate, ratio = f"{info['updates_per_second']:,.0f}", f"{info['ratio_to_matrix_floor']:.2f}"
        rows.append([name, kind, str(batch), rate, ratio, *("" if s is None else f"{1e6 * s:,.0f}" for s in seconds)])
    whole = [
        [row["suite"], row["agent"], str(row["num_envs"]), f"{row['training_decisions_per_second']:,.0f}"]
        for row in infos(benchmarks, "training")
    ]
    rates, times = ["updates/s", "time / floor"], ["act in one game [us]", "the same, exploring [us]"]
    return [
        "# The learners: updates and actions",
        "",
        f"One thread, three hidden layers of 64, 5 x 5 joint actions or one number per agent; {machine}. The floor is "
        "the matrix products that an update cannot do without: of four critics where actions are discrete, of all "
        "critics and both actors where they are continuous. Made by `suites/perf/bench_learning.py`, "
        "`suites/perf/bench_training.py` and `suites/perf/report.py`.",
        "",
        *table(["agent", "actions", "batch", *rates, *times], rows, left=2),
        "## Training decisions per second, the harness included",
        "",
        "E games side by side; agents with a replay memory do one update after each step of all E.",
        "",
        *table(["suite", "agent", "E", "decisions/s"], whole, left=2),
    ]


PAGES: dict[str, Callable[[Benchmarks, str], list[str]]] = {
    "stackelberg.md": stackelberg_page,
    "kernel.md": kernel_page,
    "learning.md": learning_page,
}


def main(arguments: list[str]) -> None:
    """Write the pages that the JSON file ``arguments[0]`` has timings for to the folder ``arguments[1]``.

    Raises:
        RecordError: the file has timings for none of them.
    """
    if len(arguments) != 2:
        raise SystemExit(f"usage: python -m safemarl_bench.suites.perf.report JSON FOLDER, got {arguments}")
    source, folder = map(Path, arguments)
    benchmarks, machine = read_benchmarks(source)
    pages = {name: lines for name, page in PAGES.items() if (lines := page(benchmarks, machine))}
    if not pages:
        raise RecordError(f"{source} holds no timings of suites/perf/bench_*.py")
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in pages.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RecordError as error:
        raise SystemExit(str(error)) from error
