"""WCQL: weakly coupled Q-learning, *Weakly Coupled Deep Q-Networks* (NeurIPS 2023), Algorithm 2.

Beside the joint table of Q-learning (see ql.py), one table per sub-problem i and multiplier lam of a grid, in which the
sub-problem pays lam for what it uses of the resource; their sum, with what the resource earns, bounds the optimum from
above (Proposition 1), and the joint table is cut to the least of these bounds:

    (7)   Q_i^lam(s_i, a_i) += beta [r_i - lam a_i + gamma max_b Q_i^lam(s_i', b) - Q_i^lam(s_i, a_i)]
    (8)   B(w) += eta [b(w) + gamma B(w') - B(w)]
    (9)   Q^lam(s, a) = lam B(w) + sum_i Q_i^lam(s_i, a_i)
    (10)  Q^lam*(s, a) = min over the grid of Q^lam(s, a), for each (s, a)
    (11)  Q as in Q-learning from Q', then Q'(s, a) = min(Q(s, a), Q^lam*(s, a))

beta, eta: 1 / visits^r. Q' is taken with the bounds of the moment wherever it is read: in acting, in targets, and for
all actions of the state learned from, where it is kept.

Deviations from the authors' code: all tables start at upper bounds, so that the bound holds at the first step
(afterwards it is an estimate), and what an untried joint action is worth is what the sub-problems say; beta and eta
fall with r = 0.7, which stochastic approximation asks for, instead of 0.4; the grid is [0, 1.5] in steps of 0.01,
because the minimiser is hardly ever above 0.75. `official` brings back random first values and the grid [0, 10]. With
`lam_by_exogenous` there is a multiplier for each exogenous state, and the grid is the product of `lam_levels` levels: a
far tighter bound.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from safemarl_bench.contract import AgentContext, Transition, WeaklyCoupled
from safemarl_bench.errors import ContractError
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled import tables
from safemarl_bench.weakly_coupled.tables import SubTables
from safemarl_bench.weakly_coupled.tabular_agent import TabularAgent, TabularConfig

OFFICIAL_GRID = (10.0, 1001)
"""Largest multiplier and number of them in the paper (D.4)."""

MAX_CELLS = 10**8
"""Cells of all sub-problems' tables together: 800 MB."""


@dataclasses.dataclass(frozen=True)
class WCQLConfig(TabularConfig):
    """What WCQL can set beside `TabularConfig`; `official` also sets the grid."""

    beta_exponent: float = 0.7  # of the sub-problems' learning rate and of B's
    reward_bound: float = 1.0  # no sub-problem's reward of one decision is higher: where its values start
    lam_max: float = 1.5  # largest multiplier
    lam_count: int = 151  # multipliers, evenly spaced from 0, where one holds for all exogenous states
    lam_by_exogenous: bool = False  # one for each exogenous state
    lam_levels: int = 6  # of each of them, evenly spaced from 0

    def __post_init__(self) -> None:
        """Check ranges; see `TabularConfig`.

        Raises:
            ContractError: an exponent outside [0, 1], a negative multiplier, or fewer than one of them.
        """
        super().__post_init__()
        if not 0.0 <= self.beta_exponent <= 1.0:
            raise ContractError(f"config key 'beta_exponent' must be in [0, 1], got {self.beta_exponent}")
        if not self.lam_max >= 0.0:
            raise ContractError(f"config key 'lam_max' must not be negative, got {self.lam_max}")
        for name in ("lam_count", "lam_levels"):
            if getattr(self, name) < 1:
                raise ContractError(f"config key {name!r} must be at least 1, got {getattr(self, name)}")


def multiplier_grid(config: WCQLConfig, n_exogenous: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (multipliers (L, G) float64, group (W,) int64 of each exogenous state); see `SubTables`."""
    if config.lam_by_exogenous:
        levels = np.linspace(0.0, config.lam_max, config.lam_levels)
        return np.array(list(itertools.product(levels, repeat=n_exogenous))), np.arange(n_exogenous)
    largest, count = OFFICIAL_GRID if config.official else (config.lam_max, config.lam_count)
    return np.linspace(0.0, largest, count)[:, None], np.zeros(n_exogenous, np.int64)


def upper_bounds(shape: tuple[int, ...], lam: np.ndarray, reward_bound: float, gamma: float) -> np.ndarray:
    """Return values that no sub-problem exceeds: the best reward for ever, less what the first use costs.

    Args:
        shape: (N, W, S, M, L). lam: (W, L), what a unit costs at each exogenous state.
    """
    use = np.arange(shape[3])[:, None]
    best = reward_bound / (1.0 - gamma) - use * lam[:, None, None, :]
    return np.broadcast_to(best, shape).copy()


class WCQL(TabularAgent):
    """Q-learning cut to the least Lagrangian bound of its sub-problems."""

    Config: ClassVar[type] = WCQLConfig

    def __init__(self, context: AgentContext, config: WCQLConfig) -> None:
        """Start at upper bounds.

        Raises:
            ContractError: the game is not weakly coupled, gamma is 1, where there is no bound, or the tables of the
                sub-problems would be larger than `MAX_CELLS`.
        """
        if context.gamma == 1.0:
            raise ContractError("WCQL needs a discount below 1, got gamma 1")
        super().__init__(context, config)

    def initial_values(self) -> np.ndarray:
        """Return first values of the joint table that no action exceeds, so that an untried one has its bound."""
        if self.config.official:
            return super().initial_values()
        highest = self.config.reward_bound / (1.0 - self.context.gamma)
        return np.array([self.problem.n_subproblems * highest])

    def subproblem_tables(self, problem: WeaklyCoupled) -> SubTables:
        """Return the tables of the sub-problems, at upper bounds unless `official`.

        Raises:
            ContractError: they would be larger than `MAX_CELLS`.
        """
        config, gamma = self.config, self.context.gamma
        multipliers, group = multiplier_grid(config, problem.n_exogenous)
        sizes = (problem.n_subproblems, problem.n_exogenous, max(problem.sub_states), problem.sub_actions)
        shape = (*sizes, len(multipliers))
        if np.prod(shape, dtype=np.float64) > MAX_CELLS:
            raise ContractError(
                f"tables of {shape} (sub-problems, exogenous states, states, uses, multipliers) are more than "
                f"{MAX_CELLS:,} cells: set a smaller lam_count, or lam_levels"
            )
        if config.official:
            initial = generator("init", self.context.seed, 1).random(shape)
            return tables.subproblem_tables(initial, multipliers, group, 0.0)
        initial = upper_bounds(shape, multipliers[:, group].T, config.reward_bound, gamma)
        return tables.subproblem_tables(initial, multipliers, group, float(problem.capacity.max()) / (1.0 - gamma))

    def observe(self, transition: Transition) -> None:
        """Keep E transitions for `learn`.

        Raises:
            ContractError: a sub-problem's reward is above `reward_bound`: what the tables start with would be no bound.
        """
        super().observe(transition)
        assert transition.sub_rewards is not None
        highest = transition.sub_rewards.max()
        if highest > self.config.reward_bound and not self.config.official:
            raise ContractError(
                f"config key 'reward_bound' must be at least every reward, got {self.config.reward_bound} "
                f"and a reward of {highest:.6g}"
            )

    def exponents(self) -> tuple[float, float, float]:
        """Return the exponents of alpha, beta and eta."""
        return self.config.alpha_exponent, self.config.beta_exponent, self.config.beta_exponent

    def metrics(self) -> dict[str, float]:
        """Return what to report: joint states met, and cuts per decision of one game so far."""
        learned = self.decisions * self.context.num_envs
        return super().metrics() | {"cuts": self.cuts / learned}
