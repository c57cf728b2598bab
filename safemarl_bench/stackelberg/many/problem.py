"""What `solve_multi` is given, checked once, and turned into integers so that sums over followers are exact."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from safemarl_bench.errors import SolveError
from safemarl_bench.stackelberg.inputs import check_option

MODELS = ("coalition", "gne")

BITS = 60
"""Largest sums take this many bits of an int64, which leaves room to add and subtract a few of them."""

UNBOUNDED = 1 << BITS
"""A budget that no sum reaches."""


class MultiProblem(NamedTuple):
    """One leader, N followers, K budgets; the leader's action is the first axis of every table.

    Sums are taken over int64 *units*: entry ``x`` of a table stands for ``x * 2**exponent``. Tables of integers are
    their own units. Others are rounded once, to units of 2**-59 or less of their largest entry times N + 1, which moves
    less than the rounding of a sum in float64; every sum of units is exact, in any order.

    Attributes:
        model: "coalition" or "gne".
        q_own: (m1,) int64, the leader's payoff of its own action, in units of q_leader.
        q_leader: (m1, N, m) int64, the leader's payoff from each follower's action.
        leader_exponent: of q_own and q_leader.
        q_follower: (m1, N, m) float64, each follower's payoff as given.
        q_coalition: (m1, N, m) int64, the same in units.
        coalition_exponent: of q_coalition.
        cost: (m1, K, N, m) int64, use of each budget.
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
    q_leader, q_follower = read_table("Q1", Q1), read_table("Q2", Q2)
    shape = q_leader.shape
    if q_leader.ndim != 3 or 0 in shape:
        raise SolveError(f"Q1 must be (N, m1, m) with at least one follower and action each, got shape {shape}")
    if q_follower.shape != shape:
        raise SolveError(f"Q2 must have the shape {shape} of Q1, got {q_follower.shape}")
    q_own = np.zeros(shape[1]) if Q0 is None else read_table("Q0", Q0)
    if q_own.shape != shape[1:2]:
        raise SolveError(f"Q0 must be (m1,) = ({shape[1]},), one number per action of the leader, got {q_own.shape}")
    leader_exponent = _exponent("Q1", shape[0] + 1, q_leader, q_own)
    coalition_exponent = _exponent("Q2", shape[0], q_follower)
    cost, budget, exponents, integer = _read_budgets(C, d, shape)
    return MultiProblem(
        model,
        _units(q_own, leader_exponent),
        _by_row(_units(q_leader, leader_exponent)),
        leader_exponent,
        _by_row(q_follower),
        _by_row(_units(q_follower, coalition_exponent)),
        coalition_exponent,
        cost,
        budget,
        exponents,
        integer,
        _read_safe(safe, shape),
    )


def _by_row(table: np.ndarray) -> np.ndarray:
    """Return (m1, N, m) for (N, m1, m)."""
    return np.ascontiguousarray(table.swapaxes(0, 1))


def read_table(name: str, table: Any, *, infinite: bool = False) -> np.ndarray:
    """Return a float64 copy of a table of real numbers, which may be infinite only if `infinite`.

    Raises:
        SolveError: no NumPy array of float32, float64 or integers, NaN, integers beyond 2**53, or what is infinite.
    """
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "iuf" or table.dtype.itemsize > 8:
        kind = type(table)
        got = f"dtype {table.dtype}" if isinstance(table, np.ndarray) else f"{kind.__module__}.{kind.__name__}"
        raise SolveError(f"{name} must be a numpy array of float32, float64 or integers, got {got}")
    numbers = table.astype(np.float64)
    if not math.isfinite(np.vdot(numbers, numbers)):  # that of finite numbers may overflow
        bad = np.argwhere(np.isnan(numbers) if infinite else ~np.isfinite(numbers))
        if len(bad):
            at = tuple(map(int, bad[0]))
            what = "NaN" if infinite else "NaN or infinite"
            raise SolveError(f"{name} has {len(bad)} {what} entries, the first at {at}; expected none")
    if table.dtype.kind != "f" and (np.abs(numbers) > 2.0**53).any():
        raise SolveError(f"{name} holds integers beyond 2**53, which float64 does not tell apart")
    return numbers


def _exponent(name: str, terms: int, *tables: np.ndarray) -> int:
    """Return the exponent of units in which sums of that many entries stay below 2**BITS: 0 for integers if it will do.

    Raises:
        SolveError: such sums overflow float64.
    """
    largest = terms * max(max(float(table.max()), -float(table.min())) for table in tables)
    if largest < 2.0**53 and all(_are_integers(table) for table in tables):
        return 0
    if not math.isfinite(largest):
        raise SolveError(f"{name} is too large: its sums over the followers overflow")
    return math.frexp(largest)[1] - BITS


def _are_integers(table: np.ndarray) -> bool:
    return float(table.flat[0]).is_integer() and bool((np.rint(table) == table).all())


def _units(table: np.ndarray, exponent: int) -> np.ndarray:
    return (np.rint(np.ldexp(table, -exponent)) if exponent else table).astype(np.int64)


def _read_budgets(C: Any, d: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Return cost (m1, K, N, m), budget (K,), exponents (K,), all int64, and whether all costs are integers."""
    followers, m1, m = shape
    if C is None or d is None:
        if C is not None or d is not None:
            raise SolveError("C and d come together: got one of them and None for the other")
        nothing = np.zeros(0, np.int64)
        return np.zeros((m1, 0, followers, m), np.int64), nothing, nothing, True
    tables = read_table("C", C)
    if tables.shape[-3:] != shape or tables.ndim > 4:
        raise SolveError(f"C must have the shape {shape} of Q1, or (K, ...) in front of it, got {tables.shape}")
    limits = _read_limits(d, tables.shape[:-3])
    if tables.ndim == 3:
        tables = tables[None]
    exponents = [_exponent("C", followers, table) for table in tables]
    cost = np.empty((m1, len(tables), followers, m), np.int64)
    budget = np.empty(len(tables), np.int64)
    for k, exponent in enumerate(exponents):
        cost[:, k] = _units(tables[k], exponent).swapaxes(0, 1)
        budget[k] = _budget_units(limits[k], exponent)
    return cost, budget, np.array(exponents, np.int64), not any(exponents)


def _read_limits(d: Any, shape: tuple[int, ...]) -> list[float]:
    try:
        limits = np.asarray(d, np.float64)
    except (TypeError, ValueError) as error:
        raise SolveError(f"d must be a number per budget, got {d!r}") from error
    if limits.shape != shape:
        wanted = f"of shape {shape}, a number per budget" if shape else "one number beside C of shape (N, m1, m)"
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
    return _by_row(safe)
