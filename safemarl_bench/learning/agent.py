"""The loop that all joint-action Q learners share: act, remember, update critics; subclasses choose the pairs.

Nothing of random state is kept: acting draws from the generator it is given, a batch is a function
of (seed, update), and initial networks are a function of the seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from safemarl_bench.checkpoint import read_checkpoint, write_checkpoint
from safemarl_bench.contract import Agent, AgentContext, Arrays, Observation, Transition
from safemarl_bench.errors import CheckpointError, ContractError, SolveError
from safemarl_bench.learning.critics import Critics, squared_losses, squared_losses_gradient, td_errors, td_targets
from safemarl_bench.learning.joint import JointActions, respect_done
from safemarl_bench.learning.replay import ReplayBuffer
from safemarl_bench.learning.schedules import linear
from safemarl_bench.rng import generator

CHECK_INTERVAL = 100
"""Updates between two looks at the losses: NaN is found, and metrics are returned, this often."""

CHECKPOINT_NAME = "agent"


@dataclasses.dataclass(frozen=True)
class JointQConfig:
    """What every joint-action Q learner can set."""

    num_envs: int = 1  # E, games played side by side in training
    hidden: tuple[int, ...] = (64, 64, 64)  # widths of the hidden layers
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
    target_pair_at_s: bool = False  # the next pair is chosen at s, not at s'
    mean_done_mask: bool = False  # the batch shares one mean of "not done": nothing is ever terminal

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ContractError: a count below 1, a share outside [0, 1], a negative rate, or a scale that is not positive.
        """
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
        pairs: (B,) int64, joint actions executed.
        payoffs: (C, B) float32, what each critic adds up.
        alive: (2, B) bool, leader and follower before the decision.
        continues: (2, B) bool, whether each one's values bootstrap: neither terminated now nor done before.
    """

    features: torch.Tensor
    next_features: torch.Tensor
    pairs: torch.Tensor
    payoffs: torch.Tensor
    alive: torch.Tensor
    continues: torch.Tensor

    @classmethod
    def of(cls, rows: Mapping[str, np.ndarray]) -> Batch:
        """Return a batch of replay rows, each (B, ...)."""
        columns = {name: torch.from_numpy(rows[name]) for name in cls._fields}
        return cls(**{name: t.mT if name in ("payoffs", "alive", "continues") else t for name, t in columns.items()})


class Decision(NamedTuple):
    """What the choice of a pair depends on, in B states.

    Attributes:
        tables: (C, B, m1, m2) online critics, done agents respected (`respect_done`).
        features: (B, n) float32, as in `Batch`.
        alive: (2, B) bool, who still chooses.
    """

    tables: torch.Tensor
    features: torch.Tensor
    alive: torch.Tensor


class JointQAgent(Agent):
    """A learner of joint action values; a subclass says which pair to play and how to explore.

    The critics are Q of leader and follower and, where `constrained`, one G per cost limit of the
    leader, then of the follower; tables and payoffs come in that order.
    """

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    pairs_only: ClassVar[bool] = True
    constrained: ClassVar[bool] = True
    config: Any

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks from the context's seed.

        Raises:
            ContractError: the game is not one of one leader and one follower with discrete actions.
        """
        super().__init__(context, config)
        self.joint = JointActions.of(context)
        owners = {"q_leader": 0, "q_follower": 1}
        if self.constrained:
            for role, agent in enumerate(self.joint.agents):
                name = ("g_leader", "g_follower")[role]
                owners |= {f"{name}_{k}": role for k in range(len(context.cost_limits[agent]))}
        self.owner = torch.tensor(list(owners.values()))
        self.torch_generator = torch.Generator().manual_seed(context.seed)
        self.num_states = len(context.state_features.names)
        self.critics = Critics(
            tuple(owners),
            (self.num_states, *config.hidden, self.joint.shape[0] * self.joint.shape[1]),
            rate=config.learning_rate,
            rho=config.rho,
            target_interval=config.target_interval,
            generator=self.torch_generator,
        )
        self.decisions = 0
        self.replay = self.make_replay(max(1, min(config.buffer_size, context.training_steps * context.num_envs)))
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    @abstractmethod
    def greedy(self, decision: Decision) -> torch.Tensor:
        """Return the pairs to play, (B,) int64; a done agent's part of them does not count."""

    @abstractmethod
    def explore(self, decision: Decision, rng: np.random.Generator) -> np.ndarray:
        """Return random pairs, (B,) int64; a done agent's part of them does not count."""

    def features(self, observation: Observation) -> np.ndarray:
        """Return what is remembered of an observation, (E, n) float32: the normalised state, more in subclasses."""
        return self.context.state_features.normalise(observation.state)

    @property
    def num_features(self) -> int:
        """Length n of what `features` returns."""
        return self.num_states

    def make_replay(self, capacity: int) -> ReplayBuffer:
        """Return an empty memory."""
        return ReplayBuffer(capacity, self.columns())

    def weights(self, slots: np.ndarray) -> torch.Tensor:
        """Return the loss weight of each row of a batch, (B,)."""
        return torch.ones(len(slots))

    def after_update(self, slots: np.ndarray, batch: Batch, outputs: torch.Tensor, errors: torch.Tensor) -> None:
        """React to a critic update.

        Args:
            slots: (B,) rows of the memory.
            batch: the rows.
            outputs: (C, B, m1 * m2) of the critics at s, before the update.
            errors: (C, B) temporal-difference errors.
        """

    @property
    def epsilon(self) -> float:
        """Chance of exploring now."""
        config = self.config
        duration = config.epsilon_decay * self.context.training_steps
        return linear(config.epsilon_start, config.epsilon_end, self.decisions, duration)

    @torch.inference_mode()
    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Play `greedy`, or with chance `epsilon` per game `explore`; see `Agent.act`."""
        features = torch.from_numpy(self.features(observation))
        alive = self._alive(observation)
        outputs = self.critics.online.outputs(features[:, : self.num_states])
        decision = self._decision(outputs, features, torch.from_numpy(alive))
        with self._divergence_named():
            pairs = self.greedy(decision).numpy()
            curious = rng.random(len(pairs)) < self.epsilon if explore else np.zeros(len(pairs), bool)
            if curious.any():
                pairs = np.where(curious, self.explore(decision, rng), pairs)
        return self.joint.actions(pairs, alive)

    def observe(self, transition: Transition) -> None:
        """Remember E transitions, less those of games that were over before."""
        self.decisions += 1
        rows = self._rows(transition)
        playing = rows["alive"].any(axis=1)
        self.replay.add(rows if playing.all() else {name: column[playing] for name, column in rows.items()})

    @torch.inference_mode()
    def learn(self) -> dict[str, float]:
        """Do the updates due after a decision; return the losses by name at every 100th update, else nothing.

        Raises:
            ContractError: a loss is NaN or infinite.
        """
        starts = min(self.config.learning_starts / self.context.num_envs, self.context.training_steps / 4)
        if self.decisions < starts or not self.replay.size:
            return {}
        metrics = {}
        for _ in range(self.config.updates_per_step):
            self._update()
            if self.critics.updates % CHECK_INTERVAL == 0:
                metrics = self._losses()
        return metrics

    def _update(self) -> None:
        rng = generator("replay", self.context.seed, self.critics.updates)
        slots = self.replay.sample(self.config.batch_size, rng)
        batch = Batch.of(self.replay.gather(slots))
        weights = self.weights(slots)
        activations, errors = self.evaluate(batch)
        self._last = errors, weights
        self.critics.descend(activations, batch.pairs, squared_losses_gradient(errors, weights))
        self.after_update(slots, batch, activations[-1][:, : len(slots)], errors)

    def evaluate(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return (activations of the online critics at s, then s', errors (C, B)) of a batch.

        The next pair is chosen at s' from the online tables and valued by the target networks; a
        done agent takes no part in the choice. A truncated one does: for its values the task goes on.
        """
        count = len(batch.pairs)
        states, next_states = batch.features[:, : self.num_states], batch.next_features[:, : self.num_states]
        activations = self.critics.online.forward(torch.cat((states, next_states)))
        if self.config.target_pair_at_s:
            decision = self._decision(activations[-1][:, :count], batch.features, batch.continues)
        else:
            decision = self._decision(activations[-1][:, count:], batch.next_features, batch.continues)
        with self._divergence_named():
            next_pairs = self._executed(self.greedy(decision), batch.continues)
        bootstrap = self._at(self.critics.target.outputs(next_states), next_pairs)
        continues = batch.continues[self.owner]
        if self.config.mean_done_mask:
            bootstrap = bootstrap * continues.float().mean(dim=1, keepdim=True)
            continues = torch.ones_like(continues)
        targets = td_targets(batch.payoffs, bootstrap, continues, self.context.gamma)
        values = self._at(activations[-1][:, :count], batch.pairs)
        return activations, td_errors(values, targets, batch.alive[self.owner])

    def _executed(self, pairs: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """Return the pairs with the neutral action in place of a done agent's."""
        row, column = self.joint.neutral
        columns = self.joint.shape[1]
        rows = torch.where(alive[0], pairs.div(columns, rounding_mode="floor"), row)
        return rows * columns + torch.where(alive[1], pairs % columns, column)

    def _decision(self, outputs: torch.Tensor, features: torch.Tensor, alive: torch.Tensor) -> Decision:
        tables = outputs.view(*outputs.shape[:2], *self.joint.shape)
        return Decision(respect_done(tables, alive, self.owner, self.joint.neutral), features, alive)

    @staticmethod
    def _at(outputs: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
        """Return the outputs (C, B, M) at pairs (B,), as (C, B)."""
        return outputs.gather(2, pairs.expand(outputs.shape[:2]).unsqueeze(2)).squeeze(2)

    def _alive(self, observation: Observation) -> np.ndarray:
        return np.stack([observation.alive[agent] for agent in self.joint.agents])

    def columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return the columns of the memory: the fields of `Batch`, one row each."""
        n = self.num_features
        return {
            "features": ((n,), np.float32),
            "next_features": ((n,), np.float32),
            "pairs": ((), np.int64),
            "payoffs": ((len(self.owner),), np.float32),
            "alive": ((2,), np.bool_),
            "continues": ((2,), np.bool_),
        }

    def _rows(self, transition: Transition) -> dict[str, np.ndarray]:
        leader, follower = self.joint.agents
        rewards = [transition.rewards[agent][:, None] * self.config.reward_scale for agent in self.joint.agents]
        costs = [transition.costs[leader], transition.costs[follower]] if self.constrained else []
        alive = self._alive(transition.observation)
        ended, cut = (
            np.stack([flags[leader], flags[follower]]) for flags in (transition.terminations, transition.truncations)
        )
        continues = alive & ~ended & (self._alive(transition.next_observation) | cut)
        return {
            "features": self.features(transition.observation),
            "next_features": self.features(transition.next_observation),
            "pairs": self.joint.pairs(transition.actions),
            "payoffs": np.concatenate([*rewards, *costs], axis=1),
            "alive": alive.T,
            "continues": continues.T,
        }

    def _losses(self) -> dict[str, float]:
        """Return the losses of the last update by critic, once all is known to be finite."""
        losses = squared_losses(*self._last) if self._last else None
        self.check_finite(losses)
        values = [] if losses is None else losses.tolist()
        return dict(zip((f"loss_{name}" for name in self.critics.names), values, strict=False))

    def check_finite(self, losses: torch.Tensor | None = None) -> None:
        """Raise `ContractError` naming what is NaN or infinite; see `Critics.check_finite`."""
        self.critics.check_finite(losses)

    @contextlib.contextmanager
    def _divergence_named(self) -> Iterator[None]:
        """Where the equilibrium refuses NaN tables, say instead what diverged, and when."""
        try:
            yield
        except SolveError as error:
            self.check_finite()
            raise ContractError(f"critics diverged after {self.critics.updates} updates: {error}") from error

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
        arrays = {name: tensor.numpy() for name, tensor in self.tensors(training=training).items()}
        meta: dict[str, Any] = {"agent": type(self).__name__, "training": training, "counters": self.counters()}
        if training:
            memory, counters = self.replay.state()
            arrays |= memory
            meta["counters"] |= counters
        write_checkpoint(path, CHECKPOINT_NAME, arrays, meta)

    def load(self, path: Path) -> None:
        """Read a checkpoint; see `Agent.load`.

        Raises:
            CheckpointError: it cannot be read, or is of another agent, game or network width.
        """
        arrays, meta = read_checkpoint(path, CHECKPOINT_NAME)
        if meta.get("agent") != type(self).__name__:
            raise CheckpointError(f"checkpoint {path} is of agent {meta.get('agent')!r}, not {type(self).__name__!r}")
        tensors = self.tensors(training=meta["training"])
        for name, tensor in tensors.items():
            saved = arrays.get(name)
            if saved is None or saved.shape != tuple(tensor.shape):
                got = "nothing" if saved is None else f"shape {saved.shape}"
                raise CheckpointError(f"checkpoint {path}: {name!r} must have shape {tuple(tensor.shape)}, got {got}")
        if meta["training"]:
            self.replay.restore(arrays, meta["counters"])
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
        self.set_counters(meta["counters"])
