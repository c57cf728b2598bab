"""Tables of Q-learning and weakly coupled Q-learning, compiled (*Weakly Coupled Deep Q-Networks*, equations 7 to 11).

For every transition (w, s) -> (w', s') with joint action a, sub-rewards r_i and use a_i of the resource, in order:

    (7)   Q_i^lam(w, s_i, a_i) += beta [r_i - lam(w) a_i + gamma max_b Q_i^lam(w', s_i', b) - Q_i^lam(w, s_i, a_i)]
    (8)   B(w) += eta [b(w) + gamma B(w') - B(w)]
    (9)   Q^lam(s, a) = lam B(w) + sum_i Q_i^lam(w, s_i, a_i)
    (10)  Q^lam*(s, a) = min over the grid of Q^lam(s, a)
    (11)  Q(s, a) = Q'(s, a) + alpha [sum_i r_i + gamma max_{a'} Q'(s', a') - Q'(s, a)]
          Q'(s, .) = min(Q(s, .), Q^lam*(s, .))

Maxima over joint actions are over the feasible ones. Rates are ``1 / visits^exponent``, looked up in a table (K,).

Compiled by numba where it is installed; without it the same source runs as plain Python, with the same bits. All
compiled functions live in this one file, because numba's cache does not notice edits in other modules.

The joint table holds rows of the states met so far, found by hashing: a run meets few of the joint states.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from safemarl_bench.stackelberg.many.compiled import compiled, inlined, numba
from safemarl_bench.weakly_coupled.tables import Coupling, JointTable, Moves, Rates, SubTables, empty_table

F = TypeVar("F", bound=Callable[..., Any])


def lowest(function: F) -> F:
    """Compile a function that looks for the least number on vector registers: in whatever order, it is the same."""
    if numba is None:
        return function
    return cast(F, numba.njit(cache=True, fastmath={"nnan", "nsz"})(function))


@inlined
def state_number(radix: np.ndarray, exogenous: int, states: np.ndarray) -> int:
    """Return the number of a joint state: digits are the exogenous state, then each sub-problem's; states: (N,)."""
    number = exogenous
    for i in range(len(radix)):
        number = number * radix[i] + states[i]
    return number


@inlined
def _slot(slots: np.ndarray, states: np.ndarray, state: int) -> int:
    """Return where in the hash a state is, or is to go."""
    mask = len(slots) - 1
    slot = (state % 2147483629) * 1640531 % 2147483647 & mask
    while slots[slot] >= 0 and states[slots[slot]] != state:
        slot = (slot + 1) & mask
    return slot


@compiled
def rehash(table: JointTable) -> None:
    """Fill the empty hash of a table from its rows."""
    for row in range(table.used[0]):
        table.slots[_slot(table.slots, table.states, table.states[row])] = row


@inlined
def _row(table: JointTable, state: int) -> int:
    """Return the row of a state, taking a new one at its first visit."""
    slot = _slot(table.slots, table.states, state)
    row = table.slots[slot]
    if row < 0:
        row = table.used[0]
        table.used[0] += 1
        table.slots[slot], table.states[row] = row, state
        actions = table.values.shape[1]
        for action in range(actions):
            table.values[row, action] = table.initial[(state * actions + action) % len(table.initial)]
    return row


@inlined
def _read(table: JointTable, state: int, out: np.ndarray) -> int:
    """Write Q(s, .) into `out`, (A,); return how often the state was learned from."""
    row = table.slots[_slot(table.slots, table.states, state)]
    if row >= 0:
        out[:] = table.values[row]
        return table.seen[row]
    for action in range(len(out)):
        out[action] = table.initial[(state * len(out) + action) % len(table.initial)]
    return 0


@inlined
def _earnings(tables: SubTables, exogenous: int, out: np.ndarray) -> None:
    """Write ``lam B(w)`` into `out`, (L,)."""
    out[:] = tables.multipliers[:, 0] * tables.earned[exogenous, 0]
    for group in range(1, tables.multipliers.shape[1]):
        out += tables.multipliers[:, group] * tables.earned[exogenous, group]


@compiled
def _add(one: np.ndarray, other: np.ndarray, out: np.ndarray) -> None:
    """Write the sum of (L,) numbers; a loop, because numba makes one by vectors of it, and not of `np.add`."""
    for k in range(len(out)):
        out[k] = one[k] + other[k]


@lowest
def _least(values: np.ndarray) -> float:
    """Return the least of (L,) numbers."""
    least = values[0]
    for k in range(1, len(values)):
        least = values[k] if values[k] < least else least
    return least


@inlined
def _bound(
    coupling: Coupling,
    tables: SubTables,
    exogenous: int,
    states: np.ndarray,
    action: int,
    before: int,
    work: np.ndarray,
) -> float:
    """Return (10) at one action.

    Row 0 of `work` is ``lam B(w)``, row i + 1 the sum (9) over sub-problems up to i. Actions that follow each other
    begin alike, and share the sums of what they begin with.

    Args:
        before: the action that `work` was left by, or -1. work: (N + 1, L), scratch.
    """
    i, last = 0, len(states)
    if before >= 0:
        while i < last and coupling.allocations[action, i] == coupling.allocations[before, i]:
            i += 1
    for j in range(i, last):
        _add(work[j], tables.values[j, exogenous, states[j], coupling.allocations[action, j]], work[j + 1])
    return _least(work[last])


@inlined
def _cut(
    coupling: Coupling, tables: SubTables, exogenous: int, states: np.ndarray, values: np.ndarray, work: np.ndarray
) -> int:
    """Lower Q(s, a), (A,), to (10) at every feasible action, in place; return at how many it was above."""
    if not len(work[0]):
        return 0
    _earnings(tables, exogenous, work[0])
    cuts, before = 0, -1
    for action in range(len(values)):
        if coupling.feasible[exogenous, action]:
            bound = _bound(coupling, tables, exogenous, states, action, before, work)
            before = action
            if values[action] > bound:
                values[action] = bound
                cuts += 1
    return cuts


@inlined
def _best(
    coupling: Coupling, tables: SubTables, exogenous: int, states: np.ndarray, values: np.ndarray, work: np.ndarray
) -> int:
    """Return the best feasible action in Q', the lowest of equally good ones, and lower Q(s, a), (A,), there to Q'.

    Q' is at most Q: where Q is no better than the best Q' so far, the bound need not be known.
    """
    bounded = len(work[0]) > 0
    if bounded:
        _earnings(tables, exogenous, work[0])
    best, before = -1, -1
    for action in range(len(values)):
        if coupling.feasible[exogenous, action] and (best < 0 or values[action] > values[best]):
            if bounded:
                bound = _bound(coupling, tables, exogenous, states, action, before, work)
                before, values[action] = action, min(values[action], bound)
            if best < 0 or values[action] > values[best]:
                best = action
    return best


@compiled
def _raise(values: np.ndarray, others: np.ndarray) -> None:
    """Raise (L,) numbers to others where those are larger."""
    for k in range(len(values)):
        values[k] = max(values[k], others[k])


@compiled
def _approach(
    values: np.ndarray, reward: float, paid: np.ndarray, use: int, gamma: float, later: np.ndarray, beta: float
) -> None:
    """Equation (7) for all multipliers, (L,) each: `values` are moved to what one decision earned and what follows."""
    for k in range(len(values)):
        values[k] += beta * (reward - paid[k] * use + gamma * later[k] - values[k])


@inlined
def _learn_subproblems(
    coupling: Coupling, tables: SubTables, rates: Rates, moves: Moves, k: int, work: np.ndarray
) -> None:
    """Equations (7) and (8) for transition k."""
    w, following = moves.exogenous[k], moves.next_exogenous[k]
    gamma = coupling.gamma[0] if moves.continues[k] else 0.0
    group = tables.group[w]
    target, paid = work[0], work[1]
    paid[:] = tables.multipliers[:, group]
    for i in range(len(coupling.radix)):
        s, a = moves.states[k, i], coupling.allocations[moves.actions[k], i]
        target[:] = tables.values[i, following, moves.next_states[k, i], 0]
        for level in range(1, tables.values.shape[3]):
            _raise(target, tables.values[i, following, moves.next_states[k, i], level])
        beta = rates.beta[min(tables.visits[i, w, s, a], len(rates.beta) - 1)]
        _approach(tables.values[i, w, s, a], moves.rewards[k, i], paid, a, gamma, target, beta)
        tables.visits[i, w, s, a] += 1
    eta = rates.eta[min(tables.met[w], len(rates.eta) - 1)]
    tables.met[w] += 1
    for column in range(tables.earned.shape[1]):
        now = coupling.capacity[w] if column == group else 0.0
        tables.earned[w, column] += eta * (now + gamma * tables.earned[following, column] - tables.earned[w, column])


@compiled
def learn(
    coupling: Coupling, table: JointTable, tables: SubTables, rates: Rates, moves: Moves, work: np.ndarray
) -> int:
    """Learn from E transitions one after another, equations (7) to (11); without multipliers (L = 0), (11) alone.

    Args:
        table: with E free rows or more. work: (N + 1, L), scratch.

    Returns:
        at how many feasible actions of the states left Q was above the bound.
    """
    later, cuts = np.empty(table.values.shape[1]), 0
    for k in range(len(moves.actions)):
        w, following, action = moves.exogenous[k], moves.next_exogenous[k], moves.actions[k]
        if len(work[0]):
            _learn_subproblems(coupling, tables, rates, moves, k, work)
        target = moves.rewards[k, 0]
        for i in range(1, moves.rewards.shape[1]):
            target += moves.rewards[k, i]
        if moves.continues[k]:
            _read(table, state_number(coupling.radix, following, moves.next_states[k]), later)
            target += coupling.gamma[0] * later[_best(coupling, tables, following, moves.next_states[k], later, work)]
        row = _row(table, state_number(coupling.radix, w, moves.states[k]))
        values = table.values[row]
        alpha = rates.alpha[min(table.visits[row, action], len(rates.alpha) - 1)]
        values[action] += alpha * (target - values[action])
        table.visits[row, action] += 1
        table.seen[row] += 1
        cuts += _cut(coupling, tables, w, moves.states[k], values, work)
    return cuts


@compiled
def greedy(
    coupling: Coupling,
    table: JointTable,
    tables: SubTables,
    exogenous: np.ndarray,
    states: np.ndarray,
    actions: np.ndarray,
    seen: np.ndarray,
    work: np.ndarray,
) -> None:
    """Write the best feasible actions in Q' and how often each state was learned from.

    Args:
        exogenous: (E,) int64. states: (E, N) int64. actions, seen: (E,) int64, written. work: (N + 1, L), scratch.
    """
    values = np.empty(table.values.shape[1])
    for k in range(len(exogenous)):
        w = exogenous[k]
        seen[k] = _read(table, state_number(coupling.radix, w, states[k]), values)
        actions[k] = _best(coupling, tables, w, states[k], values, work)


@compiled
def bounds(
    coupling: Coupling,
    tables: SubTables,
    exogenous: np.ndarray,
    states: np.ndarray,
    out: np.ndarray,
    work: np.ndarray,
) -> None:
    """Write Q^lam*(s, a), infinite at infeasible actions, into `out`, (E, A) float64; the rest as in `greedy`."""
    for k in range(len(exogenous)):
        out[k] = np.inf
        _cut(coupling, tables, exogenous[k], states[k], out[k], work)


def with_room(table: JointTable, rows: int) -> JointTable:
    """Return the table, or a copy of at least twice its size, with `rows` free rows or more."""
    used = int(table.used[0])
    if used + rows <= len(table.states):
        return table
    larger = empty_table(table.values.shape[1], table.initial, max(2 * len(table.states), used + rows))
    return filled(larger, {name: getattr(table, name)[:used] for name in ("states", "values", "visits", "seen")})


def filled(table: JointTable, rows: dict[str, np.ndarray]) -> JointTable:
    """Return an empty table with these first rows: its columns `states`, `values`, `visits` and `seen` by name."""
    used = len(rows["states"])
    for name, column in rows.items():
        getattr(table, name)[:used] = column
    table.used[0] = used
    rehash(table)
    return table
