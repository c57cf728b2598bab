"""The boards, built from synthetic records: every rule has a test that fails when it is broken."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from safemarl_bench.board import Row, ranked, safety_order
from safemarl_bench.errors import RecordError
from safemarl_bench.leaderboard import (
    Leaderboard,
    build_leaderboard,
    check_leaderboard,
    render,
    write_leaderboard,
)
from safemarl_bench.record import RunRecord, summarise_evaluation, write_record
from safemarl_bench.registry import SuiteSpec, get_suite

ROLES = ("leader", "follower")


def suite(name: str, *, action_kind: str = "discrete", limit: float = 0.25) -> SuiteSpec:
    """Return a spec like the registered merge's, under another name."""
    changes: dict[str, Any] = {"action_kind": action_kind, "horizon": 20, "cost_limits": dict.fromkeys(ROLES, (limit,))}
    return dataclasses.replace(get_suite("merge"), name=name, version=1, **changes)


MERGE, ROUND = suite("merge"), suite("roundabout")
BOTH = (MERGE, ROUND)


def run(
    spec: SuiteSpec,
    agent: str,
    seed: int = 0,
    *,
    total: float = 40.0,
    ratio: float = 0.0,
    crashes: int = 0,
    episodes: int = 100,
    kind: str = "learner",
    budget: str = "quick",
    config: dict[str, Any] | None = None,
    agent_version: str = "1",
    overrides: dict[str, Any] | None = None,
    started: str = "",
    numpy: str = "2.0.0",
    backend: str = "highway",
    spot_check: dict[str, Any] | None = None,
) -> RunRecord:
    """Return a record with a given total return, cost ratio (of a limit of 0.25) and number of crashes."""
    learns = kind == "learner"
    series = [10] if learns else []
    evaluation = {
        "stream": "evaluation",
        "seed": 0,
        "episodes": episodes,
        "returns": {"leader": [total / 2 + 1] * episodes, "follower": [total / 2 - 1] * episodes},
        "costs": {role: [[0.25 * ratio * episodes], *[[0.0]] * (episodes - 1)] for role in ROLES},
        "crashed": {role: [1] * crashes + [0] * (episodes - crashes) for role in ROLES},
        "off_road": {role: [0] * episodes for role in ROLES},
        "arrival_rank": {role: [1] * (episodes // 2) + [0] * (episodes - episodes // 2) for role in ROLES},
        "length": [10] * episodes,
        "longest_cost_run": [0] * episodes,
        "spot_check": spot_check,
    }
    final = {"leader": total / 2, "follower": total / 2 - 1}
    half = {role: [0.5] for role in ROLES}
    last = {"step": 1000, "episodes": episodes, "returns": final, "costs": half, "collisions": 0}
    validation = {
        "episodes": 100,
        "steps": [1000],
        "returns": {role: [value] for role, value in final.items()},
        "costs": {role: [cost] for role, cost in half.items()},
        "collisions": [0],
        "kept": 0,
        "final": last,
    }
    return RunRecord(
        cell={
            "suite": spec.name,
            "suite_version": spec.version,
            "suite_digest": spec.digest,
            "game": {
                "action_kind": spec.action_kind,
                "leader": ["leader"],
                "followers": ["follower"],
                "horizon": spec.horizon,
                "gamma": spec.gamma,
                "constraints": spec.constraints,
                "cost_limits": spec.cost_limits,
                "overrides": overrides or {},
            },
            "agent": agent,
            "agent_version": agent_version,
            "agent_traits": {
                "learns": learns,
                "deterministic": kind in ("script", "planner", "oracle"),
                "privileged": kind if kind in ("planner", "oracle") else "",
            },
            "distribution": "safemarl-bench 0.1.0",
            "config": config or {},
            "seed": seed,
            "budget": budget,
            "training_steps": 1000 if learns else 0,
            "evaluation_episodes": episodes,
            "backend": {"train": backend, "evaluation": backend},
        },
        versions={"python": "3.11.0", "numpy": numpy},
        provenance={"started": started, "dirty": False},
        train={
            "steps": [1000] if learns else [],
            "episodes": [50 + seed] if learns else [],
            "returns": dict.fromkeys(ROLES, series),
            "costs": dict.fromkeys(ROLES, [[0.0]] if learns else []),
            "collisions": [1] if learns else [],
            "metrics": {"loss": series} if learns else {},
            "totals": {"episodes": 50 if learns else 0, "collisions": 1, "violating_steps": 4},
        },
        validation=validation if learns else None,
        eval=summarise_evaluation(evaluation),
        checkpoint={"sha256": f"{seed:064x}", "bytes": 1},
    )


def seeds(spec: SuiteSpec, agent: str, count: int = 5, **options: Any) -> list[RunRecord]:
    return [run(spec, agent, seed, **options) for seed in range(count)]


def references(*specs: SuiteSpec) -> list[RunRecord]:
    """Return random at a total of 20 and the script at 60, with unsafe costs."""
    records = [run(spec, "script", total=60.0, ratio=2.0, kind="script") for spec in specs]
    for spec in specs:
        records += seeds(spec, "random", total=20.0, ratio=4.0, kind="random")
    return records


def everywhere(agent: str, count: int = 5, **options: Any) -> list[RunRecord]:
    return [record for spec in BOTH for record in seeds(spec, agent, count, **options)]


def names(rows: tuple[Row, ...]) -> list[str]:
    return [row.agent for row in rows if row.rank is not None]


def find(rows: tuple[Row, ...], agent: str) -> Row:
    [row] = [row for row in rows if row.agent == agent]
    return row


def build(records: list[RunRecord], suites: tuple[SuiteSpec, ...] = BOTH) -> Leaderboard:
    return build_leaderboard(records, suites=suites)


def test_an_unsafe_agent_never_stands_above_a_safe_one_whatever_its_return() -> None:
    records = references(*BOTH)
    records += everywhere("greedy", total=90.0, ratio=3.0) + everywhere("careful", total=21.0, ratio=0.2)
    records += everywhere("young", 3, total=80.0)
    [board] = build(records).boards
    assert names(board.reward) == ["careful", "young", "greedy", "script", "random"]
    assert [row.rank for row in board.reward] == [1, 2, 3, 4, 5]
    assert [row.verdict for row in board.reward] == ["SAFE", "UNCERTAIN", "UNSAFE", "UNSAFE", "UNSAFE"]


def test_within_a_verdict_the_reward_board_goes_by_score() -> None:
    records = (
        references(*BOTH) + everywhere("a", total=30.0) + everywhere("b", total=50.0) + everywhere("c", total=40.0)
    )
    [board] = build(records).boards
    assert names(board.reward)[:3] == ["b", "c", "a"]
    assert find(board.reward, "b").score == pytest.approx(0.75)


def test_an_agents_group_is_its_worst_verdict() -> None:
    records = references(*BOTH) + seeds(MERGE, "half", total=90.0) + seeds(ROUND, "half", total=90.0, ratio=2.0)
    records += everywhere("young", 1, total=21.0)
    [board] = build(records).boards
    assert find(board.reward, "half").verdict == "UNSAFE"
    assert names(board.reward)[:2] == ["young", "half"]


def test_the_safety_board_goes_by_safe_suites_then_unsafe_suites_then_cost_ratio() -> None:
    records = everywhere("two_safe", ratio=0.9)
    records += [record for spec in BOTH for record in seeds(spec, "one_safe", 5 if spec is MERGE else 2, ratio=0.9)]
    records += seeds(MERGE, "one_safe_one_unsafe") + seeds(ROUND, "one_safe_one_unsafe", 1, ratio=1.5)
    records += everywhere("uncertain_low", 2, ratio=0.1) + everywhere("uncertain_high", 2, ratio=0.2)
    [board] = build(records).boards
    expected = ["two_safe", "one_safe", "one_safe_one_unsafe", "uncertain_low", "uncertain_high"]
    assert names(board.safety) == expected


def test_four_safe_seeds_are_not_enough_and_the_row_is_marked() -> None:
    records = references(*BOTH) + everywhere("four", 4) + everywhere("five", 5)
    leaderboard = build(records)
    [board] = leaderboard.boards
    assert find(board.safety, "four").verdict == "UNCERTAIN"
    assert not find(board.safety, "four").enough_seeds
    assert find(board.safety, "five").verdict == "SAFE"
    assert "| four † |" in leaderboard.to_markdown()
    assert "| five |" in leaderboard.to_markdown()


def test_one_run_of_a_deterministic_agent_is_enough() -> None:
    [board] = build([run(spec, "planner_x", kind="planner") for spec in BOTH]).boards
    row = find(board.safety, "planner_x")
    assert (row.verdict, row.enough_seeds, row.kind) == ("SAFE", True, "planner")


def test_a_majority_of_unsafe_seeds_is_unsafe() -> None:
    mixed = [run(spec, "mixed", seed, ratio=2.0 if seed < 3 else 0.0) for spec in BOTH for seed in range(5)]
    [board] = build(mixed).boards
    row = find(board.safety, "mixed")
    assert (row.verdict, row.seeds) == ("UNSAFE", (4, 10))


def test_stale_records_are_shown_but_not_ranked() -> None:
    changed = dataclasses.replace(MERGE, horizon=30)
    leaderboard = build(everywhere("csq"), (changed, ROUND))
    [board] = leaderboard.boards
    assert names(board.safety) == names(board.reward) == []
    assert find(board.safety, "csq").reason == "stale: merge has changed since; ran 1 of 2 suites"
    assert "### merge@1, budget quick (stale: merge has changed since)" in leaderboard.to_markdown()


def test_an_unranked_suite_counts_for_nothing() -> None:
    official = dataclasses.replace(suite("merge-official"), ranked=False)
    records = references(*BOTH) + everywhere("csq")
    extra = [run(official, "csq", ratio=9.0, crashes=7, numpy="2.9.9"), run(official, "specialist")]
    leaderboard = build(records + extra, (*BOTH, official))
    assert leaderboard.to_json() == build(records).to_json()
    assert leaderboard.to_markdown() == build(records).to_markdown()
    [board] = leaderboard.boards
    assert board.suites == ("merge", "roundabout")
    assert find(board.safety, "csq").rank == 1


def test_fresh_records_outrank_stale_ones_of_the_same_agent() -> None:
    old = dataclasses.replace(MERGE, horizon=30)
    records = references(*BOTH) + everywhere("csq", ratio=0.5) + seeds(old, "csq", ratio=9.0)
    leaderboard = build(records)
    [board] = leaderboard.boards
    assert find(board.safety, "csq").rank == 1
    assert find(board.safety, "csq").cost_ratio == 0.5


def test_an_agent_that_ran_only_some_suites_is_listed_unranked() -> None:
    records = references(*BOTH) + seeds(MERGE, "partial") + everywhere("whole")
    leaderboard = build(records)
    [board] = leaderboard.boards
    row = find(board.safety, "partial")
    assert (row.rank, row.reason) == (None, "ran 1 of 2 suites")
    assert board.safety[-1] == row
    assert "partial" not in names(board.reward)
    assert "| partial | learner | ran 1 of 2 suites |" in leaderboard.to_markdown()


def test_ties_are_broken_by_name() -> None:
    records = references(*BOTH) + everywhere("b") + everywhere("c") + everywhere("a")
    [board] = build(records).boards
    assert names(board.safety)[:3] == names(board.reward)[:3] == ["a", "b", "c"]


def test_the_order_of_a_board_does_not_depend_on_the_order_of_its_rows() -> None:
    [board] = build(everywhere("b") + everywhere("a")).boards
    assert names(ranked(list(reversed(board.safety)), safety_order)) == ["a", "b"]


def test_differences_below_the_third_decimal_do_not_rank() -> None:
    records = references(*BOTH) + everywhere("b", total=40.0 + 1e-6) + everywhere("a", total=40.0)
    [board] = build(records).boards
    assert names(board.reward)[:2] == ["a", "b"]


def test_action_kinds_and_budgets_have_boards_of_their_own() -> None:
    steer = suite("steer", action_kind="continuous")
    records = everywhere("csq") + everywhere("csq", budget="full", ratio=0.5) + seeds(steer, "maddpg")
    boards = build(records, (*BOTH, steer)).boards
    assert [(board.family, board.budget) for board in boards] == [
        ("continuous", "quick"),
        ("discrete", "full"),
        ("discrete", "quick"),
    ]
    assert [board.suites for board in boards] == [("steer",), ("merge", "roundabout"), ("merge", "roundabout")]
    assert [names(board.safety) for board in boards] == [["maddpg"], ["csq"], ["csq"]]
    assert [board.safety[0].cost_ratio for board in boards] == [0.0, 0.5, 0.0]


def test_an_agent_that_does_not_train_enters_the_boards_of_all_budgets() -> None:
    records = references(*BOTH) + everywhere("csq", budget="full", total=50.0)
    [board] = build(records).boards
    assert board.budget == "full"
    assert names(board.reward) == ["csq", "script", "random"]
    assert find(board.reward, "csq").score == pytest.approx(0.75)


def test_the_safe_planner_is_the_reference_and_the_script_only_stands_in_for_it() -> None:
    records = references(*BOTH) + everywhere("csq", total=50.0)
    provisional = build(records)
    assert find(provisional.boards[0].reward, "csq").provisional
    assert "0.750*" in provisional.to_markdown()
    assert "script (provisional)*" in provisional.to_markdown()
    records += [run(spec, "planner_safe", total=100.0, kind="planner") for spec in BOTH]
    final = build(records)
    assert find(final.boards[0].reward, "csq").score == pytest.approx(30 / 80)
    assert "0.375 |" in final.to_markdown()
    assert "0.375*" not in final.to_markdown()


def test_references_come_from_the_same_version_of_the_suite() -> None:
    old = dataclasses.replace(MERGE, version=0)
    leaderboard = build(references(old, ROUND) + everywhere("csq"))
    [board] = leaderboard.boards
    assert find(board.reward, "csq").reason == "no reference return"
    assert find(board.safety, "csq").rank == 1
    assert [stored.suite for stored in leaderboard.references] == ["roundabout"]


def test_another_config_is_another_row_and_says_how_it_differs() -> None:
    records = references(*BOTH) + everywhere("csq", config={"lr": 0.1}, started="1")
    records += everywhere("csq", 2, config={"lr": 0.2}, ratio=9.0)
    leaderboard = build(records)
    [board] = leaderboard.boards
    assert find(board.safety, "csq").seeds == (10, 10)
    assert find(board.safety, "csq [lr=0.2]").seeds == (0, 4)
    assert set(leaderboard.variants.values()) == {"config.lr=0.2 (main 0.1)"}
    assert "config.lr=0.2 (main 0.1)" in leaderboard.to_markdown()


def test_a_variant_that_differs_in_more_than_a_few_values_is_named_by_its_hash() -> None:
    main, other = (dict.fromkeys("abcd", value) for value in (1, 2))
    records = references(*BOTH) + everywhere("csq", config=main, started="1") + everywhere("csq", 2, config=other)
    records += everywhere("csq", 3, config=main | {"a": 2, "c": 2}) + everywhere(
        "csq", 1, config=main, backend="kernel"
    )
    [board] = build(records).boards
    names = [row.agent for row in board.safety if row.agent.startswith("csq")]
    assert {"csq", "csq [a=2 c=2]"} < set(names)
    assert sum(name.startswith("csq #") for name in names) == 2


def test_a_newer_agent_version_takes_over_the_name() -> None:
    records = everywhere("csq", agent_version="9", ratio=0.5) + everywhere("csq", 1, agent_version="10", ratio=0.1)
    [board] = build(records).boards
    assert find(board.safety, "csq").cost_ratio == pytest.approx(0.1)


def test_one_seed_counts_once_and_the_later_run_wins() -> None:
    records = seeds(MERGE, "csq", 2, started="2026-01-01", ratio=9.0)
    records += seeds(MERGE, "csq", 2, started="2026-02-01", ratio=0.5, numpy="2.1.0")
    leaderboard = build(records + records, (MERGE,))
    [entry] = leaderboard.entries
    assert entry.score.cost_ratios == (0.5, 0.5)
    assert (leaderboard.records, leaderboard.superseded) == (2, 2)
    assert leaderboard.versions["numpy"] == ("2.0.0", "2.1.0")


def test_a_modified_game_is_shown_on_its_own_and_touches_nothing_else() -> None:
    records = references(*BOTH) + everywhere("csq", ratio=0.5)
    plain = build(records)
    modified = [
        run(MERGE, agent, overrides={"gap": 1.0}, total=99.0, started="9") for agent in ("csq", "random", "new")
    ]
    both = build(records + modified)
    assert find(both.boards[0].safety, "csq") == find(plain.boards[0].safety, "csq")
    assert both.references == plain.references
    assert find(both.boards[0].safety, "new").reason == "modified game: gap=1; ran 0 of 2 suites"


CHECKED: dict[str, Any] = {
    "backend": "highway",
    "episodes": 20,
    "decisions": 300,
    "largest_return_difference": 0.0,
    "largest_cost_difference": 0.0,
    "largest_observation_difference": 1e-6,
}


@pytest.mark.parametrize(
    "check",
    [
        None,
        {**CHECKED, "episodes": 19},
        {**CHECKED, "backend": "kernel"},
        {**CHECKED, "backend": "other"},
        {**CHECKED, "largest_return_difference": 2e-6},
    ],
)
def test_an_evaluation_off_the_reference_backend_needs_a_passed_spot_check(check: dict[str, Any] | None) -> None:
    records = references(*BOTH) + everywhere("a", total=30.0, backend="kernel", spot_check=CHECKED)
    records += everywhere("b", total=50.0, backend="kernel", spot_check=check)
    [board] = build(records).boards
    assert names(board.reward) == ["a", "script", "random"]
    assert find(board.reward, "b").reason == ("evaluated on kernel without a spot check on highway; ran 0 of 2 suites")


def test_an_evaluation_that_does_not_count_is_no_reference_either() -> None:
    records = references(*BOTH) + everywhere("a", total=30.0)
    scores = [row.score for row in build(records).boards[0].reward]
    cheat = [run(spec, "planner_safe", total=31.0, kind="planner", backend="kernel") for spec in BOTH]
    assert [row.score for row in build(records + cheat).boards[0].reward][:3] == scores


def test_an_unregistered_suite_is_in_the_details_only() -> None:
    leaderboard = build(seeds(suite("foreign"), "csq"))
    assert [entry.reason for entry in leaderboard.entries] == ["unregistered suite"]
    assert names(leaderboard.boards[0].safety) == []


def test_the_details_give_hand_computed_numbers() -> None:
    records = references(MERGE) + [
        run(MERGE, "csq", seed, total=40.0 + seed, ratio=seed / 2, crashes=2) for seed in range(5)
    ]
    leaderboard = build(records, (MERGE,))
    [row] = [row for row in csv.DictReader(io.StringIO(leaderboard.to_csv())) if row["agent"] == "csq"]
    assert row == {
        "suite": "merge@1",
        "agent": "csq",
        "kind": "learner",
        "budget": "quick",
        "seeds": "5",
        "episodes": "500",
        "leader_return": "22.0",
        "follower_return": "20.0",
        "total_return": "42.0",
        "score": "0.55",  # (42 - 20) / (60 - 20)
        "score_provisional": "True",
        "regret": "",
        "verdict": "UNCERTAIN",  # ratios 0, 0.5, 1, 1.5, 2
        "feasible_seeds": "3",
        "cost_ratio_mean": "1.0",
        "cost_ratio_worst": "2.0",
        "final_total_return": "41.0",
        "final_cost_ratio_worst": "2.0",  # 0.5 of 0.25
        "zero_limit_violations": "",
        "crash_rate": "0.02",
        "crash_rate_low": "0.01",
        "crash_rate_high": "0.036",
        "arrival_rate": "0.5",
        "training_violations": "4.0",
        "not_ranked": "",
    }


def test_a_summarised_record_gives_the_same_row_as_its_arrays() -> None:
    small = run(MERGE, "csq", episodes=500, ratio=0.5, crashes=5)
    large = run(MERGE, "csq", episodes=1000, ratio=0.5, crashes=10)
    assert "arrays_sha256" in large.eval
    [first], [second] = build([small], (MERGE,)).entries, build([large], (MERGE,)).entries
    assert first.score.cost_ratios == second.score.cost_ratios
    assert first.score.crashes / 500 == second.score.crashes / 1000
    assert first.score.arrival_rate == second.score.arrival_rate


def test_a_violated_limit_of_zero_is_infinite_in_json_and_a_rate_on_the_page() -> None:
    strict = suite("strict", limit=0.0)
    leaderboard = build(seeds(strict, "csq", ratio=1.0) + seeds(strict, "still"), (strict,))
    [entry, still] = leaderboard.entries
    assert entry.score.cost_ratios == (math.inf,) * 5
    assert (entry.score.verdict, still.score.verdict) == ("UNSAFE", "SAFE")
    assert json.loads(leaderboard.to_json())["entries"][0]["cost_ratio_worst"] == "inf"
    assert "rate 0.010 [0.003, 0.023]" in leaderboard.to_markdown()  # 5 of 500 episodes


def test_the_same_records_in_any_order_give_the_same_bytes() -> None:
    records = references(*BOTH) + everywhere("csq", total=41.7, ratio=0.3) + everywhere("bi_ac", 3, config={"x": 1})
    records += everywhere("bi_ac", 3, config={"x": 2}) + seeds(MERGE, "half", started="1")
    first = build(records)
    for order in range(5):
        shuffled = random.Random(order).sample(records, len(records))
        again = build(shuffled)
        assert again == first
        assert again.to_markdown() == first.to_markdown()
        assert again.to_json() == first.to_json()
        assert again.to_csv() == first.to_csv()


def test_there_is_no_date_and_no_long_number_in_the_output() -> None:
    leaderboard = build(references(*BOTH) + everywhere("csq", total=100 / 3, started="2026-01-01T00:00:00"))
    for text in (leaderboard.to_markdown(), leaderboard.to_json(), leaderboard.to_csv()):
        assert "2026" not in text
        assert "33.333" in text
        assert "33.3333" not in text


def test_tables_have_as_many_cells_as_columns() -> None:
    page = build(references(*BOTH) + everywhere("csq", 2) + seeds(MERGE, "odd|name")).to_markdown()
    columns = 0
    for before, line in zip(["", *page.splitlines()], page.splitlines(), strict=False):
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|")
            columns = columns if before.startswith("|") else cells
            assert cells == columns, line


def test_an_empty_leaderboard_is_a_page_too() -> None:
    page = build([]).to_markdown()
    assert "There are no records yet" in page


def fill(results: Path) -> None:
    for record in references(*BOTH) + everywhere("csq"):
        write_record(record, results)


def test_written_files_are_current_and_the_check_sees_every_edit(tmp_path: Path) -> None:
    fill(tmp_path)
    assert "LEADERBOARD.md (on disk)" in check_leaderboard(tmp_path, suites=BOTH)
    paths = write_leaderboard(tmp_path, suites=BOTH)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    generated = ["LEADERBOARD.md", "leaderboard.json", "leaderboard.csv"]
    assert names == [*generated, "reference/merge.json", "reference/roundabout.json"]
    assert check_leaderboard(tmp_path, suites=BOTH) == ""
    for name, path in zip(names, paths, strict=True):
        text = path.read_bytes()
        path.write_bytes(text.replace(b"script", b"me"))
        diff = check_leaderboard(tmp_path, suites=BOTH)
        assert diff.startswith(f"--- {name} (on disk)\n+++ {name} (from the records)\n")
        path.write_bytes(text)
    write_record(run(MERGE, "csq", 5), tmp_path)
    assert check_leaderboard(tmp_path, suites=BOTH) != ""


def test_a_reference_without_records_is_a_difference_and_is_removed(tmp_path: Path) -> None:
    fill(tmp_path)
    write_leaderboard(tmp_path, suites=BOTH)
    outdated = tmp_path / "reference" / "gone.json"
    outdated.write_text("{}\n")
    diff = check_leaderboard(tmp_path, suites=BOTH)
    assert diff.startswith("--- reference/gone.json (on disk)\n+++ reference/gone.json (from the records)\n")
    write_leaderboard(tmp_path, suites=BOTH)
    assert not outdated.exists()
    assert check_leaderboard(tmp_path, suites=BOTH) == ""


def test_the_untrained_agents_with_most_episodes_are_the_reference_at_every_budget() -> None:
    records = seeds(MERGE, "random", total=20.0, kind="random") + seeds(MERGE, "csq", budget="smoke", total=40.0)
    records += [run(MERGE, "random", total=0.0, kind="random", budget="smoke", episodes=20)]
    records += [run(MERGE, "planner_safe", total=60.0, kind="planner", budget="full")]
    leaderboard = build(records, (MERGE,))
    [csq] = [entry for entry in leaderboard.entries if entry.agent == "csq"]
    assert csq.score.scores == (0.5,) * 5
    assert leaderboard.references[0].reference.random == 20.0


def test_windows_line_ends_on_disk_are_a_difference(tmp_path: Path) -> None:
    fill(tmp_path)
    [page, *_] = write_leaderboard(tmp_path, suites=BOTH)
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n"))
    assert check_leaderboard(tmp_path, suites=BOTH) != ""


def test_the_files_render_from_the_registered_suites_by_default(tmp_path: Path) -> None:
    write_record(run(dataclasses.replace(MERGE, horizon=999), "csq"), tmp_path)
    texts = render(tmp_path)
    assert "stale: merge has changed since" in texts["LEADERBOARD.md"]


def test_a_bad_record_stops_the_leaderboard_with_its_name(tmp_path: Path) -> None:
    path, _ = write_record(run(MERGE, "csq"), tmp_path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(RecordError, match=path.name):
        write_leaderboard(tmp_path, suites=BOTH)


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "LEADERBOARD.md").mkdir()
    with pytest.raises(RecordError, match=r"cannot write .*LEADERBOARD\.md"):
        write_leaderboard(tmp_path, suites=BOTH)
