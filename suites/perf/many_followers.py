"""Page and figure of `bench_many_followers.py`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from safemarl_bench.suites.perf.markdown import Benchmarks, infos, table

from safemarl_bench.errors import MissingDependency
from safemarl_bench.plots import COLOURS

FIGURE = "many_followers.png"
METHODS = ("enumeration", "highs", "branch_and_bound", "dynamic_program", "lagrangian_bound")
CASES = {
    ("coalition", 1): "Coalition, one budget",
    ("coalition", 3): "Coalition, three budgets",
    ("gne", 1): "Generalised Nash equilibrium, one budget",
    ("gne", 3): "Generalised Nash equilibrium, three budgets",
}
TEXT = (
    "`solve_multi`, 5 actions of the leader and of each of N followers; standard normal payoffs, costs in integers "
    "from 0 to 9, each budget 3.5 N. Milliseconds until the leader's action is known, input checks included, HiGHS "
    "with its certificate; median over data sets, one thread, methods in turn; below, the time of enumeration over "
    "that of a method. Enumeration tries every profile of a coalition; for equilibria it leaves out the actions that "
    "a better and no dearer one replaces. The Lagrangian bound is no method: it bounds the leader's value at each "
    "action. The last lines say in how many data sets its largest bound is at the best action, and how many of the "
    "other actions it rules out."
)


def many_followers_page(benchmarks: Benchmarks, machine: str) -> list[str]:
    """Return the page; nothing without its timings."""
    rows = infos(benchmarks, "many_followers")
    if not rows:
        return []
    made = "Made by `suites/perf/bench_many_followers.py` and `suites/perf/report.py`."
    lines = ["# Many followers: time to the leader's action", "", f"{TEXT} {machine}. {made}", "", f"![]({FIGURE})", ""]
    for case, title in CASES.items():
        mine = [row for row in rows if (row["model"], row["budgets"]) == case]
        if mine:
            lines += [f"## {title}", "", *table(*_rows(mine))]
    return lines


def _rows(rows: Benchmarks) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of a table: methods, ratios and the bound's worth by number of followers."""
    header = ["", *(f"N = {row['followers']}" for row in rows)]
    lines = [[method, *(_digits(row["ms"].get(method)) for row in rows)] for method in METHODS]
    for method in METHODS[1:-1]:
        ratios = [row.get("enumeration_ratio", {}).get(method) for row in rows]
        lines.append([f"enumeration / {method}", *map(_digits, ratios)])
    for name, title in (("bound_right", "largest bound at the best action, %"), ("bound_rules_out", "ruled out, %")):
        lines.append([title, *(f"{100 * row[name]:.0f}" for row in rows)])
    return header, [line for line in lines if any(line[1:])]


def _digits(number: float | None) -> str:
    """Return three digits, or all before the point; nothing for no number."""
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def draw_many_followers(benchmarks: Benchmarks, path: Path) -> None:
    """Write the figure: time over followers, both logarithmic, a panel per model and number of budgets.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    rows = infos(benchmarks, "many_followers")
    try:
        matplotlib = importlib.import_module("matplotlib")
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependency('the figure needs matplotlib: pip install "safemarl-bench[plots]"') from error
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = figure_module.Figure(figsize=(10, 7.5), layout="constrained")
        _draw_panels(figure, rows)
        figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_panels(figure: Any, rows: Benchmarks) -> None:
    """Draw a panel per model and number of budgets."""
    ticks = sorted({row["followers"] for row in rows})
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for (case, title), axes in zip(CASES.items(), panels.ravel(), strict=True):
        mine = [row for row in rows if (row["model"], row["budgets"]) == case]
        for colour, method in zip(COLOURS, METHODS, strict=False):
            points = [(row["followers"], row["ms"][method]) for row in mine if method in row["ms"]]
            if points:
                style = {"linestyle": ":"} if method == "lagrangian_bound" else {"marker": "o", "markersize": 4}
                axes.plot(*zip(*points, strict=True), color=colour, label=method.replace("_", " "), **style)
        axes.set(xscale="log", yscale="log", title=title)
        axes.grid(which="major", alpha=0.3)
        axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize="x-small")
        axes.minorticks_off()
    for axes in panels[1]:
        axes.set_xlabel("followers N")
    for axes in panels[:, 0]:
        axes.set_ylabel("time [ms]")
    panels[0, 0].legend(loc="upper left", fontsize="small")
