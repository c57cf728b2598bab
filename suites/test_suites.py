"""Every compatible (suite, agent, seed) cell: is the measurement sound, and are certified scores kept?

    pytest suites/ --agent=mip_pcsq

A poor score is not a failure here; the leaderboard says whether an agent is good.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import safemarl_bench as smb
from safemarl_bench.canonical_json import canonical
from safemarl_bench.evaluation import play_episode
from safemarl_bench.record import RunRecord
from safemarl_bench.record_content import is_summary
from safemarl_bench.rollout import Rollout
from safemarl_bench.runner import Cell


def test_measurement_is_sound(cell: Cell, record: RunRecord) -> None:
    """The record holds what was asked for: finite returns, costs >= 0, all episodes, within the horizon."""
    assert record.cell == canonical(cell.section(), "cell")
    assert record.episodes == cell.episodes
    assert 0 < record.mean_length <= cell.spec.horizon
    for agent in cell.spec.roles:
        assert math.isfinite(record.mean_return(agent))
        assert all(cost >= 0 for cost in record.mean_costs(agent))
    if cell.steps:
        assert record.train["steps"][-1] <= cell.steps
        assert record.train["totals"]["episodes"] >= cell.steps // cell.spec.horizon


def test_first_evaluation_episode_replays(cell: Cell, record: RunRecord, results_dir: Path) -> None:
    """The saved agent, loaded afresh, plays the first held-out episode again exactly."""
    if is_summary(record.eval):
        pytest.skip("the record keeps a summary, not single episodes")
    agent = smb.load_agent(record, results_dir)
    game = smb.make(cell.spec.name)
    try:
        tally = play_episode(Rollout(cell.spec, game), agent, cell.agent, 0)
    finally:
        game.close()
    for role in cell.spec.roles:
        assert tally.returns[role] == record.eval["returns"][role][0]
        assert tally.costs[role].tolist() == record.eval["costs"][role][0]
    assert tally.length == record.eval["length"][0]


def test_scores_keep_what_is_certified(cell: Cell, record: RunRecord, pytestconfig: pytest.Config) -> None:
    """Scores that the suite's data file certifies, and with --assert-thresholds the limits of its costs."""
    certified = dict(cell.spec.certified.get(cell.budget, {}).get(cell.agent, {}))
    if pytestconfig.option.assert_thresholds:
        certified.setdefault("cost_ratio", 1.0)
    if not certified:
        pytest.skip("nothing is certified for this cell, and --assert-thresholds was not given")
    assert record.total_return >= certified.get("total_return", -math.inf)
    assert record.cost_ratio <= certified.get("cost_ratio", math.inf), "a mean cost exceeds its limit"
