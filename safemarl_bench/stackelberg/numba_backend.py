"""Enumeration as compiled code on vector registers: one pass over the four tables, no temporary ones.

The fastest backend on the CPU. Compiled at the first use by numba (seconds, then cached on disk). A row is a few
vectors, the last of them masked; what the definitions say with "if" is a mask, because branches on data cost more than
the arithmetic they save. Most states are feasible, and few keys decide those: `choose_rows` assumes it, and finds out;
what it leaves, `relax` solves with all keys. The arithmetic is that of the tables' dtype in the oracle's order, hence
its bits. NaN and infinities among the entries are noticed in the same pass.

In compiled functions, `tables` are Q1, Q2, G1, G2 of shape (S, m1, m2) and `limits` are d1 and d2, (S,) or (1,). A
`rule` is (csq10, pessimistic, weights), the first two None or True: types, so that each rule gets code of its own.
Written are `pairs` (2, S), `n_safe` (S, m1), `feasible` (S,) and `numbers` (5, S), rows `VALUE_LEADER` and so on.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from safemarl_bench.stackelberg.inputs import FALLBACKS, NO_WEIGHTS, SEMANTICS, TIES, are_plain, check_entries
from safemarl_bench.stackelberg.mip import import_extra
from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection

numba: Any = import_extra("numba", "numba", extra="kernel")

from safemarl_bench.stackelberg.lanes import (  # noqa: E402  (needs numba)
    below,
    bits,
    count,
    first,
    lane,
    larger,
    largest,
    least,
    load,
    load_some,
    select,
    splat,
    spoil,
    unordered,
    width,
)

F = TypeVar("F", bound=Callable[..., Any])

BLOCK = 16
"""States from one choice of rows to the choice of their columns, which finds the rows in the cache."""

VALUE_LEADER, VALUE_FOLLOWER, VIOLATION, BR_GAP, RUNNER_UP = range(5)
NONE, MAX_Q1 = 1, 2
_FALLBACK_NUMBERS = {"least_violation": 0, "raise": 0, "none": NONE, "max_q1": MAX_Q1}
_INT64, _BOOL = np.dtype(np.int64), np.dtype(np.bool_)


def njit(function: F) -> F:
    """Compile a function, cached on disk, without reference counts: it makes no arrays."""
    return cast(F, numba.njit(cache=True, error_model="numpy", _nrt=False)(function))


def inlined(function: F) -> F:
    """Compile a function into its callers."""
    return cast(F, numba.njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)(function))


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`.

    Raises:
        SolveError: an entry is illegal. This backend finds out by itself.
    """
    selection, legal = _solve(
        _stack(problem.q_leader),
        _stack(problem.q_follower),
        *_one_constraint(problem.leader_constraints),
        *_one_constraint(problem.follower_constraints),
        problem.semantics,
        problem.tie,
        problem.fallback,
        problem.scale,
    )
    if not legal:
        check_entries(problem)
    states = problem.q_leader.shape[:-2]
    return selection if len(states) == 1 else selection.reshape(states)


def solve_plain(
    tables: tuple[Any, Any, Any, Any], d: tuple[Any, Any], semantics: Any, tie: Any, fallback: Any, scale: Any
) -> Selection | None:
    """Solve a batch that is as plain as most are, at half of the cost of getting to the loops, or return None.

    Plain are four legal arrays (S, m1, m2) of one type, contiguous and writeable, floats as limits, and violations
    without weights; one constraint on an axis of its own counts, too. What is not, or is wrong, is left to
    `solve_states` and the checks before it.
    """
    q_leader, q_follower, g_leader, g_follower = tables
    g_leader, d_leader = _only_constraint(g_leader, d[0])
    g_follower, d_follower = _only_constraint(g_follower, d[1])
    if not (
        type(q_leader) is np.ndarray
        and type(d_leader) is type(d_follower) is float
        and d_leader == d_leader
        and d_follower == d_follower
        and semantics in SEMANTICS
        and tie in TIES
        and fallback in FALLBACKS
        and type(scale) is tuple
        and scale == NO_WEIGHTS
        and are_plain(q_leader, q_follower, g_leader, g_follower)
        and q_leader.ndim == 3
        and q_leader.flags.carray
        and q_follower.flags.carray
        and g_leader.flags.carray
        and g_follower.flags.carray
    ):
        return None
    d_leader, d_follower = _limit(d_leader, q_leader.dtype), _limit(d_follower, q_leader.dtype)
    selection, legal = _solve(
        q_leader, q_follower, g_leader, d_leader, g_follower, d_follower, semantics, tie, fallback, NO_WEIGHTS
    )
    return selection if legal else None


def _only_constraint(table: Any, limit: Any) -> tuple[Any, Any]:
    """Return ``G, d`` for (1, S, m1, m2) with (1,); anything else as it is."""
    if type(limit) is type(table) is np.ndarray and limit.shape == (1,) and table.ndim == 4 and len(table) == 1:
        return table[0], float(limit[0])
    return table, limit


def _solve(
    q_leader: np.ndarray,
    q_follower: np.ndarray,
    g_leader: np.ndarray,
    d_leader: np.ndarray,
    g_follower: np.ndarray,
    d_follower: np.ndarray,
    semantics: str,
    tie: str,
    fallback: str,
    scale: tuple[float, float],
) -> tuple[Selection, bool]:
    """Return the selection for tables (S, m1, m2) and limits (S,) or (1,), and whether all entries are legal."""
    size, m1, _ = q_leader.shape
    pairs, numbers = np.empty((2, size), _INT64), np.empty((5, size), q_leader.dtype)
    n_safe, feasible = np.empty((size, m1), _INT64), np.empty(size, _BOOL)
    rule = True if semantics == "csq10" else None, True if tie == "pessimistic" else None, scale
    legal = choose(
        q_leader,
        q_follower,
        g_leader,
        d_leader,
        g_follower,
        d_follower,
        rule,
        _FALLBACK_NUMBERS[fallback],
        pairs,
        n_safe,
        feasible,
        numbers,
    )
    values, gaps = (numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4])
    answer = (pairs[0], pairs[1], feasible, *values, n_safe, *gaps, semantics, tie, fallback, scale, "numba")
    return Selection._make(answer), legal


def _stack(table: np.ndarray) -> np.ndarray:
    """Return (S, m1, m2) for (..., m1, m2), always of one type, for which the loops are compiled once."""
    stack = np.ascontiguousarray(table).reshape(-1, *table.shape[-2:])
    return stack if stack.flags.carray else stack.copy()


def _one_constraint(constraints: tuple[Constraint, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return costs and limits whose excess is an agent's violation: several constraints become that, and 0."""
    table, limit = constraints[0]
    if len(constraints) == 1:
        return _stack(table), _limit(limit, table.dtype) if type(limit) is float else _limits(limit, table)
    total = np.zeros_like(_stack(table))
    for table, limit in constraints:
        add_excess(_stack(table), _limits(limit, table), total)
    return total, _limit(0.0, table.dtype)


def _limits(limit: Any, table: np.ndarray) -> np.ndarray:
    return np.array(limit, table.dtype).reshape(-1)


@functools.lru_cache
def _limit(limit: float, dtype: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.array([limit], dtype)


@njit
def add_excess(g: Any, d: Any, total: Any) -> None:
    """Add ``max(0, g - d)`` to `total`, 0 also where both are infinite."""
    for s in range(len(g)):
        limit = d[s if len(d) > 1 else 0]
        for i in range(g.shape[1]):
            for j in range(g.shape[2]):
                total[s, i, j] += g.dtype.type(0) if g[s, i, j] <= limit else g[s, i, j] - limit


@njit
def choose(
    q1: Any,
    q2: Any,
    g1: Any,
    d1: Any,
    g2: Any,
    d2: Any,
    rule: Any,
    fallback: int,
    pairs: Any,
    n_safe: Any,
    feasible: Any,
    numbers: Any,
) -> bool:
    """Choose a pair in every state, and return whether all entries are legal; if not, the answer means nothing."""
    tables, limits, legal = (q1, q2, g1, g2), (d1, d2), True
    for begin in range(0, len(feasible), BLOCK):
        end = min(begin + BLOCK, len(feasible))
        legal &= choose_rows(tables, limits, rule, begin, end, pairs, n_safe, feasible, numbers)
        settle(tables, limits, rule, begin, end, pairs, feasible, numbers)
        for s in range(begin, end):
            if not feasible[s]:
                relax(tables, limits, rule, s, pairs, numbers)
                if fallback:
                    fall_back(tables, limits, rule, fallback, s, pairs, numbers)
    return legal


@inlined
def limit_of(limits: Any, s: int) -> Any:
    """Return the limits of a state, as vectors."""
    d1, d2 = limits
    return splat(d1, d1[s if len(d1) > 1 else 0]), splat(d2, d2[s if len(d2) > 1 else 0])


@inlined
def wish(value: Any, pessimistic: Any) -> Any:
    """Return what an indifferent follower maximises, from a number or vector that the leader wants large, or back."""
    return value if pessimistic is None else -value


@inlined
def offer(y: Any, v: Any, c1: Any, c2: Any, limit1: Any, limit2: Any, csq10: Any, low: Any, unfit: Any) -> Any:
    """Return keys of some cells for follower and leader, and the mask of the safe ones.

    The reply to a row has the largest key of the follower, -inf where it may not go; among those, the largest key of
    the leader, `unfit` where the reply breaks the leader's limit.
    """
    holds = c2 <= limit2
    safe = (c1 <= limit1) & holds
    if csq10 is None:
        return select(safe, v, low), y, safe
    return select(holds, v, low), select(safe, y, unfit), safe


@njit
def choose_rows(
    tables: Any,
    limits: Any,
    rule: Any,
    begin: int,
    end: int,
    pairs: Any,
    n_safe: Any,
    feasible: Any,
    numbers: Any,
) -> bool:
    """Find the leader's row and its value in the states from `begin` to `end`, or that none of their rows is feasible.

    Returns:
        Whether all their entries are legal.
    """
    (q1, q2, g1, g2), (csq10, pessimistic, _) = tables, rule
    _, m1, m2 = q1.shape
    nothing, low, lowest = q1.dtype.type(-np.inf), splat(q1, -np.inf), splat(q1, np.finfo(q1.dtype).min)
    unfit, illegal, step = wish(low, pessimistic), low < low, width(q1)
    tail = (m2 - 1) // step * step
    cells = below(q1, m2 - tail)
    for s in range(begin, end):
        limit1, limit2 = limit_of(limits, s)
        row, best, reply, others = 0, nothing, nothing, nothing
        for i in range(m1):
            start = (s * m1 + i) * m2
            at = start + tail
            y, v = load_some(q1, at, cells), load_some(q2, at, cells)
            c1, c2 = load_some(g1, at, cells), load_some(g2, at, cells)
            illegal = illegal | unordered(spoil(c1, y), spoil(c2, v))
            v, y, safe = offer(wish(y, pessimistic), v, c1, c2, limit1, limit2, csq10, low, unfit)
            v, n = select(cells, v, low), count(bits(safe & cells))
            for at in range(start, start + tail, step):
                y_, v_, c1, c2 = load(q1, at), load(q2, at), load(g1, at), load(g2, at)
                illegal = illegal | unordered(spoil(c1, y_), spoil(c2, v_))
                v_, y_, safe = offer(wish(y_, pessimistic), v_, c1, c2, limit1, limit2, csq10, low, unfit)
                n += count(bits(safe))
                y = select(v_ > v, y_, select(v_ == v, larger(y, y_), y))
                v = larger(v, v_)
            top = larger(largest(v), lowest)  # which no cell has where there is no reply
            value = wish(lane(largest(select(v == top, y, low))), pessimistic)
            if pessimistic is not None:
                value = value if value < np.inf else nothing
            n_safe[s, i] = n
            others = max(others, min(value, best))
            row, reply, best = (i, lane(top), value) if value > best else (row, reply, best)
        pairs[0, s], feasible[s] = row, best > nothing
        numbers[VALUE_LEADER, s], numbers[VALUE_FOLLOWER, s], numbers[RUNNER_UP, s] = best, reply, best - others
    return bits(illegal) == 0


@inlined
def excess(cost: Any, limit: Any, weight: Any, floor: Any, zero: Any) -> Any:
    """Return ``weight * max(0, cost - limit)``, at least `floor` where the limit is broken, else exactly 0."""
    return select(cost <= limit, zero, larger((cost - limit) * weight, floor))


@inlined
def keys_of(tables: Any, limit1: Any, limit2: Any, rule: Any, at: int, cells: Any) -> Any:
    """Return the four keys of some cells of a row: a follower minimises, maximises, minimises and maximises them."""
    (q1, q2, g1, g2), (csq10, pessimistic, (weight1, weight2)) = tables, rule
    zero, tiny = splat(q1, 0.0), np.finfo(q1.dtype).tiny
    # A product may underflow: a violation stays positive.
    floor1, floor2 = splat(q1, 0.0 if weight1 == 1.0 else tiny), splat(q1, 0.0 if weight2 == 1.0 else tiny)
    over1 = excess(load_some(g1, at, cells), limit1, splat(q1, weight1), floor1, zero)
    over2 = excess(load_some(g2, at, cells), limit2, splat(q1, weight2), floor2, zero)
    y, v = wish(load_some(q1, at, cells), pessimistic), load_some(q2, at, cells)
    if csq10 is None:
        return over1 + over2, v, zero, y
    return over2, v, wish(over1, pessimistic), y


@inlined
def find(tables: Any, limits: Any, rule: Any, s: int, row: int, keys: Any) -> Any:
    """Return the first column of a row that has these keys, and the next best Q2 at equal violation (-inf: none)."""
    q1 = tables[0]
    _, m1, m2 = q1.shape
    over, reply, third, value = keys
    limit1, limit2 = limit_of(limits, s)
    step, start, column, tops, second = width(q1), (s * m1 + row) * m2, 0, 0, splat(q1, -np.inf)
    for offset in range((m2 - 1) // step * step, -1, -step):
        cells = below(q1, m2 - offset)
        o, v, t, y = keys_of(tables, limit1, limit2, rule, start + offset, cells)
        equal = (o == splat(q1, over)) & cells
        top = (v == splat(q1, reply)) & equal
        tops += count(bits(top))
        second = larger(second, select(equal & (v < splat(q1, reply)), v, second))
        hits = bits(top & (t == splat(q1, third)) & (y == splat(q1, value)))
        column = offset + first(hits) if hits else column
    return column, reply if tops > 1 else lane(largest(second))


@inlined
def write(tables: Any, s: int, row: int, column: int, others: Any, pairs: Any, numbers: Any) -> None:
    """Write the pair of a state, its values as they stand in the tables, and br_gap."""
    pairs[0, s], pairs[1, s] = row, column
    numbers[VALUE_LEADER, s], numbers[VALUE_FOLLOWER, s] = tables[0][s, row, column], tables[1][s, row, column]
    numbers[BR_GAP, s] = tables[1][s, row, column] - others


@njit
def settle(tables: Any, limits: Any, rule: Any, begin: int, end: int, pairs: Any, feasible: Any, numbers: Any) -> None:
    """Find the columns of the feasible states from `begin` to `end`, whose rows and values are known."""
    zero = tables[0].dtype.type(0)
    for s in range(begin, end):
        if feasible[s]:
            row, value = pairs[0, s], wish(numbers[VALUE_LEADER, s], rule[1])
            keys = zero, numbers[VALUE_FOLLOWER, s], zero, value
            column, others = find(tables, limits, rule, s, row, keys)
            write(tables, s, row, column, others, pairs, numbers)
            numbers[VIOLATION, s] = zero


@inlined
def reply_to(tables: Any, limits: Any, rule: Any, s: int, row: int) -> Any:
    """Return the keys of the follower's reply to a row."""
    q1, step = tables[0], width(tables[0])
    _, m1, m2 = q1.shape
    low, high = splat(q1, -np.inf), splat(q1, np.inf)
    limit1, limit2 = limit_of(limits, s)
    over, v, third, y = high, low, high, low  # worse than any cell, whose Q2 is finite
    for offset in range(0, m2, step):
        cells = below(q1, m2 - offset)
        o, w, t, z = keys_of(tables, limit1, limit2, rule, (s * m1 + row) * m2 + offset, cells)
        tied = (w > v) | ((w == v) & ((t < third) | ((t == third) & (z > y))))
        better = cells & ((o < over) | ((o == over) & tied))
        over, v = select(better, o, over), select(better, w, v)
        third, y = select(better, t, third), select(better, z, y)
    least_over = least(over)
    v = select(over == least_over, v, low)
    reply = largest(v)
    kept = v == reply
    least_third = least(select(kept, third, high))
    value = largest(select(kept & (third == least_third), y, low))
    return lane(least_over), lane(reply), lane(least_third), lane(value)


@njit
def relax(tables: Any, limits: Any, rule: Any, s: int, pairs: Any, numbers: Any) -> None:
    """Solve an infeasible state: the pair of least violation."""
    csq10, pessimistic, _ = rule
    nothing = tables[0].dtype.type(-np.inf)
    row, least_over, best, others = pairs[0, s], nothing, nothing, nothing
    keys = nothing, nothing, nothing, nothing
    for i in range(tables[0].shape[1]):
        found = reply_to(tables, limits, rule, s, i)
        over, value = found[0], wish(found[3], pessimistic)
        if csq10 is not None:
            over += wish(found[2], pessimistic)
        if i > 0 and over > least_over:
            continue
        if i > 0 and over == least_over:
            others = max(others, min(value, best))
            if value <= best:
                continue
        else:
            others = nothing
        row, least_over, best, keys = i, over, value, found
    column, others_in_row = find(tables, limits, rule, s, row, keys)
    write(tables, s, row, column, others_in_row, pairs, numbers)
    numbers[VIOLATION, s], numbers[RUNNER_UP, s] = least_over, best - others


@njit
def fall_back(tables: Any, limits: Any, rule: Any, fallback: int, s: int, pairs: Any, numbers: Any) -> None:
    """Replace the pair of an infeasible state by none, or by that of the largest Q1."""
    q1, (csq10, pessimistic, _) = tables[0], rule
    if fallback == NONE:
        pairs[0, s] = pairs[1, s] = -1
        numbers[VALUE_LEADER, s] = numbers[VALUE_FOLLOWER, s] = np.nan
    else:
        _, m1, m2 = q1.shape
        row = column = 0
        for i in range(m1):
            for j in range(m2):
                row, column = (i, j) if q1[s, i, j] > q1[s, row, column] else (row, column)
        write(tables, s, row, column, q1[s, row, column], pairs, numbers)
        (limit1, limit2), cell = limit_of(limits, s), below(q1, 1)
        over, _, third, _ = keys_of(tables, limit1, limit2, rule, (s * m1 + row) * m2 + column, cell)
        total = over if csq10 is None else over + wish(third, pessimistic)
        numbers[VIOLATION, s] = lane(largest(select(cell, total, splat(q1, -np.inf))))
    numbers[BR_GAP, s] = numbers[RUNNER_UP, s] = np.nan
