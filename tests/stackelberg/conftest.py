"""Random tables of every kind that has ever told two solvers apart."""

import dataclasses

import numpy as np
import pytest

KINDS = ("normal", "tied integers", "infeasible", "sparse safe", "large negative", "1e-3 spread")


@dataclasses.dataclass(frozen=True)
class Instances:
    """A batch of states; `args` are the six positional arguments of `solve`."""

    tables: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    d: tuple

    @property
    def args(self):
        return (*self.tables, *self.d)


def _draw(kind, rng, size):
    if kind == "tied integers":
        return rng.integers(-1, 2, size=size).astype(float)
    if kind == "large negative":
        return -1e6 * rng.random(size)
    if kind == "1e-3 spread":
        return 7.0 + 1e-3 * rng.normal(size=size)
    return rng.normal(size=size)


def make_instances(kind, rng, states, shape, *, dtype=np.float64, constraints=None):
    """Draw `states` tables (m1, m2); several constraints per agent if `constraints` is a number."""
    axis = () if constraints is None else (constraints,)
    rewards = [_draw(kind, rng, (*states, *shape)).astype(dtype) for _ in range(2)]
    costs = [_draw(kind, rng, (*axis, *states, *shape)).astype(dtype) for _ in range(2)]
    share = {"infeasible": 0.0, "sparse safe": 0.35}.get(kind, 0.6) ** (1 / (constraints or 1))
    limits = []
    for table in costs:
        cut = table.reshape(*axis, -1).min(-1) - 1 if kind == "infeasible" else np.quantile(table, share)
        # A limit that is itself an entry: thresholds are met exactly.
        exact = cut if kind == "infeasible" else table.ravel()[np.abs(table.ravel() - cut).argmin()]
        limits.append(np.broadcast_to(exact, axis) if axis else float(exact))
    return Instances((*rewards, *costs), tuple(limits))


@pytest.fixture
def instances():
    return make_instances


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param
