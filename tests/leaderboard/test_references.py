"""References: against the committed records read with plain JSON, and every refusal."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import shlex
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import safemarl_bench as smb
from safemarl_bench import cli
from safemarl_bench.canonical_json import canonical
from safemarl_bench.errors import RecordError, RegistryError
from safemarl_bench.leaderboard import write_leaderboard
from safemarl_bench.record import RunRecord, read_record, write_record
from safemarl_bench.references import Reference, SuiteReference, reference_of, suite_reference
from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import policy_values, start_value
from safemarl_bench.weakly_coupled.charging_policies import HEURISTICS

RESULTS = Path(__file__).parents[2] / "results"
STORED = sorted(path.stem for path in (RESULTS / "reference").glob("*.json"))
PLAYED = [suite for suite in STORED if smb.get_suite(suite).kind == "game"]
"""Suites whose reference is what was played; those of weakly coupled ones are computed when they are asked for."""


def committed(suite: str, agent: str) -> list[Path]:
    return sorted((RESULTS / "runs" / f"{suite}@{smb.get_suite(suite).version}" / agent).glob("*.json"))


def test_merge_and_roundabout_have_stored_references() -> None:
    assert {"merge", "roundabout"} <= set(STORED)


@pytest.mark.parametrize("suite", PLAYED)
def test_a_stored_reference_is_the_mean_over_seeds_and_episodes_of_the_records(suite: str) -> None:
    stored = smb.reference(suite)
    for agent, total in {"random": stored.random, **stored.heuristics}.items():
        returns = [json.loads(path.read_text())["eval"]["returns"] for path in committed(suite, agent)]
        assert returns
        expected = statistics.fmean(math.fsum(map(statistics.fmean, run.values())) for run in returns)
        assert total == pytest.approx(expected, rel=1e-12)
    if stored.optimum is not None:  # as in a game that is solved exactly
        assert stored.bounds == (stored.optimum, stored.optimum)
        assert all(total <= stored.optimum for total in stored.heuristics.values())
        return
    assert math.isinf(stored.bounds[1])
    assert stored.best == stored.heuristics[stored.best_name] > stored.random


@pytest.mark.parametrize("suite", STORED)
def test_the_stored_file_says_how_to_make_every_record_again(suite: str) -> None:
    stored = json.loads((RESULTS / "reference" / f"{suite}.json").read_text())
    commands = argparse.ArgumentParser()
    cli._add_run(commands.add_subparsers())
    for agent, obtained in stored["obtained"].items():
        for run in obtained["runs"]:
            record = read_record(RESULTS / run["record"])
            program, *words = shlex.split(run["command"])
            options = commands.parse_args(words)
            assert (program, options.suite, options.agent) == ("safemarl-bench", suite, agent)
            assert (options.seed, options.budget) == (record.seed, record.budget)
            assert options.episodes == record.episodes == obtained["episodes"]["count"]
            assert canonical(cli.parse_settings(options.set), "config") == record.cell["config"]
            assert run["code"] == record.provenance["git_sha"]


def changed(record: RunRecord, agent: str, total: float, *, cost: float = 0.0, **cell: Any) -> RunRecord:
    """Return a record of another agent in which every episode has the same return and cost."""
    count, roles = record.episodes, record.roles
    evaluation = {
        **record.eval,
        "returns": {role: [total / len(roles)] * count for role in roles},
        "costs": {role: [[cost]] * count for role in roles},
    }
    return dataclasses.replace(record, cell={**record.cell, "agent": agent, **cell}, eval=evaluation)


@pytest.fixture
def record() -> RunRecord:
    """Return a record of an untrained agent on merge, whose limit is 0.25."""
    [path] = committed("merge", "idle")
    return read_record(path)


def test_the_lower_bound_is_the_best_return_that_keeps_every_limit(record: RunRecord) -> None:
    reference = reference_of(
        {
            "random": [changed(record, "random", 10.0), changed(record, "random", 30.0, seed=1)],
            "script": [changed(record, "script", 60.0, cost=0.26)],
            "rule": [changed(record, "rule", 50.0, cost=0.25)],
            "idle": [changed(record, "idle", 40.0)],
            "lucky": [changed(record, "lucky", 70.0), changed(record, "lucky", 70.0, cost=1.0, seed=1)],
        }
    )
    assert reference.random == 20.0
    assert reference.heuristics == {"idle": 40.0, "lucky": 70.0, "rule": 50.0, "script": 60.0}
    assert reference.bounds == (50.0, math.inf)
    assert (reference.best_name, reference.best, reference.provisional) == ("script", 60.0, True)


def test_without_a_feasible_heuristic_there_is_no_bound(record: RunRecord) -> None:
    reference = reference_of({"random": [changed(record, "random", 1.0)], "x": [changed(record, "x", 2.0, cost=9.0)]})
    assert (reference.bounds, reference.best, reference.best_name) == (None, None, "")


def test_a_planners_return_is_called_a_lower_bound(record: RunRecord) -> None:
    traits = {"learns": False, "deterministic": True, "privileged": "planner"}
    planner = changed(record, "planner_safe", 50.0, agent_traits=traits)
    assert "score 1 is planner_safe" in reference_of({"planner_safe": [planner]}).source
    assert "lower bound of the optimum" in reference_of({"planner_safe": [planner]}).source
    assert "lower bound" not in reference_of({"script": [changed(record, "script", 50.0)]}).source


def test_the_optimum_stands_for_score_one_then_the_safe_planner_then_the_lane_follower_then_the_script() -> None:
    known = {"script": 1.0, "lane_follower": 2.0, "planner_safe": 3.0, "planner": 4.0}
    assert (Reference(optimum=9.0, heuristics=known).best_name, Reference(optimum=9.0).best) == ("optimum", 9.0)
    found = []
    while "script" in known:
        reference = Reference(heuristics=dict(known))
        found.append((reference.best_name, reference.best, reference.provisional))
        del known[reference.best_name]
    assert found == [("planner_safe", 3.0, False), ("lane_follower", 2.0, False), ("script", 1.0, True)]
    assert Reference(heuristics=known).best is None


@pytest.mark.parametrize("cost", [0.0, 9.0])
def test_a_file_gives_back_what_was_written(record: RunRecord, cost: float) -> None:
    written = suite_reference({"idle": [changed(record, "idle", 100 / 3, cost=cost)]})
    assert (written.reference.bounds is None) == (cost > 0.25)
    assert SuiteReference.from_json(written.to_json(), "file") == written


def test_settings_that_change_nothing_are_accepted() -> None:
    plain = smb.reference("merge")
    assert smb.reference("merge", gap=26, speed_band=(24.5, 30.5), spawn_speed={"leader": 25, "follower": 25}) == plain


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: smb.reference("merge", gap=10.0),
            RegistryError,
            "merge with gap=10.0 is another game.*register_suite",
        ),
        (lambda: smb.reference("merge", gapp=26.0), RegistryError, "no setting 'gapp': did you mean 'gap'"),
        (lambda: smb.reference("merge", gap="wide"), RegistryError, "gap needs a finite number"),
        (lambda: smb.reference("mrge"), RegistryError, "unknown suite 'mrge': did you mean 'merge'"),
        (lambda: smb.reference("toy"), RecordError, "no reference of suite toy.*safemarl-bench run toy random"),
    ],
)
def test_what_has_no_stored_reference_is_refused_with_the_way_to_one(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


def test_ones_own_results_have_references_of_their_own(record: RunRecord, tmp_path: Path) -> None:
    for total, agent in ((10.0, "random"), (30.0, "script")):
        write_record(changed(record, agent, total), tmp_path)
    with pytest.raises(RecordError, match="no reference of suite merge in"):
        smb.reference("merge", results_dir=tmp_path)
    write_leaderboard(tmp_path)
    assert smb.reference("merge", results_dir=tmp_path).random == 10.0
    assert smb.build_leaderboard(smb.load_records(tmp_path)).references[0].reference == smb.reference(
        "merge", results_dir=tmp_path
    )


def test_a_reference_of_another_version_of_the_suite_or_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reference" / "merge.json"
    path.parent.mkdir()
    content = json.loads((RESULTS / "reference" / "merge.json").read_text())
    for key, value in (("version", 0), ("digest", "0" * 12), ("suite", "roundabout")):
        path.write_text(json.dumps({**content, key: value}))
        with pytest.raises(RecordError, match="is of another merge than version"):
            smb.reference("merge", results_dir=tmp_path)
    for broken in ("", "[]", "{}", json.dumps({**content, "extra": 1}), '{"reference": {"bounds": [1]}}'):
        path.write_text(broken)
        with pytest.raises(RecordError, match="must be as `safemarl-bench leaderboard` writes it"):
            smb.reference("merge", results_dir=tmp_path)


def test_where_the_game_tells_its_optimum_that_is_score_one():
    spec = dataclasses.replace(smb.get_suite("ev_charging-game"), ranked=True)
    records = [record for record in smb.load_records(RESULTS) if record.suite == spec.name]
    board = smb.build_leaderboard(records, suites=[spec])
    (stored,) = board.references
    assert stored.reference.optimum == pytest.approx(41.6084, rel=5e-6)
    assert stored.reference.bounds == (stored.reference.optimum, stored.reference.optimum)
    scores = {entry.agent: entry.score for entry in board.entries}
    span = stored.reference.optimum - stored.reference.random
    expected = (stored.reference.heuristics["edf"] - stored.reference.random) / span
    assert 0.8 < expected < 1.0
    assert scores["edf"].score == pytest.approx(expected)
    for entry in board.entries:
        assert entry.score.regret == pytest.approx(stored.reference.optimum - entry.score.total_return)
    header = next(line for line in board.to_markdown().splitlines() if line.startswith("| agent | kind | seeds |"))
    assert "| score | regret |" in header
    row = next(line for line in csv.DictReader(io.StringIO(board.to_csv())) if line["agent"] == "edf")
    assert float(row["regret"]) == round(scores["edf"].regret, 3)


def test_an_exactly_evaluated_policy_has_its_exact_regret_and_the_duality_gap_stands_beside_it(tmp_path: Path) -> None:
    for agent in ("edf", "random"):
        smb.run("ev_charging", agent, episodes=2, results_dir=tmp_path)
    board = smb.build_leaderboard(smb.load_records(tmp_path))
    (stored,) = board.references
    assert (stored.reference.optimum, stored.reference.random) == pytest.approx((8.56014, 3.04065), abs=1e-5)
    model = ChargingModel("text", 3)
    edf = start_value(model, policy_values(model, HEURISTICS["edf"](model), steps=50))
    scores = {entry.agent: entry.score for entry in board.entries}
    assert scores["edf"].regret == pytest.approx(stored.reference.optimum - edf, abs=1e-9)
    assert scores["edf"].score == pytest.approx((edf - 3.04065) / (8.56014 - 3.04065), abs=1e-5)
    assert "| ev_charging@1 | 8.602 | one multiplier | 8.932 | 0.330 (3.84%) |" in board.to_markdown()
    assert SuiteReference.from_json(stored.to_json(), "here") == stored


def test_without_a_known_optimum_there_is_no_regret() -> None:
    records = [record for record in smb.load_records(RESULTS) if record.suite == "merge"]
    board = smb.build_leaderboard(records, suites=[smb.get_suite("merge")])
    assert {entry.score.regret for entry in board.entries} == {None}
    assert "| regret |" not in board.to_markdown()
    assert "Lagrangian" not in board.to_markdown()
