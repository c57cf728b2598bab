"""Random problems of every kind, and the definitions as plain loops over fractions: the oracle of this folder."""

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest

KINDS = ("normal", "tied integers", "zero budgets", "tight", "infeasible", "fractional costs", "negative costs")
INTEGER_KINDS = tuple(kind for kind in KINDS if kind != "fractional costs")


@dataclasses.dataclass(frozen=True)
class Case:
    """The arguments of `solve_multi`: four positional, two by name."""

    tables: tuple
    options: dict

    @property
    def shape(self):
        return self.tables[0].shape


def make_case(kind, rng, budgets, followers, *, rows=3, actions=None):
    """Draw a problem of K budgets (0: none at all) and N followers with up to 4 actions."""
    m = int(rng.integers(1, 5)) if actions is None else actions
    shape = followers, rows, m
    q1, q2 = rng.normal(size=(2, *shape))
    q0 = rng.normal(size=rows)
    if kind == "tied integers":
        q1, q2, q0 = (rng.integers(-1, 2, size=table.shape).astype(np.float32) for table in (q1, q2, q0))
    cost = rng.integers(0, 6, size=(budgets, *shape)).astype(float)
    limit = np.full(budgets, float(2 * followers))
    if kind == "zero budgets":
        cost, limit = cost * (rng.random(cost.shape) < 0.5), np.zeros(budgets)
    elif kind == "tight":
        limit = np.full(budgets, float(rng.integers(0, followers + 1)))
    elif kind == "infeasible":
        cost, limit = cost + 1, np.full(budgets, followers - 0.5)
    elif kind == "fractional costs":
        cost, limit = cost + 0.3 * rng.normal(size=cost.shape), limit + 0.1
    elif kind == "negative costs":
        cost, limit = cost - 3, np.full(budgets, -float(rng.integers(0, followers + 1)))
    safe = rng.random(shape) < rng.choice([0.7, 0.9, 1.0])
    options = {"Q0": q0 if rng.random() < 0.7 else None, "safe": safe if rng.random() < 0.8 else None}
    if budgets == 0:
        return Case((q1, q2, None, None), options)
    one = budgets == 1 and rng.random() < 0.5
    return Case((q1, q2, cost[0], float(limit[0])) if one else (q1, q2, cost, limit), options)


def best_by_definition(case, model):
    """Return (leader's value, lowest row, lexicographically lowest profile), None if infeasible; all exact."""
    q1, q2, cost, limit = case.tables
    followers, rows, m = case.shape
    q0, safe = case.options["Q0"], case.options["safe"]
    budgets = [] if cost is None else list(np.atleast_1d(limit))
    tables = [] if cost is None else list(cost.reshape(-1, *case.shape))
    exact = np.vectorize(Fraction, otypes=[object])
    q1, q2, tables = exact(q1.astype(float)), exact(q2.astype(float)), [exact(table) for table in tables]

    def fits(i, profile):
        return all(
            sum(table[n, i, j] for n, j in enumerate(profile)) <= budget
            for table, budget in zip(tables, budgets, strict=True)
        )

    def may(n, i, j):
        return safe is None or safe[n, i, j]

    def is_equilibrium(i, profile):
        return not any(
            may(n, i, a) and q2[n, i, a] > q2[n, i, j] and fits(i, (*profile[:n], a, *profile[n + 1 :]))
            for n, j in enumerate(profile)
            for a in range(m)
        )

    best = None
    for i in range(rows):
        choices = [[j for j in range(m) if may(n, i, j)] for n in range(followers)]
        profiles = [profile for profile in itertools.product(*choices) if fits(i, profile)]
        if model == "coalition":
            totals = [sum(q2[n, i, j] for n, j in enumerate(profile)) for profile in profiles]
            played = [profile for profile, total in zip(profiles, totals, strict=True) if total == max(totals)]
        else:
            played = [profile for profile in profiles if is_equilibrium(i, profile)]
        for profile in played:
            value = sum(q1[n, i, j] for n, j in enumerate(profile)) + (0 if q0 is None else Fraction(float(q0[i])))
            if best is None or value > best[0]:
                best = value, i, profile
    return best


@pytest.fixture
def draw():
    return make_case


@pytest.fixture
def definition():
    return best_by_definition


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=INTEGER_KINDS)
def integer_kind(request):
    return request.param


@pytest.fixture(params=["coalition", "gne"])
def model(request):
    return request.param
