"""The arrays that `safemarl_bench.weakly_coupled.tabular` learns in and from, and how they start."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Coupling(NamedTuple):
    """What couples the sub-problems.

    Attributes:
        allocations: (A, N) int64, use of the resource by each sub-problem in each joint action.
        feasible: (W, A) bool. capacity: (W,) float64, b(w).
        radix: (N,) int64, numbers of states S_i. gamma: (1,) float64.
    """

    allocations: np.ndarray
    feasible: np.ndarray
    capacity: np.ndarray
    radix: np.ndarray
    gamma: np.ndarray


class JointTable(NamedTuple):
    """Q(s, a) of the states met so far: R rows, of which the first `used[0]` are taken, and a hash of H = 2^k slots.

    Attributes:
        slots: (H,) int64, row, or -1. states: (R,) int64, number of each row's state (see `state_number`).
        values, visits: (R, A) float64 and int64. seen: (R,) int64, decisions learned from in each state.
        used: (1,) int64. initial: (P,) float64: action a of state s starts at ``initial[(s A + a) mod P]``.
    """

    slots: np.ndarray
    states: np.ndarray
    values: np.ndarray
    visits: np.ndarray
    seen: np.ndarray
    used: np.ndarray
    initial: np.ndarray


class SubTables(NamedTuple):
    """Q_i^lam of every multiplier, and what the resource earns. S = max S_i, M levels of use.

    Attributes:
        values: (N, W, S, M, L) float64. visits: (N, W, S, M) int64.
        earned: (W, G) float64: B(w), apart for each group of exogenous states that shares a multiplier.
        met: (W,) int64, visits of each exogenous state.
        multipliers: (L, G) float64, lam by group. group: (W,) int64.
    """

    values: np.ndarray
    visits: np.ndarray
    earned: np.ndarray
    met: np.ndarray
    multipliers: np.ndarray
    group: np.ndarray


class Rates(NamedTuple):
    """Learning rates by number of visits, (K,) float64 each; entry 0 is for the first visit.

    Attributes:
        alpha: of the joint table. beta: of the sub-problems. eta: of B.
    """

    alpha: np.ndarray
    beta: np.ndarray
    eta: np.ndarray


class Moves(NamedTuple):
    """E transitions, one row each.

    Attributes:
        exogenous, next_exogenous: (E,) int64. states, next_states: (E, N) int64. actions: (E,) int64.
        rewards: (E, N) float64, by sub-problem. continues: (E,) bool, whether values bootstrap.
    """

    exogenous: np.ndarray
    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_exogenous: np.ndarray
    next_states: np.ndarray
    continues: np.ndarray


def empty_table(n_actions: int, initial: np.ndarray, rows: int = 1024) -> JointTable:
    """Return a table without states, with room for `rows` of them."""
    slots = 1 << (2 * rows - 1).bit_length()
    return JointTable(
        slots=np.full(slots, -1),
        states=np.zeros(rows, np.int64),
        values=np.zeros((rows, n_actions)),
        visits=np.zeros((rows, n_actions), np.int64),
        seen=np.zeros(rows, np.int64),
        used=np.zeros(1, np.int64),
        initial=initial,
    )


def no_subproblems(n_exogenous: int) -> SubTables:
    """Return tables of no multiplier, with which `learn` is Q-learning."""
    return SubTables(
        values=np.zeros((0, 0, 0, 0, 0)),
        visits=np.zeros((0, 0, 0, 0), np.int64),
        earned=np.zeros((n_exogenous, 1)),
        met=np.zeros(n_exogenous, np.int64),
        multipliers=np.zeros((0, 1)),
        group=np.zeros(n_exogenous, np.int64),
    )


def subproblem_tables(initial: np.ndarray, multipliers: np.ndarray, group: np.ndarray, earned: float) -> SubTables:
    """Return fresh tables.

    Args:
        initial: (N, W, S, M, L) float64, first values of the sub-problems, taken over.
        multipliers: (L, G). group: (W,) int64 in 0..G-1. earned: first value of B.
    """
    return SubTables(
        values=initial,
        visits=np.zeros(initial.shape[:-1], np.int64),
        earned=np.full((len(group), multipliers.shape[1]), earned),
        met=np.zeros(len(group), np.int64),
        multipliers=multipliers,
        group=group,
    )


def polynomial_rates(count: int, exponent: float) -> np.ndarray:
    """Return ``1 / n^exponent`` for n = 1..count, (count,) float64."""
    rates: np.ndarray = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    return rates
