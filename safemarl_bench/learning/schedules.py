"""Schedules of hyper-parameters over training."""

from __future__ import annotations


def linear(start: float, end: float, step: int, duration: float) -> float:
    """Return the value at `step` of a line from `start` at 0 to `end` at `duration`, constant from there on.

    Args:
        start, end: the two values.
        step: decisions or updates done, >= 0.
        duration: steps until `end`; 0 or less gives `end` at once.
    """
    if step >= duration:
        return end
    return start + (end - start) * step / duration
