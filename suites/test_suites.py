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


def test_measurement_is_sound(smb_cell: Cell, smb_record: RunRecord) -> None:
    """The record holds what was asked for: finite returns, costs >= 0, all episodes, within the horizon."""
    assert smb_record.cell == canonical(smb_cell.section(), "cell")
    assert smb_record.episodes == smb_cell.episodes
    assert 0 < smb_record.mean_length <= smb_cell.spec.horizon
    for agent in smb_cell.spec.roles:
        assert math.isfinite(smb_record.mean_return(agent))
        assert all(cost >= 0 for cost in smb_record.mean_costs(agent))
    if smb_cell.steps:
        assert smb_record.train["steps"][-1] <= smb_cell.steps
        decisions = smb_cell.steps // smb_cell.num_envs  # of each game; its last episode may be unfinished
        least = smb_cell.num_envs * (decisions // smb_cell.spec.horizon)
        assert smb_record.train["totals"]["episodes"] >= least


def test_first_evaluation_episode_replays(smb_cell: Cell, smb_record: RunRecord, smb_results_dir: Path) -> None:
    """The saved agent, loaded afresh, plays the first held-out episode again exactly."""
    if is_summary(smb_record.eval):
        pytest.skip("the record keeps a summary, not single episodes")
    agent = smb.load_agent(smb_record, smb_results_dir)
    game = smb.make(smb_cell.spec.name, backend=smb_cell.evaluation_backend)
    try:
        tally = play_episode(Rollout(smb_cell.spec, game), agent, smb_cell.agent, 0)
    finally:
        game.close()
    for role in smb_cell.spec.roles:
        assert tally.returns[role] == smb_record.eval["returns"][role][0]
        assert tally.costs[role].tolist() == smb_record.eval["costs"][role][0]
    assert tally.length == smb_record.eval["length"][0]


def test_scores_keep_what_is_certified(smb_cell: Cell, smb_record: RunRecord, pytestconfig: pytest.Config) -> None:
    """Scores that the suite's data file certifies, and with --assert-thresholds the limits of its costs."""
    certified = dict(smb_cell.spec.certified.get(smb_cell.budget, {}).get(smb_cell.agent, {}))
    if pytestconfig.option.assert_thresholds:
        certified.setdefault("cost_ratio", 1.0)
    if not certified:
        pytest.skip("nothing is certified for this cell, and --assert-thresholds was not given")
    assert smb_record.total_return >= certified.get("total_return", -math.inf)
    assert smb_record.cost_ratio <= certified.get("cost_ratio", math.inf), "a mean cost exceeds its limit"
