"""One leader and one follower with continuous actions: joint actions as points of the cube [-1, 1]^(k1 + k2).

The first k1 numbers of a point are the leader's, the others the follower's; each is its distance
from the middle of its range, in half ranges.
"""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np

from safemarl_bench.contract import AgentContext, Arrays
from safemarl_bench.errors import ContractError
from safemarl_bench.learning.joint import leader_and_follower


@dataclasses.dataclass(frozen=True)
class JointBoxes:
    """The joint action space of a game.

    Attributes:
        agents: names of leader and follower.
        sizes: (k1, k2).
        low, high: (k1 + k2,) float32, raw ranges.
        neutral: (k1 + k2,) float32, the point executed for done agents.
    """

    agents: tuple[str, str]
    sizes: tuple[int, int]
    low: np.ndarray
    high: np.ndarray
    neutral: np.ndarray

    @classmethod
    def of(cls, context: AgentContext) -> JointBoxes:
        """Return the space of a game.

        Raises:
            ContractError: not exactly one leader and one follower, or a space that is not a bounded Box of one axis.
        """
        agents = leader_and_follower(context)
        boxes = []
        for agent in agents:
            space = context.action_spaces[agent]
            if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
                raise ContractError(
                    f"deterministic actors need a bounded Box of one axis as action space, {agent!r} has {space}"
                )
            boxes.append(space)
        low, high = (np.concatenate(ends) for ends in zip(*((box.low, box.high) for box in boxes), strict=True))
        raw = [np.ravel(context.neutral_actions[agent]) for agent in agents]
        sizes = (boxes[0].shape[0], boxes[1].shape[0])
        return cls(agents, sizes, low, high, _normalise(np.concatenate(raw), low, high))

    @property
    def owner(self) -> np.ndarray:
        """Whose each number of a point is, (k1 + k2,) int64: 0 or 1."""
        return np.repeat([0, 1], self.sizes)

    def points(self, actions: Arrays) -> np.ndarray:
        """Return the points of raw actions, agent -> (E, k_i), as (E, k1 + k2) float32."""
        return _normalise(np.concatenate([actions[agent] for agent in self.agents], axis=1), self.low, self.high)

    def actions(self, points: np.ndarray, alive: np.ndarray) -> Arrays:
        """Return agent -> (E, k_i) float32 for points (E, k1 + k2); the neutral action where alive (2, E) is false."""
        points = np.where(alive[self.owner].T, points, self.neutral)
        half = (self.high - self.low) / 2
        raw = np.clip(self.low + (points + 1) * half, self.low, self.high).astype(np.float32)
        leader, follower = np.split(raw, [self.sizes[0]], axis=1)
        return {self.agents[0]: leader, self.agents[1]: follower}


def _normalise(raw: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    points: np.ndarray = ((raw - low) / ((high - low) / 2) - 1).astype(np.float32)
    return points
