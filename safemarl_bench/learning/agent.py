"""The loop that all off-policy learners share: remember, update critics, save; subclasses choose the actions.

Nothing of random state is kept: acting draws from the generator it is given, a batch is a function
of (seed, update), and initial networks are a function of the seed.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from safemarl_bench.contract import Agent, AgentContext, Arrays, Observation, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.learning.agent_checkpoint import copy_into, read_agent, write_agent
from safemarl_bench.learning.critics import squared_losses, squared_losses_gradient, td_errors
from safemarl_bench.learning.encoding import Encoding, check_octaves
from safemarl_bench.learning.ensemble import Activations, TrainedEnsemble
from safemarl_bench.learning.joint import leader_and_follower
from safemarl_bench.learning.replay import ReplayBuffer
from safemarl_bench.learning.schedules import linear
from safemarl_bench.rng import generator

CHECK_INTERVAL = 100
"""Updates between two looks at the losses: NaN is found, and metrics are returned, this often."""


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """What every off-policy learner can set."""

    num_envs: int = 1  # E, games played side by side in training
    hidden: tuple[int, ...] = (64, 64, 64)  # widths of the hidden layers
    octaves: int = 0  # frequencies at which networks also see sines and cosines of each feature; see `Encoding`
    learning_rate: float = 1e-3  # of Adam, for every critic
    reward_scale: float = 0.1  # critics learn rewards times this (costs are left as they are)
    batch_size: int = 64  # transitions per update
    buffer_size: int = 500_000  # transitions remembered
    learning_starts: int = 512  # transitions seen before the first update, at most a quarter of training
    updates_per_step: int = 1  # K, updates after each decision of all games together
    rho: float = 0.99  # share of the old target kept by a soft update
    target_interval: int = 10  # updates between two soft updates
    epsilon_start: float = 0.1  # chance of exploring at the first decision
    epsilon_end: float = 0.05  # chance of exploring once the decay is over
    epsilon_decay: float = 0.5  # share of training over which epsilon falls linearly
    # Defects of released codes, off; on, they show what each of them costs.
    target_pair_at_s: bool = False  # the next pair of actions is chosen at s, not at s'
    mean_done_mask: bool = False  # the batch shares one mean of "not done": nothing is ever terminal

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ContractError: a count out of range, a share outside [0, 1], a negative rate, or a scale not above 0.
        """
        check_octaves(self.octaves)
        if not all(type(width) is int and width >= 1 for width in self.hidden):
            raise ContractError(f"config key 'hidden' must be integers of at least 1, got {self.hidden}")
        if not self.learning_rate >= 0.0:
            raise ContractError(f"config key 'learning_rate' must not be negative, got {self.learning_rate}")
        if not self.reward_scale > 0.0:
            raise ContractError(f"config key 'reward_scale' must be positive, got {self.reward_scale}")
        for name in ("batch_size", "buffer_size", "updates_per_step", "target_interval"):
            if getattr(self, name) < 1:
                raise ContractError(f"config key {name!r} must be at least 1, got {getattr(self, name)}")
        for name in ("rho", "epsilon_start", "epsilon_end", "epsilon_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ContractError(f"config key {name!r} must be in [0, 1], got {getattr(self, name)}")


class Batch(NamedTuple):
    """B remembered transitions; C critics.

    Attributes:
        features, next_features: (B, n) float32, the global state first.
        actions: joint actions executed, as the learner encodes them: (B,) int64 pairs or (B, k) float32.
        payoffs: (C, B) float32, what each critic adds up.
        alive: (2, B) bool, leader and follower before the decision.
        continues: (2, B) bool, whether each one's values bootstrap: neither terminated now nor done before.
    """

    features: np.ndarray
    next_features: np.ndarray
    actions: np.ndarray
    payoffs: np.ndarray
    alive: np.ndarray
    continues: np.ndarray

    @classmethod
    def of(cls, rows: Mapping[str, np.ndarray]) -> Batch:
        """Return a batch of replay rows, each (B, ...)."""
        by_row = rows["features"], rows["next_features"], rows["actions"]
        return cls(*by_row, rows["payoffs"].T, rows["alive"].T, rows["continues"].T)


class Update(NamedTuple):
    """One update of the critics.

    Attributes:
        batch: the rows. outputs: (C, B, M) of the critics at s, before it.
        errors: (C, B) temporal-difference errors. weights: (B,) of the rows in the losses.
    """

    batch: Batch
    outputs: np.ndarray
    errors: np.ndarray
    weights: np.ndarray


class OffPolicyAgent(Agent):
    """A learner of joint action values from a replay memory; a subclass says how to act and what the targets are.

    The critics are Q of leader and follower and, where `constrained`, one G per cost limit of the
    leader, then of the follower; values and payoffs come in that order.

    Attributes:
        agents: names of leader and follower. owner: (C,) int64, 0 or 1: whose value each critic is.
    """

    pairs_only: ClassVar[bool] = True
    constrained: ClassVar[bool] = True
    config: Any

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks from the context's seed.

        Raises:
            ContractError: the game is not one of one leader and one follower.
        """
        super().__init__(context, config)
        self.agents = leader_and_follower(context)
        owners = {"q_leader": 0, "q_follower": 1}
        if self.constrained:
            for role, agent in enumerate(self.agents):
                name = ("g_leader", "g_follower")[role]
                owners |= {f"{name}_{k}": role for k in range(len(context.cost_limits[agent]))}
        self.owner = np.array(list(owners.values()))
        self.torch_generator = torch.Generator().manual_seed(context.seed)
        self.state_encoding = Encoding(context.state_features, config.octaves)
        self.num_states = self.state_encoding.width
        self.critics = TrainedEnsemble(
            "critics",
            tuple(owners),
            self.critic_widths(),
            rate=config.learning_rate,
            rho=config.rho,
            target_interval=config.target_interval,
            generator=self.torch_generator,
        )
        self.decisions = 0
        self.replay = self.make_replay(max(1, min(config.buffer_size, context.training_steps * context.num_envs)))
        self._equal_weights = np.ones(config.batch_size, np.float32)
        self._last: Update | None = None
        self._seen: tuple[Observation | None, np.ndarray, np.ndarray] = (None, np.empty(0), np.empty(0))

    @abstractmethod
    def critic_widths(self) -> tuple[int, ...]:
        """Return the widths of the critics: inputs, hidden layers, outputs."""

    @abstractmethod
    def action_column(self) -> tuple[tuple[int, ...], type]:
        """Return the shape and the type of one row of what `encode` returns."""

    @abstractmethod
    def encode(self, actions: Arrays) -> np.ndarray:
        """Return what is remembered of actions, agent -> (E, ...): the row ``actions`` of `Batch`, (E, ...)."""

    @abstractmethod
    def evaluate(self, batch: Batch) -> tuple[Activations, np.ndarray]:
        """Return (activations of the online critics, at s in the first B rows; errors (C, B)) of a batch."""

    @abstractmethod
    def backpropagate(self, batch: Batch, activations: Activations, gradient: np.ndarray) -> torch.Tensor:
        """Return the derivative of the loss by the critics' parameters, (P,), given that by the values, (C, B)."""

    def features(self, observation: Observation) -> np.ndarray:
        """Return what is remembered of an observation, (E, n) float32: the encoded state, more in subclasses."""
        return self.state_encoding.encode(observation.state)

    def seen(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Return `features` and who is alive, (2, E) bool.

        Those of the last observation are remembered: acting, then learning ask about the same one.
        """
        if observation is not self._seen[0]:
            alive = np.array([observation.alive[agent] for agent in self.agents])
            self._seen = observation, self.features(observation), alive
        return self._seen[1:]

    @property
    def num_features(self) -> int:
        """Length n of what `features` returns."""
        return self.num_states

    def make_replay(self, capacity: int) -> ReplayBuffer:
        """Return an empty memory."""
        return ReplayBuffer(capacity, self.columns())

    def weights(self, slots: np.ndarray) -> np.ndarray:
        """Return the loss weight of each row of a batch, (B,)."""
        return self._equal_weights

    def after_update(self, slots: np.ndarray, batch: Batch, outputs: np.ndarray, errors: np.ndarray) -> None:
        """React to a critic update.

        Args:
            slots: (B,) rows of the memory.
            batch: the rows.
            outputs: (C, B, M) of the critics at s, before the update.
            errors: (C, B) temporal-difference errors.
        """

    @property
    def epsilon(self) -> float:
        """Chance of exploring now."""
        config = self.config
        duration = config.epsilon_decay * self.context.training_steps
        return linear(config.epsilon_start, config.epsilon_end, self.decisions, duration)

    def observe(self, transition: Transition) -> None:
        """Remember E transitions, less those of games that were over before."""
        self.decisions += 1
        rows = self._rows(transition)
        playing = rows["alive"].any(axis=1)
        self.replay.add(rows if playing.all() else {name: column[playing] for name, column in rows.items()})

    @torch.inference_mode()
    def learn(self) -> dict[str, float]:
        """Do the updates due after a decision; return metrics by name at every 100th update, else nothing.

        Raises:
            ContractError: a loss is NaN or infinite.
        """
        starts = min(self.config.learning_starts / self.context.num_envs, self.context.training_steps / 4)
        if self.decisions < starts or not self.replay.size:
            return {}
        metrics = {}
        for _ in range(self.config.updates_per_step):
            self._last = self._update()
            if self.critics.updates % CHECK_INTERVAL == 0:
                metrics = self._losses() | self.metrics(self._last)
        return metrics

    def _update(self) -> Update:
        rng = generator("replay", self.context.seed, self.critics.updates)
        slots = self.replay.sample(self.config.batch_size, rng)
        batch = Batch.of(self.replay.gather(slots))
        weights = self.weights(slots)
        activations, errors = self.evaluate(batch)
        gradient = squared_losses_gradient(errors, weights)
        self.critics.descend(self.backpropagate(batch, activations, gradient))
        outputs = activations.outputs.numpy()[:, : len(slots)]
        self.after_update(slots, batch, outputs, errors)
        return Update(batch, outputs, errors, weights)

    def metrics(self, update: Update) -> dict[str, float]:
        """Return what to report after an update, by name, beside the losses; it is asked at every 100th one."""
        return {"epsilon": self.epsilon}

    def mean_values(self, values: np.ndarray, alive: np.ndarray) -> dict[str, float]:
        """Return the mean of each critic by name, ``value_*``; values: (C, B), alive: (2, B), done owners left out."""
        stake = torch.from_numpy(alive[self.owner])
        means = (torch.from_numpy(values) * stake).sum(1) / stake.sum(1).clamp_(min=1)
        return dict(zip((f"value_{name}" for name in self.critics.names), means.tolist(), strict=True))

    def errors(self, batch: Batch, values: np.ndarray, bootstrap: np.ndarray) -> np.ndarray:
        """Return the temporal-difference errors of a batch, (C, B).

        Args:
            values: (C, B) of the critics at s. bootstrap: (C, B), what the targets say of the next pair of actions.
        """
        continues = batch.continues
        if self.config.mean_done_mask:
            bootstrap = bootstrap * continues.mean(axis=1, dtype=np.float32)[self.owner][:, None]
            continues = np.ones_like(continues)
        return td_errors(values, bootstrap, batch.payoffs, continues, batch.alive, self.owner, self.context.gamma)

    def columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return the columns of the memory: the fields of `Batch`, one row each."""
        n = self.num_features
        return {
            "features": ((n,), np.float32),
            "next_features": ((n,), np.float32),
            "actions": self.action_column(),
            "payoffs": ((len(self.owner),), np.float32),
            "alive": ((2,), np.bool_),
            "continues": ((2,), np.bool_),
        }

    def _rows(self, transition: Transition) -> dict[str, np.ndarray]:
        leader, follower = self.agents
        rewards = [transition.rewards[agent][:, None] * self.config.reward_scale for agent in self.agents]
        costs = [transition.costs[leader], transition.costs[follower]] if self.constrained else []
        features, alive = self.seen(transition.observation)
        next_features, still_alive = self.seen(transition.next_observation)
        ended, cut = (
            np.array([flags[leader], flags[follower]]) for flags in (transition.terminations, transition.truncations)
        )
        continues = alive & ~ended & (still_alive | cut)
        return {
            "features": features,
            "next_features": next_features,
            "actions": self.encode(transition.actions),
            "payoffs": np.concatenate([*rewards, *costs], axis=1),
            "alive": alive.T,
            "continues": continues.T,
        }

    def _losses(self) -> dict[str, float]:
        """Return the losses of the last update by critic, once all is known to be finite."""
        losses = squared_losses(self._last.errors, self._last.weights) if self._last else None
        self.check_finite(losses)
        values = [] if losses is None else losses.tolist()
        return dict(zip((f"loss_{name}" for name in self.critics.names), values, strict=False))

    def check_finite(self, losses: torch.Tensor | None = None) -> None:
        """Raise `ContractError` naming what is NaN or infinite; see `TrainedEnsemble.check_finite`."""
        self.critics.check_finite(losses)

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return, by name, the tensors that a checkpoint holds; loading copies into the same ones."""
        return self.critics.tensors(training=training)

    def counters(self) -> dict[str, int]:
        """Return the counters that resuming needs."""
        return {"decisions": self.decisions, "updates": self.critics.updates}

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """Take over what `counters` returned."""
        self.decisions = counters["decisions"]
        self.critics.optimiser.steps = counters["updates"]

    def save(self, path: Path, *, training: bool) -> None:
        """Write a checkpoint; see `Agent.save`.

        Raises:
            ContractError: a loss or a parameter is NaN or infinite.
        """
        self._losses()
        write_agent(path, self, self.replay, self.counters(), training=training)

    def load(self, path: Path) -> None:
        """Read a checkpoint; see `Agent.load`.

        Raises:
            CheckpointError: it cannot be read, or is of another agent, game or network width.
        """
        arrays, meta = read_agent(path, self)
        if meta["training"]:
            self.replay.restore(arrays, meta["counters"])
        copy_into(self.tensors(training=meta["training"]), arrays)
        self.set_counters(meta["counters"])
