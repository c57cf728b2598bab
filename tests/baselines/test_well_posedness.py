"""Does the constraint of every driving suite with a gap cost something, and not too much? Decided by the planners.

Planners are beam searches of a stated width: their returns are lower bounds, their least costs upper bounds.
"""

from __future__ import annotations

import numpy as np
import pytest
from safemarl_bench.baselines.planner import Planner, search

import safemarl_bench as smb
from safemarl_bench.contract import build_config
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.evaluation import EVALUATION_SEED, STREAM
from safemarl_bench.registry import get_suite, make_context, suite_names
from safemarl_bench.rng import generator

SPAWNS = 24
RANDOM_EPISODES = 2000


def random_return(suite: str) -> float:
    """Return the mean total return of uniform actions."""
    spec, rng, shape = get_suite(suite), generator("policy", 0), (RANDOM_EPISODES, 2)
    core = BatchedDriving(spec, RANDOM_EPISODES)
    core.reset(stream=STREAM, seeds=EVALUATION_SEED)
    total = 0.0
    for _ in range(spec.horizon):
        discrete = spec.action_kind == "discrete"
        total += float(core.step(rng.integers(5, size=shape) if discrete else rng.uniform(-1, 1, shape)).reward.sum())
    return total / RANDOM_EPISODES


def suites_with_a_gap() -> list[str]:
    specs = map(get_suite, suite_names())
    return [spec.name for spec in specs if spec.ranked and spec.env.get("gap")]


def test_three_suites_have_a_gap() -> None:
    assert suites_with_a_gap() == ["intersection", "merge", "roundabout"]


@pytest.mark.slow
@pytest.mark.parametrize("suite", suites_with_a_gap())
def test_the_constraint_binds_and_can_be_kept(suite: str) -> None:
    spec, game = get_suite(suite), smb.make(suite)
    config = build_config(Planner, spec.agents.get("planner", {}))
    planner = Planner(make_context(spec, game, steps=0, seed=0, agent_class=Planner), config)
    game.close()
    core, starts = BatchedDriving(spec, 512), BatchedDriving(spec, SPAWNS)
    starts.reset(stream=STREAM, seeds=EVALUATION_SEED)
    returns, costs, free = [], [], []
    for start in starts.get_state():
        plan = search(core, start, planner.tables, config)
        safe = search(core, start, planner.tables, config, free_only=True)
        assert plan is not None
        assert safe is not None
        returns.append(plan.total_return)
        costs.append(plan.cost / len(spec.roles) if safe.total_return < plan.total_return else 0.0)
        free.append(safe.total_return)
    (limit,) = {limit for limits in spec.cost_limits.values() for limit in limits}
    low = random_return(suite)
    kept = (np.mean(free) - low) / (np.mean(returns) - low)
    dearer = np.mean(np.array(free) < np.array(returns))
    print(f"{suite}: return {np.mean(returns):.2f} at cost {np.mean(costs):.2f} per agent (least {min(costs):.1f})")
    print(f"{suite}: {np.mean(free):.2f} at cost 0, random {low:.2f}: {kept:.3f} kept, less in {dearer:.2f} of spawns")
    assert np.mean(costs) >= 2 * limit
    assert dearer >= 0.5
    assert kept >= 0.8
