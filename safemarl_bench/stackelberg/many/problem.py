"""What `solve_multi` is given, checked once, and turned into integers so that sums over followers are exact."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.inputs import check_option

MODELS = ("coalition", "gne")

BITS = 60
"""Sums of units stay below 2**BITS, which leaves room in an int64 to add and subtract a few of them."""

UNBOUNDED = 1 << BITS
"""A budget that no sum reaches, in units of cost."""


class MultiProblem(NamedTuple):
    """One leader, N followers, K budgets; tables have the leader's action in front of the follower.

    Sums are taken over int64 *units*: entry ``x`` of a table stands for ``x * 2**exponent``. Tables of integers are
    their own units. Others are rounded once, to units of at most 2**-59 of the largest sum that they could have, which
    moves less than the rounding of sums in float64; every sum of units is exact, in any order.

    Attributes:
        model: "coalition" or "gne".
        q_own: (m1,) int64, the leader's payoff of its own action, in units of q_leader.
        q_leader: (m1, N, m) int64, the leader's payoff from each follower's action.
        leader_exponent: of q_own and q_leader.
        q_follower: (m1, N, m) float64, each follower's payoff as given.
        q_coalition: (m1, N, m) int64, the same in units.
        coalition_exponent: of q_coalition.
        cost: (K, m1, N, m) int64, use of each budget.
        budget: (K,) int64, in units of cost; sums of cost are compared with it.
        cost_exponent: (K,) int64.
        integer: whether all costs are integers as they are: every `cost_exponent` is 0.
        safe: (m1, N, m) bool, actions that the follower may take.
    """

    model: str
    q_own: np.ndarray
    q_leader: np.ndarray
    leader_exponent: int
    q_follower: np.ndarray
    q_coalition: np.ndarray
    coalition_exponent: int
    cost: np.ndarray
    budget: np.ndarray
    cost_exponent: np.ndarray
    integer: bool
    safe: np.ndarray

    @property
    def profiles(self) -> int:
        """How many joint actions the followers have, m**N."""
        _, followers, m = self.q_leader.shape
        return math.prod([m] * followers)


def read_multi(Q1: Any, Q2: Any, C: Any, d: Any, Q0: Any, safe: Any, model: str) -> MultiProblem:
    """Check the input of `solve_multi`.

    Raises:
        SolveError: anything that the docstring of `solve_multi` calls invalid.
    """
    check_option("model", model, MODELS)
    shape = check_table("Q1", Q1)
    if len(shape) != 3 or 0 in shape:
        raise SolveError(f"Q1 must be (N, m1, m) with at least one follower and action each, got shape {shape}")
    if check_table("Q2", Q2) != shape:
        raise SolveError(f"Q2 must have the shape {shape} of Q1, got {Q2.shape}")
    if Q0 is not None and check_table("Q0", Q0) != shape[1:2]:
        raise SolveError(f"Q0 must be (m1,) = ({shape[1]},), one number per action of the leader, got {Q0.shape}")
    limits = _read_limits(C, d, shape)
    tables = np.empty((2 + len(limits), *shape))
    tables[0], tables[1] = Q1, Q2
    if limits:
        tables[2:] = C
    own = np.zeros(shape[1]) if Q0 is None else Q0.astype(np.float64)
    units, own_units, exponents = _in_units(tables, own)
    leader_exponent, coalition_exponent, *cost_exponents = exponents.tolist()
    budget = [_budget_units(limit, exponent) for limit, exponent in zip(limits, cost_exponents, strict=True)]
    return MultiProblem(
        model,
        own_units,
        units[0],
        leader_exponent,
        np.ascontiguousarray(tables[1].swapaxes(0, 1)),
        units[1],
        coalition_exponent,
        units[2:],
        np.array(budget, np.int64),
        exponents[2:],
        not any(cost_exponents),
        _read_safe(safe, shape),
    )


def check_table(name: str, table: Any) -> tuple[int, ...]:
    """Return the shape of a table of real numbers.

    Raises:
        SolveError: no NumPy array of float32, float64 or integers; integers beyond 2**53.
    """
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "iuf" or table.dtype.itemsize > 8:
        kind = type(table)
        got = f"dtype {table.dtype}" if isinstance(table, np.ndarray) else f"{kind.__module__}.{kind.__name__}"
        raise SolveError(f"{name} must be a numpy array of float32, float64 or integers, got {got}")
    if table.dtype.kind != "f" and ((table > 2**53) | (table < -(2**53))).any():
        raise SolveError(f"{name} holds integers beyond 2**53, which float64 does not tell apart")
    return tuple(table.shape)


def reject_entries(name: str, bad: np.ndarray, what: str) -> None:
    """Raise `SolveError` if an entry is bad; `bad` is a bool array of the table's shape."""
    if bad.any():
        at = tuple(map(int, np.argwhere(bad)[0]))
        raise SolveError(f"{name} has {int(bad.sum())} {what} entries, the first at {at}; expected none")


def _in_units(tables: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the tables Q1, Q2 and C as (2 + K, m1, N, m) int64, own payoffs as (m1,) int64, exponents (2 + K,).

    Raises:
        SolveError: an entry is NaN or infinite, or sums over the followers overflow float64.
    """
    from safemarl_bench.stackelberg.many.units import to_units  # numba takes half a second to import

    count, followers, rows, columns = tables.shape
    units, own_units = np.empty((count, rows, followers, columns), np.int64), np.empty(rows, np.int64)
    exponents = np.empty(count, np.int64)
    wrong = to_units(tables, own, units, own_units, exponents)
    if wrong:
        costs = tables[2:] if count != 3 else tables[2]
        for name, table in (("Q1", tables[0]), ("Q2", tables[1]), ("Q0", own), ("C", costs)):
            reject_entries(name, ~np.isfinite(table), "NaN or infinite")
        name = ("Q1", "Q2", "C")[min(wrong - 1, 2)]
        raise SolveError(f"{name} is too large: its sums over the followers overflow")
    return units, own_units, exponents


def _read_limits(C: Any, d: Any, shape: tuple[int, ...]) -> list[float]:
    """Check C's shape, and return a limit per budget."""
    if C is None or d is None:
        if C is not None or d is not None:
            raise SolveError("C and d come together: got one of them and None for the other")
        return []
    axes = check_table("C", C)
    if axes[-3:] != shape or len(axes) > 4:
        raise SolveError(f"C must have the shape {shape} of Q1, or (K, ...) in front of it, got {axes}")
    try:
        limits = np.asarray(d, np.float64)
    except (TypeError, ValueError) as error:
        raise SolveError(f"d must be a number per budget, got {d!r}") from error
    if limits.shape != axes[:-3]:
        wanted = (
            f"of shape {axes[:-3]}, a number per budget" if axes[:-3] else "one number beside C of shape (N, m1, m)"
        )
        raise SolveError(f"d must be {wanted}, got shape {limits.shape}")
    numbers: list[float] = limits.ravel().tolist()
    if any(map(math.isnan, numbers)):
        raise SolveError("d must not be NaN")
    return numbers


def _budget_units(limit: float, exponent: int) -> int:
    """Return the largest integer that is within a budget, in units of cost; no sum of costs reaches UNBOUNDED."""
    if math.isinf(limit) or math.frexp(limit)[1] > BITS + exponent:
        return UNBOUNDED if limit > 0 else -UNBOUNDED
    return math.floor(math.ldexp(limit, -exponent))


def _read_safe(safe: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return the safe actions, (m1, N, m)."""
    followers, m1, m = shape
    if safe is None:
        return np.ones((m1, followers, m), bool)
    if not isinstance(safe, np.ndarray) or safe.dtype != bool or safe.shape != shape:
        got = f"{safe.dtype} of shape {safe.shape}" if isinstance(safe, np.ndarray) else type(safe).__name__
        raise SolveError(f"safe must be a bool array of the shape {shape} of Q1, got {got}")
    return np.ascontiguousarray(safe.swapaxes(0, 1))
