"""A small learner that keeps every promise, and one agent for each way of breaking one."""

from __future__ import annotations

import dataclasses

import numpy as np

import safemarl_bench as smb
from safemarl_bench.checkpoint import read_checkpoint, write_checkpoint


@dataclasses.dataclass(frozen=True)
class CounterConfig:
    """Settings of `Counter`."""

    epsilon: float = 0.3
    bonus: int = 1


class Counter(smb.Agent):
    """Learns the mean reward of each joint action by counting; every number of it is in its checkpoint."""

    action_kinds = ("discrete",)
    Config = CounterConfig

    def __init__(self, context, config):
        super().__init__(context, config)
        shape = tuple(context.action_spaces[agent].n for agent in context.agents)
        self.sums = np.zeros(shape)
        self.counts = np.zeros(shape)

    def act(self, observation, *, explore, rng):
        envs = len(observation.step)
        best = np.argmax(self.sums / np.maximum(self.counts, 1) + self.config.bonus * (self.counts == 0))
        joint = np.full(envs, best)
        if explore:
            joint = np.where(rng.random(envs) < self.config.epsilon, rng.integers(self.sums.size, size=envs), joint)
        leader, follower = np.divmod(joint, self.sums.shape[1])
        return {"leader": leader, "follower": follower}

    def observe(self, transition):
        index = (transition.actions["leader"], transition.actions["follower"])
        np.add.at(self.sums, index, transition.rewards["leader"] + transition.rewards["follower"])
        np.add.at(self.counts, index, 1)

    def save(self, path, *, training):
        write_checkpoint(path, "counter", {"sums": self.sums, "counts": self.counts}, {})

    def load(self, path):
        tensors, _ = read_checkpoint(path, "counter")
        self.sums, self.counts = tensors["sums"], tensors["counts"]


class _Fixed(smb.Agent):
    action_kinds = ("discrete",)
    learns = False

    def act(self, observation, *, explore, rng):
        return {"leader": self.answer, "follower": np.array([0])}


class OutOfRange(_Fixed):
    """Answers with an action that the game does not have."""

    answer = np.array([7])


class WrongType(_Fixed):
    """Answers with a float in a discrete game."""

    answer = np.array([1.0])


class NotANumber(_Fixed):
    """Answers with NaN."""

    answer = np.array([np.nan])


class WrongShape(_Fixed):
    """Answers for three games when there is one."""

    answer = np.array([0, 0, 0])


class Raiser(Counter):
    """Raises in the middle of training."""

    def observe(self, transition):
        super().observe(transition)
        if self.counts.sum() == 20:
            raise ZeroDivisionError("the counter broke")


class Continuous(_Fixed):
    """Plays boxes only."""

    action_kinds = ("continuous",)
