"""Enumeration as compiled code on vector registers: one pass over the four tables, no temporary ones.

The fastest backend on the CPU. Compiled at the first use by numba (seconds, then cached on disk). A row is a few
vectors, the last of them masked; what the definitions say with "if" is a mask, because branches on data cost more than
the arithmetic they save. Most states are feasible, and few keys decide those: `choose_rows` assumes it, and finds out;
what it leaves, `relax` solves with all keys. The arithmetic is that of the tables' dtype in the oracle's order, hence
its bits. NaN and infinities among the entries are noticed in the same pass.

In compiled functions, `tables` are Q1, Q2, G1, G2 of S states, flat; `limits` are d1 and d2, (S,) or (1,); `shape` is
(m1, m2). A `rule` is (csq10, favour, weights): None for MIP (13) or True for CSQ, two types, so that each gets code of
its own; 1 where an indifferent follower helps the leader, -1 where it harms it; the scales of the violations. Written
are `pairs` (2, S), `n_safe` (S, m1), `feasible` (S,) and `numbers` (5, S): the rows `VALUE_LEADER` and so on.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from safemarl_bench.stackelberg.inputs import check_entries
from safemarl_bench.stackelberg.mip import import_extra
from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection

numba: Any = import_extra("numba", "numba", extra="kernel")

from safemarl_bench.stackelberg.lanes import (  # noqa: E402  (needs numba)
    WIDTH,
    below,
    bits,
    count,
    first,
    larger,
    largest,
    least,
    load,
    load_some,
    select,
    splat,
    spoil,
    unordered,
)

F = TypeVar("F", bound=Callable[..., Any])

BLOCK = 16
"""States from one choice of rows to the choice of their columns, which finds the rows in the cache."""

VALUE_LEADER, VALUE_FOLLOWER, VIOLATION, BR_GAP, RUNNER_UP = range(5)
NONE, MAX_Q1 = 1, 2
"""Fallbacks in compiled code, where 0 is the least violation."""


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
    shape, dtype = problem.q_leader.shape, problem.q_leader.dtype
    states, m1, m2 = shape[:-2], shape[-2], shape[-1]
    size = math.prod(states)
    pairs, numbers = np.empty((2, size), np.int64), np.empty((5, size), dtype)
    n_safe, feasible = np.empty((size, m1), np.int64), np.empty(size, np.bool_)
    g_leader, d_leader = _one_constraint(problem.leader_constraints)
    g_follower, d_follower = _one_constraint(problem.follower_constraints)
    legal = choose(
        _flat(problem.q_leader),
        _flat(problem.q_follower),
        g_leader,
        g_follower,
        d_leader,
        d_follower,
        (m1, m2),
        (None if problem.semantics == "mip13" else True, 1.0 if problem.tie == "optimistic" else -1.0, problem.scale),
        {"none": NONE, "max_q1": MAX_Q1}.get(problem.fallback, 0),
        pairs,
        n_safe,
        feasible,
        numbers,
    )
    if not legal:
        check_entries(problem)
    if len(states) != 1:
        pairs, numbers = pairs.reshape(2, *states), numbers.reshape(5, *states)
        n_safe, feasible = n_safe.reshape(*states, m1), feasible.reshape(states)
    return Selection(
        pairs[0],
        pairs[1],
        feasible,
        numbers[0],
        numbers[1],
        numbers[2],
        n_safe,
        numbers[3],
        numbers[4],
        problem.semantics,
        problem.tie,
        problem.fallback,
        problem.scale,
        "numba",
    )


def _flat(table: np.ndarray) -> np.ndarray:
    """Return all entries, always of one type, for which the loops are compiled once."""
    flat = table.reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


@functools.lru_cache
def _limit(limit: float, dtype: Any) -> np.ndarray:
    return np.array([limit], dtype)


def _one_constraint(constraints: tuple[Constraint, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return flat costs and limits whose excess is an agent's violation: several constraints become that, and 0."""
    table, limit = constraints[0]
    if len(constraints) == 1:
        flat_limit = _limit(limit, table.dtype) if type(limit) is float else np.array(limit, table.dtype).reshape(-1)
        return _flat(table), flat_limit
    total = np.zeros(table.size, table.dtype)
    for table, limit in constraints:
        add_excess(_flat(table), np.array(limit, table.dtype).reshape(-1), math.prod(table.shape[-2:]), total)
    return total, _limit(0.0, table.dtype)


@njit
def add_excess(g: Any, d: Any, cells: int, total: Any) -> None:
    """Add ``max(0, g - d)`` to `total`, 0 also where both are infinite; `cells` is m1 * m2."""
    for s in range(len(g) // cells):
        limit = d[s if len(d) > 1 else 0]
        for c in range(s * cells, (s + 1) * cells):
            total[c] += g.dtype.type(0) if g[c] <= limit else g[c] - limit


@njit
def choose(
    q1: Any,
    q2: Any,
    g1: Any,
    g2: Any,
    d1: Any,
    d2: Any,
    shape: Any,
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
        legal &= choose_rows(tables, limits, shape, rule, begin, end, pairs, n_safe, feasible, numbers)
        for s in range(begin, end):
            if feasible[s]:
                settle(tables, limits, shape, rule, s, pairs, numbers)
            else:
                relax(tables, limits, shape, rule, s, pairs, numbers)
                if fallback:
                    fall_back(tables, limits, shape, rule, fallback, s, pairs, numbers)
    return legal


@inlined
def limit_of(limits: Any, s: int) -> Any:
    """Return the limits of a state, as vectors."""
    d1, d2 = limits
    return splat(d1, d1[s if len(d1) > 1 else 0]), splat(d2, d2[s if len(d2) > 1 else 0])


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
    shape: Any,
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
    (q1, q2, g1, g2), (m1, m2), (csq10, favour, _) = tables, shape, rule
    number, step = q1.dtype.type, WIDTH // q1.itemsize
    nothing, low, unfit = number(-np.inf), splat(q1, -np.inf), splat(q1, -favour * np.inf)
    helps, spoilt = splat(q1, favour), splat(q1, 0.0)
    nan = unordered(spoilt, spoilt)
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
            spoilt, nan = spoil(spoil(spoilt, y), v), nan | unordered(c1, c2)
            v, y, safe = offer(helps * y, v, c1, c2, limit1, limit2, csq10, low, unfit)
            v, n = select(cells, v, low), count(bits(safe & cells))
            for at in range(start, start + tail, step):
                y_, v_, c1, c2 = load(q1, at), load(q2, at), load(g1, at), load(g2, at)
                spoilt, nan = spoil(spoil(spoilt, y_), v_), nan | unordered(c1, c2)
                v_, y_, safe = offer(helps * y_, v_, c1, c2, limit1, limit2, csq10, low, unfit)
                n += count(bits(safe))
                y = select(v_ > v, y_, select(v_ == v, larger(y, y_), y))
                v = larger(v, v_)
            top = largest(v)
            value = number(favour) * largest(select(v == splat(q1, top), y, low))
            value = value if top > nothing else nothing
            n_safe[s, i] = n
            others = max(others, min(value, best))
            row, reply, best = (i, top, value) if value > best else (row, reply, best)
        pairs[0, s], feasible[s] = row, best > nothing
        numbers[VALUE_LEADER, s], numbers[VALUE_FOLLOWER, s], numbers[RUNNER_UP, s] = best, reply, best - others
    return bits(nan | unordered(spoilt, spoilt)) == 0


@inlined
def excess(cost: Any, limit: Any, weight: Any, floor: Any, zero: Any) -> Any:
    """Return ``weight * max(0, cost - limit)``, at least `floor` where the limit is broken, else exactly 0."""
    return select(cost <= limit, zero, larger((cost - limit) * weight, floor))


@inlined
def keys_of(tables: Any, limit1: Any, limit2: Any, rule: Any, at: int, cells: Any) -> Any:
    """Return the four keys of some cells of a row: a follower minimises, maximises, minimises and maximises them."""
    (q1, q2, g1, g2), (csq10, favour, (weight1, weight2)) = tables, rule
    zero, helps, tiny = splat(q1, 0.0), splat(q1, favour), np.finfo(q1.dtype).tiny
    # A product may underflow: a violation stays positive.
    floor1, floor2 = splat(q1, 0.0 if weight1 == 1.0 else tiny), splat(q1, 0.0 if weight2 == 1.0 else tiny)
    over1 = excess(load_some(g1, at, cells), limit1, splat(q1, weight1), floor1, zero)
    over2 = excess(load_some(g2, at, cells), limit2, splat(q1, weight2), floor2, zero)
    y, v = helps * load_some(q1, at, cells), load_some(q2, at, cells)
    if csq10 is None:
        return over1 + over2, v, zero, y
    return over2, v, helps * over1, y


@inlined
def find(tables: Any, limits: Any, shape: Any, rule: Any, s: int, row: int, keys: Any) -> Any:
    """Return the first column of a row that has these keys, and the next best Q2 at equal violation (-inf: none)."""
    q1, m2 = tables[0], shape[1]
    over, reply, third, value = keys
    limit1, limit2 = limit_of(limits, s)
    step, start, column, tops, second = WIDTH // q1.itemsize, (s * shape[0] + row) * m2, 0, 0, splat(q1, -np.inf)
    for offset in range((m2 - 1) // step * step, -1, -step):
        cells = below(q1, m2 - offset)
        o, v, t, y = keys_of(tables, limit1, limit2, rule, start + offset, cells)
        equal = (o == splat(q1, over)) & cells
        top = (v == splat(q1, reply)) & equal
        tops += count(bits(top))
        second = larger(second, select(equal & (v < splat(q1, reply)), v, second))
        hits = bits(top & (t == splat(q1, third)) & (y == splat(q1, value)))
        column = offset + first(hits) if hits else column
    return column, reply if tops > 1 else largest(second)


@inlined
def write(tables: Any, shape: Any, s: int, row: int, column: int, others: Any, pairs: Any, numbers: Any) -> None:
    """Write the pair of a state, its values as they stand in the tables, and br_gap."""
    at = (s * shape[0] + row) * shape[1] + column
    pairs[0, s], pairs[1, s] = row, column
    numbers[VALUE_LEADER, s], numbers[VALUE_FOLLOWER, s] = tables[0][at], tables[1][at]
    numbers[BR_GAP, s] = tables[1][at] - others


@njit
def settle(tables: Any, limits: Any, shape: Any, rule: Any, s: int, pairs: Any, numbers: Any) -> None:
    """Find the column of a feasible state whose row and values are known."""
    zero, row = tables[0].dtype.type(0), pairs[0, s]
    keys = zero, numbers[VALUE_FOLLOWER, s], zero, numbers[VALUE_LEADER, s] * tables[0].dtype.type(rule[1])
    column, others = find(tables, limits, shape, rule, s, row, keys)
    write(tables, shape, s, row, column, others, pairs, numbers)
    numbers[VIOLATION, s] = zero


@inlined
def reply_to(tables: Any, limits: Any, shape: Any, rule: Any, s: int, row: int) -> Any:
    """Return the keys of the follower's reply to a row."""
    q1, m2, step = tables[0], shape[1], WIDTH // tables[0].itemsize
    low, high = splat(q1, -np.inf), splat(q1, np.inf)
    limit1, limit2 = limit_of(limits, s)
    over, v, third, y = high, low, high, low  # worse than any cell, whose Q2 is finite
    for offset in range(0, m2, step):
        cells = below(q1, m2 - offset)
        o, w, t, z = keys_of(tables, limit1, limit2, rule, (s * shape[0] + row) * m2 + offset, cells)
        tied = (w > v) | ((w == v) & ((t < third) | ((t == third) & (z > y))))
        better = cells & ((o < over) | ((o == over) & tied))
        over, v, third, y = (
            select(better, o, over),
            select(better, w, v),
            select(better, t, third),
            select(better, z, y),
        )
    least_over = least(over)
    v = select(over == splat(q1, least_over), v, low)
    reply = largest(v)
    kept = v == splat(q1, reply)
    least_third = least(select(kept, third, high))
    return least_over, reply, least_third, largest(select(kept & (third == splat(q1, least_third)), y, low))


@njit
def relax(tables: Any, limits: Any, shape: Any, rule: Any, s: int, pairs: Any, numbers: Any) -> None:
    """Solve an infeasible state: the pair of least violation."""
    number = tables[0].dtype.type
    csq10, favour, _ = rule
    nothing = number(-np.inf)
    row, least_over, best, others = -1, nothing, nothing, nothing
    keys = nothing, nothing, nothing, nothing
    for i in range(shape[0]):
        found = reply_to(tables, limits, shape, rule, s, i)
        over, value = found[0], number(favour) * found[3]
        if csq10 is not None:
            over += number(favour) * found[2]
        if row >= 0 and over > least_over:
            continue
        if row >= 0 and over == least_over:
            others = max(others, min(value, best))
            if value <= best:
                continue
        else:
            others = nothing
        row, least_over, best, keys = i, over, value, found
    column, others_in_row = find(tables, limits, shape, rule, s, row, keys)
    write(tables, shape, s, row, column, others_in_row, pairs, numbers)
    numbers[VIOLATION, s], numbers[RUNNER_UP, s] = least_over, best - others


@njit
def fall_back(tables: Any, limits: Any, shape: Any, rule: Any, fallback: int, s: int, pairs: Any, numbers: Any) -> None:
    """Replace the pair of an infeasible state by none, or by that of the largest Q1."""
    q1, (m1, m2), (csq10, favour, _) = tables[0], shape, rule
    if fallback == NONE:
        pairs[0, s] = pairs[1, s] = -1
        numbers[VALUE_LEADER, s] = numbers[VALUE_FOLLOWER, s] = np.nan
    else:
        start, best = s * m1 * m2, 0
        for cell in range(m1 * m2):
            best = cell if q1[start + cell] > q1[start + best] else best
        write(tables, shape, s, best // m2, best % m2, np.nan, pairs, numbers)
        (limit1, limit2), cell = limit_of(limits, s), below(q1, 1)
        over, _, third, _ = keys_of(tables, limit1, limit2, rule, start + best, cell)
        total = over if csq10 is None else over + splat(q1, favour) * third
        numbers[VIOLATION, s] = largest(select(cell, total, splat(q1, -np.inf)))
    numbers[BR_GAP, s] = numbers[RUNNER_UP, s] = np.nan
