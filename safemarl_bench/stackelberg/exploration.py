"""The pairs that a constrained learner may explore."""

from __future__ import annotations

import importlib
from typing import Any

from safemarl_bench.stackelberg.inputs import check_scale, read_constraints
from safemarl_bench.stackelberg.numpy_backend import excess
from safemarl_bench.stackelberg.selection import is_tensor


def exploration_pairs(
    G1: Any,
    G2: Any,
    d1: Any,
    d2: Any,
    *,
    scale: tuple[float, float] = (1.0, 1.0),
    constraint_axis: bool = False,
) -> Any:
    """Return the mask of pairs that exploration draws from: the safe ones, or the least violating ones.

    A uniform draw over a state's mask is the exploration step of MIP-PCSQ, uniform over the union of safe pairs,
    with the fallback of `solve` where no pair is safe.

    Args:
        G1, G2: (..., m1, m2) costs-to-go, not NaN; (K, ..., m1, m2) with `constraint_axis`.
        d1, d2: limits, as in `solve`.
        scale: positive weights of the leader's and the follower's violation.
        constraint_axis: whether the leading axis counts constraints (without Q nothing else tells).

    Returns:
        (..., m1, m2) bool in the tables' library, at least one True per state.

    Raises:
        SolveError: invalid tables, limits or scale.
    """
    leader, follower = read_constraints((G1, G2), (d1, d2), constraint_axis=constraint_axis)
    weights = check_scale(scale, G1)
    if is_tensor(G1):
        slack = importlib.import_module("safemarl_bench.stackelberg.torch_backend").slack
        slacks = slack(leader, weights[0]) + slack(follower, weights[1])
        return slacks == slacks.amax((-2, -1), keepdim=True)
    violation = excess(leader, weights[0])[1] + excess(follower, weights[1])[1]
    return violation == violation.min((-2, -1), keepdims=True)
