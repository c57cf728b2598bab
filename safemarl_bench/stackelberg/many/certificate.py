"""The certificate of a selection for many followers, in exact arithmetic of the tables as they were given.

It shares the input checks with the methods, and the multipliers, which are only hints; see `exact_row`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.many.exact_row import ExactRow
from safemarl_bench.stackelberg.many.lagrangian import relax
from safemarl_bench.stackelberg.many.problem import MultiProblem, read_multi
from safemarl_bench.stackelberg.many.selection import MultiSelection


class MultiCertificate(NamedTuple):
    """What holds of a selection; each claim covers its numbers.

    Attributes:
        in_range: actions are rows and columns of the tables, or all -1 if claimed infeasible.
        safe: every follower's action is safe.
        within_budget: `used` is the profile's and no budget is exceeded. If claimed infeasible: no profile is safe and
            within the budgets.
        followers_best: `value_followers` are the profile's, and no coalition has a larger sum at this row, or no
            follower gains by a safe action that the budgets allow.
        leader_best: `value_leader` is the profile's, and no row with its best coalition or equilibrium pays more.
    """

    in_range: bool
    safe: bool
    within_budget: bool
    followers_best: bool
    leader_best: bool


def verify_multi(
    Q1: Any, Q2: Any, C: Any, d: Any, selection: MultiSelection, *, Q0: Any = None, safe: Any = None
) -> MultiCertificate:
    """Check a selection against the definitions. Any of several equally good profiles passes.

    Args:
        Q1, Q2, C, d, Q0, safe: as in `solve_multi`.
        selection: what `solve_multi` returned; it says which model it answers to.

    Raises:
        SolveError: invalid tables, a selection for another number of followers, or a search that grows too large.
    """
    problem = read_multi(Q1, Q2, C, d, Q0, safe, selection.model)
    m1, followers, m = problem.q_leader.shape
    if selection.followers.shape != (followers,):
        raise SolveError(f"the tables hold {followers} followers, the selection has {selection.followers.shape}")
    rows = exact_rows(problem, Q1, C, d, Q0)
    if not selection.feasible:
        return _verify_infeasible(rows, selection)
    i, columns = selection.leader, selection.followers.tolist()
    if not (0 <= i < m1 and all(0 <= j < m for j in columns)):
        return MultiCertificate(False, False, False, False, False)
    if not all(problem.safe[i, n, j] for n, j in enumerate(columns)):
        return MultiCertificate(True, False, False, False, False)
    row = rows[i]
    within, told_followers, told_leader = _numbers_hold(problem, row, selection)
    value = row.own + sum(row.q1[n][j] for n, j in enumerate(columns))
    if selection.model == "gne":
        best = within and row.is_equilibrium(columns)
        leader_best = not any(other.has_equilibrium_above(value) for other in rows)
    else:
        top = row.best_coalition()
        best = top is not None and top[0] == sum(row.q2[n][j] for n, j in enumerate(columns))
        leader_best = top is not None and row.own + top[1] <= value
        leader_best &= not any(other.coalition_pays_above(value) for other in rows if other is not row)
    return MultiCertificate(True, True, within, told_followers and best, told_leader and leader_best)


def exact_rows(problem: MultiProblem, Q1: Any, C: Any, d: Any, Q0: Any) -> list[ExactRow]:
    """Return the rows in exact arithmetic of the tables, with the multipliers of the relaxations as hints."""
    _, followers, m = problem.q_leader.shape
    own = np.zeros(len(problem.q_own)) if Q0 is None else Q0
    (q1, own_units), unit1 = _integers(Q1.swapaxes(0, 1), own)
    (q2,), unit2 = _integers(problem.q_follower)
    budgets = [] if C is None else list(C[None] if C.ndim == 3 else C)
    limits = np.asarray([] if d is None else d, float).reshape(-1).tolist()
    costs, units = [], []
    for table in budgets:
        (cost,), unit = _integers(table.swapaxes(0, 1))
        costs.append(cost)
        units.append(unit)
    prices = [
        _price(relax(problem, payoff, problem.safe).multipliers, exponent - problem.cost_exponent)
        for payoff, exponent in (
            (problem.q_leader, problem.leader_exponent),
            (problem.q_coalition, problem.coalition_exponent),
        )
    ]
    rows = []
    for i, safe in enumerate(problem.safe):
        actions = [np.flatnonzero(mine).tolist() for mine in safe]
        vectors = [[tuple(cost[i][n][j] for cost in costs) for j in range(m)] for n in range(followers)]
        budget = [_limit(cost[i], actions, limit, unit) for cost, limit, unit in zip(costs, limits, units, strict=True)]
        hints = (price[i].tolist() for price in prices)
        rows.append(
            ExactRow(own_units[i], q1[i], q2[i], vectors, tuple(budget), actions, unit1, unit2, tuple(units), *hints)
        )
    return rows


def _price(multipliers: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Return multipliers of the tables' numbers for those of units; any number will do where one would overflow."""
    with np.errstate(over="ignore"):
        return np.asarray(np.minimum(np.ldexp(multipliers, exponents), 1e300))


def _limit(cost: list[list[int]], actions: list[list[int]], limit: float, unit: int) -> int:
    """Return a budget in units of cost; one that is never reached, or never kept, as the nearest number like it."""
    choices = [[cost[n][j] for j in mine] for n, mine in enumerate(actions) if mine]
    least, most = sum(map(min, choices)), sum(map(max, choices))
    if math.isinf(limit):
        return most if limit > 0 else least - 1
    return min(most, math.floor(Fraction(limit) * unit))


def _integers(*tables: np.ndarray) -> tuple[list[Any], int]:
    """Return tables as nested lists of integers, in units of one over the common denominator, which comes second."""
    fractions = [[Fraction(number) for number in table.ravel().tolist()] for table in tables]
    unit = math.lcm(*{number.denominator for numbers in fractions for number in numbers})
    nested = []
    for table, numbers in zip(tables, fractions, strict=True):
        integers = np.empty(len(numbers), object)
        integers[:] = [int(number * unit) for number in numbers]
        nested.append(integers.reshape(table.shape).tolist())
    return nested, unit


def _numbers_hold(problem: MultiProblem, row: ExactRow, selection: MultiSelection) -> tuple[bool, bool, bool]:
    """Return whether the profile is within the budgets and `used` its use, and the followers' and leader's values."""
    i, columns = selection.leader, selection.followers.tolist()
    used = row.used(columns)
    within = selection.used.shape == (len(used),) and all(a <= b for a, b in zip(used, row.budget, strict=True))
    within &= all(
        _close(told, total / unit, len(columns), exponent)
        for told, total, unit, exponent in zip(
            selection.used.tolist(), used, row.unit_cost, problem.cost_exponent.tolist(), strict=within
        )
    )
    followers = selection.value_followers.tolist() == [problem.q_follower[i, n, j] for n, j in enumerate(columns)]
    value = row.own + sum(row.q1[n][j] for n, j in enumerate(columns))
    leader = _close(selection.value_leader, value / row.unit1, len(columns) + 1, problem.leader_exponent)
    return within, followers, leader


def _verify_infeasible(rows: list[ExactRow], selection: MultiSelection) -> MultiCertificate:
    nothing = selection.leader == -1 and bool((selection.followers == -1).all())
    used, followers = (bool(np.isnan(value).all()) for value in (selection.used, selection.value_followers))
    infeasible = all(row.best_coalition() is None for row in rows)
    return MultiCertificate(nothing, True, infeasible and used, followers, math.isnan(selection.value_leader))


def _close(told: float, true: float, terms: int, exponent: int) -> bool:
    """Return whether a sum of so many terms is right, but for the rounding of non-integers to units."""
    return math.isclose(told, true, rel_tol=1e-15, abs_tol=math.ldexp(terms, exponent) if exponent else 0.0)
