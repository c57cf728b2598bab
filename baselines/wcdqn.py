"""WCDQN, weakly coupled deep Q-networks: *Weakly Coupled Deep Q-Networks* (NeurIPS 2023), Algorithm 1.

Two networks without shared layers, each with its slow copy: Q of the joint problem, an output per joint action, and
Q_sub of all sub-problems i and all multipliers lam at once: inputs lam, one-hot i, w and s_i, an output per allocation.
With B(w) from a table and lam_1..lam_K from [0, lam_max]:

    U(s, a) = min over k of [lam_k B(w) + sum_i Q_sub(lam_k, i, w, s_i)[a_i]]

Learning, on a uniform batch; A(w) are the feasible joint actions:

    y_i  = r_i - lam_k a_i + gamma (1 - done) max_b Q_sub-(lam_k, i, w', s_i')[b]       loss (Q_sub(..)[a_i] - y_i)^2
    y    = sum_i r_i + gamma (1 - done) max over a' in A(w') of Q-(s', a')
    loss = (Q(s, a) - y)^2 + kappa_U mean over a' in A(w) of max(Q(s, a') - U(s, a'), 0)^2,    U held constant
    B(w) += eta [b(w) + gamma (1 - done) B(w') - B(w)],   eta = 1 / visits(w)^0.7,   at every step

Acting: greedy among the feasible joint actions in min(Q, U), or with chance epsilon any of them. In learning the
multipliers are drawn, one from each of K equal parts of [0, lam_max]; in acting they are evenly spaced, so that one
observation has one answer. B starts at an upper bound and bootstraps where the clock ends an episode, as the
values do: one horizon for both sides of the bound.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch

from safemarl_bench.contract import AgentContext, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import TrainedEnsemble
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled.deep_q import Batch, DeepQAgent, DeepQConfig, action_gradient, masked, td_targets

ETA_EXPONENT = 0.7


@dataclasses.dataclass(frozen=True)
class WCDQNConfig(DeepQConfig):
    """What WCDQN can set beside `DeepQConfig`."""

    kappa_u: float = 10.0  # weight of what Q exceeds its bound by
    lam_max: float = 1.5  # largest multiplier
    lam_samples: int = 10  # K, multipliers per update and per decision

    def __post_init__(self) -> None:
        """Check ranges; see `DeepQConfig`.

        Raises:
            ContractError: a negative weight or multiplier, or fewer than two multipliers.
        """
        super().__post_init__()
        for name in ("kappa_u", "lam_max"):
            if not getattr(self, name) >= 0.0:
                raise ContractError(f"config key {name!r} must not be negative, got {getattr(self, name)}")
        if self.lam_samples < 2:
            raise ContractError(f"config key 'lam_samples' must be at least 2, got {self.lam_samples}")


def penalty_gradient(q: torch.Tensor, upper: torch.Tensor, feasible: torch.Tensor, kappa_u: float) -> torch.Tensor:
    """Return the derivative by q of ``kappa_U mean_batch mean_{A(w)} max(q - upper, 0)^2``, (B, A).

    Args:
        q, upper: (B, A). feasible: (B, A) bool.
    """
    excess = (q - upper).clamp_(min=0.0) * feasible
    return excess * (2.0 * kappa_u / len(q)) / feasible.sum(1, keepdim=True)


def subproblem_targets(
    rewards: torch.Tensor, uses: torch.Tensor, lam: torch.Tensor, later: torch.Tensor, gamma: torch.Tensor
) -> torch.Tensor:
    """Return y_i for each multiplier, (B, K, N).

    Args:
        rewards, uses: (B, N), r_i and a_i. lam: (K,). later: (B, K, N), best values after the decision.
        gamma: (B,), 0 where done.
    """
    return rewards[:, None] - lam[:, None] * uses[:, None] + gamma[:, None, None] * later


class WCDQN(DeepQAgent):
    """Deep Q-learning held below the Lagrangian bound of its sub-problems."""

    Config: ClassVar[type] = WCDQNConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks; see `DeepQAgent`.

        Raises:
            ContractError: the game is not weakly coupled, or gamma is 1, where there is no bound.
        """
        if context.gamma == 1.0:
            raise ContractError("WCDQN needs a discount below 1, got gamma 1")
        super().__init__(context, config)
        problem, n = self.problem, len(self.features.names)
        # Observations are the exogenous values, fewer than N or N of them, then equally many features of each s_i.
        self._width = (n - 1) // problem.n_subproblems
        self._exogenous_width = n - self._width * problem.n_subproblems
        inputs = 1 + problem.n_subproblems + self._exogenous_width + self._width
        self.subnetwork: TrainedEnsemble = self.trained("subnetwork", inputs, problem.sub_actions)
        self.allocations = torch.from_numpy(problem.allocations)
        chosen = torch.nn.functional.one_hot(self.allocations, problem.sub_actions)
        self._choice = chosen.flatten(1).T.float().contiguous()  # (N M, A): what each joint action sums
        self.acting_lam = torch.linspace(0.0, config.lam_max, config.lam_samples)
        self.earned = torch.full((problem.n_exogenous,), float(problem.capacity.max()) / (1.0 - context.gamma))
        self.met = torch.zeros(problem.n_exogenous, dtype=torch.int64)

    def inputs(self, features: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        """Return what the sub-network sees, (B K N, inputs), of observations (B, n) with multipliers (K,)."""
        count, subproblems = len(features), self.problem.n_subproblems
        exogenous, states = features[:, : self._exogenous_width], features[:, self._exogenous_width :]
        shape = (count, len(lam), subproblems)
        parts = (
            lam[None, :, None, None].expand(*shape, 1),
            torch.eye(subproblems).expand(*shape, subproblems),
            exogenous[:, None, None].expand(*shape, self._exogenous_width),
            states.view(count, 1, subproblems, self._width).expand(*shape, self._width),
        )
        return torch.cat(parts, dim=3).flatten(0, 2)

    def upper(self, values: torch.Tensor, lam: torch.Tensor, exogenous: torch.Tensor) -> torch.Tensor:
        """Return U, (B, A), given Q_sub, (B K N, M), at multipliers (K,) and exogenous states (B,)."""
        sums = values.view(len(exogenous), len(lam), -1) @ self._choice
        return (sums + (lam * self.earned[exogenous, None])[:, :, None]).amin(1)

    def bounds(self, features: torch.Tensor, exogenous: torch.Tensor) -> torch.Tensor:
        """Return U with the multipliers of acting, (E, A), of observations (E, n) and exogenous states (E,)."""
        lam = self.acting_lam
        return self.upper(self.subnetwork.online.outputs(self.inputs(features, lam))[0], lam, exogenous)

    def acting_values(self, features: torch.Tensor, exogenous: torch.Tensor) -> torch.Tensor:
        """Return min(Q, U), (E, A)."""
        return torch.minimum(super().acting_values(features, exogenous), self.bounds(features, exogenous))

    def observe(self, transition: Transition) -> None:
        """Remember E transitions; learn B from them, one after another."""
        super().observe(transition)
        before, after = transition.observation.sub_problems, transition.next_observation.sub_problems
        assert before is not None
        assert after is not None
        capacity, earned, met = self.problem.capacity, self.earned.numpy(), self.met.numpy()
        continues = self.context.gamma * ~transition.terminations[self.operator]
        for w, following, gamma in zip(before.exogenous, after.exogenous, continues, strict=True):
            met[w] += 1
            earned[w] += met[w] ** -ETA_EXPONENT * (capacity[w] + gamma * earned[following] - earned[w])

    def update(self, slots: np.ndarray, batch: Batch) -> dict[str, torch.Tensor]:
        """Move both networks towards the targets of a batch."""
        lam = self._draw_multipliers()
        values, loss_sub = self._update_subproblems(batch, lam)
        upper, feasible = self.upper(values, lam, batch.exogenous), self.feasible[batch.exogenous]
        later = masked(self.network.target.outputs(batch.next_features)[0], self.feasible[batch.next_exogenous]).amax(1)
        targets = td_targets(batch.rewards, later, batch.continues, self.context.gamma)
        activations = self.network.online.forward(batch.features)
        q = activations.outputs[0]
        errors = q.gather(1, batch.actions[:, None])[:, 0] - targets
        gradient = action_gradient(errors, batch.actions, self.problem.n_actions)
        gradient += penalty_gradient(q, upper, feasible, self.config.kappa_u)
        self.network.descend(self.network.online.backward(activations, gradient[None]))
        above = ((q > upper) & feasible).sum() / feasible.sum()
        return {
            "loss": errors.square().mean(),
            "loss_sub": loss_sub,
            "above_bound": above,
            "earned": self.earned.mean(),
        }

    def _draw_multipliers(self) -> torch.Tensor:
        """Return one multiplier from each of K equal parts of [0, lam_max], (K,), a function of (seed, update)."""
        count = self.config.lam_samples
        rng = generator("replay", self.context.seed, self.network.updates, 1)
        return torch.from_numpy((np.arange(count) + rng.random(count)) * self.config.lam_max / count).float()

    def _update_subproblems(self, batch: Batch, lam: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Move the sub-network; return its outputs at s before that, (B K N, M), and its loss."""
        shape = (len(batch.actions), len(lam), self.problem.n_subproblems)
        later = self.subnetwork.target.outputs(self.inputs(batch.next_features, lam))[0].amax(1).view(shape)
        uses = self.allocations[batch.actions]
        targets = subproblem_targets(batch.rewards, uses, lam, later, self.context.gamma * batch.continues)
        activations = self.subnetwork.online.forward(self.inputs(batch.features, lam))
        values, chosen = activations.outputs[0], uses[:, None].expand(shape).reshape(-1)
        errors = values.gather(1, chosen[:, None])[:, 0] - targets.reshape(-1)
        gradient = action_gradient(errors, chosen, self.problem.sub_actions)
        self.subnetwork.descend(self.subnetwork.online.backward(activations, gradient[None]))
        return values, errors.square().mean()

    def networks(self) -> tuple[TrainedEnsemble, ...]:
        """Return both networks."""
        return self.network, self.subnetwork

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return, by name, the tensors that a checkpoint holds: also B and how often each exogenous state was met."""
        extra = {"earned": self.earned, "met": self.met}
        return super().tensors(training=training) | extra
