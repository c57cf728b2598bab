"""Input checks of the equilibrium core: everything a backend relies on is established here, once."""

from __future__ import annotations

import functools
import math
import numbers
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from safemarl_bench.errors import SolveError, nearest
from safemarl_bench.stackelberg.selection import Constraint, Problem, is_tensor

SEMANTICS = ("mip13", "csq10")
TIES = ("optimistic", "pessimistic")
FALLBACKS = ("least_violation", "none", "raise", "max_q1")
NO_WEIGHTS = (1.0, 1.0)

Named = tuple[str, Any]
"""A table and what to call it."""

_FLOATS: dict[Any, Any] = {np.dtype(kind): kind for kind in (np.float32, np.float64)}
"""Legal dtypes of tables -> NumPy's scalar type; torch's dtypes join when they are first seen."""


def check_option(what: str, value: Any, known: Iterable[str]) -> None:
    """Raise `SolveError` with the nearest name unless `value` is in `known`."""
    if value not in known:
        raise SolveError(f"unknown {what} {value!r}: {nearest(str(value), known)}")


def read_problem(
    tables: tuple[Any, Any, Any, Any],
    d: tuple[Any, Any],
    semantics: str,
    tie: str,
    fallback: str,
    scale: Any,
    *,
    entries: bool = True,
) -> Problem:
    """Check the input of `solve` and return it in the form that backends take.

    Args:
        tables, d, semantics, tie, fallback, scale: as in `solve`.
        entries: also check the tables' entries; a backend that notices illegal ones itself calls `check_entries`.

    Raises:
        SolveError: anything that the docstring of `solve` calls invalid.
    """
    if semantics not in SEMANTICS or tie not in TIES or fallback not in FALLBACKS:
        check_option("semantics", semantics, SEMANTICS)
        check_option("tie", tie, TIES)
        check_option("fallback", fallback, FALLBACKS)
    d_leader, d_follower = d
    plain_limits = type(d_leader) is type(d_follower) is float and d_leader == d_leader and d_follower == d_follower
    if plain_limits and are_plain(*tables):
        q_leader, q_follower, g_leader, g_follower = tables
        leaders: tuple[Constraint, ...] = ((g_leader, _round(d_leader, g_leader.dtype)),)
        followers: tuple[Constraint, ...] = ((g_follower, _round(d_follower, g_leader.dtype)),)
    else:
        q_leader, q_follower, g_leader, g_follower = check_tables(("Q1", "Q2", "G1", "G2"), tables)
        shape = q_leader.shape
        if q_follower.shape != shape:
            raise SolveError(
                f"Q1 and Q2 must have one shape (..., m1, m2), got {tuple(shape)} and {_shape(q_follower)}"
            )
        leaders = _read_constraints("1", g_leader, d_leader, shape)
        followers = _read_constraints("2", g_follower, d_follower, shape)
    weights = check_scale(scale, q_leader)
    problem = Problem(q_leader, q_follower, leaders, followers, semantics, tie, fallback, weights)
    if entries:
        check_entries(problem)
    return problem


def check_entries(problem: Problem) -> None:
    """Raise `SolveError`, with the first place, where an entry of Q is not finite or one of G is NaN."""
    if len(problem.leader_constraints) == len(problem.follower_constraints) == 1:  # the usual case, without any names
        g_leader, g_follower = problem.leader_constraints[0][0], problem.follower_constraints[0][0]
        of_costs = _dot_product(g_leader, g_follower)
        if not math.isnan(of_costs) and math.isfinite(_dot_product(problem.q_leader, problem.q_follower)):
            return
    rewards = ("Q1", problem.q_leader), ("Q2", problem.q_follower)
    _check_entries(rewards, [*_named("G1", problem.leader_constraints), *_named("G2", problem.follower_constraints)])


def read_constraints(
    tables: tuple[Any, Any], d: tuple[Any, Any], *, constraint_axis: bool
) -> tuple[tuple[Constraint, ...], tuple[Constraint, ...]]:
    """Check costs-to-go that come without rewards-to-go, and return the leader's and the follower's constraints.

    Args:
        tables: G1, G2 of shape (..., m1, m2), or (K, ..., m1, m2) with `constraint_axis`.
        d: the thresholds, as in `solve`.
        constraint_axis: whether the leading axis counts constraints.
    """
    g_leader, g_follower = check_tables(("G1", "G2"), tables)
    if constraint_axis and min(g_leader.ndim, g_follower.ndim) < 3:
        raise SolveError(f"with constraint_axis G1 must be (K, ..., m1, m2), got {_shape(g_leader)}")
    shape = g_leader.shape[1:] if constraint_axis else g_leader.shape
    leader, follower = _read_constraints("1", g_leader, d[0], shape), _read_constraints("2", g_follower, d[1], shape)
    _check_entries((), [*_named("G1", leader), *_named("G2", follower)])
    return leader, follower


def check_tables(names: tuple[str, ...], tables: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the tables, cut off from any graph, once library, dtype, device and axes are known to be right."""
    first = tables[0]
    tensors = is_tensor(first)
    dtype = first.dtype if tensors or isinstance(first, np.ndarray) else None
    if dtype is not None and _scalar_type(dtype) is None:
        raise SolveError(f"tables must be float32 or float64, got {names[0]} of dtype {dtype}")
    library = sys.modules["torch"].Tensor if tensors else np.ndarray
    for name, table in zip(names, tables, strict=True):
        if dtype is None or not isinstance(table, library):
            got = ", ".join(f"{n} {type(t).__module__}.{type(t).__name__}" for n, t in zip(names, tables, strict=True))
            raise SolveError(f"tables must be all numpy arrays or all torch tensors, got {got}")
        if table.dtype != dtype:
            raise SolveError(f"tables must have one dtype, got {names[0]} {dtype} and {name} {table.dtype}")
        if tensors and table.device != first.device:
            raise SolveError(f"tables must be on one device, got {names[0]} {first.device} and {name} {table.device}")
        if table.ndim < 2 or 0 in table.shape[-2:]:
            raise SolveError(f"{name} must be (..., m1, m2) with at least one action each, got shape {_shape(table)}")
    if tensors and any(table.requires_grad for table in tables):
        return tuple(table.detach() for table in tables)
    return tables


def are_plain(q_leader: Any, q_follower: Any, g_leader: Any, g_follower: Any) -> bool:
    """Return whether the tables are four arrays, or tensors without a graph, of one legal dtype and shape: most are."""
    kind = type(q_leader)
    if not kind is type(q_follower) is type(g_leader) is type(g_follower):
        return False
    if kind is not np.ndarray and not (
        is_tensor(q_leader) and _are_together(q_leader, q_follower, g_leader, g_follower)
    ):
        return False
    dtype, shape = q_leader.dtype, q_leader.shape
    return (
        dtype is q_follower.dtype is g_leader.dtype is g_follower.dtype
        and shape == q_follower.shape == g_leader.shape == g_follower.shape
        and dtype in _FLOATS
        and len(shape) >= 2
        and 0 not in shape[-2:]
    )


def _are_together(first: Any, *others: Any) -> bool:
    """Return whether tensors are on one device and none of them is part of a graph."""
    for table in others:
        if table.requires_grad or table.device != first.device:
            return False
    return not first.requires_grad


def check_scale(scale: Any, like: Any) -> tuple[float, float]:
    """Return the two weights of the agents' violations, rounded to the dtype of the table `like`."""
    if type(scale) is tuple and scale == NO_WEIGHTS:
        return NO_WEIGHTS
    try:
        first, second = (_round(float(weight), like.dtype) for weight in scale)
    except (TypeError, ValueError):
        first = second = math.nan
    if not (0.0 < first < math.inf and 0.0 < second < math.inf):
        raise SolveError(f"scale must be two positive finite numbers (leader, follower), got {scale!r}")
    return first, second


def _read_constraints(agent: str, table: Any, d: Any, shape: Any) -> tuple[Constraint, ...]:
    """Pair the costs-to-go of one agent with their thresholds; K constraints iff the table has one axis more."""
    if table.shape == shape:
        return ((table, _read_threshold(agent, d, table, shape[:-2])),)
    if table.shape[1:] == shape and table.shape[0] > 0:
        limits = _read_threshold_array(agent, d, table, (table.shape[:1], table.shape[:-2]))
        return tuple((table[k], _spread(limits[k])) for k in range(table.shape[0]))
    raise SolveError(
        f"G{agent} must have the shape {tuple(shape)} of the other tables, or (K, ...) in front of it, "
        f"got {_shape(table)}"
    )


def _read_threshold(agent: str, d: Any, table: Any, states: Any) -> Any:
    if type(d) is float or (isinstance(d, numbers.Real) and not isinstance(d, bool)):
        if d != d:
            raise SolveError(f"d{agent} must not be NaN")
        return _round(float(d), table.dtype)
    limits = _read_threshold_array(agent, d, table, ((), states))
    return _spread(limits)


def _read_threshold_array(agent: str, d: Any, table: Any, shapes: tuple[Any, ...]) -> Any:
    """Return thresholds as an array of the table's library, dtype and device, of one of the shapes."""
    if is_tensor(d):
        if not is_tensor(table) or d.device != table.device:
            raise SolveError(f"d{agent} must be a number or of the library and device of the tables, got {d!r}")
        limits = d.detach().to(table.dtype)
    elif isinstance(d, np.ndarray) and d.dtype == table.dtype:
        limits = d
    else:
        try:
            numbers_given = np.array(d)
        except ValueError as error:
            raise SolveError(f"d{agent} must be a number or an array of numbers, got {d!r}") from error
        if numbers_given.dtype.kind not in "iuf":
            raise SolveError(f"d{agent} must be a number or an array of numbers, got {d!r}")
        with np.errstate(over="ignore"):
            limits = numbers_given.astype(_scalar_type(table.dtype))
        if is_tensor(table):
            limits = sys.modules["torch"].from_numpy(limits).to(table.device)
    if limits.shape not in shapes:
        wanted = " or ".join(dict.fromkeys(str(tuple(shape)) for shape in shapes))
        raise SolveError(f"d{agent} must have shape {wanted} beside G{agent} of {_shape(table)}, got {_shape(limits)}")
    _check_entries((), [(f"d{agent}", limits)])
    return limits


def _spread(limits: Any) -> Any:
    return limits[..., None, None] if limits.ndim else limits


@functools.lru_cache
def _round(number: float, dtype: Any) -> float:
    """Round a Python number to the tables' dtype, so that every library compares with the same limit."""
    with np.errstate(over="ignore"):
        return float(_scalar_type(dtype)(number))


def _scalar_type(dtype: Any) -> Any:
    """Return NumPy's scalar type of a legal dtype of either library, else None."""
    if dtype not in _FLOATS and str(dtype) in ("torch.float32", "torch.float64"):
        _FLOATS[dtype] = getattr(np, str(dtype).removeprefix("torch."))
    return _FLOATS.get(dtype)


def _named(name: str, constraints: tuple[Constraint, ...]) -> list[Named]:
    """Return the costs-to-go of an agent with what to call them."""
    if len(constraints) == 1:
        return [(name, constraints[0][0])]
    return [(f"{name}[{k}]", table) for k, (table, _) in enumerate(constraints)]


def _check_entries(rewards: Sequence[Named], costs: Sequence[Named]) -> None:
    """Raise `SolveError`, with the first place, where a reward is not finite or a cost is NaN.

    A dot product is NaN if an entry is, and not finite if an entry is not; that of legal entries may overflow, too.
    """
    pairs = [*_in_pairs(rewards), *_in_pairs(costs)]
    totals = [_dot_product(a[1], b[1]) for a, b in pairs]
    for (name, table), total in ((named, total) for pair, total in zip(pairs, totals, strict=True) for named in pair):
        if name[0] == "Q" and not math.isfinite(total):
            _reject(name, "NaN or infinite", _where(table, np.isfinite, negate=True))
        elif math.isnan(total):
            _reject(name, "NaN", _where(table, np.isnan))


def _in_pairs(named: Sequence[Named]) -> list[tuple[Named, Named]]:
    """Return the tables two by two, the last one perhaps with itself; all are of one shape."""
    return list(zip_longest(named[::2], named[1::2], fillvalue=named[-1])) if named else []


def _dot_product(a: Any, b: Any) -> float:
    """Return the dot product of the entries of two tables, which takes no temporary table."""
    return float(np.vdot(a, b)) if isinstance(a, np.ndarray) else a.reshape(-1).dot(b.reshape(-1)).item()


def _where(table: Any, test: Any, *, negate: bool = False) -> np.ndarray:
    """Return the indices (n, ndim) of the entries that pass (or fail) the test."""
    found = test(table.cpu().numpy() if is_tensor(table) else table)
    return np.argwhere(~found if negate else found)


def _reject(name: str, what: str, indices: np.ndarray) -> None:
    if len(indices):
        at = tuple(map(int, indices[0]))
        raise SolveError(f"{name} has {len(indices)} {what} entries, the first at {at}; expected none")


def _shape(table: Any) -> tuple[int, ...]:
    return tuple(table.shape)
