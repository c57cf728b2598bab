"""OTDQN: DQN with optimality tightening (He et al., *Learning to Play in a Day*, 2016), over the joint actions of a
weakly coupled game, as *Weakly Coupled Deep Q-Networks* (NeurIPS 2023) compares with.

What was earned after and before a remembered decision j bounds its value, V-(s) = max over feasible a of Q-(s, a):

    L_k = r_j + ... + gamma^{k-1} r_{j+k-1} + gamma^k V-(s_{j+k})                              k = 1..10, same episode
    R   = r_j + ... to the end of the episode, and what its last state is worth where only the clock ended it
    U_k = gamma^{-k} [Q-(s_{j-k}, a_{j-k}) - r_{j-k} - ... - gamma^{k-1} r_{j-1}]              k = 1..10, same episode

    L = max of L_k and R,    U = min of U_k

    target 0.8 y + 0.2 b, with y of DQN and b = L where Q(s, a) < L - 0.1, U where Q(s, a) > U + 0.1, (L + U) / 2 where
    both; y alone where neither

The rest is DQN (see dqn.py), with a target network of its own. Deviation from He et al.: the return of an episode that
the clock cut off is completed by the value of its last state, without which it is no bound where rewards are negative.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch

from safemarl_bench.contract import AgentContext, Transition
from safemarl_bench.errors import ContractError
from safemarl_bench.weakly_coupled.deep_q import Batch, DeepQAgent, DeepQConfig, action_gradient, masked, td_targets

UNKNOWN = -1
"""Slot of the end of an episode that is not over yet."""


@dataclasses.dataclass(frozen=True)
class OTDQNConfig(DeepQConfig):
    """What OTDQN can set beside `DeepQConfig`."""

    window: int = 10  # K, decisions looked back and ahead
    margin: float = 0.1  # violations of a bound that are let pass
    bound_share: float = 0.2  # of the violated bound in the target

    def __post_init__(self) -> None:
        """Check ranges; see `DeepQConfig`.

        Raises:
            ContractError: a window below 1, a negative margin, or a share outside [0, 1].
        """
        super().__post_init__()
        if self.window < 1:
            raise ContractError(f"config key 'window' must be at least 1, got {self.window}")
        if not self.margin >= 0.0:
            raise ContractError(f"config key 'margin' must not be negative, got {self.margin}")
        if not 0.0 <= self.bound_share <= 1.0:
            raise ContractError(f"config key 'bound_share' must be in [0, 1], got {self.bound_share}")


def lower_bounds(rewards: np.ndarray, later: np.ndarray, valid: np.ndarray, gamma: float) -> np.ndarray:
    """Return the largest L_k, (B,), minus infinity where there is none.

    Args:
        rewards: (B, K), r_j to r_{j+K-1}. later: (B, K), V-(s_{j+1}) to V-(s_{j+K}), 0 where done.
        valid: (B, K) bool, whether decision j + k - 1 is remembered and of the same episode.
    """
    powers = gamma ** np.arange(rewards.shape[1])
    returns = (rewards * powers).cumsum(axis=1) + gamma * powers * later
    best: np.ndarray = np.where(valid, returns, -np.inf).max(axis=1)
    return best


def upper_bounds(rewards: np.ndarray, values: np.ndarray, valid: np.ndarray, gamma: float) -> np.ndarray:
    """Return the least U_k, (B,), infinite where there is none.

    Args:
        rewards: (B, K), r_{j-1} back to r_{j-K}. values: (B, K), Q- of the pairs of decisions j - 1 back to j - K.
        valid: (B, K) bool, whether decision j - k is remembered and of the same episode.
    """
    least, earned = np.full(len(rewards), np.inf), np.zeros(len(rewards))
    for k in range(rewards.shape[1]):
        earned = rewards[:, k] + gamma * earned
        bound = (values[:, k] - earned) / gamma ** (k + 1)
        least = np.where(valid[:, k], np.minimum(least, bound), least)
    return least


def tightened(
    targets: np.ndarray, values: np.ndarray, low: np.ndarray, high: np.ndarray, margin: float, share: float
) -> np.ndarray:
    """Return the targets, (B,), mixed with the bounds that the values, (B,), violate; low, high: (B,)."""
    below, above = values < low - margin, values > high + margin
    bound = np.where(below, low, high)
    bound[below & above] = (low[below & above] + high[below & above]) / 2.0
    mixed: np.ndarray = np.where(below | above, (1.0 - share) * targets + share * bound, targets)
    return mixed


class OTDQN(DeepQAgent):
    """Deep Q-learning with bounds from the rest of the episode."""

    Config: ClassVar[type] = OTDQNConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build untrained networks; see `DeepQAgent`."""
        super().__init__(context, config)
        self._window = np.arange(config.window + 1) * context.num_envs

    def columns(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Return the columns of the memory: also the decision's number in its episode, and how the episode went on.

        `to_go` is the return to the end of the episode, `end` the slot of its last decision, `left` how many follow.
        """
        extra = {"number": ((), np.int64), "to_go": ((), np.float32), "end": ((), np.int64), "left": ((), np.int64)}
        return super().columns() | extra

    def more_columns(self, transition: Transition) -> dict[str, np.ndarray]:
        """Return the number in the episode of E decisions; the episode's end is not known yet."""
        count = len(transition.episode_over)
        return {
            "number": transition.observation.step,
            "to_go": np.zeros(count),
            "end": np.full(count, UNKNOWN),
            "left": np.zeros(count, np.int64),
        }

    def observe(self, transition: Transition) -> None:
        """Remember E transitions, and what was earned from each decision of the episodes that they end."""
        super().observe(transition)
        over = np.flatnonzero(transition.episode_over)
        if not len(over):
            return
        replay, envs = self.replay, self.context.num_envs
        last = (replay.cursor - envs + over) % self.capacity
        length = np.minimum(transition.observation.step[over] + 1, replay.size // envs)
        earned = np.zeros(len(over))
        for back in range(int(length.max())):
            slots = (last - back * envs) % self.capacity
            earned = replay.columns["rewards"][slots].sum(axis=1) + self.context.gamma * earned
            known = back < length
            for name, column in (("to_go", earned), ("end", last), ("left", np.full(len(over), back))):
                replay.columns[name][slots[known]] = column[known]

    def update(self, slots: np.ndarray, batch: Batch) -> dict[str, torch.Tensor]:
        """Move the network towards the tightened targets of a batch."""
        later = masked(self.network.target.outputs(batch.next_features)[0], self.feasible[batch.next_exogenous]).amax(1)
        targets = td_targets(batch.rewards, later, batch.continues, self.context.gamma).numpy()
        activations = self.network.online.forward(batch.features)
        values = activations.outputs[0].gather(1, batch.actions[:, None])[:, 0]
        low, high = self.bounds(slots)
        mixed = tightened(targets, values.numpy(), low, high, self.config.margin, self.config.bound_share)
        errors = values - torch.from_numpy(mixed.astype(np.float32))
        gradient = action_gradient(errors, batch.actions, self.problem.n_actions)
        self.network.descend(self.network.online.backward(activations, gradient[None]))
        pulled = torch.from_numpy(mixed != targets).float().mean()
        return {"loss": errors.square().mean(), "value": values.mean(), "pulled": pulled}

    def bounds(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (L, U), (B,) each, of the decisions in `slots`, (B,)."""
        replay, gamma, columns = self.replay, self.context.gamma, self.replay.columns
        number, age = columns["number"][slots, None], (replay.cursor - 1 - slots) % self.capacity
        steps = np.arange(self.config.window)
        ahead = (slots[:, None] + self._window[:-1]) % self.capacity
        valid = (age[:, None] >= self._window[:-1]) & (columns["number"][ahead] == number + steps)
        low = lower_bounds(columns["rewards"][ahead].sum(axis=2), self._later(ahead), valid, gamma)
        end = columns["end"][slots]
        rest = columns["to_go"][slots] + gamma ** (columns["left"][slots] + 1.0) * self._later(np.maximum(end, 0))
        low = np.maximum(low, np.where(end == UNKNOWN, -np.inf, rest))
        behind = (slots[:, None] - self._window[1:]) % self.capacity
        valid = (age[:, None] + self._window[1:] < replay.size) & (number >= steps + 1)
        high = upper_bounds(columns["rewards"][behind].sum(axis=2), self._taken(behind), valid, gamma)
        return low, high

    def _later(self, slots: np.ndarray) -> np.ndarray:
        """Return V- after the decisions in `slots`, of any shape, 0 where done."""
        columns, flat = self.replay.columns, slots.ravel()
        values = self.network.target.outputs(torch.from_numpy(columns["next_features"][flat]))[0]
        feasible = self.feasible[torch.from_numpy(columns["next_exogenous"][flat])]
        later: np.ndarray = masked(values, feasible).amax(1).numpy() * columns["continues"][flat]
        return later.reshape(slots.shape)

    def _taken(self, slots: np.ndarray) -> np.ndarray:
        """Return Q- of the decisions in `slots`, (B, K)."""
        columns, flat = self.replay.columns, slots.ravel()
        values = self.network.target.outputs(torch.from_numpy(columns["features"][flat]))[0].numpy()
        taken: np.ndarray = values[np.arange(len(flat)), columns["actions"][flat]].reshape(slots.shape)
        return taken
