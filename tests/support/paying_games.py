"""E side-by-side games in which effort u in [0, 1] costs u and pays u or, with less and less return, 2 u - u^2.

The leader decides twice; the follower is done after the first decision. The unconstrained optimum is
u = 1 throughout; with limits on the expected cost per episode, the best a policy can do is to spend
exactly its limit.
"""

import gymnasium
import numpy as np

from safemarl_bench.contract import AgentContext, Features, Observation, Transition
from safemarl_bench.rng import generator

SPACE = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
ACTIONS = {
    "discrete": gymnasium.spaces.Discrete(2, start=3),
    "continuous": gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32),
}
ONE_HOT = Features(("first", "second"), (0.0, 0.0), (1.0, 1.0))
LIMITS = {"l": (0.6,), "f": (0.3,)}


def paying_context(kind, **changes):
    values = {
        "observation_spaces": {"l": SPACE, "f": SPACE},
        "action_spaces": {"l": ACTIONS[kind], "f": ACTIONS[kind]},
        "state_space": SPACE,
        "leader": ("l",),
        "followers": ("f",),
        "cost_limits": LIMITS,
        "gamma": 0.9,
        "horizon": 2,
        "neutral_actions": {"l": 3, "f": 3} if kind == "discrete" else {"l": [0.0], "f": [0.0]},
        "observation_features": {"l": ONE_HOT, "f": ONE_HOT},
        "state_features": ONE_HOT,
        "num_envs": 32,
        "training_steps": 1600,
        "seed": 3,
    }
    return AgentContext(**{**values, **changes})


def effort(kind, actions):
    return actions - 3.0 if kind == "discrete" else actions[:, 0].astype(float)


class PayingGames:
    """E games; game k starts in decision k % 2."""

    def __init__(self, kind, num_envs=32, *, constraints=1, concave=False):
        self.kind, self.second, self.step = kind, np.arange(num_envs) % 2 == 1, 0
        self.constraints, self.concave = constraints, concave

    def observe(self, second, over):
        one_hot = np.stack([~second, second], axis=1).astype(np.float32)
        alive = {"l": ~over, "f": ~over & ~second}
        return Observation({"l": one_hot, "f": one_hot}, one_hot, alive, second.astype(np.int64))

    def play(self, agent):
        """Take one decision; return the costs paid by the leader and the follower, (E,) each."""
        never = np.zeros(len(self.second), bool)
        before = self.observe(self.second, never)
        actions = agent.act(before, explore=True, rng=generator("explore", 0, self.step))
        paid = {role: effort(self.kind, actions[role]) * before.alive[role] for role in ("l", "f")}
        agent.observe(
            Transition(
                before,
                actions,
                {role: 2.0 * u - u * u if self.concave else u for role, u in paid.items()},
                {role: np.repeat(paid[role][:, None], self.constraints, axis=1) for role in paid},
                {"l": self.second, "f": ~self.second},
                {"l": never, "f": never},
                self.observe(~never, self.second),
                self.second,
            )
        )
        self.second = ~self.second
        self.step += 1
        return paid


def train_paying(agent, games, decisions):
    """Play and learn; return the metrics of all iterations."""
    found = []
    for _ in range(decisions):
        games.play(agent)
        metrics = agent.learn()
        found += [metrics] if metrics else []
    return found
