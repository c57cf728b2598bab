"""Joint-action Q learners that play a constrained equilibrium of their tables."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.contract import AgentContext
from safemarl_bench.learning.agent import OffPolicyConfig, Update
from safemarl_bench.learning.joint import discounted_limits
from safemarl_bench.learning.joint_q import Decision, JointQAgent
from safemarl_bench.stackelberg import solve


@dataclasses.dataclass(frozen=True)
class ConstrainedQConfig(OffPolicyConfig):
    """What every constrained joint-action Q learner can set."""

    # Defects of released codes, off; on, they show what each of them costs.
    max_max_leader: bool = False  # the leader maximises Q1 over both actions, whatever the follower would answer
    vacuous_limits: bool = False  # limits that nothing exceeds: the constraint is switched off


class ConstrainedQAgent(JointQAgent):
    """A subclass says which equilibrium; see `JointQAgent`.

    Class attributes:
        semantics: of the equilibrium; see `safemarl_bench.stackelberg.solve`.

    Attributes:
        d_leader, d_follower: (K1,) and (K2,) discounted limits.
    """

    Config: ClassVar[type] = ConstrainedQConfig
    semantics: ClassVar[str]

    def __init__(self, context: AgentContext, config: Any) -> None:
        """See `JointQAgent`."""
        super().__init__(context, config)
        self.d_leader, self.d_follower = (discounted_limits(context, agent) for agent in self.joint.agents)
        if config.vacuous_limits:
            self.d_leader, self.d_follower = (np.full_like(d, math.inf) for d in (self.d_leader, self.d_follower))

    @abstractmethod
    def equilibrium(self, tables: np.ndarray) -> np.ndarray:
        """Return the pairs to play, (B,) int64, of tables (2 + K1 + K2, B, m1, m2)."""

    def greedy(self, decision: Decision) -> np.ndarray:
        """Return the equilibrium of every table."""
        if self.config.max_max_leader:
            return max_max_pairs(decision.tables, self.d_leader, self.d_follower)
        return self.equilibrium(decision.tables)

    def metrics(self, update: Update) -> dict[str, float]:
        """Add the share of the batch's states in which no pair keeps the limits."""
        tables, split = self.decision(update).tables, 2 + len(self.d_leader)
        costs, limits = (tables[2:split], tables[split:]), (self.d_leader, self.d_follower)
        feasible = solve(tables[0], tables[1], *costs, *limits, semantics=self.semantics).feasible
        return super().metrics(update) | {"infeasible": 1.0 - float(feasible.mean(dtype=np.float32))}


def max_max_pairs(tables: np.ndarray, d_leader: np.ndarray, d_follower: np.ndarray) -> np.ndarray:
    """Return the pairs of a leader who hopes for the best and a follower who answers, (B,) int64.

    ``a1 = argmax over a1 of max over a2 with G1 <= d1 of Q1``, ``a2 = argmax over a2 with G2(a1, a2) <= d2 of Q2``;
    infeasible states fall back to the least violation. Not an equilibrium.

    Args:
        tables: (2 + K1 + K2, B, m1, m2). d_leader, d_follower: (K1,) and (K2,).
    """
    split, columns = 2 + len(d_leader), tables.shape[3]
    own = tables[2:split]
    row = solve(tables[0], tables[0], own, own, d_leader, d_leader, semantics="csq10").leader
    left = tables[:, np.arange(len(row)), row][:, :, None]
    free = np.full_like(d_leader, math.inf)
    answer = solve(left[0], left[1], left[2:split], left[split:], free, d_follower, semantics="csq10").follower
    pairs: np.ndarray = row * columns + answer
    return pairs
