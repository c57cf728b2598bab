"""EV charging on one core: the batched environment, the tables' updates, and whole trainings in the harness.

    pytest suites/perf/bench_weakly_coupled.py -n0 --benchmark-only

A step is one joint action of one game. The updates are those of `tabular.learn` on transitions drawn beforehand; a
training also acts, steps the games, restarts finished episodes and keeps the log, once it learns. Times are of the
processor, and of the fastest round: a virtual core shares its arithmetic with neighbours, who slow others down.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tqdm

from safemarl_bench import runner
from safemarl_bench.collection import make_games
from safemarl_bench.registry import make
from safemarl_bench.rng import generator
from safemarl_bench.training import Trainer
from safemarl_bench.weakly_coupled import tables, tabular
from safemarl_bench.weakly_coupled.tabular_agent import TabularAgent

ROUNDS = 9
BATCH = 4096
"""Games of the environment's benchmark, and transitions of the updates'."""
HORIZON = 50
SUITE = "ev_charging"

UPDATES = [("ql", 3, {}), ("wcql", 3, {"lam_count": 100}), ("wcql", 3, {}), ("wcql", 5, {"lam_count": 100})]
DEEP = {"num_envs": 50, "burn_in": 1000, "update_interval": 4}
TRAININGS: list[tuple[str, dict[str, Any], int]] = [
    ("ql", {"num_envs": 200}, 20_000),
    ("wcql", {"num_envs": 200, "lam_count": 100}, 20_000),
    ("dqn", DEEP, 2_000),
    ("double_dqn", DEEP, 2_000),
    ("otdqn", DEEP, 2_000),
    ("wcdqn", DEEP, 2_000),
]
"""Agent, its config, and the decisions of a round, all games together; the first round is for warming up."""


@pytest.mark.benchmark(group="coupled environment", timer=time.process_time)
@pytest.mark.parametrize("n_bays", [3, 5])
def test_environment(benchmark: Any, n_bays: int) -> None:
    game = make(SUITE, n_bays=n_bays)
    simulator, idle = game.simulator(BATCH), np.zeros((BATCH, 1), np.int64)

    def episode() -> None:
        simulator.reset()
        for _ in range(HORIZON):
            simulator.step(idle)

    benchmark.pedantic(episode, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats:
        rate = BATCH * HORIZON * n_bays / benchmark.stats.stats.min
        benchmark.extra_info.update(n_bays=n_bays, num_envs=BATCH, subproblem_steps_per_second=rate)


@pytest.mark.benchmark(group="coupled updates", timer=time.process_time)
@pytest.mark.parametrize(("name", "n_bays", "config"), UPDATES)
def test_updates(benchmark: Any, name: str, n_bays: int, config: dict[str, Any]) -> None:
    agent = _agent(name, n_bays, config)
    moves, work = _moves(agent), np.empty((1 + n_bays, len(agent.tables.multipliers)))
    table = tabular.with_room(agent.table, BATCH)

    def learn() -> None:
        tabular.learn(agent.coupling, table, agent.tables, agent.rates, moves, work)

    benchmark.pedantic(learn, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats:
        info = {"agent": name, "n_bays": n_bays, "multipliers": len(agent.tables.multipliers)}
        benchmark.extra_info.update(info, transitions_per_second=BATCH / benchmark.stats.stats.min)


def _agent(name: str, n_bays: int, config: dict[str, Any]) -> TabularAgent:
    cell = runner.resolve_cell(SUITE, name, budget="full", config=config)
    agent = runner.build_agent(cell, make(SUITE, n_bays=n_bays))
    assert isinstance(agent, TabularAgent)
    return agent


def _moves(agent: TabularAgent) -> tables.Moves:
    """Return transitions between random states."""
    rng, problem = generator("policy", 0), agent.problem
    now, later = (rng.integers(problem.n_exogenous, size=BATCH) for _ in range(2))
    states, following = (rng.integers(problem.sub_states, size=(BATCH, problem.n_subproblems)) for _ in range(2))
    rewards = rng.random((BATCH, problem.n_subproblems))
    return tables.Moves(now, states, problem.draw(now, rng), rewards, later, following, np.ones(BATCH, bool))


@pytest.mark.benchmark(group="coupled training", timer=time.process_time)
@pytest.mark.parametrize(("name", "config", "steps"), TRAININGS)
def test_training(benchmark: Any, tmp_path: Path, name: str, config: dict[str, Any], steps: int) -> None:
    cell = runner.resolve_cell(SUITE, name, budget="full", config=config)
    game = make(SUITE)
    games = make_games(cell.spec, game, functools.partial(make, SUITE), cell.num_envs, 0)
    trainer = Trainer(games, runner.build_agent(cell, game), name, 0, tmp_path)

    def train() -> None:
        trainer.total += steps
        trainer.run(tqdm.tqdm(disable=True))

    benchmark.pedantic(train, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats:
        rate = steps / benchmark.stats.stats.min
        benchmark.extra_info.update(agent=name, num_envs=cell.num_envs, training_steps_per_second=rate)
