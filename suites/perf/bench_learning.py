"""Speed of the learners on one core: complete critic updates, their parts, and the matrix-product floor.

    pytest suites/perf/bench_learning.py -n0 --benchmark-only

An update is all of it: drawing the batch, both networks, the equilibrium at s', errors, gradient,
Adam, target update, priorities; three hidden layers of 64; 5 x 5 joint actions and batch 64, or, for
deterministic actors, one number per agent and batches of 64 and 256. Updates per second are in
`extra_info`, beside the ratio to the floor: the matrix products that an update cannot do without,
timed before and after it: for joint actions those of four critics, for deterministic actors those of all critics (four,
or two for Bi-AC) and of both actors. All times are of the fastest round of 50 calls: a virtual core shares its
arithmetic with neighbours, who slow others down.
"""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from safemarl_bench.contract import Agent, AgentContext, Features, Observation, Transition, build_config
from safemarl_bench.registry import get_agent
from safemarl_bench.rng import generator

WIDTHS = (9, 64, 64, 64, 25)
BATCH = 64
GAMES = 64
ROUNDS, CALLS = 30, 50
SPACE = gymnasium.spaces.Box(-np.inf, np.inf, (9,), np.float32)
ACTIONS: dict[str, gymnasium.spaces.Space[Any]] = {
    "discrete": gymnasium.spaces.Discrete(5),
    "continuous": gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32),
}
SCALE = Features(tuple("abcdefghi"), (0.0,) * 9, (1.0,) * 9)
ROLES = ("leader", "follower")
Layers = list[list[torch.Tensor]]


def context(num_envs: int, kind: str) -> AgentContext:
    return AgentContext(
        observation_spaces=dict.fromkeys(ROLES, SPACE),
        action_spaces=dict.fromkeys(ROLES, ACTIONS[kind]),
        state_space=SPACE,
        leader=ROLES[:1],
        followers=ROLES[1:],
        cost_limits=dict.fromkeys(ROLES, (0.25,)),
        gamma=0.95,
        horizon=20,
        neutral_actions=dict.fromkeys(ROLES, 1 if kind == "discrete" else [0.0]),
        observation_features=dict.fromkeys(ROLES, SCALE),
        state_features=SCALE,
        num_envs=num_envs,
        training_steps=100_000,
        seed=0,
    )


def observation(rng: np.random.Generator, num_envs: int, share_alive: float) -> Observation:
    state = rng.standard_normal((num_envs, 9)).astype(np.float32)
    alive = {role: rng.random(num_envs) < share_alive for role in ROLES}
    return Observation(dict.fromkeys(ROLES, state), state, alive, np.zeros(num_envs, np.int64))


def random_actions(rng: np.random.Generator, kind: str) -> np.ndarray:
    if kind == "discrete":
        return rng.integers(5, size=GAMES)
    return rng.uniform(-1.0, 1.0, (GAMES, 1)).astype(np.float32)


def build(name: str, kind: str, num_envs: int, config: dict[str, Any] | None = None) -> Agent:
    agent_class = get_agent(name).for_actions(kind)
    return agent_class(context(num_envs, kind), build_config(agent_class, config or {}))


def filled(name: str, kind: str, config: dict[str, Any] | None = None) -> Agent:
    """Return an agent that remembers 16,384 random transitions, some of done agents."""
    agent = build(name, kind, GAMES, config)
    rng = np.random.default_rng(0)
    for _ in range(256):
        never = dict.fromkeys(ROLES, np.zeros(GAMES, bool))
        agent.observe(
            Transition(
                observation(rng, GAMES, 0.95),
                {role: random_actions(rng, kind) for role in ROLES},
                {role: rng.standard_normal(GAMES) for role in ROLES},
                {role: (rng.random((GAMES, 1)) < 0.1).astype(float) for role in ROLES},
                never,
                never,
                observation(rng, GAMES, 0.9),
                np.zeros(GAMES, bool),
            )
        )
    return agent


def floor_products(layers: Layers) -> None:
    """The matrix products of one update: forward at s and s', target at s', gradients of weights and inputs."""
    for index, (both, one, weight, delta) in enumerate(layers):
        torch.bmm(both, weight)
        torch.bmm(one, weight)
        torch.bmm(one.mT, delta)
        if index:
            torch.bmm(delta, weight.mT)


def floor_layers() -> Layers:
    rng = torch.Generator().manual_seed(0)
    shapes = [
        [(4, 2 * BATCH, fan_in), (4, BATCH, fan_in), (4, fan_in, fan_out), (4, BATCH, fan_out)]
        for fan_in, fan_out in pairwise(WIDTHS)
    ]
    return [[torch.randn(*shape, generator=rng) for shape in layer] for layer in shapes]


def products(count: int, widths: tuple[int, ...], rows: int) -> Layers:
    rng = torch.Generator().manual_seed(0)
    shapes = [
        [(count, rows, fan_in), (count, fan_in, fan_out), (count, rows, fan_out)]
        for fan_in, fan_out in pairwise(widths)
    ]
    return [[torch.randn(*shape, generator=rng) for shape in layer] for layer in shapes]


def forward(layers: Layers) -> None:
    for inputs, weight, _ in layers:
        torch.bmm(inputs, weight)


def backward(layers: Layers, of_weights: bool, of_inputs: bool) -> None:
    for index, (inputs, weight, delta) in enumerate(layers):
        if of_weights:
            torch.bmm(inputs.mT, delta)
        if of_inputs or index:
            torch.bmm(delta, weight.mT)


def actor_critic_products(critics: tuple[Layers, Layers], actors: tuple[Layers, Layers]) -> None:
    """The matrix products of an update with deterministic actors, of B rows and of 2 B rows."""
    (one, two), (leader, follower) = critics, actors
    for _ in ("target at s'", "online at s"):
        forward(one)
    backward(one, of_weights=True, of_inputs=False)
    forward(two)
    backward(two, of_weights=False, of_inputs=True)
    for _ in ("leader's target", "follower's target", "leader"):
        forward(leader)
    forward(follower)
    backward(leader, of_weights=True, of_inputs=False)
    backward(leader, of_weights=False, of_inputs=True)  # through the follower, at the leader's own actions
    backward(follower, of_weights=True, of_inputs=False)


def seconds_per_call(function: Callable[..., None], *arguments: Any, calls: int = CALLS) -> float:
    best = float("inf")
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            function(*arguments)
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def floor_seconds(kind: str, critics: int, batch: int) -> float:
    """Return the seconds of the matrix products of one update."""
    if kind == "discrete":
        return seconds_per_call(floor_products, floor_layers())
    hidden = WIDTHS[1:-1]
    values = tuple(products(critics, (3 * WIDTHS[0] + 2, *hidden, 1), rows * batch) for rows in (1, 2))
    actors = tuple(products(1, (WIDTHS[0] + own, *hidden, 1), (1 + own) * batch) for own in (0, 1))
    return seconds_per_call(actor_critic_products, values, actors)


@pytest.mark.parametrize(
    ("name", "kind", "critics", "batch"),
    [
        ("csq", "discrete", 4, 64),
        ("mip_pcsq", "discrete", 4, 64),
        ("bi_ac", "discrete", 2, 64),
        ("cs_maddpg", "continuous", 4, 64),
        ("cs_maddpg", "continuous", 4, 256),
        ("bi_ac", "continuous", 2, 64),
        ("bi_ac", "continuous", 2, 256),
    ],
)
def test_update(benchmark: Any, name: str, kind: str, critics: int, batch: int) -> None:
    agent = filled(name, kind, {"batch_size": batch})
    for _ in range(200):
        agent.learn()
    floor = floor_seconds(kind, critics, batch)
    benchmark.pedantic(agent.learn, rounds=ROUNDS, iterations=CALLS, warmup_rounds=1)
    if benchmark.stats:
        floor = min(floor, floor_seconds(kind, critics, batch))
        benchmark.extra_info["updates_per_second"] = round(1.0 / benchmark.stats.stats.min)
        benchmark.extra_info["ratio_to_matrix_floor"] = round(benchmark.stats.stats.min / floor, 2)


@pytest.mark.parametrize("explore", [False, True], ids=["greedy", "exploring"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("csq", "discrete"),
        ("mip_pcsq", "discrete"),
        ("bi_ac", "discrete"),
        ("bi_ac", "continuous"),
        ("cs_maddpg", "continuous"),
    ],
)
def test_act_in_one_game(benchmark: Any, name: str, kind: str, explore: bool) -> None:
    agent = build(name, kind, 1, {"epsilon_start": float(explore)})
    seen = observation(np.random.default_rng(0), 1, 1.0)
    benchmark.pedantic(
        lambda: agent.act(seen, explore=explore, rng=generator("explore", 0, 0)),
        rounds=ROUNDS,
        iterations=CALLS,
        warmup_rounds=1,
    )


def test_matrix_floor(benchmark: Any) -> None:
    benchmark.pedantic(floor_products, (floor_layers(),), rounds=ROUNDS, iterations=CALLS, warmup_rounds=1)
