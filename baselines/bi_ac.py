"""Bi-AC, bi-level actor-critic: Zhang et al., *Bi-level Actor-Critic for Multi-agent Coordination*, AAAI 2020.
One leader (1), one follower (2); no constraints: what ignoring them costs.

Continuous actions: CS-MADDPG (see cs_maddpg.py) without cost critics and multipliers, so that both actors
ascend their Q_i alone. Discrete actions: as below.

Critics Q1, Q2 of the global state, one output per joint action; the follower has an actor
pi2(. | o2, a1), the leader has none. With the follower's answer a2(a1) = argmax over a of pi2(a | o2, a1),
the pair at a state is

    a1* = argmax over a1 of Q1(s, a1, a2(a1)),    a2* = a2(a1*)

Acting: that pair, or with chance epsilon a uniform joint action. Learning, on a uniform batch:

    (a1', a2') = the pair at s'
    y_i = r_i + gamma (1 - done_i) Q_i_targ(s', a1', a2')     loss (Q_i(s, a1, a2) - y_i)^2
    pi2 ascends the mean over s and all a1 of sum_a pi2(a | o2, a1) Q2(s, a1, a) + tau H(pi2(. | o2, a1))
    targ <- rho targ + (1 - rho) online, every few updates

Deviations from the authors' code: the follower answers by the mode of its actor, and explores with
the same epsilon as the constrained agents, so that comparisons are of objectives and not of
exploration; the actor is trained at all leader actions, since the leader's argmax asks about them
all; the entropy H keeps the actor from saturating, where its gradient vanishes and it cannot change
its mind (without it one seed of five never left a collision on merge), and does not bias its mode:
the maximum is softmax(Q2 / tau); maxima run over all actions (an accumulator that starts at 0 never
sees negative values). Done agents play their neutral action, have no value left, and are left out
of the losses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from safemarl_bench.contract import Agent, AgentContext, Observation
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import (
    Activations,
    Adam,
    Batch,
    Decision,
    Encoding,
    Ensemble,
    JointQAgent,
    OffPolicyConfig,
    Update,
    respect_done,
)

from .cs_maddpg import CSMADDPG, DeterministicConfig


@dataclasses.dataclass(frozen=True)
class BiACConfig(OffPolicyConfig):
    """What Bi-AC can set beside `OffPolicyConfig` where actions are discrete."""

    actor_rate: float = 1e-3  # of Adam, for the follower's actor
    entropy_bonus: float = 0.02  # tau, worth of a nat of the follower's entropy, in units of scaled rewards


def with_leader_actions(observations: torch.Tensor, num_actions: int) -> torch.Tensor:
    """Return every observation beside every one-hot leader action, (B * m1, n + m1), for (B, n) and m1."""
    count = len(observations)
    repeated = observations.repeat_interleave(num_actions, dim=0)
    return torch.cat((repeated, torch.eye(num_actions).repeat(count, 1)), dim=1)


def bilevel_pairs(q_leader: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return the pairs of the leader's argmax at the follower's answers, (B,) int64 indices ``a1 * m2 + a2``.

    Args:
        q_leader: (B, m1, m2).
        logits: (B, m1, m2) of pi2(. | o2, a1). Ties go to the lowest action.
    """
    answers = logits.argmax(dim=2, keepdim=True)
    rows = q_leader.gather(2, answers).squeeze(2).argmax(dim=1, keepdim=True)
    return (rows * logits.shape[2] + answers.squeeze(2).gather(1, rows)).squeeze(1)


def actor_gradient(logits: torch.Tensor, q_follower: torch.Tensor, tau: float) -> torch.Tensor:
    """Return the derivative by the logits of ``-mean over s, a1 of sum_a pi2(a) (Q2(a) - tau log pi2(a))``.

    With the soft values ``V(a) = Q2(a) - tau log pi2(a)`` it is ``-pi2(a) (V(a) - sum_b pi2(b) V(b)) / (B m1)``;
    all (B, m1, m2).
    """
    logs = logits.log_softmax(dim=2)
    policy, values = logs.exp(), q_follower - tau * logs
    advantage = values - (policy * values).sum(dim=2, keepdim=True)
    return policy * advantage / -(logits.shape[0] * logits.shape[1])


@dataclasses.dataclass(frozen=True)
class ContinuousBiACConfig(DeterministicConfig):
    """What Bi-AC can set where actions are continuous: nothing beside `DeterministicConfig`."""


class ContinuousBiAC(CSMADDPG):
    """Bi-level actor-critic without constraints, continuous actions."""

    Config: ClassVar[type] = ContinuousBiACConfig
    constrained: ClassVar[bool] = False


class BiAC(JointQAgent):
    """Bi-level actor-critic without constraints, discrete actions; `ContinuousBiAC` plays continuous ones."""

    version: ClassVar[str] = "2"
    Config: ClassVar[type] = BiACConfig
    action_kinds: ClassVar[tuple[str, ...]] = ("discrete", "continuous")
    constrained: ClassVar[bool] = False

    @classmethod
    def for_actions(cls, action_kind: str) -> type[Agent]:
        """See `Agent.for_actions`."""
        return ContinuousBiAC if action_kind == "continuous" else cls

    def __init__(self, context: AgentContext, config: Any) -> None:
        """See `JointQAgent`."""
        self.own_encoding = Encoding(context.observation_features[context.followers[0]], config.octaves)
        super().__init__(context, config)
        rows, columns = self.joint.shape
        inputs = self.num_features - self.num_states + rows
        self.actor = Ensemble(1, (inputs, *config.hidden, columns), self.torch_generator)
        self.actor_optimiser = Adam(self.actor.parameters, config.actor_rate)

    @property
    def num_features(self) -> int:
        """The global state and the follower's observation."""
        return self.num_states + self.own_encoding.width

    def features(self, observation: Observation) -> np.ndarray:
        """Return the state, then the follower's observation, both encoded, (E, n) float32."""
        own = self.own_encoding.encode(observation.by_agent[self.agents[1]])
        return np.concatenate((super().features(observation), own), axis=1)

    def actor_activations(self, features: np.ndarray) -> Activations:
        """Return the activations of the actor at all leader actions, the logits (1, B * m1, m2) last."""
        observations = torch.from_numpy(features[:, self.num_states :])
        return self.actor.forward(with_leader_actions(observations, self.joint.shape[0]))

    def greedy(self, decision: Decision) -> np.ndarray:
        """Return the leader's best pairs among the follower's answers."""
        logits = self.actor_activations(decision.features).outputs.view(-1, *self.joint.shape)
        row = self.joint.neutral[0]
        logits = torch.where(torch.from_numpy(decision.alive[0])[:, None, None], logits, logits[:, row : row + 1])
        return bilevel_pairs(torch.from_numpy(decision.tables[0]), logits).numpy()

    def explore(self, decision: Decision, rng: np.random.Generator) -> np.ndarray:
        """Return uniform joint actions."""
        rows, columns = self.joint.shape
        return rng.integers(rows * columns, size=len(decision.features))

    def after_update(self, slots: np.ndarray, batch: Batch, outputs: np.ndarray, errors: np.ndarray) -> None:
        """Improve the follower's actor; where the follower is done Q2 is 0, and so is the gradient."""
        tables = outputs.reshape(*outputs.shape[:2], *self.joint.shape)
        q_follower = torch.from_numpy(respect_done(tables, batch.alive, self.owner, self.joint.neutral)[1])
        activations = self.actor_activations(batch.features)
        logits = activations.outputs.view_as(q_follower)
        gradient = actor_gradient(logits, q_follower, self.config.entropy_bonus)
        self.actor_optimiser.step(self.actor.backward(activations, gradient.view_as(activations.outputs)))

    def metrics(self, update: Update) -> dict[str, float]:
        """Add the mean entropy of the follower's answers, in nats, over the batch and all leader actions."""
        logs = self.actor_activations(update.batch.features).outputs.log_softmax(dim=2)
        return super().metrics(update) | {"entropy_follower": float(-(logs.exp() * logs).sum(dim=2).mean())}

    def check_finite(self, losses: torch.Tensor | None = None) -> None:
        """Look for divergence of the critics and the actor; see `JointQAgent.check_finite`."""
        super().check_finite(losses)
        if not bool(self.actor.finite_members().all()):
            raise ContractError("parameters of the follower's actor must be finite; try a lower actor_rate")

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """See `JointQAgent.tensors`."""
        tensors = super().tensors(training=training) | {"actor": self.actor.parameters}
        return tensors | self.actor_optimiser.tensors("actor") if training else tensors

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """See `JointQAgent.set_counters`: the actor takes one step per critic update."""
        super().set_counters(counters)
        self.actor_optimiser.steps = counters["updates"]
