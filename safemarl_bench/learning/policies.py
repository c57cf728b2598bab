"""Stochastic policies as functions of a network's outputs: categorical and Gaussian actions.

A policy holds no parameters: everything is a function of the outputs (B, n) of an actor. Densities
are joint ones, summed over the dimensions of an action.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import gymnasium
import numpy as np
import torch

from safemarl_bench.errors import ContractError
from safemarl_bench.learning.advantages import mean_over
from safemarl_bench.learning.layer_norm import LayerNormEnsemble

HEAD_GAIN = 0.01
"""Of an actor's last layer: the first policy hardly depends on what it sees."""


class Policy(ABC):
    """A family of action distributions.

    Attributes:
        width: n, outputs that an actor has. dependent: so many of them, the first ones, depend on the observation.
        action_shape: of one action as it is drawn. dtype: of its numbers.
    """

    width: int
    dependent: int
    action_shape: tuple[int, ...]
    dtype: type

    def actor(self, inputs: int, hidden: tuple[int, ...], generator: torch.Generator) -> LayerNormEnsemble:
        """Return a fresh network of one member from observations (B, inputs) to outputs (1, B, n)."""
        widths = (inputs, *hidden, self.width)
        return LayerNormEnsemble(
            1, widths, generator, head_gain=HEAD_GAIN, constant_outputs=self.width - self.dependent
        )

    @abstractmethod
    def sample(self, outputs: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
        """Draw actions, (B, *action_shape)."""

    @abstractmethod
    def mode(self, outputs: torch.Tensor) -> np.ndarray:
        """Return the likeliest actions, (B, *action_shape)."""

    @abstractmethod
    def executed(self, drawn: np.ndarray) -> np.ndarray:
        """Return drawn actions as the game takes them: numbered from the space's start, or clipped into its box."""

    @abstractmethod
    def log_prob(self, outputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Return the log-probability or log-density of actions as drawn, (B,)."""

    @abstractmethod
    def entropy(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the entropies, (B,), in nats."""

    @abstractmethod
    def kl(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Return KL(old || new) in nats, (B,); both arguments are outputs (B, n)."""

    @abstractmethod
    def fisher(self, outputs: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """Return F u, (B, n): F is the Hessian of ``KL(outputs || new)`` by new, where new equals outputs."""

    def metrics(self, outputs: torch.Tensor, weights: torch.Tensor) -> dict[str, float]:
        """Return how random the policy is, by name: means over outputs (B, n) with weights (B,)."""
        return {"entropy": float(mean_over(self.entropy(outputs), weights))}


class Categorical(Policy):
    """One of m actions; outputs are m logits."""

    def __init__(self, space: gymnasium.spaces.Discrete) -> None:
        """Of an action space."""
        self.width = self.dependent = int(space.n)
        self.start = int(space.start)
        self.action_shape, self.dtype = (), np.int64

    def sample(self, outputs: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
        """Draw by inverting the distribution function: one uniform number per action."""
        cumulative = outputs.double().softmax(dim=1).cumsum(dim=1).numpy()
        below = cumulative[:, :-1] <= rng.random((len(cumulative), 1))
        drawn: np.ndarray = below.sum(axis=1)
        return drawn

    def mode(self, outputs: torch.Tensor) -> np.ndarray:
        """See `Policy.mode`; ties go to the lowest action."""
        return outputs.argmax(dim=1).numpy()

    def executed(self, drawn: np.ndarray) -> np.ndarray:
        """See `Policy.executed`."""
        return drawn + self.start

    def log_prob(self, outputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """See `Policy.log_prob`."""
        return outputs.log_softmax(dim=1).gather(1, drawn.unsqueeze(1)).squeeze(1)

    def entropy(self, outputs: torch.Tensor) -> torch.Tensor:
        """``-sum_a p(a) log p(a)``."""
        logs = outputs.log_softmax(dim=1)
        return -(logs.exp() * logs).sum(dim=1)

    def kl(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """``sum_a p_old(a) (log p_old(a) - log p_new(a))``."""
        logs = old.log_softmax(dim=1)
        return (logs.exp() * (logs - new.log_softmax(dim=1))).sum(dim=1)

    def fisher(self, outputs: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """``(diag p - p p') u``."""
        p = outputs.softmax(dim=1)
        return p * (vector - (p * vector).sum(dim=1, keepdim=True))


class Gaussian(Policy):
    """Independent normal numbers, in units in which the box is [-1, 1]; outputs are k means, then k logs of sigma.

    ``sigma = initial_deviation exp(output)``, learned, but the same for all observations: one that the observation
    may shrink vanishes where advantages are noisy, and exploration with it.
    """

    def __init__(self, space: gymnasium.spaces.Box, initial_deviation: float) -> None:
        """Of an action space.

        Raises:
            ContractError: the space is not a bounded vector.
        """
        if len(space.shape) != 1 or not space.is_bounded():
            raise ContractError(f"Gaussian actions need a bounded Box with one axis, got {space}")
        self.low, self.high = space.low.astype(np.float64), space.high.astype(np.float64)
        self.action_shape, self.dtype = space.shape, np.float32
        self.dependent = space.shape[0]
        self.width = 2 * self.dependent
        self.log_initial = math.log(initial_deviation)

    def _split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means and the logs of sigma, (B, k) each."""
        mean, scale = outputs.chunk(2, dim=1)
        return mean, scale + self.log_initial

    def sample(self, outputs: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
        """Draw from the normal distribution, not clipped: densities are of what was drawn."""
        mean, log_sigma = self._split(outputs)
        noise = rng.standard_normal(mean.shape)
        return (mean.double().numpy() + log_sigma.double().exp().numpy() * noise).astype(np.float32)

    def mode(self, outputs: torch.Tensor) -> np.ndarray:
        """See `Policy.mode`: the means."""
        return self._split(outputs)[0].numpy()

    def executed(self, drawn: np.ndarray) -> np.ndarray:
        """See `Policy.executed`."""
        share = (np.clip(drawn.astype(np.float64), -1.0, 1.0) + 1.0) / 2.0
        # The share is 0 or 1 at the ends, so that rounding cannot step outside the box.
        return (self.low * (1.0 - share) + self.high * share).astype(np.float32)

    def log_prob(self, outputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """See `Policy.log_prob`."""
        mean, log_sigma = self._split(outputs)
        standard = (drawn - mean) * (-log_sigma).exp()
        return -(standard.square() / 2.0 + log_sigma + math.log(2.0 * math.pi) / 2.0).sum(dim=1)

    def entropy(self, outputs: torch.Tensor) -> torch.Tensor:
        """``sum_k log sigma_k + (1 + log 2 pi) / 2``."""
        return (self._split(outputs)[1] + (1.0 + math.log(2.0 * math.pi)) / 2.0).sum(dim=1)

    def kl(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """``sum_k log(sigma_new / sigma_old) + (sigma_old^2 + (mu_old - mu_new)^2) / (2 sigma_new^2) - 1/2``."""
        (mean, log_sigma), (new_mean, new_log_sigma) = self._split(old), self._split(new)
        change = new_log_sigma - log_sigma
        distance = ((mean - new_mean) * (-new_log_sigma).exp()).square()
        return (change + ((-2.0 * change).exp() + distance - 1.0) / 2.0).sum(dim=1)

    def fisher(self, outputs: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """``u / sigma^2`` for the means and ``2 u`` for the logs of sigma."""
        _, log_sigma = self._split(outputs)
        of_mean, of_log_sigma = vector.chunk(2, dim=1)
        return torch.cat((of_mean * (-2.0 * log_sigma).exp(), 2.0 * of_log_sigma), dim=1)

    def metrics(self, outputs: torch.Tensor, weights: torch.Tensor) -> dict[str, float]:
        """Add sigma, the mean over dimensions, in half ranges of the action."""
        deviation = self._split(outputs)[1].exp().mean(dim=1)
        return super().metrics(outputs, weights) | {"std": float(mean_over(deviation, weights))}


def policy_of(space: gymnasium.Space[object], initial_deviation: float) -> Policy:
    """Return the policy family of an action space: categorical in a Discrete one, Gaussian in a Box.

    Raises:
        ContractError: another kind of space.
    """
    if isinstance(space, gymnasium.spaces.Discrete):
        return Categorical(space)
    if isinstance(space, gymnasium.spaces.Box):
        return Gaussian(space, initial_deviation)
    raise ContractError(f"a policy needs a Discrete or Box action space, got {space}")
