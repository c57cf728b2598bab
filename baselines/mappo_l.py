"""MAPPO-L, multi-agent PPO with Lagrange multipliers: Gu et al., *Safe multi-robot reinforcement learning*,
AIJ 2023, Algorithm 2. Discrete or continuous actions; all agents act at once, each by its own observation.

Each iteration, on T decisions of E games (collection, advantages, critics, the order of agents and
the weights M: `safemarl_bench.learning.OnPolicyAgent`), for every agent i in random order:

    lam_i <- max(0, lam_i + eta (J_C_i - d_i))    J_C_i: mean undiscounted cost of the finished episodes
    A~_i   = A_i - lam_i . A_C_i                  standardised
    loss_i = -mean[M min(ratio A~_i, clip(ratio, 1 +- clip) A~_i)] - entropy_bonus mean[entropy],
             ratio = pi_i(a_i | o_i) / pi_i_old(a_i | o_i)

with one multiplier per constraint. The loss is descended by Adam over epochs of minibatches.

Deviations from the authors' code: the multiplier moves once per iteration on the costs as the suite
gives them; their rule, lam + eta mean[(1 - gamma)(J_C - d) + ratio A_C] in every minibatch, hardly
moves and is kept as a switch. J_C is that of the rollout, not of the last log line; rewards and costs
have normalisers of their own; ratios are of whole actions, not of each dimension; the Huber loss is
symmetric; A and A_C are combined in their units and standardised together (in each minibatch),
so that lam means reward per cost. Done agents are left out of the losses.

Multipliers start at 20 and move fast (the authors: 0.78, slowly): on merge an agent that first learns to
be fast stays in the unsafe optimum, and only one that starts safe ends within its limit.

Set ``lam = 0`` and ``eta = 0`` for MAPPO without constraints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch

from safemarl_bench.contract import AgentContext
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import (
    GRADIENT_LIMIT,
    Adam,
    Experience,
    OnPolicyAgent,
    OnPolicyConfig,
    clip_norm,
    loss_and_gradient,
    mean_over,
    standardised,
)


@dataclasses.dataclass(frozen=True)
class MAPPOLConfig(OnPolicyConfig):
    """What MAPPO-L can set beside `OnPolicyConfig`."""

    num_envs: int = 32  # E: fewer games, more iterations in which multipliers move
    clip: float = 0.2  # of the ratio, on both sides of 1
    entropy_bonus: float = 0.01  # weight of the entropy in the loss
    lam: float = 20.0  # multipliers at the start: high, so that policies are safe first and good later
    eta: float = 0.5  # their rate, per unit of cost and iteration
    minibatch_multipliers: bool = False  # ablation: the authors' rule, in every minibatch

    def __post_init__(self) -> None:
        """See `OnPolicyConfig`.

        Raises:
            ContractError: a negative number.
        """
        super().__post_init__()
        for name in ("clip", "entropy_bonus", "lam", "eta"):
            if not getattr(self, name) >= 0.0:
                raise ContractError(f"config key {name!r} must not be negative, got {getattr(self, name)}")


def updated_lam(lam: np.ndarray, eta: float, excess: np.ndarray) -> np.ndarray:
    """Return ``max(0, lam + eta (J_C - d))``; lam, excess = J_C - d: (K,)."""
    return np.maximum(0.0, lam + eta * excess)


def lagrangian_advantage(advantage: torch.Tensor, cost_advantages: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
    """Return ``A~ = A - sum_k lam_k A_C_k``, (B,), for A (B,), A_C (K, B), lam (K,)."""
    return advantage - lam @ cost_advantages


def clipped_surrogate(
    ratio: torch.Tensor, advantage: torch.Tensor, m: torch.Tensor, weights: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return ``-mean[M min(ratio A~, clip(ratio, 1 +- clip) A~)]``; tensors (B,), the mean weighted."""
    gain = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
    return -mean_over(m * gain, weights)


class MAPPOL(OnPolicyAgent):
    """MAPPO-Lagrangian."""

    Config: ClassVar[type] = MAPPOLConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """See `OnPolicyAgent`."""
        super().__init__(context, config)
        for agent, actor in self.actors.items():
            self.optimisers[f"actor.{agent}"] = Adam(actor.parameters, config.learning_rate)
        self.lam = {
            agent: torch.full((len(context.cost_limits[agent]),), config.lam, dtype=torch.float64)
            for agent in self.agents
        }

    def improve(self, agent: str, experience: Experience, batches: Iterator[torch.Tensor]) -> dict[str, float]:
        """Move the multipliers, then descend the clipped loss."""
        config, lam = self.config, self.lam[agent]
        if experience.fresh and not config.minibatch_multipliers:
            lam.copy_(torch.from_numpy(updated_lam(lam.numpy(), config.eta, experience.excess)))
        optimiser = self.optimisers[f"actor.{agent}"]
        optimiser.rate = self.rate
        loss = torch.zeros(())
        for rows in batches:
            loss = self._descend(agent, experience, rows, optimiser)
            if config.minibatch_multipliers:
                self._move_multipliers_by_minibatch(agent, experience, rows)
        return {f"lam_{k}": value for k, value in enumerate(lam.tolist())} | {"loss": float(loss)}

    def _descend(self, agent: str, experience: Experience, rows: torch.Tensor, optimiser: Adam) -> torch.Tensor:
        """Do one step on a minibatch; return its loss."""
        actor, policy, config = self.actors[agent], self.policies[agent], self.config
        drawn, old, m, weights = (
            column[rows] for column in (experience.drawn, experience.log_prob, experience.m, experience.weights)
        )
        advantage = lagrangian_advantage(
            experience.advantage[rows], experience.cost_advantages[:, rows], self.lam[agent].float()
        )
        advantage = standardised(advantage, weights)

        def loss(outputs: torch.Tensor) -> torch.Tensor:
            ratio = (policy.log_prob(outputs[0], drawn) - old).exp()
            entropy = mean_over(policy.entropy(outputs[0]), weights)
            surrogate = clipped_surrogate(ratio, advantage, m, weights, config.clip)
            return surrogate - float(config.entropy_bonus) * entropy

        trace = actor.forward(experience.observations[rows])
        value, derivative = loss_and_gradient(loss, trace.outputs)
        optimiser.step(clip_norm(actor.backward(trace, derivative), GRADIENT_LIMIT))
        return value

    def _move_multipliers_by_minibatch(self, agent: str, experience: Experience, rows: torch.Tensor) -> None:
        """The authors' rule: see the module."""
        outputs = self.actors[agent].outputs(experience.observations[rows])[0]
        log_prob = self.policies[agent].log_prob(outputs, experience.drawn[rows])
        ratio = (log_prob - experience.log_prob[rows]).exp()
        drift = mean_over(ratio * experience.cost_advantages[:, rows], experience.weights[rows])
        excess = (1.0 - self.context.gamma) * experience.excess + drift.double().numpy()
        lam = self.lam[agent]
        lam.copy_(torch.from_numpy(updated_lam(lam.numpy(), self.config.eta, excess)))

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """See `OnPolicyAgent.tensors`."""
        tensors = super().tensors(training=training)
        return tensors | {f"lam.{agent}": lam for agent, lam in self.lam.items()} if training else tensors
