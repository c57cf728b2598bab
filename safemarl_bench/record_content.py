"""What is inside a run record: its keys, and its series, which can be read in both forms, summarised and checked.

An evaluation of n episodes is kept as per-episode arrays, or above 500 episodes as a summary of each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from safemarl_bench.canonical_json import canonical, sha256
from safemarl_bench.errors import RecordError
from safemarl_bench.suite_values import is_number

MAX_TRAIN_POINTS = 64
MAX_EPISODES = 500
"""Above this many evaluation episodes a record keeps a summary instead of per-episode arrays."""

SPOT_CHECK_EPISODES = 20
"""Least number of evaluation episodes (all, where there are fewer) to be played again on the reference backend."""

SPOT_CHECK_TOLERANCE = 1e-6
"""Largest difference there of an episode's return, a cost, and an observation (relative above 1)."""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
EVENTS = ("crashed", "off_road", "arrival_rank")
"""Per-agent series of small integers: 0 or 1, and for the rank 0 (not arrived) to the number of agents."""


_Layout = dict[str, type | tuple[type, ...]]
_CELL: _Layout = dict.fromkeys(("suite", "suite_digest", "agent", "agent_version", "distribution", "budget"), str)
_CELL |= dict.fromkeys(("suite_version", "seed", "training_steps", "evaluation_episodes"), int)
_CELL |= dict.fromkeys(("game", "agent_traits", "config", "backend"), dict)
_GAME: _Layout = {"action_kind": str, "horizon": int, "gamma": (int, float)}
_GAME |= dict.fromkeys(("leader", "followers", "constraints"), list) | dict.fromkeys(("cost_limits", "overrides"), dict)
_TRAIN: _Layout = dict.fromkeys(("steps", "episodes", "collisions"), list)
_TRAIN |= dict.fromkeys(("returns", "costs", "totals"), dict)
_EVAL: _Layout = {"stream": str, "seed": int, "episodes": int}
_EVAL |= dict.fromkeys(("returns", "costs", *EVENTS), dict)
_EVAL |= dict.fromkeys(("length", "longest_cost_run"), (list, dict)) | {"spot_check": (dict, type(None))}
_GAPS = tuple(f"largest_{kind}_difference" for kind in ("return", "cost", "observation"))
_SPOT_CHECK: _Layout = {"backend": str, "episodes": int, "decisions": int, **dict.fromkeys(_GAPS, (int, float))}
_OUTCOME: _Layout = {"step": int, "episodes": int, "collisions": int, "returns": dict, "costs": dict}
_VALIDATION: _Layout = {"episodes": int, "kept": int, "final": dict}
_VALIDATION |= dict.fromkeys(("steps", "collisions"), list) | dict.fromkeys(("returns", "costs"), dict)
_LAYOUT: dict[str, _Layout] = {
    "versions": {},
    "provenance": {},
    "cell": _CELL,
    "cell.game": _GAME,
    "cell.agent_traits": {"learns": bool, "deterministic": bool, "privileged": str},
    "cell.backend": {"train": str, "evaluation": str},
    "train": _TRAIN,
    "train.totals": dict.fromkeys(("episodes", "collisions", "violating_steps"), int),
    "validation": _VALIDATION,
    "validation.final": _OUTCOME,
    "eval": _EVAL,
    "eval.spot_check": _SPOT_CHECK,
    "checkpoint": {"sha256": (str, type(None)), "bytes": int},
}


_OPTIONAL = ("validation", "validation.final", "eval.spot_check")
"""Sections that may be null."""


def check_keys(sections: Mapping[str, Any]) -> None:
    """Raise `RecordError` unless every required key is there, with a value of the right type.

    Args:
        sections: section name -> canonical contents.
    """
    for name, layout in _LAYOUT.items():
        outer, _, inner = name.partition(".")
        section = sections[outer] if not inner or sections[outer] is None else sections[outer][inner]
        if section is None and name in _OPTIONAL:
            continue
        if not isinstance(section, dict):
            raise RecordError(f"{name} must be an object, got {type(section).__name__}")
        missing = [f"{name}.{key}" for key in layout if key not in section]
        if missing:
            raise RecordError(f"lacks {', '.join(missing)}")
        for key, kind in layout.items():
            if not isinstance(section[key], kind) or (isinstance(section[key], bool) and kind is not bool):
                raise RecordError(f"{name}.{key} has the wrong type {type(section[key]).__name__}")
    metrics_of(sections["train"])


def cost_ratio(costs: Mapping[str, Sequence[float]], limits: Mapping[str, Sequence[float]]) -> float:
    """Return the largest mean cost / limit over agents and constraints; at a limit of 0 any cost counts as infinite.

    Args:
        costs, limits: agent -> K numbers.
    """
    pairs = [pair for agent in limits for pair in zip(costs[agent], limits[agent], strict=True)]
    return max((_ratio(cost, limit) for cost, limit in pairs), default=0.0)


def _ratio(cost: float, limit: float) -> float:
    if limit == 0:
        return math.inf if cost > 0 else 0.0
    return cost / limit


def metrics_of(train: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metrics in a ``train`` section, name -> series; they are left out where nothing was reported.

    Raises:
        RecordError: they are no object.
    """
    metrics = train.get("metrics", {})
    if not isinstance(metrics, dict):
        raise RecordError(f"train.metrics has the wrong type {type(metrics).__name__}")
    return metrics


def is_summary(evaluation: Mapping[str, Any]) -> bool:
    """Return whether an ``eval`` section keeps moments and counts instead of per-episode arrays."""
    return "arrays_sha256" in evaluation


def summarise_evaluation(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return an ``eval`` section that fits a record: unchanged up to 500 episodes, else a summary.

    The summary has, in place of n numbers: mean, sd (n - 1) and the `QUANTILES` of each series (of costs per
    constraint, with the number of ``positive`` episodes); counts of each value for the events; the number
    of ``episodes_with`` any agent crashed or off the road; and ``arrays_sha256`` over the full section.
    """
    if evaluation["episodes"] <= MAX_EPISODES:
        return evaluation
    full = canonical(evaluation, "eval")
    summary = {key: full[key] for key in ("stream", "seed", "episodes", "spot_check")}
    if "exact_returns" in full:
        summary["exact_returns"] = full["exact_returns"]
    summary["returns"] = {agent: _moments(series) for agent, series in full["returns"].items()}
    summary["costs"] = {
        agent: [{**_moments(column), "positive": positive(column)} for column in zip(*rows, strict=True)]
        for agent, rows in full["costs"].items()
    }
    for event in EVENTS:
        values = range(_event_values(event, len(full["returns"])))
        summary[event] = {
            agent: {"counts": [count(series, value) for value in values]} for agent, series in full[event].items()
        }
    for key in ("length", "longest_cost_run"):
        summary[key] = _moments(full[key])
    summary["episodes_with"] = {event: episodes_with(full, event) for event in ("crashed", "off_road")}
    summary["arrays_sha256"] = sha256(full)
    return summary


def _event_values(event: str, agents: int) -> int:
    return agents + 1 if event == "arrival_rank" else 2


def _moments(series: Sequence[float]) -> dict[str, Any]:
    centre = mean(series)
    sd = math.sqrt(math.fsum((value - centre) ** 2 for value in series) / (len(series) - 1))
    quantiles = np.quantile(np.asarray(series, dtype=np.float64), QUANTILES).tolist()
    return {"mean": centre, "sd": sd, "quantiles": quantiles}


def mean(series: Any) -> float:
    """Return the mean of n numbers, or of the summary in their place."""
    if isinstance(series, Mapping):
        return float(series["mean"])
    return math.fsum(series) / len(series)  # fsum: the same in any order, on any machine


def positive(series: Any) -> int:
    """Return how many of n costs, or of those behind a summary, are above 0."""
    if isinstance(series, Mapping):
        return int(series["positive"])
    return sum(cost > 0 for cost in series)


def count(series: Any, value: int) -> int:
    """Return how often an event series of n entries, or the one behind a summary, has `value`."""
    return int(series["counts"][value]) if isinstance(series, Mapping) else list(series).count(value)


def cost_columns(evaluation: Mapping[str, Any], agent: str) -> Sequence[Any]:
    """Return one agent's costs as K series of n numbers, or as K summaries."""
    costs: Sequence[Any] = evaluation["costs"][agent]
    return costs if is_summary(evaluation) else list(zip(*costs, strict=True))


def episodes_with(evaluation: Mapping[str, Any], event: str) -> int:
    """Return in how many episodes at least one agent had the event, "crashed" or "off_road"."""
    if is_summary(evaluation):
        return int(evaluation["episodes_with"][event])
    return sum(any(episode) for episode in zip(*evaluation[event].values(), strict=True))


def series_problems(
    cell: Mapping[str, Any],
    train: Mapping[str, Any],
    validation: Mapping[str, Any] | None,
    evaluation: Mapping[str, Any],
) -> list[str]:
    """Return what is wrong with the series of a record, one line each: ragged, missing, out of range."""
    unlimited = [role for role in _roles(cell) if role not in cell["game"]["cost_limits"]]
    if unlimited:
        return [f"cell.game.cost_limits lacks {', '.join(unlimited)}"]
    problems = [*_train_problems(cell, train), *_validation_problems(cell, validation)]
    return [*problems, *_evaluation_problems(cell, evaluation)]


def _roles(cell: Mapping[str, Any]) -> list[str]:
    return [*cell["game"]["leader"], *cell["game"]["followers"]]


def _train_problems(cell: Mapping[str, Any], train: Mapping[str, Any]) -> Iterator[str]:
    points = len(train["steps"])
    finished, steps = train["totals"]["episodes"], cell["training_steps"]
    trained = cell["agent_traits"]["learns"] and steps >= cell["game"]["horizon"]
    if points > MAX_TRAIN_POINTS:
        yield f"train has {points} points, at most {MAX_TRAIN_POINTS} are allowed"
    if bool(points) != bool(finished) or (trained and not points):
        yield f"train has {points} points for {finished} finished episodes in {steps} training steps"
    series = {"episodes": train["episodes"], "collisions": train["collisions"]}
    for role in _roles(cell):
        series |= {f"{name}.{role}": train[name].get(role) for name in ("returns", "costs")}
    for name, values in metrics_of(train).items():
        if isinstance(values, list) and all(type(value) in (int, float, type(None)) for value in values):
            series[f"metrics.{name}"] = values
        else:
            yield f"train.metrics.{name} must be a list of numbers and nulls"
    for name, values in series.items():
        if values is None:
            yield f"train.{name} is missing"
        elif len(values) != points:
            yield f"train.{name} is ragged: {len(values)} points, train.steps has {points}"
    for role, limits in cell["game"]["cost_limits"].items():
        if any(len(row) != len(limits) for row in train["costs"].get(role, [])):
            yield f"train.costs.{role} is ragged: every point needs {len(limits)} costs"
    for name in ("steps", "episodes", "collisions"):
        if any(later < earlier for earlier, later in itertools.pairwise(train[name])):
            yield f"train.{name} decreases"


def _validation_problems(cell: Mapping[str, Any], validation: Mapping[str, Any] | None) -> Iterator[str]:
    steps = cell["training_steps"]
    if validation is None or not steps:
        if bool(steps) != (validation is not None):
            yield f"validation must be there if and only if there was training ({steps} steps)"
        return
    points, final = len(validation["steps"]), validation["final"]
    if not points or validation["steps"][-1] != steps or final["step"] != steps:
        yield f"validation must end with the last policy, at step {steps}"
    if not 0 <= validation["kept"] < points:
        yield f"validation.kept must be in 0..{points - 1}, got {validation['kept']}"
    if final["episodes"] != cell["evaluation_episodes"]:
        yield f"validation.final has {final['episodes']} episodes, the cell says {cell['evaluation_episodes']}"
    series = {"collisions": validation["collisions"]}
    for role, limits in cell["game"]["cost_limits"].items():
        rows = [*validation["costs"].get(role, []), final["costs"].get(role, [])]
        if any(len(row) != len(limits) for row in rows):
            yield f"validation.costs.{role} is ragged: every point needs {len(limits)} costs"
        series |= {f"{name}.{role}": validation[name].get(role, []) for name in ("returns", "costs")}
        if role not in final["returns"]:
            yield f"validation.final.returns.{role} is missing"
    for name, values in series.items():
        if len(values) != points:
            yield f"validation.{name} is ragged: {len(values)} points, validation.steps has {points}"


def _evaluation_problems(cell: Mapping[str, Any], evaluation: Mapping[str, Any]) -> Iterator[str]:
    episodes = evaluation["episodes"]
    if episodes != cell["evaluation_episodes"] or episodes < 1:
        yield f"eval has {episodes} episodes, the cell says {cell['evaluation_episodes']}"
    if problem := spot_check_problem(cell, evaluation):
        yield problem
    if episodes > MAX_EPISODES and not is_summary(evaluation):
        yield f"eval has arrays of {episodes} episodes, above {MAX_EPISODES} it must be a summary"
    exact = evaluation.get("exact_returns")
    if exact is not None and (set(exact) != set(_roles(cell)) or not all(map(is_number, exact.values()))):
        yield f"eval.exact_returns must be a number for each of {', '.join(_roles(cell))}, got {exact}"
    for name in ("returns", "costs", *EVENTS):
        for role in _roles(cell):
            if role not in evaluation[name]:
                yield f"eval.{name}.{role} is missing"
            elif problem := _series_problem(cell, evaluation, name, role, evaluation[name][role]):
                yield f"eval.{name}.{role} {problem}"
    for name in ("length", "longest_cost_run"):
        if problem := _series_problem(cell, evaluation, name, "", evaluation[name]):
            yield f"eval.{name} {problem}"


def spot_check_problem(cell: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    """Return what is wrong with ``eval.spot_check``, or ""; null says that the reference backend evaluated."""
    check, episodes = evaluation["spot_check"], evaluation["episodes"]
    if check is None:
        return ""
    if check["backend"] == cell["backend"]["evaluation"]:
        return f"eval.spot_check is of {check['backend']}, the backend that evaluated"
    needed = min(SPOT_CHECK_EPISODES, episodes)
    if not needed <= check["episodes"] <= episodes:
        return f"eval.spot_check has {check['episodes']} episodes, of {episodes} at least {needed} are needed"
    for key in _GAPS:
        if not 0 <= check[key] <= SPOT_CHECK_TOLERANCE:
            return f"eval.spot_check.{key} is {check[key]}, at most {SPOT_CHECK_TOLERANCE} is allowed"
    return ""


def _series_problem(cell: Mapping[str, Any], evaluation: Mapping[str, Any], name: str, role: str, series: Any) -> str:
    """Return what is wrong with one evaluation series (`role` is "" where it is shared), or ""."""
    episodes = evaluation["episodes"]
    width = len(cell["game"]["cost_limits"][role]) if name == "costs" else 1
    values = _event_values(name, len(_roles(cell)))
    if is_summary(evaluation):
        if name in EVENTS and (len(series["counts"]) != values or sum(series["counts"]) != episodes):
            return f"has counts {series['counts']} for {episodes} episodes"
        if name == "costs" and len(series) != width:
            return f"is ragged: {len(series)} summaries for {width} constraints"
        return ""
    if len(series) != episodes:
        return f"is ragged: {len(series)} entries, there are {episodes} episodes"
    if name == "costs" and any(len(row) != width for row in series):
        return f"is ragged: every episode needs {width} costs"
    if name == "costs" and any(cost < 0 for row in series for cost in row):
        return "has a negative cost"
    if name in EVENTS and any(value not in range(values) for value in series):
        return f"has a value outside 0..{values - 1}"
    return ""
