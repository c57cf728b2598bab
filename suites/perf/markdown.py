"""What the pages of the benchmarks are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Benchmarks = list[dict[str, Any]]
"""Entries of pytest-benchmark's JSON."""


def table(header: Iterable[str], rows: Iterable[Iterable[str]], *, left: int = 1) -> list[str]:
    """Return the lines of a Markdown table; the first `left` columns are text, the others numbers."""
    names = list(header)
    rule = "".join("---|" if column < left else "---:|" for column in range(len(names)))
    lines = [f"| {' | '.join(line)} |" for line in (names, *rows)]
    return [lines[0], f"|{rule}", *lines[1:], ""]


def infos(benchmarks: Benchmarks, group: str) -> Benchmarks:
    """Return what the benchmarks of a group recorded."""
    return [bench["extra_info"] for bench in benchmarks if bench.get("group") == group and bench["extra_info"]]
