"""Which policy a run keeps: the rule, the episodes it is asked in, and that asking changes nothing."""

import dataclasses
import functools

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench import runner, validation
from safemarl_bench.checkpoint import folder_digest
from safemarl_bench.collection import BatchedGames, make_games
from safemarl_bench.evaluation import evaluate, evaluate_side_by_side
from safemarl_bench.rollout import Rollout
from safemarl_bench.validation import Outcome, best, play, validation_steps

LIMITS = {"leader": (0.25,), "follower": (0.5,)}


def outcome(total, leader_cost=0.0, follower_cost=0.0, step=0):
    costs = {"leader": [leader_cost], "follower": [follower_cost]}
    return Outcome(step, 100, {"leader": total, "follower": 0.0}, costs, 0)


@pytest.mark.parametrize(
    ("outcomes", "kept"),
    [
        ([outcome(5), outcome(9), outcome(7)], 1),
        ([outcome(5), outcome(9, leader_cost=0.26), outcome(7)], 2),
        ([outcome(5), outcome(9, follower_cost=0.51), outcome(7, follower_cost=0.5)], 2),
        ([outcome(9, leader_cost=1.0), outcome(1, leader_cost=0.5), outcome(5, leader_cost=0.75)], 1),
        ([outcome(9, leader_cost=0.5), outcome(1, follower_cost=0.75)], 1),  # ratios 2 and 1.5
        ([outcome(5), outcome(5), outcome(4)], 1),
        ([outcome(9, leader_cost=1.0), outcome(1, leader_cost=1.0)], 1),
    ],
    ids=["return", "limit", "at-the-limit", "least-cost", "ratio", "tie", "tie-of-unsafe"],
)
def test_the_best_policy_keeps_its_limits_and_then_earns_most(outcomes, kept):
    assert best(outcomes, LIMITS) == kept


def test_a_cost_where_the_limit_is_zero_is_worse_than_any_other():
    limits = {"leader": (0.0,), "follower": (0.5,)}
    assert best([outcome(1, follower_cost=5.0), outcome(9, leader_cost=0.001)], limits) == 0


def test_validation_begins_at_half_of_training_and_ends_with_it():
    assert validation_steps(20_000)[0] == 10_000
    assert validation_steps(20_000)[-1] == 20_000
    assert len(validation_steps(20_000)) == validation.POINTS
    assert validation_steps(3) == [2, 3]
    assert validation_steps(0) == []


@pytest.mark.parametrize("num_envs", [1, 7, 30])
def test_an_outcome_is_the_mean_of_the_single_episodes(num_envs):
    cell = runner.resolve_cell("merge", "script", budget="smoke")
    game = smb.make("merge")
    agent = runner.build_agent(cell, game)
    alone = evaluate(Rollout(cell.spec, game), agent, "script", range(30), after=lambda tally: None)
    games = make_games(cell.spec, game, functools.partial(smb.make, "merge"), num_envs, 0, stream="evaluation")
    found = play(games, agent, "script", 30, step=5)
    assert (found.step, found.episodes) == (5, 30)
    for role in cell.spec.roles:
        assert found.returns[role] == pytest.approx(np.mean(alone["returns"][role]), abs=1e-9)
        assert found.costs[role] == pytest.approx(np.mean(alone["costs"][role], axis=0), abs=1e-9)
    assert found.collisions == np.any(list(alone["crashed"].values()), axis=0).sum()
    assert sum(found.costs["leader"]) > 0, "the script pays, or this test says little"


def run(results, **settings):
    settings = {"budget": "smoke", "episodes": 4, "progress": False, **settings}
    return smb.run("toy", "toy_suite.agents:Counter", results_dir=results, **settings)


def test_the_kept_policy_is_the_one_that_is_evaluated_and_saved(tmp_path, monkeypatch):
    saved, asked = {}, []

    def play(games, agent, name, episodes, step):
        asked.append((games.stream, episodes, step))
        if games.stream == "validation":
            folder = tmp_path / f"policy-{step}"
            agent.save(folder, training=False)
            saved[step] = folder_digest(folder)[0]
        return dataclasses.replace(outcome(float(step == 40)), step=step, episodes=episodes)

    monkeypatch.setattr(validation, "play", play)
    record = run(tmp_path / "results")
    steps = validation_steps(60)
    assert asked == [*(("validation", 5, step) for step in steps), ("evaluation", 4, 60)]
    assert record.validation["steps"] == steps
    assert steps[record.validation["kept"]] == 40
    assert record.checkpoint["sha256"] == saved[40] != saved[60]


def test_the_record_says_what_the_last_policy_reaches(tmp_path):
    record = run(tmp_path)
    final = record.validation["final"]
    assert (final["step"], final["episodes"]) == (60, 4)
    assert record.final_return == sum(final["returns"].values())
    if record.validation["kept"] == len(record.validation["steps"]) - 1:
        assert record.final_return == pytest.approx(record.total_return)


def test_an_agent_that_does_not_learn_is_not_validated(tmp_path):
    record = smb.run("toy", "random", results_dir=tmp_path, budget="smoke", episodes=4, progress=False)
    assert record.validation is None
    assert (record.final_return, record.final_cost_ratio) == (record.total_return, record.cost_ratio)


@pytest.mark.parametrize("suite", ["ad_matching", "inventory"])
@pytest.mark.parametrize("num_envs", [1, 4])
def test_episodes_side_by_side_are_the_single_episodes(suite, num_envs):
    """Of an agent whose actions do not depend on who plays beside it; 6 episodes, of which 4 games begin 8."""
    cell = runner.resolve_cell(suite, "lagrangian_greedy", budget="smoke")
    game = smb.make(suite)
    agent, rollout = runner.build_agent(cell, game), Rollout(cell.spec, game)
    alone = evaluate(rollout, agent, "rule", range(6), after=lambda tally: None)
    games = BatchedGames(cell.spec, game, num_envs, 0, "evaluation")
    agent.privileged = ""
    seen = []
    together = evaluate_side_by_side(games, rollout, agent, "rule", 6, after=seen.append)
    assert together == alone
    assert sorted(one.episode for one in seen) == list(range(6))
