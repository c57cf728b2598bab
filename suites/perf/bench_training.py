"""Training decisions per second on one core, of the whole harness: games, agent, updates, log.

    pytest suites/perf/bench_training.py -n0 --benchmark-only

A decision is one joint action of one game; an agent with E games takes E of them at once, then does its updates (one
after each step of all games together, for those that learn from a replay memory). Measured once they learn. Times are
of the fastest round: a virtual core shares its arithmetic with neighbours, who slow others down. Beside critics of
joint actions the matrix products that an update cannot do without are timed, before and after, as in
`bench_learning.py`: how many times as long a step takes says more about another machine than decisions per second.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import tqdm
from safemarl_bench.suites.perf.bench_learning import floor_seconds

from safemarl_bench import runner
from safemarl_bench.collection import make_games
from safemarl_bench.registry import make
from safemarl_bench.training import Trainer

CASES = [
    ("merge", "csq", 1),
    ("merge", "csq", 16),
    ("merge", "mip_pcsq", 1),
    ("merge", "mip_pcsq", 16),
    ("merge", "mappo_l", 64),
    ("merge", "mappo_l", 256),
    ("merge", "macpo", 64),
    ("intersection", "cs_maddpg", 1),
    ("intersection", "cs_maddpg", 16),
    ("racetrack-frenet", "mappo_l", 64),
]
WITH_MEMORY = ("csq", "mip_pcsq", "cs_maddpg")
WITH_FLOOR = ("csq", "mip_pcsq")
STEPS = 512
"""Decisions of each game in a round; the first round is for warming up, and for the memory to fill."""
ROUNDS = 9


@pytest.mark.benchmark(group="training")
@pytest.mark.parametrize(("suite", "agent", "num_envs"), CASES)
def test_training(benchmark: Any, tmp_path: Path, suite: str, agent: str, num_envs: int) -> None:
    config = {"num_envs": num_envs} | ({"updates_per_step": 1} if agent in WITH_MEMORY else {})
    cell = runner.resolve_cell(suite, agent, budget="full", config=config)
    game = make(suite)
    games = make_games(cell.spec, game, functools.partial(make, suite), num_envs, 0)
    trainer = Trainer(games, runner.build_agent(cell, game), agent, 0, tmp_path)

    def train() -> None:
        trainer.total += STEPS * num_envs
        trainer.run(tqdm.tqdm(disable=True))

    floor = floor_seconds("discrete", critics=4, batch=64) if agent in WITH_FLOOR else None
    benchmark.pedantic(train, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats:
        rate = STEPS * num_envs / benchmark.stats.stats.min
        benchmark.extra_info.update(suite=suite, agent=agent, num_envs=num_envs, training_decisions_per_second=rate)
        if floor is not None:
            floor = min(floor, floor_seconds("discrete", critics=4, batch=64))
            benchmark.extra_info["ratio_to_matrix_floor"] = num_envs / rate / floor
