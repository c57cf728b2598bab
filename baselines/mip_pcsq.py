"""MIP-PCSQ: CSQ with the equilibrium of a mixed-integer program, prioritised replay, and safe exploration.
Algorithm card "Priority Experience Replay Constrained Stackelberg Q-Learning with MIP action selection".

Critics Q1, Q2, G1, G2 as in CSQ (see csq.py). Equilibrium at a state, MIP (13a)-(13h) in closed form:

    S_i     = {j : G1(i, j) <= d1 and G2(i, j) <= d2}          the follower heeds the leader's limit too
    (i, j)* = argmax of Q1(i, j) over rows with S_i not empty and j in argmax over S_i of Q2(i, .)

Acting: the equilibrium, or with chance epsilon a pair drawn uniformly from the union of {i} x S_i.
Learning, K updates per decision, each on a stratified batch of a replay memory with P(u) = p_u / sum p:

    w_u = ((1/N) / P_u)^beta / max w,    beta from beta_start to 1 over training
    y_i, g_i and losses as in CSQ with this equilibrium at s', each squared error weighted by w_u
    p_u <- (lam_q1 |dQ1| + lam_q2 |dQ2| + lam_g1 |dG1| + lam_g2 |dG2| + eps_p)^alpha,    new: max p

Deviations from the card: the program is solved exactly by enumeration for the whole batch (any
other backend of `safemarl_bench.stackelberg` can be named: it returns an equally good pair, orders
of magnitude slower); where no pair is safe, selection and exploration fall back to the least
violation; targets move every few updates; with several constraints an agent's |dG| are summed. Done
agents play their neutral action, have no value left, and are left out of losses and priorities.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch

from safemarl_bench.contract import AgentContext
from safemarl_bench.errors import ContractError, RegistryError, nearest
from safemarl_bench.learning import (
    Batch,
    ConstrainedQAgent,
    ConstrainedQConfig,
    Decision,
    PrioritizedReplay,
    draw_cells,
    linear,
)
from safemarl_bench.stackelberg import BACKENDS, exploration_pairs, solve


@dataclasses.dataclass(frozen=True)
class MIPPCSQConfig(ConstrainedQConfig):
    """What MIP-PCSQ can set beside `ConstrainedQConfig`."""

    backend: str = "fastest"  # of the equilibrium: or a name in safemarl_bench.stackelberg.BACKENDS
    alpha: float = 0.6  # how much priorities count: 0 draws uniformly
    beta_start: float = 0.4  # share of the draw's bias that weights correct at first
    eps_p: float = 1e-3  # added to the errors, so that nothing is never drawn again
    lam_q_leader: float = 1.0  # weight of |dQ1| in the priority
    lam_q_follower: float = 1.0  # weight of |dQ2|
    lam_g_leader: float = 1.0  # weight of each |dG1|
    lam_g_follower: float = 1.0  # weight of each |dG2|

    def __post_init__(self) -> None:
        """Check ranges; see `ConstrainedQConfig`.

        Raises:
            ContractError: a share outside [0, 1], a negative weight, or eps_p that is not positive.
        """
        super().__post_init__()
        for name in ("alpha", "beta_start"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ContractError(f"config key {name!r} must be in [0, 1], got {getattr(self, name)}")
        for name in ("lam_q_leader", "lam_q_follower", "lam_g_leader", "lam_g_follower"):
            if not getattr(self, name) >= 0.0:
                raise ContractError(f"config key {name!r} must not be negative, got {getattr(self, name)}")
        if not self.eps_p > 0.0:
            raise ContractError(f"config key 'eps_p' must be positive, got {self.eps_p}")


def equilibrium(tables: np.ndarray, d_leader: np.ndarray, d_follower: np.ndarray, backend: str) -> np.ndarray:
    """Return the pairs of MIP (13), (B,) int64 indices ``i * m2 + j``.

    Args:
        tables: (2 + K1 + K2, B, m1, m2): Q1, Q2, the leader's K1 cost tables, the follower's K2.
        d_leader, d_follower: (K1,) and (K2,) discounted limits.
        backend: who solves it.
    """
    split = 2 + len(d_leader)
    costs, limits = (tables[2:split], tables[split:]), (d_leader, d_follower)
    selection = solve(tables[0], tables[1], *costs, *limits, semantics="mip13", backend=backend)
    pairs: np.ndarray = selection.leader * tables.shape[-1] + selection.follower
    return pairs


def priorities(errors: torch.Tensor, lam: torch.Tensor, eps_p: float, alpha: float) -> torch.Tensor:
    """Return ``(sum_c lam_c |error_c| + eps_p)^alpha``, (B,); errors: (C, B), lam: (C,)."""
    return (lam @ errors.abs() + eps_p) ** alpha


class MIPPCSQ(ConstrainedQAgent):
    """Prioritised constrained Stackelberg Q-learning with MIP action selection."""

    Config: ClassVar[type] = MIPPCSQConfig
    semantics: ClassVar[str] = "mip13"
    replay: PrioritizedReplay

    def __init__(self, context: AgentContext, config: Any) -> None:
        """See `JointQAgent`.

        Raises:
            RegistryError: unknown backend.
        """
        known = ("fastest", *BACKENDS)
        if config.backend not in known:
            raise RegistryError(f"unknown backend {config.backend!r} of MIPPCSQ: {nearest(config.backend, known)}")
        super().__init__(context, config)
        costs = [config.lam_g_leader] * len(self.d_leader) + [config.lam_g_follower] * len(self.d_follower)
        self.lam = torch.tensor([config.lam_q_leader, config.lam_q_follower, *costs])

    def equilibrium(self, tables: np.ndarray) -> np.ndarray:
        """Return the pairs of MIP (13)."""
        return equilibrium(tables, self.d_leader, self.d_follower, self.config.backend)

    def explore(self, decision: Decision, rng: np.random.Generator) -> np.ndarray:
        """Return pairs drawn uniformly from the safe ones, or the least violating ones where none is safe."""
        split = 2 + len(self.d_leader)
        g_leader, g_follower = decision.tables[2:split], decision.tables[split:]
        mask = exploration_pairs(g_leader, g_follower, self.d_leader, self.d_follower, constraint_axis=True)
        return draw_cells(mask.reshape(len(mask), -1), rng)

    def make_replay(self, capacity: int) -> PrioritizedReplay:
        """Return an empty prioritised memory."""
        return PrioritizedReplay(capacity, self.columns())

    def weights(self, slots: np.ndarray) -> np.ndarray:
        """Return importance weights with the beta of this moment, (B,)."""
        beta = linear(self.config.beta_start, 1.0, self.decisions, self.context.training_steps)
        return self.replay.weights(slots, beta)

    def after_update(self, slots: np.ndarray, batch: Batch, outputs: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of the batch by its errors."""
        weighted = priorities(torch.from_numpy(errors), self.lam, self.config.eps_p, self.config.alpha)
        self.replay.update(slots, weighted.numpy())
