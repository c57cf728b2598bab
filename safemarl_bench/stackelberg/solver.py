"""The one public way to a constrained Stackelberg pair: check the input, pick a backend, hand back arrays."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from safemarl_bench.errors import InexactSolve, InfeasibleState, MissingDependency
from safemarl_bench.stackelberg.certificate import verify
from safemarl_bench.stackelberg.inputs import check_option, read_problem
from safemarl_bench.stackelberg.selection import Problem, Selection, is_tensor, like, to_numpy, to_torch

BACKENDS = ("cvxpy", "cvxpy_dpp", "highs", "highs_ranked", "numba", "numpy", "python", "scipy", "torch")
"""Names of all backends; `numba` needs the extra ``safemarl-bench[kernel]``, `highs*` and `cvxpy*` need ``[mip]``."""

MIPS = ("cvxpy", "cvxpy_dpp", "highs", "highs_ranked", "scipy")
CHECKS_ENTRIES = ("numba",)
"""Backends that notice illegal entries while they read them."""

_ENUMERATION = ", ".join(name for name in BACKENDS if name not in MIPS)
_loaded: dict[str, Callable[[Problem], Selection]] = {}
_plain: dict[str, Callable[..., Selection | None]] = {}
"""Backend -> its short way for plain input, as soon as it is loaded."""


def solve(
    Q1: Any,
    Q2: Any,
    G1: Any,
    G2: Any,
    d1: Any,
    d2: Any,
    *,
    semantics: str = "mip13",
    tie: str = "optimistic",
    fallback: str = "least_violation",
    scale: tuple[float, float] = (1.0, 1.0),
    backend: str = "auto",
    check: bool = False,
) -> Selection:
    """Select the constrained Stackelberg pair of every state.

    Rows i are the leader's actions, columns j the follower's. With
    ``S_i = {j : G1[i,j] <= d1 and G2[i,j] <= d2}`` the follower answers i by its best Q2 over S_i
    (``"mip13"``: MIP (13) of the MIP-PCSQ card) or over ``{j : G2[i,j] <= d2}``, after which the
    leader needs G1 <= d1 at that answer (``"csq10"``: Zheng & Gu, equation (10)). The leader takes
    the row with the largest Q1. What still ties goes to the lowest i, then the lowest j.

    Enumeration (``python``, ``numpy``, ``numba``, ``torch``) and ``highs_ranked``, a MIP on ranks, return exactly
    that pair. The other MIPs (``highs``, ``cvxpy``, ``cvxpy_dpp``, ``scipy``) work within tolerances: they return an
    equally good pair, with a certificate, or raise `InexactSolve`.

    Args:
        Q1, Q2: (..., m1, m2) rewards-to-go, finite; float32 or float64; NumPy arrays or torch tensors.
        G1, G2: (..., m1, m2) costs-to-go, not NaN (inf is legal: never safe under a finite limit). Several
            constraints of an agent: (K, ..., m1, m2), told apart by ``G.ndim == Q.ndim + 1``. Same library,
            dtype and device as Q.
        d1, d2: limits, not NaN: a number or (...) per state; with K constraints (K,) or (K, ...). Rounded once
            to the tables' dtype.
        semantics: "mip13" or "csq10".
        tie: a follower that is indifferent helps the leader ("optimistic": with csq10 first by the least
            violation of G1, then by Q1) or harms it ("pessimistic", enumeration only).
        fallback: at infeasible states, "least_violation": replies and rows of least
            ``scale[0] * sum of max(0, G1 - d1) + scale[1] * sum of max(0, G2 - d2)`` (with csq10 the follower
            minimises its own term), then as above; "none": nothing, actions -1; "raise"; "max_q1": the
            largest Q1 of the whole table.
        scale: positive weights of the leader's and the follower's violation.
        backend: a name in `BACKENDS`, "auto": that of the tables' library, or "fastest": `numba` where it is
            installed, else as "auto".
        check: certify the answer with `verify`.

    Returns:
        A `Selection` whose arrays are of the tables' library and device and carry no gradient.

    Raises:
        SolveError: invalid tables, limits or options; ties that a MIP does not know; a MIP that found no answer.
        InfeasibleState: with ``fallback="raise"``.
        InexactSolve: the answer fails its certificate (always checked for MIPs).
        MissingDependency: the backend's package is not installed.
    """
    tables, d, options = (Q1, Q2, G1, G2), (d1, d2), (semantics, tie, fallback, scale)
    if backend == "fastest":
        backend = _fastest()
    solve_plain = _plain.get(backend)
    selection = solve_plain(tables, d, *options) if solve_plain else None
    if selection is None:
        selection = _solve(tables, d, options, backend)
    if check or backend in MIPS:
        certify(tables, d, selection)
    if fallback == "raise":
        _raise_infeasible(selection.feasible)
    return selection


def _solve(
    tables: tuple[Any, Any, Any, Any], d: tuple[Any, Any], options: tuple[str, str, str, Any], backend: str
) -> Selection:
    """Check the input, give the backend what it takes, and return its answer in the library of the tables."""
    tensors = is_tensor(tables[0])
    if backend == "auto":
        backend = "torch" if tensors else "numpy"
    problem = read_problem(tables, d, *options, entries=backend not in CHECKS_ENTRIES)
    solve_states = _loaded.get(backend) or _load(backend)
    if tensors is (backend == "torch"):
        return solve_states(problem)
    return like(solve_states(to_numpy(problem) if tensors else to_torch(problem)), tables[0])


def certify(tables: tuple[Any, Any, Any, Any], d: tuple[Any, Any], selection: Selection) -> None:
    """Raise `InexactSolve`, with the first state and claim that fail, unless `verify` accepts the selection."""
    certificate = verify(tables, d, selection)
    for name, claim in certificate._asdict().items():
        failed = np.argwhere(~np.asarray(claim.cpu() if is_tensor(claim) else claim))
        if len(failed):
            state = tuple(map(int, failed[0]))
            pair = int(selection.leader[state]), int(selection.follower[state])
            raise InexactSolve(
                f"backend {selection.backend!r} returned pair {pair} at state {state}, which is not {name} "
                f"({len(failed)} states); use an enumeration backend: {_ENUMERATION}"
            )


def _raise_infeasible(feasible: Any) -> None:
    stuck = np.argwhere(~np.asarray(feasible.cpu() if is_tensor(feasible) else feasible))
    if len(stuck):
        first = tuple(map(int, stuck[0]))
        raise InfeasibleState(
            f"{len(stuck)} of {math.prod(feasible.shape)} states are infeasible, the first at {first}"
        )


@functools.cache
def _fastest() -> str:
    """Return "numba" where it is installed, else "auto"."""
    try:
        _load("numba")
    except MissingDependency:
        return "auto"
    return "numba"


def _load(backend: str) -> Callable[[Problem], Selection]:
    check_option("backend", backend, ("auto", "fastest", *BACKENDS))
    module = importlib.import_module(f"safemarl_bench.stackelberg.{backend}_backend")
    _loaded[backend] = module.solve_states
    if hasattr(module, "solve_plain"):
        _plain[backend] = module.solve_plain
    return _loaded[backend]
