"""CS-MADDPG, constrained Stackelberg MADDPG: Zheng & Gu, *Safe MARL with Bilevel Optimization in Autonomous
Driving*, Algorithm 2. Continuous actions; one leader (1), one follower (2).

Critics Q1, Q2 (rewards) and G1, G2 (costs) of s, the global state and both observations (as MADDPG has it:
where only the observations are in easy coordinates, critics of the state alone learn little), and of both
actions; deterministic actors in a hierarchy, equation (12):

    a1 = mu1(o1),    a2 = mu2(o2, a1)

Acting: the actors with Gaussian noise (the follower answers the action that the leader takes), or
with chance epsilon a uniform joint action. Learning, on a uniform batch:

    a1' = mu1_targ(o1'),    a2' = mu2_targ(o2', a1')
    y_i = r_i + gamma (1 - done_i) Q_i_targ(s', a1', a2')     loss (Q_i(s, a1, a2) - y_i)^2
    g_i = c_i + gamma (1 - done_i) G_i_targ(s', a1', a2')     loss (G_i(s, a1, a2) - g_i)^2

    L_i = (Q_i - sum_j lam_ij (G_ij - d_ij)) / (1 + sum_j lam_ij)    at s, a1, a2 = mu2(o2, a1)
    mu1 ascends L1 at a1 = mu1(o1), along a1 and through the answer a2 to it       equation (19)
    mu2 ascends L2 at a1 = mu1(o1) and at the remembered a1                        equation (21)
    lam_ij <- clip(lam_ij + eta mean(G_ij - d_ij), 0, lam_max)
    targ <- rho targ + (1 - rho) online, all six networks, at every update

The follower learns at remembered leader actions too: equation (19) asks for the slope of its answer, which
the actions of a deterministic leader alone do not show.

Deviations from the authors' code, most of them corrections of it: target actions are those at o',
not at o; the multiplier can fall again; d_i is the discounted equivalent of the suite's limit, not
5, which no cost-to-go exceeds; L_i is divided by 1 + lam, so that a multiplier at its end does not
set the step's size; (pre-tanh output)^2 is penalised, since a saturated actor learns no more; noise
never ends. Done agents play their neutral action, have no value left, and are left out of losses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from safemarl_bench.contract import AgentContext, Arrays, Observation
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import (
    Activations,
    Batch,
    Encoding,
    Ensemble,
    JointBoxes,
    OffPolicyAgent,
    OffPolicyConfig,
    TrainedEnsemble,
    Update,
    discounted_limits,
    linear,
)


@dataclasses.dataclass(frozen=True)
class DeterministicConfig(OffPolicyConfig):
    """What a learner with deterministic actors can set beside `OffPolicyConfig`, some of whose defaults change."""

    rho: float = 0.995
    target_interval: int = 1
    actor_rate: float = 1e-4  # of Adam, for both actors
    saturation_penalty: float = 0.01  # weight of (pre-tanh output)^2 in the actors' losses
    sigma_start: float = 0.1  # Gaussian noise at the first decision, in half ranges of the action
    sigma_end: float = 0.05  # and once the decay of epsilon is over

    def __post_init__(self) -> None:
        """Check ranges; see `OffPolicyConfig`.

        Raises:
            ContractError: a negative rate, penalty or noise.
        """
        super().__post_init__()
        for name in ("actor_rate", "saturation_penalty", "sigma_start", "sigma_end"):
            if not getattr(self, name) >= 0.0:
                raise ContractError(f"config key {name!r} must not be negative, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class CSMADDPGConfig(DeterministicConfig):
    """What CS-MADDPG can set beside `DeterministicConfig`."""

    lam_start: float = 0.0  # every multiplier before the first update
    lam_rate: float = 1e-3  # eta
    lam_max: float = 10.0  # multipliers stay in [0, lam_max]
    # Defects of released codes, off; on, they show what each of them costs.
    lam_only_rises: bool = False  # violations raise a multiplier, nothing lowers it
    vacuous_limits: bool = False  # limits that nothing exceeds: the constraint is switched off

    def __post_init__(self) -> None:
        """Check ranges; see `DeterministicConfig`.

        Raises:
            ContractError: a negative rate, or lam_start outside [0, lam_max].
        """
        super().__post_init__()
        if not self.lam_rate >= 0.0:
            raise ContractError(f"config key 'lam_rate' must not be negative, got {self.lam_rate}")
        if not 0.0 <= self.lam_start <= self.lam_max:
            raise ContractError(f"config key 'lam_start' must be in [0, lam_max], got {self.lam_start}")


def answer(
    actor: Ensemble,
    inputs: torch.Tensor,
    alive: torch.Tensor,
    neutral: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> tuple[Activations, torch.Tensor]:
    """Return what an actor does: ``tanh(u(inputs))`` plus noise, clipped, and the neutral action where it is done.

    Args:
        actor: the network of u. inputs: (B, n). alive: (B,) bool. neutral: (k,). noise: (B, k).

    Returns:
        activations of the network, u (1, B, k) last; actions (B, k) in [-1, 1].
    """
    activations = actor.forward(inputs)
    action = activations.outputs[0].tanh()
    if noise is not None:
        action = (action + noise).clamp_(-1.0, 1.0)
    return activations, torch.where(alive[:, None], action, neutral)


def lagrangian_weights(lam: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
    """Return what each critic counts in its owner's L_i: 1 / (1 + sum_j lam_ij) for Q_i, -lam_ij times that for G_ij.

    Args:
        lam: (C - 2,) multipliers of the cost critics.
        owner: (C,) int64, 0 or 1: whose value each critic is, Q1 and Q2 first.

    Returns:
        (C,).
    """
    totals = torch.ones(2).index_add_(0, owner[2:], lam)
    return torch.cat((torch.ones(2), -lam)) / totals[owner]


def leader_gradient(
    by_a1: torch.Tensor, by_a2: torch.Tensor, a2: torch.Tensor, follower: Ensemble, activations: Activations
) -> torch.Tensor:
    """Return dL1/da1 of equation (19): along a1 itself, and through the follower's answer a2 = mu2(o2, a1) to it.

    ``dL1/da1 + dmu2/da1^T dL1/da2``, where the second term is one vector-Jacobian product.

    Args:
        by_a1, by_a2: (B, k_i) partial derivatives of L1; by_a2 is 0 where the follower is done.
        a2: (B, k2) the answers.
        follower: the network of mu2, which sees (o2, a1). activations: of it, at B rows or more, these first.

    Returns:
        (B, k1).
    """
    by_inputs = follower.input_gradient(activations, through_tanh(by_a2, a2).unsqueeze(0))
    return by_a1 + by_inputs[0, :, -by_a1.shape[1] :]


def through_tanh(by_action: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return the derivative by u of a function of a = tanh(u), given that by a; all (B, k)."""
    return by_action * (1.0 - action.square())


def next_multipliers(lam: torch.Tensor, violation: torch.Tensor, rate: float, lam_max: float) -> torch.Tensor:
    """Return ``clip(lam + eta mean(G - d), 0, lam_max)``, all (C - 2,); the violation is signed: lam can fall."""
    return (lam + rate * violation).clamp_(0.0, lam_max)


class CSMADDPG(OffPolicyAgent):
    """Constrained Stackelberg MADDPG."""

    Config: ClassVar[type] = CSMADDPGConfig
    action_kinds: ClassVar[tuple[str, ...]] = ("continuous",)

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks from the context's seed.

        Raises:
            ContractError: the game is not one of one leader and one follower with bounded continuous actions.
        """
        self.joint = JointBoxes.of(context)
        self.encodings = [Encoding(context.observation_features[agent], config.octaves) for agent in self.joint.agents]
        self.observed = [encoding.width for encoding in self.encodings]
        super().__init__(context, config)
        (k1, k2), widths = self.joint.sizes, config.hidden
        self.leader = self.make_actor("leader", (self.observed[0], *widths, k1))
        self.follower = self.make_actor("follower", (self.observed[1] + k1, *widths, k2))
        self.neutral = torch.split(torch.from_numpy(self.joint.neutral), [k1, k2])
        self.owners = torch.from_numpy(self.owner)
        self._values = np.zeros((len(self.owner), 0), np.float32)
        if self.constrained:
            limits = np.concatenate([discounted_limits(context, agent) for agent in self.agents])
            self.d = torch.from_numpy(limits).to(torch.get_default_dtype())
            self.d = torch.full_like(self.d, 1e9) if config.vacuous_limits else self.d
            self.lam = torch.full_like(self.d, config.lam_start)

    def make_actor(self, role: str, widths: tuple[int, ...]) -> TrainedEnsemble:
        """Return an untrained actor of one of the two."""
        return TrainedEnsemble(
            f"actor_{role}",
            (f"mu_{role}",),
            widths,
            rate=self.config.actor_rate,
            rho=self.config.rho,
            target_interval=self.config.target_interval,
            generator=self.torch_generator,
        )

    def critic_widths(self) -> tuple[int, ...]:
        """Return the widths of the critics: all features and both actions, hidden layers, one value."""
        return self.num_features + sum(self.joint.sizes), *self.config.hidden, 1

    def action_column(self) -> tuple[tuple[int, ...], type]:
        """See `OffPolicyAgent.action_column`: a point of `JointBoxes`."""
        return (sum(self.joint.sizes),), np.float32

    def encode(self, actions: Arrays) -> np.ndarray:
        """Return the actions as points, (E, k1 + k2) float32."""
        return self.joint.points(actions)

    def backpropagate(self, batch: Batch, activations: Activations, gradient: np.ndarray) -> torch.Tensor:
        """See `OffPolicyAgent.backpropagate`."""
        return self.critics.online.backward(activations, torch.from_numpy(gradient).unsqueeze(2))

    @property
    def num_features(self) -> int:
        """The global state and both observations."""
        return self.num_states + sum(self.observed)

    def features(self, observation: Observation) -> np.ndarray:
        """Return state, leader's and follower's observation, encoded, (E, n) float32."""
        pairs = zip(self.encodings, self.agents, strict=True)
        own = [encoding.encode(observation.by_agent[agent]) for encoding, agent in pairs]
        return np.concatenate((super().features(observation), *own), axis=1)

    def observations(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (o1, o2) of features (B, n)."""
        start, middle = self.num_states, self.num_states + self.observed[0]
        return features[:, start:middle], features[:, middle:]

    @property
    def sigma(self) -> float:
        """Standard deviation of the exploration noise now."""
        config = self.config
        duration = config.epsilon_decay * self.context.training_steps
        return linear(config.sigma_start, config.sigma_end, self.decisions, duration)

    @torch.inference_mode()
    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Play the actors, when exploring with noise, and with chance `epsilon` per game a uniform joint action."""
        shape = (len(observation.step), sum(self.joint.sizes))
        noise = self.sigma * rng.standard_normal(shape, np.float32) if explore else np.zeros(shape, np.float32)
        features, alive = self.seen(observation)
        points = self.joint_action(
            torch.from_numpy(features),
            torch.from_numpy(alive),
            (self.leader.online, self.follower.online),
            torch.from_numpy(noise),
        ).numpy()
        if explore:
            curious = rng.random((shape[0], 1)) < self.epsilon
            points = np.where(curious, rng.uniform(-1.0, 1.0, shape), points)
        if not np.isfinite(points).all():
            self.check_finite()
        return self.joint.actions(points, alive)

    def joint_action(
        self,
        features: torch.Tensor,
        alive: torch.Tensor,
        actors: tuple[Ensemble, Ensemble],
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (a1, a2) of equation (12), (B, k1 + k2).

        Args:
            features: (B, n). alive: (2, B) bool, who still acts.
            actors: networks of mu1 and mu2.
            noise: (B, k1 + k2); the follower answers the leader's action with its noise.
        """
        k1 = self.joint.sizes[0]
        first, second = (None, None) if noise is None else (noise[:, :k1], noise[:, k1:])
        o1, o2 = self.observations(features)
        _, a1 = answer(actors[0], o1, alive[0], self.neutral[0], first)
        _, a2 = answer(actors[1], torch.cat((o2, a1), dim=1), alive[1], self.neutral[1], second)
        return torch.cat((a1, a2), dim=1)

    def evaluate(self, batch: Batch) -> tuple[Activations, np.ndarray]:
        """Return (activations of the online critics at (s, a1, a2), errors (C, B)) of a batch.

        A done agent's next action is neutral. A truncated one acts: for its values the task goes on.
        """
        features, next_features = torch.from_numpy(batch.features), torch.from_numpy(batch.next_features)
        seen, acting = features if self.config.target_pair_at_s else next_features, torch.from_numpy(batch.continues)
        next_actions = self.joint_action(seen, acting, (self.leader.target, self.follower.target))
        later = self.critics.target.outputs(torch.cat((next_features, next_actions), dim=1))
        activations = self.critics.online.forward(torch.cat((features, torch.from_numpy(batch.actions)), dim=1))
        values, bootstrap = (outputs[..., 0].numpy() for outputs in (activations.outputs, later))
        return activations, self.errors(batch, values, bootstrap)

    def after_update(self, slots: np.ndarray, batch: Batch, outputs: np.ndarray, errors: np.ndarray) -> None:
        """Improve both actors on the updated critics, then move the multipliers."""
        leader, follower, values = self.actor_gradients(batch)
        self._values = values.numpy()
        self.leader.descend(leader)
        self.follower.descend(follower)
        if self.constrained:
            self.move_multipliers(torch.from_numpy(batch.alive), values[2:])

    def actor_gradients(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the derivatives of the actors' losses by their parameters, equations (19) and (21).

        The losses are the means of ``penalty u_i^2 - L_i``, where done agents count 0: for the leader over the
        batch, at its own actions; for the follower over these and the leader actions remembered.

        Returns:
            (P1,), (P2,), and the critics' values at both actors' actions, (C, B).
        """
        count, k1 = len(batch.actions), self.joint.sizes[0]
        features, actions, once = map(torch.from_numpy, (batch.features, batch.actions, batch.alive))
        o1, o2 = self.observations(features)
        first, a1 = answer(self.leader.online, o1, once[0], self.neutral[0])
        both = torch.cat((torch.cat((o2, a1), dim=1), torch.cat((o2, actions[:, :k1]), dim=1)))
        alive = once.repeat(1, 2)
        second, a2 = answer(self.follower.online, both, alive[1], self.neutral[1])
        inputs = torch.cat((features.repeat(2, 1), both[:, -k1:], a2), dim=1)
        activations = self.critics.online.forward(inputs)

        weights = self.weights_of_critics()[:, None] * alive[self.owners]
        by_inputs = self.critics.online.input_gradient(activations, weights.unsqueeze(2))
        by_actions = by_inputs[:, :, self.num_features :]
        of_leader, of_follower = (by_actions[self.owners == role].sum(0) for role in (0, 1))
        by_a1, by_a2 = of_leader[:count, :k1], of_leader[:count, k1:] * alive[1, :count, None]
        by_a1 = leader_gradient(by_a1, by_a2, a2[:count], self.follower.online, second)

        leader = self.loss_gradient(by_a1, a1, first, once[0])
        follower = self.loss_gradient(of_follower[:, k1:], a2, second, alive[1])
        return (
            self.leader.online.backward(first, leader),
            self.follower.online.backward(second, follower),
            activations.outputs[:, :count, 0],
        )

    def loss_gradient(
        self, by_action: torch.Tensor, action: torch.Tensor, activations: Activations, alive: torch.Tensor
    ) -> torch.Tensor:
        """Return the derivative of ``mean(penalty u^2 - L)`` by u, (1, B, k), given dL/da (B, k) at a = tanh(u)."""
        penalty: float = 2.0 * self.config.saturation_penalty
        return (penalty * activations.outputs - through_tanh(by_action, action)) * (alive[:, None] / len(action))

    def weights_of_critics(self) -> torch.Tensor:
        """Return what each critic counts in its owner's objective, (C,)."""
        return lagrangian_weights(self.lam, self.owners) if self.constrained else torch.ones(len(self.owner))

    def move_multipliers(self, alive: torch.Tensor, costs: torch.Tensor) -> None:
        """Do one step of projected ascent.

        Args:
            alive: (2, B) bool; the means are over states in which the owner has something at stake.
            costs: (C - 2, B) of G at s and the actors' actions.
        """
        stake = alive[self.owners[2:]]
        violation = ((costs - self.d[:, None]) * stake).sum(1) / stake.sum(1).clamp_(min=1)
        if self.config.lam_only_rises:
            violation.clamp_(min=0.0)
        self.lam.copy_(next_multipliers(self.lam, violation, self.config.lam_rate, self.config.lam_max))

    def metrics(self, update: Update) -> dict[str, float]:
        """Return exploration, what the critics say of both actors' actions on average, and the multipliers."""
        metrics = super().metrics(update) | {"sigma": self.sigma}
        metrics |= self.mean_values(self._values, update.batch.alive)
        if self.constrained:
            names = (name.replace("g_", "lam_", 1) for name in self.critics.names[2:])
            metrics |= dict(zip(names, self.lam.tolist(), strict=True))
        return metrics

    def check_finite(self, losses: torch.Tensor | None = None) -> None:
        """Look for divergence of the critics and the actors; see `OffPolicyAgent.check_finite`."""
        super().check_finite(losses)
        self.leader.check_finite()
        self.follower.check_finite()

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """See `OffPolicyAgent.tensors`."""
        tensors = super().tensors(training=training)
        for actor in (self.leader, self.follower):
            tensors |= actor.tensors(training=training)
        return tensors | {"lam": self.lam} if self.constrained else tensors

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """See `OffPolicyAgent.set_counters`: the actors take one step per critic update."""
        super().set_counters(counters)
        self.leader.optimiser.steps = self.follower.optimiser.steps = counters["updates"]
