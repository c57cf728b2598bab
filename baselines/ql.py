"""QL: tabular Q-learning (Watkins, 1989) on the joint problem, as *Weakly Coupled Deep Q-Networks* (NeurIPS 2023)
compares with.

    Q(s, a) += alpha [r + gamma max over feasible a' of Q(s', a') - Q(s, a)]

with alpha = 1 / nu(s, a)^0.4, nu counting visits. Acting: greedy among the feasible joint actions, or with chance
epsilon(s) = 1 / nu(s)^0.4 a uniform one of them. Where only the clock ends an episode, values bootstrap.

All values start at 0. The paper starts them at random, which `official` brings back: what an untried action starts
with then decides whether a state met a few times repeats its first good action or tries all others first.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from safemarl_bench.contract import WeaklyCoupled
from safemarl_bench.weakly_coupled import tables
from safemarl_bench.weakly_coupled.tabular_agent import TabularAgent, TabularConfig


@dataclasses.dataclass(frozen=True)
class QLConfig(TabularConfig):
    """Q-learning adds nothing to what every tabular learner can set."""


class QL(TabularAgent):
    """Tabular Q-learning on joint states and joint actions."""

    Config: ClassVar[type] = QLConfig

    def subproblem_tables(self, problem: WeaklyCoupled) -> tables.SubTables:
        """Return the tables of the sub-problems: here none."""
        return tables.no_subproblems(problem.n_exogenous)

    def exponents(self) -> tuple[float, float, float]:
        """Return the exponents of alpha and of the sub-problems' rates, which are not used."""
        return (self.config.alpha_exponent,) * 3
