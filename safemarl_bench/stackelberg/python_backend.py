"""The oracle: one state at a time, one cell at a time, in the order in which the definitions are read.

Arithmetic is done on NumPy scalars of the tables' dtype, so that violations round as in the batched backends.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection

Key = tuple[Any, ...]


def solve_states(problem: Problem) -> Selection:
    """Solve every state in turn; see `safemarl_bench.stackelberg.solve`."""
    states = problem.q_leader.shape[:-2]
    dtype = problem.q_leader.dtype
    kinds = dict.fromkeys(("leader", "follower"), np.dtype(np.int64)) | {"feasible": np.dtype(bool)}
    kinds |= dict.fromkeys(("value_leader", "value_follower", "violation", "br_gap", "runner_up"), dtype)
    arrays: dict[str, Any] = {name: np.empty(states, kind) for name, kind in kinds.items()}
    arrays["n_safe"] = np.empty(problem.q_leader.shape[:-1], np.int64)
    with np.errstate(all="ignore"):
        for state in np.ndindex(states):
            for name, value in _solve_state(problem, state).items():
                arrays[name][state] = value
    return Selection(
        **arrays,
        backend="python",
        **problem.options,
    )


def _solve_state(problem: Problem, state: tuple[int, ...]) -> dict[str, Any]:
    q1, q2 = problem.q_leader[state], problem.q_follower[state]
    m1, m2 = q1.shape
    cells = list(itertools.product(range(m1), range(m2)))
    over1 = {cell: _over(problem.leader_constraints, problem.scale[0], state, cell) for cell in cells}
    over2 = {cell: _over(problem.follower_constraints, problem.scale[1], state, cell) for cell in cells}
    over = {cell: over1[cell] + over2[cell] for cell in cells}
    favour = 1 if problem.tie == "optimistic" else -1

    def follower_key(i: int, j: int) -> Key:
        if problem.semantics == "mip13":
            return over[i, j], -q2[i, j], -favour * q1[i, j], j
        return over2[i, j], -q2[i, j], favour * over1[i, j], -favour * q1[i, j], j

    reply = [min(range(m2), key=lambda j, i=i: follower_key(i, j)) for i in range(m1)]  # type: ignore[misc]
    row = min(range(m1), key=lambda i: (over[i, reply[i]], -q1[i, reply[i]], i))
    pair = row, reply[row]
    feasible = over[pair] == 0
    least = follower_key(*pair)[0]
    found = {
        "leader": row,
        "follower": reply[row],
        "feasible": feasible,
        "value_leader": q1[pair],
        "value_follower": q2[pair],
        "violation": over[pair],
        "n_safe": [sum(over[i, j] == 0 for j in range(m2)) for i in range(m1)],
        "br_gap": min(
            (q2[pair] - q2[row, j] for j in range(m2) if j != reply[row] and follower_key(row, j)[0] == least),
            default=math.inf,
        ),
        "runner_up": min(
            (q1[pair] - q1[i, reply[i]] for i in range(m1) if i != row and over[i, reply[i]] == over[pair]),
            default=math.inf,
        ),
    }
    if feasible or problem.fallback in ("least_violation", "raise"):
        return found
    nothing = dict.fromkeys(("value_leader", "value_follower", "br_gap", "runner_up"), math.nan)
    if problem.fallback == "none":
        return found | nothing | {"leader": -1, "follower": -1}
    i, j = max(cells, key=lambda cell: (q1[cell], -cell[0], -cell[1]))
    chosen = {"leader": i, "follower": j, "value_leader": q1[i, j], "value_follower": q2[i, j], "violation": over[i, j]}
    return found | nothing | chosen


def _over(constraints: tuple[Constraint, ...], weight: float, state: tuple[int, ...], cell: tuple[int, int]) -> Any:
    """Return the weighted violation of one agent at one cell: exactly 0 iff all its constraints hold."""
    total = constraints[0][0].dtype.type(0)
    for table, limit in constraints:
        g = table[(*state, *cell)]
        d = table.dtype.type(np.broadcast_to(limit, (*table.shape[:-2], 1, 1))[(*state, 0, 0)])
        if not g <= d:
            total += g - d
    tiny = np.finfo(total.dtype).tiny
    return total if weight == 1.0 or total == 0 else max(total * total.dtype.type(weight), tiny)
