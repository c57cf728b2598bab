"""The page and the figure of `bench_stackelberg.py`, and what the equilibrium core's times must hold to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safemarl_bench.suites.perf.markdown import Benchmarks, infos, table

GROUP = "stackelberg"
FLOOR = "floor"
ORDER = ("cvxpy", "cvxpy_dpp", "scipy", "highs_ranked", "highs", "python", "numpy", "torch", "numba", FLOOR)
"""Backends as the page lists them."""


class Gate(NamedTuple):
    """A ratio of two times per state that one run must keep.

    Attributes:
        slow, fast: contenders of a cell. size, batch: the cell's. low, high: bounds of the ratio.
    """

    slow: str
    fast: str
    size: int
    batch: int
    low: float
    high: float

    def says(self) -> str:
        """Return the bound in words."""
        wanted = f">= {self.low:,g}" if self.low else f"<= {self.high:g}"
        return f"{self.slow} / {self.fast} {wanted}"

    def holds(self, ratio: float) -> bool:
        """Whether a measured ratio keeps it."""
        return self.low <= ratio <= self.high


GATES = (
    Gate("cvxpy", "torch", 9, 256, 3000.0, float("inf")),
    Gate("highs", "torch", 9, 256, 500.0, float("inf")),
    Gate("numba", FLOOR, 9, 256, 0.0, 5.0),
    Gate("torch", "numba", 9, 256, 0.0, 10.0),
    Gate("numba", FLOOR, 100, 256, 0.0, 4.0),
)


def cells(benchmarks: Benchmarks) -> dict[tuple[int, int], Mapping[str, Any]]:
    """Return (size, batch) -> what was recorded of it."""
    return {(row["size"], row["batch"]): row for row in infos(benchmarks, GROUP)}


def checked_gates(benchmarks: Benchmarks) -> list[tuple[Gate, float]]:
    """Return the gates whose ratio was measured, with it."""
    found = cells(benchmarks)
    ratios = [(gate, found.get((gate.size, gate.batch), {}).get("ratios", {})) for gate in GATES]
    return [(gate, row[f"{gate.slow}/{gate.fast}"]) for gate, row in ratios if f"{gate.slow}/{gate.fast}" in row]


def stackelberg_page(benchmarks: Benchmarks, machine: str) -> list[str]:
    """Return the page of `bench_stackelberg.py`; nothing without its timings."""
    found = cells(benchmarks)
    if not found:
        return []
    gates = []
    for gate, ratio in checked_gates(benchmarks):
        met = "yes" if gate.holds(ratio) else "**no**"
        gates.append([gate.says(), f"{gate.size}x{gate.size}", str(gate.batch), f"{ratio:,.1f}", met])
    return [
        "# The equilibrium core: time per state",
        "",
        f"One thread, float32, standard normal tables with a safe pair; {machine}. In every round all backends solve "
        "the same tables, in an order drawn anew; times are medians over rounds, ratios medians of the rounds' ratios. "
        "Each round takes the next data set, so that tables come from a far cache or from memory. A MIP solves one "
        "state, and its time includes its certificate. `floor` is one vectorised pass that only adds up the four "
        "tables. Made by `suites/perf/bench_stackelberg.py` and `suites/perf/report.py`; which backend to use when: "
        "[the core's own page](../../safemarl_bench/stackelberg/README.md).",
        "",
        "![time per state](stackelberg.png)",
        "",
        "## Goals",
        "",
        *table(["ratio", "tables", "batch", "measured", "met"], gates, left=2),
        "## Microseconds per state",
        "",
        *_times(found),
    ]


def _times(found: Mapping[tuple[int, int], Mapping[str, Any]]) -> list[str]:
    sizes = sorted({size for size, _ in found})
    rows: dict[tuple[str, int], dict[int, float]] = {}
    for (size, batch), row in found.items():
        for name, us in row["us_per_state"].items():
            if row["states"][name] == batch:
                rows.setdefault((name, batch), {})[size] = us
    order = sorted(rows, key=lambda case: (case[1], ORDER.index(case[0]) if case[0] in ORDER else -1))
    lines = []
    for name, batch in order:
        times = rows[name, batch]
        lines.append([name, str(batch), *(_microseconds(times[size]) if size in times else "" for size in sizes)])
    written: list[str] = table(["backend", "batch", *(f"{size}x{size}" for size in sizes)], lines)
    return written


def _microseconds(us: float) -> str:
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def draw_stackelberg(benchmarks: Benchmarks, path: Path) -> None:
    """Draw time per state over table size: the MIPs at one state, the batched backends at 1 and at 256."""
    from matplotlib.figure import Figure

    found = cells(benchmarks)
    figure = Figure(figsize=(8.0, 6.0), layout="constrained")
    axes = figure.subplots()
    for name in ORDER:
        for batch, style in ((1, "-" if name in ORDER[:6] else ":"), (256, "-")):
            points = [
                (size, row["us_per_state"][name])
                for (size, cell_batch), row in sorted(found.items())
                if cell_batch == batch and row["states"].get(name) == batch
            ]
            if points:
                label = name if batch == 1 and name in ORDER[:6] else f"{name}, batch {batch}"
                color = "black" if name == FLOOR else f"C{ORDER.index(name)}"
                axes.loglog(*zip(*points, strict=True), style, marker="o", markersize=3, color=color, label=label)
    sizes = sorted({size for size, _ in found})
    axes.set_xticks(sizes, [f"{size}x{size}" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("joint actions")
    axes.set_ylabel("time per state [us]")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    figure.savefig(path, dpi=120)
