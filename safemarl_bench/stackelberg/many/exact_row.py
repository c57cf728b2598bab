"""One row in exact arithmetic of the tables as they were given: plain code for the certificate.

What the best profile is worth is searched follower by follower, over dictionaries of partial profiles. Two of them
become one if they have the same costs and, for equilibria, ask the same of the totals. A partial profile is dropped
when its Lagrangian bound misses what it has to reach. The multipliers come from outside: a bound holds for any of
them (weak duality), so bad ones could only make the search slow.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.mip import TIME_LIMIT

LARGEST = 300_000
"""Partial profiles in a dictionary, at most."""

MARGIN = 1e-9
"""Of the largest numbers in a bound, far beyond what rounding can take from it."""

Vector = tuple[int, ...]
Asked = frozenset[Vector]
"""Totals (K,), each of which the profile's must exceed in at least one budget."""


class Pruning(NamedTuple):
    """Bounds of one objective over the profiles of some actions.

    Attributes:
        order: followers, those first who leave the fewest partial profiles.
        reduced: by follower and action, the payoff less the price of its cost.
        ahead: by place in the order, what the followers from there on can add at most; one entry more than followers.
        constant: what the budgets are worth, and a margin.
        lowest: what any profile is worth at least.
    """

    order: list[int]
    reduced: list[dict[int, float]]
    ahead: list[float]
    constant: float
    lowest: float

    @property
    def bound(self) -> float:
        """What any profile within the budgets is worth at most."""
        return self.constant + self.ahead[0]


@dataclass(frozen=True)
class ExactRow:
    """The leader's action i; payoffs and costs are integers, in units of one over a denominator.

    Attributes:
        own: the leader's payoff of its own action, over unit1.
        q1, q2: by follower and action, over unit1 and unit2.
        cost: by follower and action, one number per budget, over unit_cost.
        budget: over unit_cost, at most what the safe actions can use.
        actions: by follower, those that are safe.
        price1, price2: multipliers per budget for bounds of the leader's and of the followers' sum.
    """

    own: int
    q1: list[list[int]]
    q2: list[list[int]]
    cost: list[list[Vector]]
    budget: Vector
    actions: list[list[int]]
    unit1: int
    unit2: int
    unit_cost: Vector
    price1: list[float]
    price2: list[float]

    def used(self, columns: list[int]) -> Vector:
        """Return the use of each budget by a profile."""
        return tuple(sum(self.cost[n][j][k] for n, j in enumerate(columns)) for k in range(len(self.budget)))

    def is_equilibrium(self, columns: list[int]) -> bool:
        """Return whether no follower gains by a safe action that the budgets allow while the others stay."""
        for n, j in enumerate(columns):
            for a in self.actions[n]:
                deviation = self.used([*columns[:n], a, *columns[n + 1 :]])
                if self.q2[n][a] > self.q2[n][j] and _within(deviation, self.budget):
                    return False
        return True

    def best_coalition(self) -> tuple[int, int] | None:
        """Return the largest sum of Q2 within the budgets and the largest sum of Q1 with it, None if nothing fits."""
        if not all(self.actions):
            return None
        pruning = self._pruning(self.q2, self.unit2, self.price2, self.actions)
        gap = max((pruning.bound - pruning.lowest) / (16 * len(self.q2)), 1 / self.unit2)
        found, target = None, pruning.bound - gap
        while True:
            found = self._search_coalition(pruning, target) or found
            if found is not None and found[0] / self.unit2 >= target:
                return found
            if found is None and target < pruning.lowest:
                return None
            gap *= 2
            target = pruning.bound - gap if found is None else max(pruning.bound - gap, found[0] / self.unit2)

    def coalition_pays_above(self, value: int) -> bool:
        """Return whether the leader gets more than `value` from this row with its best coalition."""
        if not all(self.actions):
            return False
        bound = self._pruning(self.q1, self.unit1, self.price1, self.actions).bound
        if self.own / self.unit1 + bound < value / self.unit1:
            return False
        top = self.best_coalition()
        return top is not None and self.own + top[1] > value

    def has_equilibrium_above(self, value: int) -> bool:
        """Return whether the leader gets more than `value` from this row in some equilibrium."""
        actions = [[j for j in mine if not self._always_leaves(n, j)] for n, mine in enumerate(self.actions)]
        if not all(actions):
            return False
        pruning = self._pruning(self.q1, self.unit1, self.price1, actions)
        found = self._search_equilibrium(pruning, (value - self.own) / self.unit1)
        return found is not None and self.own + found > value

    def _always_leaves(self, n: int, j: int) -> bool:
        q, cost = self.q2[n], self.cost[n]
        return any(q[a] > q[j] and _within(cost[a], cost[j]) for a in self.actions[n])

    def _pruning(self, q: list[list[int]], unit: int, price: list[float], actions: list[list[int]]) -> Pruning:

        def worth(costs: Vector) -> list[float]:
            return [lam * (c / one) for lam, c, one in zip(price, costs, self.unit_cost, strict=True)]

        reduced = [{j: q[n][j] / unit - sum(worth(self.cost[n][j])) for j in mine} for n, mine in enumerate(actions)]
        tops = [sorted(values.values(), reverse=True) for values in reduced]
        regret = [top[0] - top[1] if len(top) > 1 else math.inf for top in tops]
        order = sorted(range(len(q)), key=lambda n: -regret[n])
        ahead = [0.0]
        for n in reversed(order):
            ahead.append(ahead[-1] + tops[n][0])
        largest = [max(abs(q[n][j]) / unit for j in mine) for n, mine in enumerate(actions)]
        size = sum(largest) + sum(map(abs, worth(self.budget))) + sum(max(map(abs, top)) for top in tops)
        lowest = sum(min(q[n][j] for j in mine) for n, mine in enumerate(actions)) / unit
        return Pruning(order, reduced, ahead[::-1], sum(worth(self.budget)) + MARGIN * size, lowest)

    def _search_coalition(self, pruning: Pruning, target: float) -> tuple[int, int] | None:
        """Return the best sums of Q2 and Q1 among the profiles that may be worth `target`, None if none may."""
        least, _ = self._ranges(pruning)
        partial: dict[Vector, tuple[int, int, float]] = {(0,) * len(self.budget): (0, 0, pruning.constant)}
        deadline = time.monotonic() + TIME_LIMIT
        for place, n in enumerate(pruning.order):
            longer: dict[Vector, tuple[int, int, float]] = {}
            for cost, (v2, v1, bound) in partial.items():
                for j, gain in pruning.reduced[n].items():
                    total = _plus(cost, self.cost[n][j])
                    if bound + gain + pruning.ahead[place + 1] < target:
                        continue
                    if _within(_plus(total, least[place + 1]), self.budget):
                        sums = v2 + self.q2[n][j], v1 + self.q1[n][j], bound + gain
                        longer[total] = max(sums, longer.get(total, sums))
            partial = longer
            _check_size(partial, deadline)
        return max(((v2, v1) for v2, v1, _ in partial.values()), default=None)

    def _search_equilibrium(self, pruning: Pruning, target: float) -> int | None:
        """Return the best sum of Q1 among the equilibria that may be worth `target`, None if none may."""
        least, most = self._ranges(pruning)
        nothing: Asked = frozenset()
        partial = {((0,) * len(self.budget), nothing): (0, pruning.constant)}
        deadline = time.monotonic() + TIME_LIMIT
        for place, n in enumerate(pruning.order):
            longer: dict[tuple[Vector, Asked], tuple[int, float]] = {}
            for (cost, asked), (v1, bound) in partial.items():
                for j, gain in pruning.reduced[n].items():
                    total = _plus(cost, self.cost[n][j])
                    low = _plus(total, least[place + 1])
                    if bound + gain + pruning.ahead[place + 1] < target or not _within(low, self.budget):
                        continue
                    high = tuple(map(min, self.budget, _plus(total, most[place + 1])))
                    asks = _still_asked(asked | self._asks(n, j), low, high)
                    if asks is not None:
                        sums = v1 + self.q1[n][j], bound + gain
                        longer[total, asks] = max(sums, longer.get((total, asks), sums))
            partial = longer
            _check_size(partial, deadline)
        return max((v1 for v1, _ in partial.values()), default=None)

    def _asks(self, n: int, j: int) -> set[Vector]:
        """Return the totals to exceed so that each better action, taken instead of j, breaks some budget."""
        mine, own = self.q2[n], self.cost[n][j]
        return {
            tuple(d - c + o for d, c, o in zip(self.budget, self.cost[n][a], own, strict=True))
            for a in self.actions[n]
            if mine[a] > mine[j]
        }

    def _ranges(self, pruning: Pruning) -> tuple[list[Vector], list[Vector]]:
        """Return by place the least and the largest use of each budget by the followers from there on."""
        least = most = [(0,) * len(self.budget)]
        for n in reversed(pruning.order):
            costs = list(zip(*(self.cost[n][j] for j in pruning.reduced[n]), strict=True))
            least = [*least, _plus(least[-1], tuple(map(min, costs)))]
            most = [*most, _plus(most[-1], tuple(map(max, costs)))]
        return least[::-1], most[::-1]


def _still_asked(asked: frozenset[Vector], low: Vector, high: Vector) -> Asked | None:
    """Return what is asked of totals between `low` and `high` and not implied, None if they cannot give it."""
    open_ = [total for total in asked if _within(low, total)]
    if any(_within(high, total) for total in open_):
        return None
    return frozenset(total for total in open_ if not any(total != other and _within(total, other) for other in open_))


def _plus(first: Vector, second: Vector) -> Vector:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _within(total: Vector, limit: Vector) -> bool:
    return all(a <= b for a, b in zip(total, limit, strict=True))


def _check_size(partial: object, deadline: float) -> None:
    if len(partial) > LARGEST or time.monotonic() > deadline:  # type: ignore[arg-type]
        raise SolveError(
            f"the certificate needs more than {LARGEST} partial profiles or {TIME_LIMIT:g} s: too large to check"
        )
