"""The one public way to a leader's action and its many followers' replies."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from safemarl_bench.errors import InexactSolve
from safemarl_bench.stackelberg.inputs import check_option
from safemarl_bench.stackelberg.many.certificate import verify_multi
from safemarl_bench.stackelberg.many.problem import MultiProblem, read_multi
from safemarl_bench.stackelberg.many.selection import MultiSelection, Profile, describe

METHODS = ("branch_and_bound", "dynamic_program", "enumeration", "highs")
"""Names of all methods of `solve_multi`; `highs` needs the extra ``safemarl-bench[mip]``."""

FEW = 10**6
"""Profiles over all rows up to which enumeration is quicker than branch and bound."""


def solve_multi(
    Q1: Any,
    Q2: Any,
    C: Any,
    d: Any,
    *,
    Q0: Any = None,
    safe: Any = None,
    model: str = "coalition",
    method: str = "auto",
    check: bool = False,
) -> MultiSelection:
    """Select the leader's best action against N followers that share budgets.

    The leader takes row i, follower n then column j[n] among its safe ones, such that every budget holds,
    ``sum_n C[k, n, i, j[n]] <= d[k]``. The leader is paid ``Q0[i] + sum_n Q1[n, i, j[n]]``, follower n
    ``Q2[n, i, j[n]]``. What the followers do at row i:

    - ``model="coalition"``: they maximise the sum of Q2 together.
    - ``model="gne"``: they play a generalised Nash equilibrium in pure actions: no follower has a better safe action
      that the budgets allow while the others stay.

    Where there are several such profiles, the leader's favourite is played (optimistic), and the leader takes the row
    with the largest payoff. Within the budgets the sum of Q2 is a potential of the followers' game, so the best
    coalition is an equilibrium: there is an equilibrium wherever anything is feasible, and the leader gets at least as
    much with "gne" as with "coalition". Without budgets the models agree and each follower answers for itself.

    ============================  ===========================================  =======================================
    method                        takes                                        time, worst case
    ============================  ===========================================  =======================================
    ``enumeration``               up to 1e10 profiles                          O(m1 m**N K)
    ``dynamic_program``           one budget in integers, or none              O(m1 N m D); "gne": times min(D, N m)
    ``branch_and_bound``          anything                                     exponential, small in practice
    ``highs`` (``[mip]`` extra)   "coalition"; "gne" with costs in integers    exponential
    ============================  ===========================================  =======================================

    D is what the budget leaves beyond the followers' least costs. The first three are exact; the first two return the
    lowest row and then the lexicographically lowest profile of several that are equally good. HiGHS works within
    tolerances, so its answers are always certified. Sums are exact: see `MultiProblem`.

    Args:
        Q1, Q2: (N, m1, m) payoffs, finite; NumPy arrays of float32, float64 or integers. Followers with fewer actions:
            pad and mark as not safe.
        C: (N, m1, m) use of one budget, or (K, N, m1, m) of K budgets, finite; None without budgets.
        d: a number, or (K,), not NaN (infinite is legal); None without budgets.
        Q0: (m1,) what the leader's own action pays; None for nothing.
        safe: (N, m1, m) bool, the actions each follower may take, for costs-to-go as in MIP (13)
            ``(G1 <= d1) & (G2 <= d2)``; None for all.
        model: "coalition" or "gne".
        method: a name in `METHODS`, or "auto": the dynamic program where it fits, enumeration where that is small,
            else branch and bound.
        check: certify the answer with `verify_multi`.

    Raises:
        SolveError: invalid tables or options, a problem that the method does not take or that is too large for it, or
            no answer within 60 s.
        InexactSolve: the answer fails its certificate (always checked for HiGHS).
        MissingDependency: highspy is not installed.
    """
    problem = read_multi(Q1, Q2, C, d, Q0, safe, model)
    if method == "auto":
        method = _choose(problem)
    selection = describe(problem, _load(method)(problem), method)
    if check or method == "highs":
        certificate = verify_multi(Q1, Q2, C, d, selection, Q0=Q0, safe=safe)
        for name, holds in certificate._asdict().items():
            if not holds:
                raise InexactSolve(
                    f"method {method!r} returned row {selection.leader} with followers {selection.followers.tolist()}, "
                    f"which is not {name}; use another method"
                )
    return selection


def _choose(problem: MultiProblem) -> str:
    if _module("dynamic_program").takes(problem):
        return "dynamic_program"
    return "enumeration" if len(problem.q_own) * problem.profiles <= FEW else "branch_and_bound"


def _load(method: str) -> Callable[[MultiProblem], Profile | None]:
    check_option("method", method, ("auto", *METHODS))
    solve_profile: Callable[[MultiProblem], Profile | None] = _module(method).solve_profile
    return solve_profile


@functools.cache
def _module(method: str) -> Any:
    """Import a method when it is first used: numba takes half a second."""
    return importlib.import_module(f"safemarl_bench.stackelberg.many.{method}")
