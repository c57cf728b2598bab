"""Speed of the learners on one core: complete critic updates, their parts, and the matrix-product floor.

    pytest suites/perf/bench_learning.py -n0 --benchmark-only

An update is all of it: drawing the batch, both networks, the equilibrium at s', errors, gradient,
Adam, target update, priorities; batch 64, three hidden layers of 64, 5 x 5 joint actions. Updates
per second are in `extra_info`, beside the ratio to the floor: the matrix products that an
update of four critics cannot do without, timed in the same process.
"""

import time
from collections.abc import Callable, Iterator
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
SPACE = gymnasium.spaces.Box(-np.inf, np.inf, (9,), np.float32)
ACTIONS = gymnasium.spaces.Discrete(5)
SCALE = Features(tuple("abcdefghi"), (0.0,) * 9, (1.0,) * 9)
ROLES = ("leader", "follower")
Layers = list[list[torch.Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def context(num_envs: int) -> AgentContext:
    return AgentContext(
        observation_spaces=dict.fromkeys(ROLES, SPACE),
        action_spaces=dict.fromkeys(ROLES, ACTIONS),
        state_space=SPACE,
        leader=ROLES[:1],
        followers=ROLES[1:],
        cost_limits=dict.fromkeys(ROLES, (0.25,)),
        gamma=0.95,
        horizon=20,
        neutral_actions=dict.fromkeys(ROLES, 1),
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


def filled(name: str) -> Agent:
    """Return an agent that remembers 16,384 random transitions, some of done agents."""
    agent = get_agent(name)(context(GAMES), build_config(get_agent(name), {}))
    rng = np.random.default_rng(0)
    for _ in range(256):
        never = dict.fromkeys(ROLES, np.zeros(GAMES, bool))
        agent.observe(
            Transition(
                observation(rng, GAMES, 0.95),
                {role: rng.integers(5, size=GAMES) for role in ROLES},
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


def seconds_per_call(function: Callable[..., None], *arguments: Any, calls: int = 500) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(calls):
            function(*arguments)
        best = min(best, (time.perf_counter() - start) / calls)
    return best


@pytest.mark.parametrize("name", ["csq", "mip_pcsq", "bi_ac"])
def test_critic_update(benchmark: Any, name: str) -> None:
    agent = filled(name)
    for _ in range(200):
        agent.learn()
    floor = seconds_per_call(floor_products, floor_layers())
    benchmark.pedantic(agent.learn, rounds=20, iterations=50, warmup_rounds=1)
    if benchmark.stats:
        benchmark.extra_info["updates_per_second"] = round(1.0 / benchmark.stats.stats.mean)
        benchmark.extra_info["ratio_to_matrix_floor"] = round(benchmark.stats.stats.median / floor, 2)


@pytest.mark.parametrize("explore", [False, True], ids=["greedy", "exploring"])
@pytest.mark.parametrize("name", ["csq", "mip_pcsq", "bi_ac"])
def test_act_in_one_game(benchmark: Any, name: str, explore: bool) -> None:
    agent = get_agent(name)(context(1), build_config(get_agent(name), {"epsilon_start": float(explore)}))
    seen = observation(np.random.default_rng(0), 1, 1.0)
    benchmark.pedantic(
        lambda: agent.act(seen, explore=explore, rng=generator("explore", 0, 0)),
        rounds=20,
        iterations=50,
        warmup_rounds=1,
    )


def test_matrix_floor(benchmark: Any) -> None:
    benchmark.pedantic(floor_products, (floor_layers(),), rounds=20, iterations=50, warmup_rounds=1)
