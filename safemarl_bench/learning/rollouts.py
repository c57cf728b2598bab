"""What an on-policy learner collects: T decisions of E games, and the cost of every episode that finished in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from safemarl_bench.contract import AgentContext, Arrays, Transition
from safemarl_bench.errors import CheckpointError
from safemarl_bench.learning.encoding import Encoding
from safemarl_bench.learning.policies import Policy


class Rollout(NamedTuple):
    """B = T * E rows, in the order of decisions, then games; A agents, leaders first; C payoffs.

    Payoffs are the reward of each agent, then the costs of the first agent, of the second, and so on.

    Attributes:
        observations: per agent (B, n_i) float32, normalised.
        drawn: per agent (B, ...), actions as the policies drew them.
        states, next_states: (B, n_s) float32, normalised.
        payoffs: (C, B) float32.
        alive: (A, B) bool, before the decision: the rows that count for an agent.
        bootstraps: (A, B) bool, the agent's values go on after the decision.
        carries: (A, B) bool, so does its episode.
    """

    observations: tuple[torch.Tensor, ...]
    drawn: tuple[torch.Tensor, ...]
    states: torch.Tensor
    next_states: torch.Tensor
    payoffs: torch.Tensor
    alive: torch.Tensor
    bootstraps: torch.Tensor
    carries: torch.Tensor


class RolloutMemory:
    """Collects T decisions of E games.

    Attributes:
        length: T. filled: decisions since `clear`.
        episode_costs: (E, K) float64, costs so far of the running episodes, all agents' in a row.
        finished_costs: (K,) float64, sum over the episodes that finished since `clear`.
        finished: their number.
    """

    def __init__(self, length: int, context: AgentContext, policies: Mapping[str, Policy]) -> None:
        """Allocate.

        Args:
            length: T >= 1.
            context: the game's. policies: agent -> what draws its actions.
        """
        self.length, self.filled, self.finished = length, 0, 0
        self.context, self.agents, games = context, context.agents, context.num_envs
        constraints = sum(len(context.cost_limits[agent]) for agent in self.agents)
        self.episode_costs = np.zeros((games, constraints))
        self.finished_costs = np.zeros(constraints)
        states = len(context.state_features.names)
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "states": ((states,), np.float32),
            "next_states": ((states,), np.float32),
            "payoffs": ((len(self.agents) + constraints,), np.float32),
            **{name: ((len(self.agents),), np.bool_) for name in ("alive", "bootstraps", "carries")},
        }
        for agent in self.agents:
            shapes[f"observations.{agent}"] = ((len(context.observation_features[agent].names),), np.float32)
            shapes[f"drawn.{agent}"] = (policies[agent].action_shape, policies[agent].dtype)
        self.columns: dict[str, np.ndarray] = {
            name: np.zeros((length, games, *shape), dtype) for name, (shape, dtype) in shapes.items()
        }

    def add(self, transition: Transition, drawn: Arrays) -> None:
        """Store one decision.

        Args:
            transition: what it led to.
            drawn: agent -> (E, ...) actions as the policies drew them.
        """
        before, after, agents = transition.observation, transition.next_observation, self.agents
        row = {name: column[self.filled] for name, column in self.columns.items()}
        for index, agent in enumerate(agents):
            row[f"observations.{agent}"][:] = before.by_agent[agent]
            row[f"drawn.{agent}"][:] = drawn[agent]
            cut = transition.truncations[agent]
            row["alive"][:, index] = before.alive[agent]
            continues = before.alive[agent] & ~transition.terminations[agent] & (after.alive[agent] | cut)
            row["bootstraps"][:, index] = continues
            row["carries"][:, index] = continues & ~cut
            row["payoffs"][:, index] = transition.rewards[agent]
        row["states"][:], row["next_states"][:] = before.state, after.state
        costs = np.concatenate([transition.costs[agent] for agent in agents], axis=1)
        row["payoffs"][:, len(agents) :] = costs
        self._tally(costs, transition.episode_over)
        self.filled += 1

    def _tally(self, costs: np.ndarray, over: np.ndarray) -> None:
        self.episode_costs += costs
        if over.any():
            self.finished += int(over.sum())
            self.finished_costs += self.episode_costs[over].sum(axis=0)
            self.episode_costs[over] = 0.0

    @property
    def full(self) -> bool:
        """Whether T decisions are in."""
        return self.filled == self.length

    def mean_costs(self) -> np.ndarray | None:
        """Return the mean undiscounted cost of the finished episodes, (K,), or None where none finished."""
        return self.finished_costs / self.finished if self.finished else None

    def rollout(self, state_encoding: Encoding, encodings: Mapping[str, Encoding]) -> Rollout:
        """Return what was collected as tensors, states and each agent's observations encoded."""
        rows = {name: column.reshape(-1, *column.shape[2:]) for name, column in self.columns.items()}
        agents = self.agents
        return Rollout(
            tuple(torch.from_numpy(encodings[agent].encode(rows[f"observations.{agent}"])) for agent in agents),
            tuple(torch.from_numpy(rows[f"drawn.{agent}"]) for agent in agents),
            torch.from_numpy(state_encoding.encode(rows["states"])),
            torch.from_numpy(state_encoding.encode(rows["next_states"])),
            *(torch.from_numpy(rows[name].T.copy()) for name in ("payoffs", "alive", "bootstraps", "carries")),
        )

    def clear(self) -> None:
        """Start the next rollout; running episodes go on."""
        self.filled = self.finished = 0
        self.finished_costs[:] = 0.0

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Return (arrays, counters) that `restore` needs."""
        arrays = {f"rollout.{name}": column[: self.filled] for name, column in self.columns.items()}
        arrays |= {"rollout_episode_costs": self.episode_costs, "rollout_finished_costs": self.finished_costs}
        return arrays, {"rollout_filled": self.filled, "rollout_finished": self.finished}

    def restore(self, arrays: Mapping[str, np.ndarray], counters: Mapping[str, int]) -> None:
        """Take over what `state` returned.

        Raises:
            CheckpointError: an array is missing or of another shape.
        """
        self.filled, self.finished = counters["rollout_filled"], counters["rollout_finished"]
        places = {f"rollout.{name}": column[: self.filled] for name, column in self.columns.items()}
        places |= {"rollout_episode_costs": self.episode_costs, "rollout_finished_costs": self.finished_costs}
        for name, place in places.items():
            saved = arrays.get(name)
            if self.filled >= self.length or saved is None or (saved.shape, saved.dtype) != (place.shape, place.dtype):
                got = "nothing" if saved is None else f"{saved.dtype} {saved.shape}"
                raise CheckpointError(f"{name!r} must be {place.dtype} {place.shape}, got {got}")
            place[:] = saved
