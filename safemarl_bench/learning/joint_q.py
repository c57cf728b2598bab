"""The loop of all joint-action Q learners with discrete actions; subclasses choose the pairs."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from safemarl_bench.contract import AgentContext, Arrays, Observation
from safemarl_bench.errors import ContractError, SolveError
from safemarl_bench.learning.agent import Batch, OffPolicyAgent, Update
from safemarl_bench.learning.ensemble import Activations
from safemarl_bench.learning.joint import JointActions, executed_pairs, respect_done


class Decision(NamedTuple):
    """What the choice of a pair depends on, in B states.

    Attributes:
        tables: (C, B, m1, m2) online critics, done agents respected (`respect_done`).
        features: (B, n) float32, as in `Batch`.
        alive: (2, B) bool, who still chooses.
    """

    tables: np.ndarray
    features: np.ndarray
    alive: np.ndarray


class JointQAgent(OffPolicyAgent):
    """A learner of tables of joint action values; a subclass says which pair to play and how to explore."""

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks from the context's seed.

        Raises:
            ContractError: the game is not one of one leader and one follower with discrete actions.
        """
        self.joint = JointActions.of(context)
        super().__init__(context, config)

    @abstractmethod
    def greedy(self, decision: Decision) -> np.ndarray:
        """Return the pairs to play, (B,) int64; a done agent's part of them does not count."""

    @abstractmethod
    def explore(self, decision: Decision, rng: np.random.Generator) -> np.ndarray:
        """Return random pairs, (B,) int64; a done agent's part of them does not count."""

    def critic_widths(self) -> tuple[int, ...]:
        """Return the widths of the critics: the state, hidden layers, one output per joint action."""
        return self.num_states, *self.config.hidden, self.joint.shape[0] * self.joint.shape[1]

    def action_column(self) -> tuple[tuple[int, ...], type]:
        """See `OffPolicyAgent.action_column`: a pair's index."""
        return (), np.int64

    def encode(self, actions: Arrays) -> np.ndarray:
        """Return the pairs' indices, (E,) int64."""
        return self.joint.pairs(actions)

    def backpropagate(self, batch: Batch, activations: Activations, gradient: np.ndarray) -> torch.Tensor:
        """See `OffPolicyAgent.backpropagate`: only the pairs executed count."""
        return self.critics.online.backward_at(activations, batch.actions, gradient)

    @torch.inference_mode()
    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Play `greedy`, or with chance `epsilon` per game `explore`; see `Agent.act`."""
        features, alive = self.seen(observation)
        outputs = self.critics.online.outputs(torch.from_numpy(features[:, : self.num_states]))
        decision = self._decision(outputs.numpy(), features, alive)
        with self._divergence_named():
            pairs = self.greedy(decision)
            curious = rng.random(len(pairs)) < self.epsilon if explore else np.zeros(len(pairs), bool)
            if curious.any():
                pairs = np.where(curious, self.explore(decision, rng), pairs)
        return self.joint.actions(pairs, alive)

    def evaluate(self, batch: Batch) -> tuple[Activations, np.ndarray]:
        """Return (activations of the online critics at s, then s', errors (C, B)) of a batch.

        The next pair is chosen at s' from the online tables and valued by the target networks; a
        done agent takes no part in the choice. A truncated one does: for its values the task goes on.
        """
        count = len(batch.actions)
        states, next_states = batch.features[:, : self.num_states], batch.next_features[:, : self.num_states]
        activations = self.critics.online.forward(torch.from_numpy(np.concatenate((states, next_states))))
        outputs = activations.outputs.numpy()
        if self.config.target_pair_at_s:
            decision = self._decision(outputs[:, :count], batch.features, batch.continues)
        else:
            decision = self._decision(outputs[:, count:], batch.next_features, batch.continues)
        with self._divergence_named():
            next_pairs = self._executed(self.greedy(decision), batch.continues)
        later = self.critics.target.outputs(torch.from_numpy(next_states)).numpy()
        return activations, self.errors(batch, at(outputs[:, :count], batch.actions), at(later, next_pairs))

    def metrics(self, update: Update) -> dict[str, float]:
        """Return epsilon and what the critics say of the pairs now played in the batch's states, on average."""
        batch = update.batch
        pairs = self._executed(self.greedy(self.decision(update)), batch.alive)
        return super().metrics(update) | self.mean_values(at(update.outputs, pairs), batch.alive)

    def decision(self, update: Update) -> Decision:
        """Return what the choice of a pair depended on in the states of an update."""
        return self._decision(update.outputs, update.batch.features, update.batch.alive)

    def _executed(self, pairs: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Return the pairs with the neutral action in place of a done agent's."""
        return executed_pairs(pairs, self.joint.shape, self.joint.neutral, alive)

    def _decision(self, outputs: np.ndarray, features: np.ndarray, alive: np.ndarray) -> Decision:
        tables = outputs.reshape(*outputs.shape[:2], *self.joint.shape)
        return Decision(respect_done(tables, alive, self.owner, self.joint.neutral), features, alive)

    @contextlib.contextmanager
    def _divergence_named(self) -> Iterator[None]:
        """Where the equilibrium refuses NaN tables, say instead what diverged, and when."""
        try:
            yield
        except SolveError as error:
            self.check_finite()
            raise ContractError(f"critics diverged after {self.critics.updates} updates: {error}") from error


def at(outputs: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Return the outputs (C, B, M) at one of them for each row, cells (B,), as (C, B)."""
    return np.ascontiguousarray(outputs[:, np.arange(len(cells)), cells])
