"""Pages and figures from the JSON of the benchmarks: ``python -m safemarl_bench.suites.perf.report JSON FOLDER``."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from safemarl_bench.suites.perf.core_page import checked_gates, draw_stackelberg, stackelberg_page
from safemarl_bench.suites.perf.many_followers import draw_many_followers, many_followers_page
from safemarl_bench.suites.perf.markdown import Benchmarks, infos, table
from safemarl_bench.suites.perf.weakly_coupled import weakly_coupled_page

from safemarl_bench.errors import RecordError


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
        (bench["params"]["name"], bench["params"]["kind"], bool(bench["params"]["explore"])): bench["stats"]["min"]
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
        [
            *(str(row[key]) for key in ("suite", "agent", "num_envs")),
            f"{row['training_decisions_per_second']:,.0f}",
            f"{row['ratio_to_matrix_floor']:.2f}" if "ratio_to_matrix_floor" in row else "",
        ]
        for row in infos(benchmarks, "training")
    ]
    first = updates[0]["extra_info"]
    floor = 1e6 / first["updates_per_second"] / first["ratio_to_matrix_floor"]
    rates, times = ["updates/s", "time / floor"], ["act in one game [us]", "the same, exploring [us]"]
    return [
        "# The learners: updates and actions",
        "",
        f"One thread, three hidden layers of 64, 5 x 5 joint actions or one number per agent; {machine}. The floor is "
        "the matrix products that an update cannot do without: of four critics where actions are discrete, of all "
        "critics and both actors where they are continuous. Times are of the fastest round: neighbours of a virtual "
        f"core slow others down. The floor of the first row took {floor:,.0f} us, by which machines compare. Made by "
        "`suites/perf/bench_learning.py`, `suites/perf/bench_training.py` and `suites/perf/report.py`.",
        "",
        *table(["agent", "actions", "batch", *rates, *times], rows, left=2),
        "## Training decisions per second, the harness included",
        "",
        "E games side by side; agents with a replay memory do one update after each step of all E. The last column is "
        "the time of such a step in floors of four critics, timed before and after it.",
        "",
        *table(["suite", "agent", "E", "decisions/s", "step / floor"], whole, left=2),
    ]


PAGES: dict[str, Callable[[Benchmarks, str], list[str]]] = {
    "stackelberg.md": stackelberg_page,
    "many_followers.md": many_followers_page,
    "kernel.md": kernel_page,
    "learning.md": learning_page,
    "weakly_coupled.md": weakly_coupled_page,
}
FIGURES: dict[str, Callable[[Benchmarks, Path], None]] = {
    "stackelberg.md": draw_stackelberg,
    "many_followers.md": draw_many_followers,
}
"""Page -> what draws the figure of the same name beside it; needs matplotlib, the extra ``plots``."""


def write_pages(source: Path, folder: Path) -> Benchmarks:
    """Write the pages that a JSON file of pytest-benchmark has timings for, and their figures; return its benchmarks.

    Raises:
        RecordError: it cannot be read, or has timings for none of them.
    """
    benchmarks, machine = read_benchmarks(source)
    pages = {name: lines for name, page in PAGES.items() if (lines := page(benchmarks, machine))}
    if not pages:
        raise RecordError(f"{source} holds no timings of suites/perf/bench_*.py")
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in pages.items():
        (folder / name).write_text("\n".join(lines), encoding="utf-8")
        if name in FIGURES:
            FIGURES[name](benchmarks, (folder / name).with_suffix(".png"))
    return benchmarks


def main(arguments: Sequence[str] | None = None) -> int:
    """Write pages and figures; return 1 if a ratio that was asked to hold does not."""
    parser = argparse.ArgumentParser(prog="python -m safemarl_bench.suites.perf.report", description=__doc__)
    parser.add_argument("json", type=Path, help="what pytest wrote with --benchmark-json")
    parser.add_argument("folder", type=Path, help="where the pages go, e.g. results/perf")
    parser.add_argument("--gates", action="store_true", help="fail unless every ratio of the equilibrium core holds")
    given = parser.parse_args(arguments)
    gates = checked_gates(write_pages(given.json, given.folder))
    broken = [(gate, ratio) for gate, ratio in gates if not gate.holds(ratio)]
    for gate, ratio in broken:
        print(f"{gate.says()} at {gate.size}x{gate.size}, batch {gate.batch}: measured {ratio:,.1f}", file=sys.stderr)
    return int(bool(broken) and given.gates)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecordError as error:
        raise SystemExit(str(error)) from error
