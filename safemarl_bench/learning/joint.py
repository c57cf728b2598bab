"""One leader and one follower with discrete actions: joint actions as cells of an (m1, m2) table.

Rows are the leader's actions, columns the follower's; a pair (i, j) has the index ``i * m2 + j``.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gymnasium
import numpy as np

from safemarl_bench.contract import AgentContext, Arrays, discounted_limit
from safemarl_bench.errors import ContractError
from safemarl_bench.stackelberg.many.compiled import compiled


def leader_and_follower(context: AgentContext) -> tuple[str, str]:
    """Return the names of the leader and the follower.

    Raises:
        ContractError: not exactly one of each.
    """
    if len(context.leader) != 1 or len(context.followers) != 1:
        raise ContractError(
            f"this learner needs one leader and one follower, got {list(context.leader)} and {list(context.followers)}"
        )
    return context.leader[0], context.followers[0]


@dataclasses.dataclass(frozen=True)
class JointActions:
    """The joint action table of a game.

    Attributes:
        agents: names of leader and follower.
        shape: (m1, m2).
        starts: the number of each agent's first action (0 in most spaces).
        neutral: row and column of the actions executed for done agents.
    """

    agents: tuple[str, str]
    shape: tuple[int, int]
    starts: tuple[int, int]
    neutral: tuple[int, int]

    @classmethod
    def of(cls, context: AgentContext) -> JointActions:
        """Return the table of a game.

        Raises:
            ContractError: not exactly one leader and one follower, or a space that is not Discrete.
        """
        leader, follower = leader_and_follower(context)
        row_space, column_space = (context.action_spaces[agent] for agent in (leader, follower))
        for agent, space in ((leader, row_space), (follower, column_space)):
            if not isinstance(space, gymnasium.spaces.Discrete):
                raise ContractError(f"joint action tables need Discrete actions, {agent!r} has {space}")
        assert isinstance(row_space, gymnasium.spaces.Discrete)
        assert isinstance(column_space, gymnasium.spaces.Discrete)
        starts = (int(row_space.start), int(column_space.start))
        row, column = (int(context.neutral_actions[agent]) for agent in (leader, follower))
        neutral = (row - starts[0], column - starts[1])
        return cls((leader, follower), (int(row_space.n), int(column_space.n)), starts, neutral)

    def pairs(self, actions: Arrays) -> np.ndarray:
        """Return pair indices (E,) int64 of actions, agent -> (E,)."""
        rows, columns = (actions[agent] - start for agent, start in zip(self.agents, self.starts, strict=True))
        pairs: np.ndarray = rows * self.shape[1] + columns
        return pairs

    def actions(self, pairs: np.ndarray, alive: np.ndarray) -> Arrays:
        """Return agent -> (E,) int64 for pair indices (E,); the neutral action where alive (2, E) is false."""
        return {
            agent: np.where(alive[k], self._chosen[k][pairs], self.neutral[k] + self.starts[k])
            for k, agent in enumerate(self.agents)
        }

    @functools.cached_property
    def _chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """What each agent does in every pair, (m1 * m2,) int64 each."""
        rows, columns = np.divmod(np.arange(self.shape[0] * self.shape[1]), self.shape[1])
        return rows + self.starts[0], columns + self.starts[1]


def respect_done(tables: np.ndarray, alive: np.ndarray, owner: np.ndarray, neutral: tuple[int, int]) -> np.ndarray:
    """Return tables in which a done agent has no choice and nothing at stake.

    Where an agent is done, every one of its rows (columns) is a copy of its neutral one, so that an
    equilibrium of the table is an equilibrium with its action fixed; its own values and costs are 0,
    whatever the networks say.

    Args:
        tables: (C, B, m1, m2).
        alive: (2, B) bool, leader and follower.
        owner: (C,) int64, 0 or 1: whose value each table is.
        neutral: row and column of the neutral actions.
    """
    if alive.all():
        return tables
    respected = np.empty(tables.shape, tables.dtype)
    cells = _cells((tables.shape[2], tables.shape[3]), neutral)
    flat = tables.reshape(*tables.shape[:2], -1)
    _write_respected(flat, np.ascontiguousarray(alive), owner, cells, respected.reshape(flat.shape))
    return respected


@compiled
def _write_respected(tables: Any, alive: Any, owner: Any, cells: Any, respected: Any) -> None:
    members, states, size = tables.shape
    for c in range(members):
        for s in range(states):
            who, lives = 2 * alive[0, s] + alive[1, s], alive[owner[c], s]
            for cell in range(size):
                respected[c, s, cell] = tables[c, s, cells[who, cell]] if lives else 0.0


def executed_pairs(
    pairs: np.ndarray, shape: tuple[int, int], neutral: tuple[int, int], alive: np.ndarray
) -> np.ndarray:
    """Return which pairs are executed in place of `pairs`, both (B,) int64: a done agent plays its neutral action.

    Args:
        pairs: indices. shape: (m1, m2). neutral: row and column of the neutral actions.
        alive: (2, B) bool, leader and follower.
    """
    executed: np.ndarray = _cells(shape, neutral)[alive[0] * 2 + alive[1], pairs]
    return executed


@functools.cache
def _cells(shape: tuple[int, int], neutral: tuple[int, int]) -> np.ndarray:
    """Return what stands in for each cell, (4, m1 * m2) int64; done: both, the leader, the follower, nobody."""
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    row, column = neutral
    stand_ins = cells[row, column], cells[row : row + 1], cells[:, column : column + 1], cells
    return np.stack([np.broadcast_to(stand_in, shape) for stand_in in stand_ins]).reshape(4, -1)


def discounted_limits(context: AgentContext, agent: str) -> np.ndarray:
    """Return the limits of an agent's discounted costs-to-go, (K,) float32.

    Raises:
        ContractError: the agent has no constraint.
    """
    limits = context.cost_limits[agent]
    if not limits:
        raise ContractError(f"a constrained learner needs at least one cost limit per agent, {agent!r} has none")
    return np.array([discounted_limit(limit, context.gamma, context.horizon) for limit in limits], np.float32)
