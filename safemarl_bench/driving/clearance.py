"""How far away the other lanes are from each lane: most searches for a vehicle's closest lane end where it is."""

from __future__ import annotations

import math

import numpy as np

from safemarl_bench.driving import kernel

FARTHEST = 4.0
"""Clearances beyond are not told apart, m."""
SAMPLES = 4
"""Points per metre of a lane at which the distance of the others is measured."""


def clearances(lanes: np.ndarray) -> tuple[float, np.ndarray]:
    """Return what rules out at once that another lane is closer than the one that a vehicle is on.

    Where a point is s m along lane i, in the metre m = int(s), and l m off its centre, every other lane is at least
    ``clear[i, m] - steepness * |l|`` away, lateral offset and overshoot added up. Distances are measured at points of
    the centre line; they fall at most `steepness` times as fast as one moves.

    Args:
        lanes: (L, LANE_WIDTH).

    Returns:
        steepness, and clear, (L, cells) float64, m, at most `FARTHEST`; 0 beyond a lane's end.
    """
    steepness, cells = max(map(_steepness, lanes)), int(lanes[:, kernel.LENGTH].max())
    clear = np.zeros((len(lanes), cells), np.float64)
    for index, row in enumerate(lanes):
        metres = int(row[kernel.LENGTH])
        along = (np.arange(metres * SAMPLES) + 0.5) / SAMPLES
        points = _points(row, along)
        away = np.full(len(along), FARTHEST)
        for other in (*lanes[:index], *lanes[index + 1 :]):
            away = np.minimum(away, _distances(other, points))
        slack = steepness * _stretch(row) * 0.5 / SAMPLES
        clear[index, :metres] = away.reshape(metres, SAMPLES).min(axis=1) - slack - kernel.MARGIN
    return steepness, clear


def _stretch(row: np.ndarray) -> float:
    """Return at most how far a lane leads per metre of its longitudinal coordinate."""
    slope = abs(row[kernel.AMPLITUDE] * row[kernel.PULSATION]) if row[kernel.KIND] == kernel.SINE else 0.0
    return math.sqrt(1.0 + slope**2)


def _steepness(row: np.ndarray) -> float:
    """Return at most how fast a lane's distance changes as a point moves, less than `FARTHEST` away."""
    if row[kernel.KIND] == kernel.CIRCULAR:
        return math.sqrt(1.0 + (row[kernel.RADIUS] / max(row[kernel.RADIUS] - FARTHEST, 1.0)) ** 2)
    slope = abs(row[kernel.AMPLITUDE] * row[kernel.PULSATION]) if row[kernel.KIND] == kernel.SINE else 0.0
    return math.sqrt(1.0 + (1.0 + slope) ** 2)


def _points(row: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Return the points of a lane's centre line, (n, 2) m."""
    if row[kernel.KIND] == kernel.CIRCULAR:
        angle = row[kernel.SIGN] * along / row[kernel.RADIUS] + row[kernel.PHASE]
        along, lateral = row[kernel.RADIUS] * np.cos(angle), row[kernel.RADIUS] * np.sin(angle)
        return np.stack([row[kernel.X0] + along, row[kernel.Y0] + lateral], axis=1)
    lateral = row[kernel.AMPLITUDE] * np.sin(row[kernel.PULSATION] * along + row[kernel.PHASE])
    x = row[kernel.X0] + along * row[kernel.DIRECTION_X] + lateral * row[kernel.LATERAL_X]
    y = row[kernel.Y0] + along * row[kernel.DIRECTION_Y] + lateral * row[kernel.LATERAL_Y]
    return np.stack([x, y], axis=1)


def _distances(row: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return |lateral| + overshoot of points, (n,) m; the overshoot is left out of arcs around which it would jump."""
    dx, dy = (points - row[[kernel.X0, kernel.Y0]]).T
    if row[kernel.KIND] == kernel.CIRCULAR:
        lateral = np.abs(row[kernel.RADIUS] - np.hypot(dx, dy))
        if row[kernel.LENGTH] > math.pi * row[kernel.RADIUS] - 2 * FARTHEST:
            return np.asarray(lateral)
        turned = (np.arctan2(dy, dx) - row[kernel.PHASE] + math.pi) % (2 * math.pi) - math.pi
        along = row[kernel.SIGN] * turned * row[kernel.RADIUS]
    else:
        along = dx * row[kernel.DIRECTION_X] + dy * row[kernel.DIRECTION_Y]
        bend = row[kernel.AMPLITUDE] * np.sin(row[kernel.PULSATION] * along + row[kernel.PHASE])
        lateral = np.abs(dx * row[kernel.LATERAL_X] + dy * row[kernel.LATERAL_Y] - bend)
    return np.asarray(lateral + np.maximum(along - row[kernel.LENGTH], 0.0) + np.maximum(-along, 0.0))
