"""Do the values of a suite's data file make sense? Wrong ones are named before anything is built from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemarl_bench.contract import Features
    from safemarl_bench.registry import SuiteSpec

ACTION_KINDS = ("discrete", "continuous")
CRITERIA = ("total", "discounted")
SUITE_KINDS = {"game": "a game of several agents", "weakly_coupled": "a weakly coupled problem of one operator"}
"""Kind of a suite -> what errors call it."""


def problems(spec: SuiteSpec) -> Iterator[str]:
    """Yield what is wrong with a suite, one line each: the key, what it must be, what it is."""
    for key in ("name", "title", "source", "entry_point", "board"):
        if not isinstance(getattr(spec, key), str):
            yield f"{key} must be text, got {getattr(spec, key)!r}"
    for key in ("version", "horizon", "episodes"):
        if not _is_count(getattr(spec, key)):
            yield f"{key} must be an integer of at least 1, got {getattr(spec, key)!r}"
    if not is_number(spec.gamma) or not 0 < spec.gamma <= 1:
        yield f"gamma must be in (0, 1], got {spec.gamma!r}"
    if spec.action_kind not in ACTION_KINDS:
        yield f"action_kind must be one of {', '.join(ACTION_KINDS)}, got {spec.action_kind!r}"
    if spec.kind not in SUITE_KINDS:
        yield f"kind must be one of {', '.join(SUITE_KINDS)}, got {spec.kind!r}"
    if spec.criterion not in CRITERIA:
        yield f"criterion must be one of {', '.join(CRITERIA)}, got {spec.criterion!r}"
    for key in ("backends", "leader", "followers", "constraints"):
        names = getattr(spec, key)
        if spec.kind == "weakly_coupled" and key in ("followers", "constraints"):
            if names:
                yield f"{key} of a weakly coupled suite must be empty, got {list(names)}"
        elif not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            yield f"{key} must be a list of different names, at least one, got {list(names)}"
    for budget, steps in spec.budgets.items():
        if not _is_count(steps):
            yield f"budget {budget!r} must be an integer of at least 1, got {steps!r}"
    for agent, values in spec.agents.items():
        for key, value in values.items():
            if isinstance(value, dict) and key not in spec.budgets:
                yield f"agents.{agent}.{key}: there is no budget {key!r}, only {', '.join(spec.budgets)}"
    yield from _role_problems(spec)
    for owner in ("features", "state_features"):
        yield from _feature_problems(owner, getattr(spec, owner))


def _role_problems(spec: SuiteSpec) -> Iterator[str]:
    for key in ("cost_limits", "neutral_actions"):
        if set(getattr(spec, key)) != set(spec.roles):
            yield f"{key} must have one entry for each of {', '.join(spec.roles)}, got {', '.join(getattr(spec, key))}"
    for role, limits in spec.cost_limits.items():
        if len(limits) != len(spec.constraints) or not all(is_number(limit) and limit >= 0 for limit in limits):
            yield f"cost_limits of {role!r} must be {len(spec.constraints)} numbers >= 0, got {list(limits)}"


def _feature_problems(owner: str, features: Features | None) -> Iterator[str]:
    if features is None:
        return
    if not len(features.names) == len(features.center) == len(features.scale):
        yield f"{owner} needs as many centers and scales as names ({len(features.names)})"
    numbers = all(map(is_number, (*features.center, *features.scale)))
    if not numbers or not all(scale > 0 for scale in features.scale):
        yield f"{owner} needs finite centers and positive scales"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: Any) -> bool:
    """Return whether a value is a finite int or float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
