"""What the deep Q learners of weakly coupled games share: a network over all joint actions, a replay memory, masks.

The network maps the normalised observation to one value per joint action; wherever a joint action is chosen, in acting
as in targets, infeasible ones are left out. A subclass says what its network learns from a batch.

Nothing of random state is kept: acting draws from the generator it is given, a batch is a function of (seed, update),
and first networks are a function of the seed.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from safemarl_bench.contract import AgentContext, Arrays, Observation, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import ReplayBuffer, TrainedEnsemble, linear
from safemarl_bench.learning.agent_checkpoint import copy_into, read_agent, write_agent
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled.operator_agent import OperatorAgent

CHECK_INTERVAL = 100
"""Updates between two looks at the losses: NaN is found, and metrics are returned, this often."""


@dataclasses.dataclass(frozen=True)
class DeepQConfig:
    """What every deep Q learner can set; the defaults are the paper's (D.4). A step is a decision of one game."""

    num_envs: int = 10  # E, games played side by side in training
    hidden: tuple[int, ...] = (64, 32)  # widths of the hidden layers
    learning_rate: float = 1e-4  # of Adam
    batch_size: int = 32  # transitions per update
    buffer_size: int = 100_000  # transitions remembered
    burn_in: int = 10_000  # steps played at random before the first update, at most a quarter of training
    update_interval: int = 4  # steps between two updates
    target_interval: int = 32  # steps between two copies of the network into its target
    epsilon_start: float = 1.0  # chance of exploring after the burn-in
    epsilon_end: float = 0.05  # chance of exploring once the decay is over
    epsilon_steps: int = 30_000  # steps over which it falls linearly, at most half of training

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ContractError: a count below 1, a chance outside [0, 1], or a negative rate.
        """
        if not self.hidden or not all(type(width) is int and width >= 1 for width in self.hidden):
            raise ContractError(f"config key 'hidden' must be integers of at least 1, got {self.hidden}")
        if not self.learning_rate >= 0.0:
            raise ContractError(f"config key 'learning_rate' must not be negative, got {self.learning_rate}")
        for name in ("batch_size", "buffer_size", "update_interval", "target_interval", "epsilon_steps"):
            if getattr(self, name) < 1:
                raise ContractError(f"config key {name!r} must be at least 1, got {getattr(self, name)}")
        for name in ("epsilon_start", "epsilon_end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ContractError(f"config key {name!r} must be in [0, 1], got {getattr(self, name)}")


class Batch(NamedTuple):
    """B remembered transitions.

    Attributes:
        features, next_features: (B, n) float32, normalised observations.
        exogenous, next_exogenous: (B,) int64. actions: (B,) int64.
        rewards: (B, N) float32, by sub-problem. continues: (B,) float32, 1 where values bootstrap, else 0.
    """

    features: torch.Tensor
    next_features: torch.Tensor
    exogenous: torch.Tensor
    next_exogenous: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    continues: torch.Tensor


def masked(values: torch.Tensor, feasible: torch.Tensor) -> torch.Tensor:
    """Return values, (B, A), with minus infinity at infeasible actions; feasible: (B, A) bool."""
    return values.masked_fill(~feasible, -torch.inf)


def action_gradient(errors: torch.Tensor, actions: torch.Tensor, n_actions: int) -> torch.Tensor:
    """Return the derivative of the mean squared error by all outputs, (B, A), 0 except at the actions taken.

    Args:
        errors: (B,) of the values of `actions`, (B,).
    """
    gradient = torch.zeros(len(errors), n_actions)
    return gradient.scatter_(1, actions[:, None], 2.0 / len(errors) * errors[:, None])


def td_targets(rewards: torch.Tensor, later: torch.Tensor, continues: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return ``sum_i r_i + gamma (1 - done) later``, (B,).

    Args:
        rewards: (B, N), by sub-problem. later: (B,) values after the decision. continues: (B,), 0 where done, else 1.
    """
    return rewards.sum(1) + gamma * continues * later


class DeepQAgent(OperatorAgent):
    """A learner of the values of all joint actions from a replay memory.

    Attributes:
        network: online and target networks, n inputs and A outputs.
        steps: decisions of single games observed.
    """

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks from the context's seed.

        Raises:
            ContractError: the game is not weakly coupled.
        """
        super().__init__(context, config)
        self.features = context.observation_features[self.operator]
        self.feasible = torch.from_numpy(self.problem.feasible)
        self.torch_generator = torch.Generator().manual_seed(context.seed)
        self.network = self.trained("network", len(self.features.names), self.problem.n_actions)
        self.steps = 0
        self.total = context.training_steps * context.num_envs
        # A multiple of E, so that a game's transitions stay E slots apart.
        self.capacity = max(1, min(config.buffer_size, self.total) // context.num_envs) * context.num_envs
        self.replay = ReplayBuffer(self.capacity, self.columns())
        self._losses: dict[str, torch.Tensor] = {}

    def trained(self, prefix: str, inputs: int, outputs: int) -> TrainedEnsemble:
        """Return a fresh network with its target, which is a copy made every `target_interval` steps."""
        config = self.config
        return TrainedEnsemble(
            prefix,
            (prefix,),
            (inputs, *config.hidden, outputs),
            rate=config.learning_rate,
            rho=0.0,
            target_interval=max(1, config.target_interval // config.update_interval),
            generator=self.torch_generator,
        )

    @abstractmethod
    def update(self, slots: np.ndarray, batch: Batch) -> dict[str, torch.Tensor]:
        """Learn from a batch; return losses, one number each, by name.

        Args:
            slots: (B,) rows of the memory. batch: what they hold.
        """

    def acting_values(self, features: torch.Tensor, exogenous: torch.Tensor) -> torch.Tensor:
        """Return what each joint action is worth, (E, A), feasible or not; features: (E, n), exogenous: (E,)."""
        return self.network.online.outputs(features)[0]

    def columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return the columns of the memory: the fields of `Batch`, one row each."""
        n = len(self.features.names)
        return {
            "features": ((n,), np.float32),
            "next_features": ((n,), np.float32),
            "exogenous": ((), np.int64),
            "next_exogenous": ((), np.int64),
            "actions": ((), np.int64),
            "rewards": ((self.problem.n_subproblems,), np.float32),
            "continues": ((), np.float32),
        }

    @property
    def burn_in(self) -> int:
        """Steps before the first update."""
        return int(min(self.config.burn_in, self.total // 4))

    @property
    def epsilon(self) -> float:
        """Chance of exploring now."""
        if self.steps < self.burn_in:
            return 1.0
        duration = min(self.config.epsilon_steps, self.total / 2)
        return linear(self.config.epsilon_start, self.config.epsilon_end, self.steps - self.burn_in, duration)

    @torch.inference_mode()
    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Play the best feasible action, or with chance `epsilon` any feasible one; see `Agent.act`."""
        shown = self.where(observation)
        features = torch.from_numpy(self.features.normalise(observation.by_agent[self.operator]))
        exogenous = torch.from_numpy(shown.exogenous)
        values = masked(self.acting_values(features, exogenous), self.feasible[exogenous])
        actions = values.argmax(dim=1).numpy()
        if explore:
            curious = rng.random(len(actions)) < self.epsilon
            actions = np.where(curious, self.problem.draw(shown.exogenous, rng), actions)
        return {self.operator: actions}

    def observe(self, transition: Transition) -> None:
        """Remember E transitions."""
        before, after = transition.observation, transition.next_observation
        assert transition.sub_rewards is not None
        self.replay.add(
            {
                "features": self.features.normalise(before.by_agent[self.operator]),
                "next_features": self.features.normalise(after.by_agent[self.operator]),
                "exogenous": self.where(before).exogenous,
                "next_exogenous": self.where(after).exogenous,
                "actions": transition.actions[self.operator],
                "rewards": transition.sub_rewards,
                "continues": ~transition.terminations[self.operator],
                **self.more_columns(transition),
            }
        )
        self.steps += len(transition.episode_over)

    def more_columns(self, transition: Transition) -> dict[str, np.ndarray]:
        """Return what a subclass remembers beside the fields of `Batch`, by column, (E, ...) each."""
        return {}

    @torch.inference_mode()
    def learn(self) -> dict[str, float]:
        """Do the updates due after a decision; return metrics by name at every 100th update, else nothing.

        Raises:
            ContractError: a loss is NaN or infinite.
        """
        metrics: dict[str, float] = {}
        due = max(0, self.steps - self.burn_in) // self.config.update_interval
        while self.network.updates < due:
            slots = self.replay.sample(
                self.config.batch_size, generator("replay", self.context.seed, self.network.updates)
            )
            rows = self.replay.gather(slots)
            batch = Batch(*(torch.from_numpy(rows[name]) for name in Batch._fields))
            self._losses = self.update(slots, batch)
            if self.network.updates % CHECK_INTERVAL == 0:
                metrics = {"epsilon": self.epsilon, **self._checked_losses()}
        return metrics

    def _checked_losses(self) -> dict[str, float]:
        """Return the losses of the last update once all is known to be finite."""
        losses = {name: float(loss) for name, loss in self._losses.items()}
        bad = [name for name, loss in losses.items() if not np.isfinite(loss)]
        if bad:
            raise ContractError(
                f"{' and '.join(bad)} must be finite, got NaN or inf at update {self.network.updates}; "
                "try a lower learning rate"
            )
        for network in self.networks():
            network.check_finite()
        return losses

    def networks(self) -> tuple[TrainedEnsemble, ...]:
        """Return all networks; each makes one step per update."""
        return (self.network,)

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return, by name, the tensors that a checkpoint holds; loading copies into the same ones."""
        return {
            name: tensor for network in self.networks() for name, tensor in network.tensors(training=training).items()
        }

    def save(self, path: Path, *, training: bool) -> None:
        """Write a checkpoint; see `Agent.save`.

        Raises:
            ContractError: a loss or a parameter is NaN or infinite.
        """
        self._checked_losses()
        counters = {"steps": self.steps, "updates": self.network.updates}
        write_agent(path, self, self.replay, counters, training=training)

    def load(self, path: Path) -> None:
        """Read a checkpoint; see `Agent.load`.

        Raises:
            CheckpointError: it cannot be read, or is of another agent, game or network width.
        """
        arrays, meta = read_agent(path, self)
        counters: Mapping[str, int] = meta["counters"]
        if meta["training"]:
            self.replay.restore(arrays, counters)
        copy_into(self.tensors(training=meta["training"]), arrays)
        self.steps = counters["steps"]
        for network in self.networks():
            network.optimiser.steps = counters["updates"]
