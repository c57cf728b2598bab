"""What a record says of its training, as named curves for terminals and figures."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from safemarl_bench.errors import RecordError
from safemarl_bench.record import RunRecord
from safemarl_bench.record_content import metrics_of

MULTIPLIERS = ("lam", "nu")


class Curve(NamedTuple):
    """One series of a training.

    Attributes:
        name: as shown, with its unit where that is not the game's.
        panel: what it is drawn beside.
        values: one per training point, None where nothing was reported.
        limit: on the values, None without one.
        log: they are positive and differ by orders of magnitude.
    """

    name: str
    panel: str
    values: list[float | None]
    limit: float | None = None
    log: bool = False


def curves(record: RunRecord) -> list[Curve]:
    """Return all curves of a record: returns and costs per episode, collisions, then the learner's metrics.

    Raises:
        RecordError: it has none, since its agent did not train.
    """
    if not record.train["steps"]:
        raise RecordError(f"{record.agent} on {record.suite} has no learning curves: it did not train for an episode")
    return [*_returns(record), *_costs(record), _collisions(record), *_metrics(record)]


def _returns(record: RunRecord) -> list[Curve]:
    returns = record.train["returns"]
    total = [sum(values) for values in zip(*returns.values(), strict=True)]
    each = [Curve(f"return {role}", "return per episode", returns[role]) for role in record.roles]
    return [Curve("return total", "return per episode", total), *each]


def _costs(record: RunRecord) -> list[Curve]:
    found = []
    for role in record.roles:
        limits = record.cell["game"]["cost_limits"][role]
        for k, (limit, values) in enumerate(zip(limits, zip(*record.train["costs"][role], strict=True), strict=True)):
            name = f"cost {role}" if len(limits) == 1 else f"cost {role} {k}"
            found.append(Curve(name, "cost per episode", list(values), limit))
    return found


def _collisions(record: RunRecord) -> Curve:
    """Return the share of the episodes since the last point that had a collision."""
    collisions, episodes = ([0, *record.train[name]] for name in ("collisions", "episodes"))
    pairs = zip(itertools.pairwise(collisions), itertools.pairwise(episodes), strict=True)
    shares: list[float | None] = [100.0 * (now - before) / (end - start) for (before, now), (start, end) in pairs]
    return Curve("collisions [%]", "episodes with a collision [%]", shares)


def _metrics(record: RunRecord) -> list[Curve]:
    """Return the learner's metrics, grouped by the first word of their names: losses and multipliers first."""
    found = []
    for name, values in metrics_of(record.train).items():
        word = name.partition("_")[0]
        log = word == "loss" and all(value is None or value > 0.0 for value in values)
        if word == "loss":
            word = "loss" if log else "loss, signed"
        found.append(Curve(name, "multipliers" if word in MULTIPLIERS else word, values, log=log))
    order = {"loss": 0, "loss, signed": 1, "multipliers": 2}
    return sorted(found, key=lambda curve: (order.get(curve.panel, 3), curve.panel, curve.name))
