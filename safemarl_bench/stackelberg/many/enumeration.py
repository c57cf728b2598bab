"""Every profile of every row, in vectorised blocks that stay in the cache: for few followers.

The last followers' sums are laid out once per row, in lexicographic order; each combination of the first followers'
actions adds its own sums to them. A coalition is the best of all safe profiles. For equilibria, actions that no
equilibrium holds are left out first, and the profiles that the leader likes better than the best equilibrium so far
are checked by the definition. Exact. Of equally good answers it returns the lowest row, then the lexicographically
lowest profile.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.many.equilibrium import are_equilibria, undominated
from safemarl_bench.stackelberg.many.problem import MultiProblem
from safemarl_bench.stackelberg.many.selection import Profile, Reply, best_over_rows
from safemarl_bench.stackelberg.mip import TIME_LIMIT

BLOCK = 2**14
"""Profiles in a block, at most."""

LARGEST = 10**10
"""Profiles over all rows that are tried, at most."""

LOWEST = -(2**63)

Actions = list[np.ndarray]
"""The actions of each follower that are tried."""


class Block(NamedTuple):
    """The sums over the last followers, for each combination of their safe actions.

    Attributes:
        columns: (B, followers in the block) int64.
        q_leader, q_coalition: (B,) int64.
        cost: (K, B) int64.
    """

    columns: np.ndarray
    q_leader: np.ndarray
    q_coalition: np.ndarray
    cost: np.ndarray


def solve_profile(problem: MultiProblem) -> Profile | None:
    """Return the leader's action and the followers' reply to it, None if nothing is feasible.

    Time and memory: O(m1 m**N K) and O(BLOCK).

    Raises:
        SolveError: more than LARGEST profiles, or no answer within the time limit.
    """
    rows = [_candidates(problem, i) for i in range(len(problem.q_own))]
    profiles = sum(math.prod(map(len, actions)) for actions in rows)
    if profiles > LARGEST:
        raise SolveError(
            f"enumeration of {profiles:.1e} profiles is too large (at most {LARGEST:.0e}): "
            "use method='dynamic_program' (one integer budget), 'branch_and_bound' or 'highs'"
        )
    reply = _best_coalition if problem.model == "coalition" else _best_equilibrium
    deadline = time.monotonic() + TIME_LIMIT
    unbounded = np.full(len(rows), np.inf)
    return best_over_rows(problem, unbounded, lambda i, _: reply(problem, i, rows[i], deadline))


def _candidates(problem: MultiProblem, i: int) -> Actions:
    """Return the actions of each follower that are tried at row i."""
    tried = problem.safe[i] if problem.model == "coalition" else undominated(problem, i)
    return [np.flatnonzero(row) for row in tried]


def _best_coalition(problem: MultiProblem, i: int, tried: Actions, deadline: float) -> Reply | None:
    """Return a row's best coalition."""
    block, prefixes = _split(problem, i, tried)
    best2 = best1 = LOWEST
    found = None
    for actions, value1, value2, left in _prefixes(problem, i, prefixes, deadline):
        fits = _fits(block, left)
        totals = np.where(fits, block.q_coalition, LOWEST)
        top = int(totals.max(initial=LOWEST))
        if top == LOWEST or top + value2 < best2:
            continue
        tied = np.flatnonzero(totals == top)
        first = tied[block.q_leader[tied].argmax()]
        leader = int(block.q_leader[first]) + value1
        if top + value2 > best2 or leader > best1:
            best2, best1, found = top + value2, leader, (*actions, *block.columns[first].tolist())
    return None if found is None else (best1, found)


def _best_equilibrium(problem: MultiProblem, i: int, tried: Actions, deadline: float) -> Reply | None:
    """Return a row's best equilibrium for the leader."""
    block, prefixes = _split(problem, i, tried)
    best, found = LOWEST, None
    for actions, value1, _, left in _prefixes(problem, i, prefixes, deadline):
        hopes = np.flatnonzero(_fits(block, left) & (block.q_leader > best - value1 if found else True))
        hopes = hopes[np.argsort(-block.q_leader[hopes], kind="stable")]
        for start in range(0, len(hopes), 256):
            batch = hopes[start : start + 256]
            columns = np.column_stack([np.tile(np.array(actions, np.int64), (len(batch), 1)), block.columns[batch]])
            stable = np.flatnonzero(are_equilibria(problem, i, columns))
            if len(stable):
                best = value1 + int(block.q_leader[batch[stable[0]]])
                found = tuple(columns[stable[0]].tolist())
                break
    return None if found is None else (best, found)


def _fits(block: Block, left: list[int]) -> np.ndarray:
    if not left:
        return np.ones(len(block.columns), bool)
    fits = block.cost[0] <= left[0]
    for cost, budget in zip(block.cost[1:], left[1:], strict=True):
        fits &= cost <= budget
    return np.asarray(fits)


def _split(problem: MultiProblem, i: int, tried: Actions) -> tuple[Block, Actions]:
    """Return the last followers' block, and the actions of each of the others."""
    budgets, zero = len(problem.budget), np.zeros(1, np.int64)
    block = Block(np.zeros((1, 0), np.int64), zero, zero, np.zeros((budgets, 1), np.int64))
    n = len(tried)
    while n > 0 and (n == len(tried) or len(block.columns) * len(tried[n - 1]) <= BLOCK):
        n -= 1
        j = tried[n]
        block = Block(
            np.column_stack([np.repeat(j, len(block.columns)), np.tile(block.columns, (len(j), 1))]),
            np.add.outer(problem.q_leader[i, n, j], block.q_leader).ravel(),
            np.add.outer(problem.q_coalition[i, n, j], block.q_coalition).ravel(),
            (problem.cost[:, i, n, j, None] + block.cost[:, None, :]).reshape(budgets, len(j) * len(block.columns)),
        )
    return block, tried[:n]


def _prefixes(
    problem: MultiProblem, i: int, tried: Actions, deadline: float
) -> Iterator[tuple[tuple[int, ...], int, int, list[int]]]:
    """Yield actions of the first followers, their sums of q_leader and q_coalition, and what is left of each budget."""
    leader, coalition, cost = problem.q_leader[i].tolist(), problem.q_coalition[i].tolist(), problem.cost[:, i].tolist()
    for actions in itertools.product(*(column.tolist() for column in tried)):
        if time.monotonic() > deadline:
            raise SolveError(f"enumeration found no answer within {TIME_LIMIT:g} s: use another method")
        taken = list(enumerate(actions))
        yield (
            actions,
            sum(leader[n][j] for n, j in taken),
            sum(coalition[n][j] for n, j in taken),
            [int(d) - sum(table[n][j] for n, j in taken) for d, table in zip(problem.budget, cost, strict=True)],
        )
