"""Learning curves of records as a figure; needs matplotlib, the extra ``plots``."""

from __future__ import annotations

import importlib
import io
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safemarl_bench.curves import Curve, curves
from safemarl_bench.errors import MissingDependency, SafeMARLBenchError
from safemarl_bench.record import RunRecord

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart."""

STYLES = [(colour, dash) for dash in ("-", "--", "-.", ":") for colour in COLOURS]
COLUMNS = 3
PANEL_INCHES = (4.4, 3.2)


class Line(NamedTuple):
    """One curve in a panel: its label there ("" where the figure's legend has it), its decisions, how it looks."""

    label: str
    steps: list[int]
    curve: Curve
    style: tuple[str, str]


def write_curves(records: Sequence[RunRecord], path: Path) -> None:
    """Draw the learning curves of records into a PNG: one record with all its curves, or several beside each other.

    With one record related curves share a panel; with several every curve has its own, with a line per record. The
    same records give the same bytes (with the same matplotlib).

    Args:
        records: at least one, all of which have trained.
        path: of the file, replaced if it exists.

    Raises:
        SafeMARLBenchError: `path` is no PNG or cannot be written, or a record did not train.
        MissingDependency: matplotlib is not installed.
    """
    if path.suffix != ".png":
        raise SafeMARLBenchError(f"a figure is written as PNG: give a name that ends in .png, got {str(path)!r}")
    panels = _panels(records)
    matplotlib = _import("matplotlib")
    buffer = io.BytesIO()
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        _figure(records, panels).savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise SafeMARLBenchError(f"cannot write figure {path}: {error.strerror or error}") from error


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency('figures need the package matplotlib: pip install "safemarl-bench[plots]"') from error


def _panels(records: Sequence[RunRecord]) -> dict[str, list[Line]]:
    """Return the lines of each panel by its title, in the order of the figure."""
    panels: dict[str, list[Line]] = {}
    for record, style in zip(records, itertools.cycle(STYLES), strict=False):
        for curve in curves(record):
            lines = panels.setdefault(curve.panel if len(records) == 1 else curve.name, [])
            look = STYLES[len(lines) % len(STYLES)] if len(records) == 1 else style
            lines.append(Line(curve.name if len(records) == 1 else "", record.train["steps"], curve, look))
    return panels


def names(records: Sequence[RunRecord]) -> tuple[str, list[str]]:
    """Return what all records have in common, and what tells each of them from the others."""
    fields = [
        (f"{r.suite}@{r.suite_version}", r.agent, f"seed {r.seed}", f"budget {r.budget}", r.digest[:6]) for r in records
    ]
    same = [len(set(column)) == 1 for column in zip(*fields, strict=True)]
    same[-1] = len({field[:-1] for field in fields}) == len(fields)  # a digest only where nothing else tells
    title = "  ".join(text for text, shared in zip(fields[0][:-1], same, strict=False) if shared)
    return title, ["  ".join(text for text, shared in zip(field, same, strict=True) if not shared) for field in fields]


def _figure(records: Sequence[RunRecord], panels: dict[str, list[Line]]) -> Any:
    rows = math.ceil(len(panels) / COLUMNS)
    size = (COLUMNS * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.5)
    figure = _import("matplotlib.figure").Figure(figsize=size, layout="constrained")
    title, labels = names(records)
    figure.suptitle(title or "learning curves", fontsize=13)
    axes = iter(figure.subplots(rows, COLUMNS, squeeze=False, sharex=True).flat)
    for (name, lines), axis in zip(panels.items(), axes, strict=False):
        _draw(axis, name, lines)
    for axis in axes:
        axis.set_axis_off()
    if len(records) > 1:
        styles = [
            {"color": colour, "linestyle": dash}
            for colour, dash in itertools.islice(itertools.cycle(STYLES), len(records))
        ]
        handles = [_import("matplotlib.lines").Line2D([], [], **style) for style in styles]
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw(axis: Any, title: str, lines: Sequence[Line]) -> None:
    for index, (label, steps, curve, (colour, dash)) in enumerate(lines):
        points = [(step, value) for step, value in zip(steps, curve.values, strict=True) if value is not None]
        width = max(2.6 - 0.7 * index, 1.2)  # equal curves stay visible below each other
        axis.plot(
            *zip(*points, strict=True),
            color=colour,
            linestyle=dash,
            linewidth=width,
            label=label,
            marker=".",
            markersize=4,
        )
    for limit in sorted({line.curve.limit for line in lines if line.curve.limit is not None}):
        owners = [line.label for line in lines if line.curve.limit == limit]
        shared = len(owners) == len(lines)
        text = f"limit {limit:g}" if shared else f"limit {limit:g}: {', '.join(owners)}"
        axis.axhline(limit, color="black", linestyle="--", linewidth=1.0, label=text)
    axis.set_title(title, fontsize=10)
    axis.set_xscale("log")
    if all(line.curve.log for line in lines):
        axis.set_yscale("log")
    axis.set_xlabel("training decisions", fontsize=8)
    axis.tick_params(which="both", labelsize=8, labelbottom=True)
    axis.grid(alpha=0.25)
    labels = axis.get_legend_handles_labels()[1]
    if len(labels) > 1 or any(line.curve.limit is not None for line in lines):
        axis.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
