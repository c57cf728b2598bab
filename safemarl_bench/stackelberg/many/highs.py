"""The followers' problems as MIPs for HiGHS, two per row for the coalition and one for equilibria.

Over binaries ``y[n, j]`` with ``sum_j y[n, j] = 1``, and ``T[k] = sum C[k, n, j] y[n, j] <= d[k]``:

- *Coalition*: maximise ``sum Q2 y``, then ``sum Q1 y`` among the profiles that reach that value.
- *Generalised Nash equilibrium*, for integer budgets and without big-M: maximise ``sum Q1 y`` where a follower stays at
  j only if each better action a breaks some budget k, ``T[k] >= tau[k] = d[k] + 1 - C[k, n, a] + C[k, n, j]``. With one
  budget that is ``T >= sum_j tau[n, j] y[n, j]`` for the largest tau of each j; with several, a binary per (n, j, a, k)
  says which budget it is.

HiGHS works within tolerances. Rows therefore get a slack beyond them, and every profile is checked in exact arithmetic:
one that breaks a budget or misses the coalition's value is cut off and the MIP solved again. That no better profile
exists is only the solver's word: `solve_multi` certifies every answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from safemarl_bench.errors import InexactSolve, SolveError
from safemarl_bench.stackelberg.many.equilibrium import are_equilibria, undominated
from safemarl_bench.stackelberg.many.lagrangian import relax
from safemarl_bench.stackelberg.many.problem import MultiProblem
from safemarl_bench.stackelberg.many.selection import Profile, Reply, best_over_rows
from safemarl_bench.stackelberg.mip import TIME_LIMIT, import_extra

TOLERANCE = 1e-9
"""Of HiGHS, for rows and integrality, where numbers are scaled to at most 1."""

SLACK = 1e-7
"""Of the rows, in the same scale."""

CUTS = 20
"""Profiles that may be cut off before the solver is called inexact."""

Accept = Callable[[np.ndarray], bool]


def solve_profile(problem: MultiProblem) -> Profile | None:
    """Return the leader's action and the followers' reply to it, None if nothing is feasible.

    Raises:
        SolveError: equilibria with costs that are no integers, or no answer within the time limit.
        InexactSolve: the solver keeps returning profiles that the tables refute.
        MissingDependency: highspy is not installed.
    """
    highspy = import_extra("highspy", "highs")
    if problem.model == "gne" and not problem.integer:
        raise SolveError("method 'highs' needs integers in C with model='gne'; use method='branch_and_bound'")
    deadline = time.monotonic() + TIME_LIMIT

    def reply_to(i: int, _: int | None) -> Reply | None:
        row = RowProgram(problem, i, highspy, deadline)
        if not all(map(len, row.members)):
            return None
        columns = row.coalition() if problem.model == "coalition" else row.equilibrium()
        if columns is None:
            return None
        return int(problem.q_leader[i, row.numbers, columns].sum()), tuple(columns.tolist())

    bounds = relax(problem, problem.q_leader, problem.safe).bound + problem.q_own
    return best_over_rows(problem, bounds, reply_to)


class RowProgram:
    """The MIP of one row; column c is follower ``owner[c]`` taking action ``action[c]``."""

    def __init__(self, problem: MultiProblem, i: int, highspy: Any, deadline: float) -> None:
        self.problem, self.i, self.highspy, self.deadline = problem, i, highspy, deadline
        self.numbers = np.arange(problem.q_leader.shape[1])
        allowed = problem.safe[i] if problem.model == "coalition" else undominated(problem, i)
        self.owner, self.action = np.nonzero(allowed)
        self.cost = problem.cost[:, i, self.owner, self.action]
        self.solver = highspy.Highs()
        options = {"output_flag": False, "threads": 1, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0}
        options |= {"mip_feasibility_tolerance": TOLERANCE, "primal_feasibility_tolerance": TOLERANCE}
        for option, value in options.items():
            self.solver.setOptionValue(option, value)
        self.solver.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self.binaries(len(self.owner))
        self.members = [np.flatnonzero(self.owner == n) for n in self.numbers]
        for columns in self.members:
            self.add_row(1.0, 1.0, columns, 1.0)

    def coalition(self) -> np.ndarray | None:
        """Return the columns (N,) of the row's best coalition."""
        for cost, budget in zip(self.cost, self.problem.budget, strict=True):
            self.at_most(cost, int(budget))
        q = self.problem.q_coalition[self.i]
        first = self.best(q, self.fits)
        if first is None:
            return None
        best = int(q[self.numbers, first].sum())
        payoff = q[self.owner, self.action]
        self.at_most(-payoff, -best)

        def reaches(columns: np.ndarray) -> bool:
            return self.fits(columns) and int(q[self.numbers, columns].sum()) >= best

        second = self.best(self.problem.q_leader[self.i], reaches)
        return first if second is None else second

    def equilibrium(self) -> np.ndarray | None:
        """Return the columns (N,) of the leader's best equilibrium at this row."""
        self._add_equilibrium_rows()

        def stays(columns: np.ndarray) -> bool:
            return self.fits(columns) and bool(are_equilibria(self.problem, self.i, columns[None])[0])

        return self.best(self.problem.q_leader[self.i], stays)

    def fits(self, columns: np.ndarray) -> bool:
        """Return whether a profile is within the budgets."""
        used = self.problem.cost[:, self.i, self.numbers, columns].sum(1)
        return bool((used <= self.problem.budget).all())

    def best(self, payoff: np.ndarray, accept: Accept) -> np.ndarray | None:
        """Return the columns (N,) of a profile of largest payoff (N, m) that is accepted, None if there is none."""
        gain = (payoff - np.where(self.problem.safe[self.i], payoff, payoff.min()).max(1, keepdims=True)).astype(float)
        gain = gain[self.owner, self.action]
        gain /= max(1.0, -gain.min(initial=0.0))
        width = self.solver.getNumCol()
        costs = np.concatenate([gain, np.zeros(width - len(gain))])
        self.solver.changeColsCost(width, np.arange(width, dtype=np.int32), costs)
        for _ in range(CUTS):
            chosen = self.solve()
            if chosen is None:
                return None
            columns = np.asarray(self.action[chosen])
            if accept(columns):
                return columns
            self.add_row(-np.inf, len(chosen) - 1.0, chosen, 1.0)
        raise InexactSolve(f"HiGHS returned {CUTS} profiles at row {self.i} that the tables refute: use another method")

    def solve(self) -> np.ndarray | None:
        """Run HiGHS and return the columns that are 1, one per follower; None if it proves that there are none."""
        kinds = self.highspy.HighsModelStatus
        left = self.deadline - time.monotonic()
        self.solver.setOptionValue("time_limit", self.solver.getRunTime() + max(left, 0.0))  # its clock never restarts
        self.solver.run()
        status = self.solver.getModelStatus()
        if status == kinds.kInfeasible:
            return None
        if status != kinds.kOptimal:
            text = self.solver.modelStatusToString(status)
            raise SolveError(f"method 'highs' found no answer within {TIME_LIMIT:g} s at row {self.i}: {text}")
        chosen = np.flatnonzero(np.array(self.solver.getSolution().col_value[: len(self.owner)]) > 0.5)
        if not np.array_equal(self.owner[chosen], self.numbers):
            raise InexactSolve(f"HiGHS gave the followers {len(chosen)} actions at row {self.i}, expected one each")
        return chosen

    def binaries(self, count: int) -> np.ndarray:
        """Add binary variables and return their columns."""
        first = self.solver.getNumCol()
        columns = np.arange(first, first + count, dtype=np.int32)
        self.solver.addVars(count, np.zeros(count), np.ones(count))
        kinds = np.full(count, self.highspy.HighsVarType.kInteger)
        self.solver.changeColsIntegrality(count, columns, kinds)
        return columns

    def add_row(self, lower: float, upper: float, columns: Any, values: Any) -> None:
        """Add ``lower <= values @ z[columns] <= upper``."""
        columns = np.asarray(columns, np.int32)
        values = np.broadcast_to(np.asarray(values, np.float64), columns.shape).copy()
        self.solver.addRow(lower, upper, len(columns), columns, values)

    def at_most(self, weights: np.ndarray, limit: int) -> None:
        """Add ``sum weights y <= limit``, with a slack, for int64 weights of the profile's columns."""
        least = np.array([weights[columns].min() for columns in self.members])
        above = (weights - least[self.owner]).astype(float)
        scale = max(1.0, float(above.max(initial=0.0)))
        room = float(limit - int(least.sum()))
        self.add_row(-np.inf, room / scale + SLACK, np.arange(len(above)), above / scale)

    def _add_equilibrium_rows(self) -> None:
        """Add the totals T, (K,) variables, and what each action asks of them."""
        least = sum(self.cost[:, columns].min(1) for columns in self.members)
        most = sum(self.cost[:, columns].max(1) for columns in self.members)
        limit = np.minimum(self.problem.budget, most)
        first = self.solver.getNumCol()
        self.solver.addVars(len(limit), least - 0.5, np.maximum(limit, least - 1) + 0.5)
        for k, cost in enumerate(self.cost):
            self.add_row(0.0, 0.0, [*range(len(cost)), first + k], [*cost, -1.0])
        for n, columns in enumerate(self.members):
            asked = np.zeros((len(limit), len(columns)))  # of T above its least value, where one budget must do it
            for at, column in enumerate(columns):
                lowest = least - self.cost[:, columns].min(1) + self.cost[:, column]
                for tau in self._needed(n, column, lowest):
                    able = np.flatnonzero(tau <= limit)
                    if len(able) == 1:
                        asked[able, at] = np.maximum(asked[able, at], (tau - least)[able])
                        continue
                    which = self.binaries(len(able))
                    self.add_row(0.0, np.inf, [*which, column], [*np.ones(len(able)), -1.0])
                    for k, z in zip(able.tolist(), which, strict=True):
                        self.add_row(least[k] - 0.5, np.inf, [first + k, z], [1.0, least[k] - tau[k]])
            for k in np.flatnonzero(asked.any(1)).tolist():
                self.add_row(least[k] - 0.5, np.inf, [first + k, *columns], [1.0, *-asked[k]])

    def _needed(self, n: int, column: Any, lowest: np.ndarray) -> list[np.ndarray]:
        """Return tau (K,) for each better action, unless some total is at least that large anyway."""
        q, cost = self.problem.q_follower[self.i, n], self.problem.cost[:, self.i, n]
        j = self.action[column]
        better = np.flatnonzero(self.problem.safe[self.i, n] & (q > q[j]))
        taus = self.problem.budget[:, None] + 1 - cost[:, better] + cost[:, j, None]
        return [tau for tau in taus.T if not (tau <= lowest).any()]
