"""CSQ, constrained Stackelberg Q-learning: Zheng & Gu, *Safe MARL with Bilevel Optimization in Autonomous
Driving*, Algorithm 1. Discrete actions; one leader (1), one follower (2).

Critics Q1, Q2 (rewards) and G1, G2 (costs) of the global state, one output per joint action (a1, a2).

Equilibrium at a state, equation (10), on the online tables, with d_i the discounted limits:

    b(a1) = argmax over {a2 : G2(a1, a2) <= d2} of Q2(a1, a2)
    a1*   = argmax over {a1 : b(a1) defined, G1(a1, b(a1)) <= d1} of Q1(a1, b(a1)),    a2* = b(a1*)

Acting: the equilibrium, or with chance epsilon a uniform joint action. Learning, on a uniform batch:

    (a1', a2') = equilibrium at s'
    y_i = r_i + gamma (1 - done_i) Q_i_targ(s', a1', a2')     loss (Q_i(s, a1, a2) - y_i)^2
    g_i = c_i + gamma (1 - done_i) G_i_targ(s', a1', a2')     loss (G_i(s, a1, a2) - g_i)^2
    targ <- rho targ + (1 - rho) online, every few updates

Deviations from the authors' code, which are corrections of it: the done mask has the shape of the
batch, so that episodes end; the next pair is chosen at s', not at s; the leader anticipates the
follower's answer instead of maximising Q1 over both actions; infeasible states fall back to the
least violation instead of ignoring the constraints. Done agents play their neutral action, have no
value left, and are left out of the losses.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from safemarl_bench.learning import ConstrainedQAgent, ConstrainedQConfig, Decision
from safemarl_bench.stackelberg import solve


@dataclasses.dataclass(frozen=True)
class CSQConfig(ConstrainedQConfig):
    """CSQ adds nothing to what every constrained joint-action Q learner can set."""


def equilibrium(tables: np.ndarray, d_leader: np.ndarray, d_follower: np.ndarray) -> np.ndarray:
    """Return the pairs of equation (10), (B,) int64 indices ``a1 * m2 + a2``.

    Args:
        tables: (2 + K1 + K2, B, m1, m2): Q1, Q2, the leader's K1 cost tables, the follower's K2.
        d_leader, d_follower: (K1,) and (K2,) discounted limits.
    """
    split = 2 + len(d_leader)
    costs, limits = (tables[2:split], tables[split:]), (d_leader, d_follower)
    selection = solve(tables[0], tables[1], *costs, *limits, semantics="csq10", backend="fastest")
    pairs: np.ndarray = selection.leader * tables.shape[-1] + selection.follower
    return pairs


class CSQ(ConstrainedQAgent):
    """Constrained Stackelberg Q-learning."""

    Config: ClassVar[type] = CSQConfig
    semantics: ClassVar[str] = "csq10"

    def equilibrium(self, tables: np.ndarray) -> np.ndarray:
        """Return the pairs of equation (10)."""
        return equilibrium(tables, self.d_leader, self.d_follower)

    def explore(self, decision: Decision, rng: np.random.Generator) -> np.ndarray:
        """Return uniform joint actions."""
        rows, columns = self.joint.shape
        return rng.integers(rows * columns, size=len(decision.features))
