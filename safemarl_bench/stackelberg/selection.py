"""What `solve` returns and what a backend is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Constraint = tuple[Any, Any]
"""One constraint ``G <= d``: G of shape (..., m1, m2), and d a scalar or of shape (..., 1, 1), of G's dtype."""


class Problem(NamedTuple):
    """Checked input of a backend; arrays of one library, dtype and device.

    Attributes:
        q_leader, q_follower: (..., m1, m2) float, finite.
        leader_constraints, follower_constraints: one `Constraint` each, or several.
        semantics, tie, fallback, scale: as given to `solve`.
    """

    q_leader: Any
    q_follower: Any
    leader_constraints: tuple[Constraint, ...]
    follower_constraints: tuple[Constraint, ...]
    semantics: str
    tie: str
    fallback: str
    scale: tuple[float, float]

    @property
    def options(self) -> dict[str, Any]:
        """What a `Selection` repeats of its problem."""
        return {"semantics": self.semantics, "tie": self.tie, "fallback": self.fallback, "scale": self.scale}


class Selection(NamedTuple):
    """One pair of actions per state, in arrays of the input's library.

    Attributes:
        leader, follower: (...) int64, row i and column j; -1 where nothing was selected (``fallback="none"``).
        feasible: (...) bool, the constrained problem has a solution.
        value_leader, value_follower: (...) float, Q1 and Q2 of the pair; NaN where nothing was selected.
        violation: (...) float >= 0, scaled violation of the pair (of the least violating one where nothing was
            selected); exactly 0 where feasible, positive elsewhere.
        n_safe: (..., m1) int64, pairs of each row with G1 <= d1 and G2 <= d2, in either semantics.
        br_gap: (...) float >= 0, what the follower loses with its next best reply to row i among the replies of
            least violation: 0 at a tie, inf without another reply.
        runner_up: (...) float >= 0, what the leader loses without row i, among the rows of equal violation: inf
            without another row. Both gaps are NaN where nothing was selected or ``fallback="max_q1"`` decided.
        semantics, tie, fallback, scale: as given to `solve`.
        backend: the name of the backend that solved it, never "auto".
    """

    leader: Any
    follower: Any
    feasible: Any
    value_leader: Any
    value_follower: Any
    violation: Any
    n_safe: Any
    br_gap: Any
    runner_up: Any
    semantics: str
    tie: str
    fallback: str
    scale: tuple[float, float]
    backend: str

    def reshape(self, states: tuple[int, ...]) -> Selection:
        """Return the selection with arrays for states of this shape instead of (S,)."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return self._replace(**{name: a.reshape((*states, *a.shape[1:])) for name, a in arrays.items()})


def is_tensor(value: Any) -> bool:
    """Return whether `value` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(problem: Problem) -> Problem:
    """Return the problem with NumPy arrays, from either library."""
    return map_arrays(problem, lambda value: value.cpu().numpy() if is_tensor(value) else value)


def to_torch(problem: Problem) -> Problem:
    """Return the problem with torch tensors on the CPU, from NumPy arrays."""
    torch = sys.modules["torch"]
    return map_arrays(problem, lambda value: torch.tensor(value) if isinstance(value, np.ndarray) else value)


def like(selection: Selection, table: Any) -> Selection:
    """Return the selection with its arrays in the library and on the device of `table`."""
    arrays = {name: getattr(selection, name) for name in ARRAYS}
    if is_tensor(table):
        torch = sys.modules["torch"]
        arrays = {name: torch.as_tensor(np.asarray(value), device=table.device) for name, value in arrays.items()}
    else:
        arrays = {name: np.asarray(value.cpu() if is_tensor(value) else value) for name, value in arrays.items()}
    return selection._replace(**arrays)


ARRAYS = Selection._fields[: Selection._fields.index("semantics")]
"""Names of the fields that are arrays, with a leading axis of states."""


def map_arrays(problem: Problem, convert: Callable[[Any], Any]) -> Problem:
    """Return the problem with every table and limit converted."""
    return problem._replace(
        q_leader=convert(problem.q_leader),
        q_follower=convert(problem.q_follower),
        leader_constraints=tuple((convert(g), convert(d)) for g, d in problem.leader_constraints),
        follower_constraints=tuple((convert(g), convert(d)) for g, d in problem.follower_constraints),
    )
