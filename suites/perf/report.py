"""A table from the JSON of `bench_stackelberg.py`: ``python -m safemarl_bench.suites.perf.report JSON MARKDOWN``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from safemarl_bench.errors import RecordError


def read_cases(path: Path) -> tuple[dict[tuple[str, int], dict[int, tuple[float, float]]], str]:
    """Return (backend, batch) -> size -> (microseconds per state, ratio of cvxpy to it), and the machine.

    Raises:
        RecordError: the file cannot be read, or holds no timings of the equilibrium core.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = [bench["extra_info"] for bench in data["benchmarks"] if "us_per_state" in bench["extra_info"]]
        machine = str(data["machine_info"]["cpu"].get("brand_raw", "unknown processor"))
        machine += f", Python {data['machine_info']['python_version']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a JSON file of pytest-benchmark: {error!r}") from error
    if not rows:
        raise RecordError(f"{path} holds no timings of suites/perf/bench_stackelberg.py")
    cases: dict[tuple[str, int], dict[int, tuple[float, float]]] = {}
    for row in rows:
        times = cases.setdefault((row["backend"], row["batch"]), {})
        times[row["size"]] = row["us_per_state"], row.get("cvxpy_ratio", float("nan"))
    return cases, machine


def render(cases: Mapping[tuple[str, int], Mapping[int, tuple[float, float]]], machine: str) -> str:
    """Return the report as Markdown, slowest backend first.

    Args:
        cases, machine: from `read_cases`.
    """
    sizes = sorted({size for times in cases.values() for size in times})
    order = sorted(cases, key=lambda case: -cases[case].get(sizes[-1], (0.0, 0.0))[0])
    header = "| backend | batch | " + " | ".join(f"{size}x{size}" for size in sizes) + " |"
    rule = "|---|---:|" + "---:|" * len(sizes)

    def table(column: int, form: str) -> list[str]:
        lines = [header, rule]
        for backend, batch in order:
            times = cases[backend, batch]
            cells = [format(times[size][column], form) if size in times else "" for size in sizes]
            lines.append(f"| {backend} | {batch} | " + " | ".join(cells) + " |")
        return lines

    return "\n".join(
        [
            "# The equilibrium core: time per state",
            "",
            f"One thread, float32, standard normal tables with a safe pair, median over data sets; {machine}. "
            "MIPs include their certificate. Made by `suites/perf/bench_stackelberg.py` and `suites/perf/report.py`.",
            "",
            "## Microseconds per state",
            "",
            *table(0, ",.2f"),
            "",
            "## Time of cvxpy (rebuilt, HiGHS) over time of the backend, per state",
            "",
            *table(1, ",.1f"),
            "",
        ]
    )


def main(arguments: list[str]) -> None:
    """Write the report of the JSON file ``arguments[0]`` to the Markdown file ``arguments[1]``."""
    if len(arguments) != 2:
        raise SystemExit(f"usage: python -m safemarl_bench.suites.perf.report JSON MARKDOWN, got {arguments}")
    source, target = map(Path, arguments)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(*read_cases(source)), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RecordError as error:
        raise SystemExit(str(error)) from error
