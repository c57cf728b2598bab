"""Two positions on a line; being close costs, being far right pays; the leader stops when it passes 3."""

from __future__ import annotations

import gymnasium
import numpy as np
import pettingzoo

from safemarl_bench.errors import RegistryError
from safemarl_bench.rng import generator

ROLES = ["leader", "follower"]


def make(spec, *, backend, **overrides):
    """Build the game; the only setting is `spread`."""
    settings = {**spec.env, **overrides}
    if set(settings) != {"spread"}:
        raise RegistryError(f"unknown settings {sorted(settings)}")
    return ToyGame(spec, settings["spread"])


class ToyGame(pettingzoo.ParallelEnv):
    """A game that ends for the leader before it ends for the follower."""

    def __init__(self, spec, spread):
        self.metadata = {"name": "toy", "roles": {"leader": ["leader"], "followers": ["follower"]}}
        self.possible_agents = list(ROLES)
        self.agents = []
        self.spec_, self.spread = spec, spread
        box = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.state_space = box
        self.observation_spaces = dict.fromkeys(ROLES, box)
        self.action_spaces = {role: gymnasium.spaces.Discrete(3) for role in ROLES}
        self.cost_limits = {role: np.array(limits) for role, limits in spec.cost_limits.items()}
        self.seed, self.episode = 0, -1

    def observation_space(self, agent):
        return self.observation_spaces[agent]

    def action_space(self, agent):
        return self.action_spaces[agent]

    def state(self):
        left = 1 - self.time / self.spec_.horizon
        return np.array([self.position["leader"], self.position["follower"], left], np.float32)

    def _observe(self, agent):
        state = self.state()
        return state if agent == "leader" else state[[1, 0, 2]]

    def reset(self, seed=None, options=None):
        options = options or {}
        self.episode = options.get("episode", 0) if seed is not None else self.episode + 1
        self.seed = self.seed if seed is None else seed
        rng = generator(options.get("stream", "train"), self.seed, self.episode)
        self.position = {role: rng.uniform(-self.spread, self.spread) for role in ROLES}
        self.time = 0
        self.agents = list(ROLES)
        return {role: self._observe(role) for role in ROLES}, {role: {} for role in ROLES}

    def step(self, actions):
        live, self.time = self.agents, self.time + 1
        for role in live:
            self.position[role] += actions[role] - 1
        close = abs(self.position["leader"] - self.position["follower"]) < 0.5
        ended = dict.fromkeys(live, self.time == self.spec_.horizon)
        if "leader" in live and self.position["leader"] > 3:
            ended["leader"] = True
        self.agents = [role for role in live if not ended[role]]
        infos = {role: {"cost": np.array([float(close)]), "crashed": bool(close)} for role in live}
        return (
            {role: self._observe(role) for role in live},
            {role: float(self.position[role]) for role in live},
            ended,
            dict.fromkeys(live, False),
            infos,
        )
