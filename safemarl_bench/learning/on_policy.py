"""The loop that constrained on-policy learners share: collect, estimate, train critics, update agents in turn.

Source: Gu et al., *Safe multi-robot reinforcement learning* (MACPO and MAPPO-Lagrangian), AIJ 2023. Each
agent i has an actor of its own observation and critics V_i, VC_i of the global state. After T
decisions in E games, `learn` does one iteration: advantages of rewards and costs (`gae`), critics by
clipped Huber regression, then the actors one after the other in random order. Each agent's surrogates
are weighted with M, the ratio by which the agents before it changed the probability of what they did:

    M = 1;   for i in order:   update theta_i with M A_i, M A_C_i;   M <- M pi_i_new / pi_i_old

Nothing of random state is kept: acting draws from the generator it is given, orders and minibatches
are functions of (seed, iteration).
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from safemarl_bench.contract import Agent, AgentContext, Arrays, Observation, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.learning.advantages import gae, mean_over
from safemarl_bench.learning.agent_checkpoint import copy_into, read_agent, write_agent
from safemarl_bench.learning.encoding import Encoding, check_octaves
from safemarl_bench.learning.ensemble import Adam
from safemarl_bench.learning.layer_norm import LayerNormEnsemble, clip_norm
from safemarl_bench.learning.normaliser import ValueNormaliser
from safemarl_bench.learning.policies import policy_of
from safemarl_bench.learning.rollouts import Rollout, RolloutMemory
from safemarl_bench.learning.schedules import linear
from safemarl_bench.rng import generator

HUBER_DELTA = 10.0
GRADIENT_LIMIT = 10.0


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """What every on-policy learner can set."""

    num_envs: int = 64  # E, games played side by side
    rollout_steps: int = 32  # T, decisions per game and iteration, at most a quarter of training
    hidden: tuple[int, ...] = (64, 64)  # widths of the hidden layers
    octaves: int = 0  # frequencies at which networks also see sines and cosines of each feature; see `Encoding`
    learning_rate: float = 5e-4  # of Adam at the start; falls linearly to 0
    gae_lambda: float = 0.95  # weight of longer returns in advantages
    epochs: int = 5  # passes over a rollout
    minibatches: int = 4  # of each pass
    value_clip: float = 0.2  # how far a value may move in one iteration for free, in standard deviations
    initial_deviation: float = 0.5  # sigma of Gaussian actions at the start; the box is [-1, 1]
    limit_scale: float = 1.0  # ablation: the limits times this; large makes the constraints vacuous

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ContractError: a count out of range, a number that is not positive, a share outside [0, 1].
        """
        check_octaves(self.octaves)
        if not all(type(width) is int and width >= 1 for width in self.hidden):
            raise ContractError(f"config key 'hidden' must be integers of at least 1, got {self.hidden}")
        for name in ("num_envs", "rollout_steps", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise ContractError(f"config key {name!r} must be at least 1, got {getattr(self, name)}")
        for name in ("value_clip", "initial_deviation", "limit_scale"):
            if not getattr(self, name) > 0.0:
                raise ContractError(f"config key {name!r} must be positive, got {getattr(self, name)}")
        if not self.learning_rate >= 0.0:
            raise ContractError(f"config key 'learning_rate' must not be negative, got {self.learning_rate}")
        if not 0.0 <= self.gae_lambda <= 1.0:
            raise ContractError(f"config key 'gae_lambda' must be in [0, 1], got {self.gae_lambda}")


class Experience(NamedTuple):
    """What one agent learns from, B rows; rows after its end have weight 0.

    Attributes:
        observations: (B, n) float32.
        drawn: (B, ...) actions.
        outputs: (B, m) of its actor before the update.
        log_prob: (B,) of the actions before the update.
        advantage: (B,) A of its rewards, in their units.
        cost_advantages: (K, B) A_C of its costs, in their units.
        m: (B,) M, the change of probability by the agents updated before.
        weights: (B,) 1 where the agent was alive, else 0.
        excess: (K,) float64, J_C - d, mean undiscounted cost of the episodes that finished last, less the limit.
        fresh: whether an episode finished in this very rollout.
    """

    observations: torch.Tensor
    drawn: torch.Tensor
    outputs: torch.Tensor
    log_prob: torch.Tensor
    advantage: torch.Tensor
    cost_advantages: torch.Tensor
    m: torch.Tensor
    weights: torch.Tensor
    excess: np.ndarray
    fresh: bool


def loss_and_gradient(
    loss: Callable[[torch.Tensor], torch.Tensor], outputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a loss of a network's outputs, of any shape, and the derivative of its sum by the outputs."""
    with torch.enable_grad():
        variable = outputs.detach().requires_grad_()
        value = loss(variable)
        (derivative,) = torch.autograd.grad(value.sum(), variable)
    return value.detach(), derivative


def updated_m(m: torch.Tensor, new: torch.Tensor, old: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``M pi_new / pi_old`` where an agent acted (weight 1) and M where it did not; all (B,), new, old: logs."""
    return m * torch.where(weights > 0.0, (new - old).exp(), 1.0)


def value_losses(
    values: torch.Tensor, old: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return ``mean max(huber(v - y), huber(v_clip - y))`` of every critic, (C,).

    ``v_clip = old + clip(v - old, +- clip)``: no gain from moving further than `clip` in one iteration.

    Args:
        values, old, targets, weights: (C, B).
        clip: > 0.
    """
    clipped = old + (values - old).clamp(-clip, clip)
    far, near = (
        torch.nn.functional.huber_loss(guess, targets, reduction="none", delta=HUBER_DELTA)
        for guess in (values, clipped)
    )
    return mean_over(torch.maximum(far, near), weights)


class OnPolicyAgent(Agent):
    """A learner with one actor per agent and critics of the global state; a subclass says how an actor improves."""

    config: Any

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks from the context's seed."""
        super().__init__(context, config)
        self.agents = context.agents
        self.torch_generator = torch.Generator().manual_seed(context.seed)
        self.policies = {
            agent: policy_of(context.action_spaces[agent], config.initial_deviation) for agent in self.agents
        }
        self.encodings = {agent: Encoding(context.observation_features[agent], config.octaves) for agent in self.agents}
        self.state_encoding = Encoding(context.state_features, config.octaves)
        self.actors = {
            agent: self.policies[agent].actor(self.encodings[agent].width, config.hidden, self.torch_generator)
            for agent in self.agents
        }
        counts = [len(context.cost_limits[agent]) for agent in self.agents]
        owners = [*range(len(self.agents)), *(role for role, count in enumerate(counts) for _ in range(count))]
        self.owner = torch.tensor(owners)
        limits = [limit for agent in self.agents for limit in context.cost_limits[agent]]
        self.limits = np.array(limits) * config.limit_scale
        widths = (self.state_encoding.width, *config.hidden, 1)
        self.critics = LayerNormEnsemble(len(owners), widths, self.torch_generator, head_gain=1.0)
        self.optimisers = {"critics": Adam(self.critics.parameters, config.learning_rate)}
        self.normaliser = ValueNormaliser(len(owners))
        length = min(config.rollout_steps, max(1, context.training_steps // 4))
        self.memory = RolloutMemory(length, context, self.policies)
        self.decisions = self.iterations = 0
        self.mean_costs = torch.zeros(len(limits), dtype=torch.float64)
        self._drawn: Arrays = {}

    @abstractmethod
    def improve(self, agent: str, experience: Experience, batches: Iterator[torch.Tensor]) -> dict[str, float]:
        """Change the actor of an agent; return metrics by name, beside KL(old || new) and those of the policy.

        Args:
            agent: whose actor.
            experience: what it learns from.
            batches: index tensors, `epochs` times `minibatches` of them, that go through all rows once per epoch.
        """

    @torch.no_grad()
    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Draw from the policies, or take their modes; see `Agent.act`."""
        drawn = {}
        for agent in self.agents:
            features = self.encodings[agent].encode(observation.by_agent[agent])
            outputs = self.actors[agent].outputs(torch.from_numpy(features))[0]
            policy = self.policies[agent]
            drawn[agent] = policy.sample(outputs, rng) if explore else policy.mode(outputs)
        if explore:
            self._drawn = drawn
        return {agent: self.policies[agent].executed(drawn[agent]) for agent in self.agents}

    def observe(self, transition: Transition) -> None:
        """Remember a decision, with its actions as `act` last drew them.

        Raises:
            ContractError: nothing was drawn since the last decision.
        """
        if not self._drawn:
            raise ContractError("observe needs the actions of an act with explore=True just before it, there was none")
        self.memory.add(transition, self._drawn)
        self._drawn = {}
        self.decisions += 1

    @torch.no_grad()
    def learn(self) -> dict[str, float]:
        """Do one iteration once the rollout is full; return its metrics by name, else nothing.

        Raises:
            ContractError: a parameter or a loss is NaN or infinite.
        """
        if not self.memory.full:
            return {}
        costs = self.memory.mean_costs()
        if costs is not None:
            self.mean_costs.copy_(torch.from_numpy(costs))
        rollout = self.memory.rollout(self.state_encoding, self.encodings)
        rng = generator("replay", self.context.seed, self.iterations)
        advantages, metrics = self._estimate(rollout, rng)
        self.check_finite(metrics)  # before actors learn from these advantages
        metrics |= self._improve_in_turn(rollout, advantages, rng, fresh=costs is not None)
        self.memory.clear()
        self.iterations += 1
        self.check_finite(metrics)
        return metrics

    @property
    def rate(self) -> float:
        """Learning rate of this iteration."""
        return linear(self.config.learning_rate, 0.0, self.decisions - self.memory.length, self.context.training_steps)

    def batches(self, rows: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
        """Yield minibatches of row numbers, each epoch in another order."""
        for _ in range(self.config.epochs):
            yield from torch.from_numpy(rng.permutation(rows)).chunk(self.config.minibatches)

    def _estimate(self, rollout: Rollout, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Train the critics on returns; return the advantages (C, B) by the critics of before, and the losses."""
        shape = (len(self.owner), self.memory.length, -1)
        values, next_values = (
            self.normaliser.denormalise(self.critics.outputs(states).squeeze(2))
            for states in (rollout.states, rollout.next_states)
        )
        columns = (rollout.payoffs, values, next_values, rollout.bootstraps[self.owner], rollout.carries[self.owner])
        gamma, lam = self.context.gamma, self.config.gae_lambda
        advantages = gae(*(column.view(shape) for column in columns), gamma=gamma, lam=lam).flatten(1)
        losses = self._train_critics(rollout, values, values + advantages, rng)
        return advantages, losses

    def _train_critics(
        self, rollout: Rollout, values: torch.Tensor, returns: torch.Tensor, rng: np.random.Generator
    ) -> dict[str, float]:
        weights = rollout.alive[self.owner].float()
        self.normaliser.update(returns, weights, self.critics)
        old, targets = self.normaliser.normalise(values), self.normaliser.normalise(returns)
        optimiser = self.optimisers["critics"]
        optimiser.rate = self.rate
        losses = torch.zeros(len(self.owner))
        clip = self.config.value_clip
        for rows in self.batches(len(rollout.states), rng):
            trace = self.critics.forward(rollout.states[rows])
            loss = partial(
                value_losses, old=old[:, rows], targets=targets[:, rows], weights=weights[:, rows], clip=clip
            )
            losses, derivative = loss_and_gradient(loss, trace.outputs.squeeze(2))
            gradient = self.critics.backward(trace, derivative.unsqueeze(2))
            optimiser.step(clip_norm(gradient, GRADIENT_LIMIT))
        names = [f"loss_v_{agent}" for agent in self.agents]
        names += [f"loss_vc_{agent}_{k}" for agent in self.agents for k in range(len(self.context.cost_limits[agent]))]
        return dict(zip(names, losses.tolist(), strict=True))

    def _improve_in_turn(
        self, rollout: Rollout, advantages: torch.Tensor, rng: np.random.Generator, *, fresh: bool
    ) -> dict[str, float]:
        """The sequential scheme: see the module."""
        metrics: dict[str, float] = {}
        m = torch.ones(len(rollout.states))
        roles = len(self.agents)
        excess = self.mean_costs.numpy() - self.limits
        for role in rng.permutation(roles).tolist():
            agent = self.agents[role]
            actor, policy = self.actors[agent], self.policies[agent]
            mine = (self.owner[roles:] == role).numpy()
            observations, drawn = rollout.observations[role], rollout.drawn[role]
            outputs = actor.outputs(observations)[0]
            log_prob = policy.log_prob(outputs, drawn)
            weights = rollout.alive[role].float()
            experience = Experience(
                observations,
                drawn,
                outputs,
                log_prob,
                advantages[role],
                advantages[roles:][mine],
                m,
                weights,
                excess[mine],
                fresh,
            )
            found = self.improve(agent, experience, self.batches(len(m), rng))
            new = actor.outputs(observations)[0]
            found |= {"kl": float(mean_over(policy.kl(outputs, new), weights)), **policy.metrics(new, weights)}
            metrics |= {f"{name}_{agent}": value for name, value in found.items()}
            m = updated_m(m, policy.log_prob(new, drawn), log_prob, weights)
        return metrics

    def check_finite(self, metrics: Mapping[str, float]) -> None:
        """Look for divergence.

        Raises:
            ContractError: naming the metric or the parameters that are NaN or infinite.
        """
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        networks = {"the critics": self.critics} | {
            f"the actor of {agent!r}": net for agent, net in self.actors.items()
        }
        bad += [f"parameters of {name}" for name, net in networks.items() if not bool(net.finite_members().all())]
        if bad:
            raise ContractError(
                f"{' and '.join(bad)} must be finite, got NaN or inf in iteration {self.iterations}; "
                "try a lower learning_rate"
            )

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return, by name, the tensors that a checkpoint holds; loading copies into the same ones."""
        tensors = {f"actor.{agent}": actor.parameters for agent, actor in self.actors.items()}
        if training:
            tensors |= {"critics": self.critics.parameters, "normaliser": self.normaliser.moments}
            tensors |= {"mean_costs": self.mean_costs}
            for name, optimiser in self.optimisers.items():
                tensors |= optimiser.tensors(name)
        return tensors

    def counters(self) -> dict[str, int]:
        """Return the counters that resuming needs."""
        steps = {f"steps.{name}": optimiser.steps for name, optimiser in self.optimisers.items()}
        return {"decisions": self.decisions, "iterations": self.iterations, **steps}

    def save(self, path: Path, *, training: bool) -> None:
        """Write a checkpoint: the actors, and with `training` all else; see `Agent.save`.

        Raises:
            ContractError: a parameter is NaN or infinite.
        """
        self.check_finite({})
        write_agent(path, self, self.memory, self.counters() if training else {}, training=training)

    def load(self, path: Path) -> None:
        """Read a checkpoint; see `Agent.load`.

        Raises:
            CheckpointError: it cannot be read, or is of another agent, game or network width.
        """
        arrays, meta = read_agent(path, self)
        if meta["training"]:
            counters = meta["counters"]
            self.memory.restore(arrays, counters)
            self.decisions, self.iterations = counters["decisions"], counters["iterations"]
            for name, optimiser in self.optimisers.items():
                optimiser.steps = counters[f"steps.{name}"]
        copy_into(self.tensors(training=meta["training"]), arrays)
