"""Run records: digest, canonical form, write-once files, and every way a file can be bad."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from safemarl_bench.canonical_json import canonical, dump
from safemarl_bench.errors import RecordError
from safemarl_bench.record import (
    RunRecord,
    load_records,
    read_record,
    summarise_evaluation,
    write_record,
)
from safemarl_bench.record_check import check_records
from safemarl_bench.training import TrainLog


def sections(
    *, agent: str = "csq", seed: int = 0, episodes: int = 4, deterministic: bool = False, **cell: Any
) -> dict[str, Any]:
    """Return the sections of a small record; returns and costs depend on the seed."""
    per_agent = {"leader": 30.0 + seed, "follower": 20.5}
    return {
        "cell": {
            "suite": "merge",
            "suite_version": 1,
            "suite_digest": "0123456789ab",
            "game": {
                "action_kind": "discrete",
                "leader": ["leader"],
                "followers": ["follower"],
                "horizon": 20,
                "gamma": 0.95,
                "constraints": ["collision and gap"],
                "cost_limits": {"leader": [0.25], "follower": [0.5]},
                "overrides": {},
            },
            "agent": agent,
            "agent_version": "1",
            "agent_traits": {"learns": not deterministic, "deterministic": deterministic, "privileged": ""},
            "distribution": "safemarl-bench 0.1.0",
            "config": {"learning_rate": 1e-3, "widths": (64, 64)},
            "seed": seed,
            "budget": "quick",
            "training_steps": 0 if deterministic else 2000,
            "evaluation_episodes": episodes,
            "backend": {"train": "highway", "evaluation": "highway"},
            **cell,
        },
        "versions": {"python": "3.11.0", "numpy": "2.0.0"},
        "provenance": {"git_sha": "f" * 40, "dirty": False, "platform": "Linux", "machine": "x86_64", "cpu": "A"},
        "train": {
            "steps": [] if deterministic else [100, 2000],
            "episodes": [] if deterministic else [5, 100],
            "returns": {role: [] if deterministic else [10.0, 20.0] for role in per_agent},
            "costs": {role: [] if deterministic else [[1.0], [0.5]] for role in per_agent},
            "collisions": [] if deterministic else [1, 3],
            "metrics": {} if deterministic else {"loss": [None, 0.25]},
            "totals": {"episodes": 0 if deterministic else 100, "collisions": 3, "violating_steps": 7},
        },
        "validation": None if deterministic else validation(episodes, per_agent),
        "eval": {
            "stream": "evaluation",
            "seed": 0,
            "episodes": episodes,
            "returns": {role: [base + index for index in range(episodes)] for role, base in per_agent.items()},
            "costs": {role: [[float(index == 0)] for index in range(episodes)] for role in per_agent},
            "crashed": {
                "leader": [int(i == 0) for i in range(episodes)],
                "follower": [int(i < 2) for i in range(episodes)],
            },
            "off_road": {role: [0] * episodes for role in per_agent},
            "arrival_rank": {"leader": [1] * episodes, "follower": [2] * (episodes - 1) + [0]},
            "length": [15] * episodes,
            "longest_cost_run": [1] + [0] * (episodes - 1),
            "spot_check": None,
        },
        "checkpoint": {"sha256": None, "bytes": 0},
    }


def validation(episodes: int, per_agent: dict[str, float]) -> dict[str, Any]:
    """Return a section of two validated policies, the first of which was kept."""
    return {
        "episodes": 100,
        "steps": [1000, 2000],
        "returns": {role: [base, base - 1.0] for role, base in per_agent.items()},
        "costs": {role: [[0.125], [1.0]] for role in per_agent},
        "collisions": [0, 20],
        "kept": 0,
        "final": {
            "step": 2000,
            "episodes": episodes,
            "returns": {role: base - 1.5 for role, base in per_agent.items()},
            "costs": {role: [0.75] for role in per_agent},
            "collisions": 1,
        },
    }


def make(**options: Any) -> RunRecord:
    return RunRecord(**sections(**options))


def edited(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of nested dicts with the value at a dotted path replaced."""
    content = copy.deepcopy(content)
    inner = content
    *outer, last = path.split(".")
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return content


def test_a_record_survives_its_own_text_bit_for_bit() -> None:
    record = make()
    again = RunRecord.from_json(record.to_json())
    assert again == record
    assert again.digest == record.digest
    assert again.to_json() == record.to_json()


def test_the_text_is_compact_sorted_and_one_line() -> None:
    text = make().to_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")) + "\n"


@hypothesis.settings(derandomize=True, deadline=None, max_examples=200)
@hypothesis.given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_the_canonical_form_is_equal_to_its_value_and_a_fixed_point_of_writing_and_reading(value: Any) -> None:
    form = canonical(value, "value")
    assert form == value
    assert dump(json.loads(dump(form))) == dump(form)
    assert dump(canonical(json.loads(dump(form)), "value")) == dump(form)


def test_numpy_values_and_whole_floats_have_the_digest_of_plain_numbers() -> None:
    plain = sections()
    arrays = edited(plain, "eval.returns.leader", np.array(plain["eval"]["returns"]["leader"], dtype=np.float64))
    arrays = edited(arrays, "cell.seed", np.int64(0))
    assert RunRecord(**arrays).digest == RunRecord(**plain).digest


def test_provenance_is_outside_the_digest_and_everything_else_is_inside() -> None:
    base = make()
    assert RunRecord(**edited(sections(), "provenance.cpu", "B")).digest == base.digest
    for path, value in [
        ("cell.config.learning_rate", 2e-3),
        ("versions.numpy", "2.0.1"),
        ("train.collisions", [1, 4]),
        ("eval.length", [15, 15, 15, 16]),
        ("checkpoint.sha256", "b" * 64),
    ]:
        assert RunRecord(**edited(sections(), path, value)).digest != base.digest, path


def test_a_record_does_not_share_memory_with_what_it_was_made_from() -> None:
    content = sections()
    record = RunRecord(**content)
    content["eval"]["returns"]["leader"][0] = 999.0
    assert record.eval["returns"]["leader"][0] == 30


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    with pytest.raises(RecordError, match=r"eval\.returns\.leader"):
        RunRecord(**edited(sections(), "eval.returns.leader", [0.0, bad, 0.0, 0.0]))


def test_missing_keys_and_wrong_types_are_refused_by_name() -> None:
    content = sections()
    del content["train"]["collisions"]
    with pytest.raises(RecordError, match=r"lacks train\.collisions"):
        RunRecord(**content)
    with pytest.raises(RecordError, match=r"cell\.seed .*str"):
        RunRecord(**edited(sections(), "cell.seed", "0"))
    with pytest.raises(RecordError, match=r"train\.metrics .*list"):
        RunRecord(**edited(sections(), "train.metrics", []))
    with pytest.raises(RecordError, match=r"checkpoint\.bytes .*bool"):
        RunRecord(**edited(sections(), "checkpoint.bytes", True))


def test_the_properties_give_hand_computed_numbers() -> None:
    record = make()
    assert record.leader_return == 31.5  # 30, 31, 32, 33
    assert record.follower_return == 22.0  # 20.5, ..., 23.5
    assert record.total_return == 53.5
    assert record.mean_costs("leader") == (0.25,)
    assert record.cost_ratio == 1.0  # 0.25 / 0.25 for the leader, 0.25 / 0.5 for the follower
    assert record.violating_episodes("follower") == (1,)
    assert record.crash_episodes == 2  # both in episode 0, the follower alone in episode 1
    assert record.crash_rate == 0.5
    assert record.off_road_episodes == 0
    assert record.arrival_rate == 7 / 8
    assert record.training_violations == 3.5  # 7 in 2,000 steps


def test_a_limit_of_zero_tolerates_no_cost() -> None:
    limits = edited(sections(), "cell.game.cost_limits", {"leader": [0.0], "follower": [0.5]})
    assert RunRecord(**limits).cost_ratio == math.inf
    free = edited(limits, "eval.costs.leader", [[0.0]] * 4)
    assert RunRecord(**free).cost_ratio == 0.5


def test_an_agent_that_does_not_learn_has_no_training_violations() -> None:
    assert make(deterministic=True).training_violations is None


def test_up_to_500_episodes_the_evaluation_is_kept_as_it_is() -> None:
    evaluation = sections(episodes=500)["eval"]
    assert summarise_evaluation(evaluation) is evaluation


def test_a_summary_and_the_full_arrays_read_the_same() -> None:
    full = sections(episodes=600)
    whole = RunRecord(**full)
    short = RunRecord(**{**full, "eval": summarise_evaluation(full["eval"])})
    names = ["total_return", "leader_return", "follower_return", "cost_ratio", "crash_episodes", "off_road_episodes"]
    for name in [*names, "arrival_rate", "mean_length"]:
        assert getattr(short, name) == getattr(whole, name), name
    assert short.mean_costs("leader") == whole.mean_costs("leader")
    assert short.violating_episodes("leader") == whole.violating_episodes("leader") == (1,)
    assert len(short.to_json()) < 5000
    returns = np.array(full["eval"]["returns"]["leader"])
    assert short.eval["returns"]["leader"]["sd"] == pytest.approx(returns.std(ddof=1), rel=1e-12)
    assert short.eval["returns"]["leader"]["quantiles"][3] == np.median(returns)


def test_the_hash_in_a_summary_changes_with_any_episode() -> None:
    full = sections(episodes=600)["eval"]
    swapped = copy.deepcopy(full)
    swapped["returns"]["leader"][:2] = swapped["returns"]["leader"][1::-1]
    first, second = summarise_evaluation(full), summarise_evaluation(swapped)
    assert first["returns"] == second["returns"]
    assert first["arrays_sha256"] != second["arrays_sha256"]


def test_a_record_above_64_kb_is_refused() -> None:
    with pytest.raises(RecordError, match="smaller than 64000 bytes"):
        make(config={"table": ["x" * 100] * 700}).to_json()


def test_writing_the_same_run_again_changes_nothing(tmp_path: Path) -> None:
    path, created = write_record(make(), tmp_path)
    before = path.read_bytes()
    later = dataclasses.replace(make(), provenance={"started": "later"})
    assert created
    assert write_record(later, tmp_path) == (path, False)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.relative_to(tmp_path).as_posix() == f"runs/merge@1/csq/seed0-{make().digest[:12]}.json"
    assert read_record(path) == make()


@pytest.mark.parametrize(
    ("agent", "folder"),
    [("my_package.mod:Class", "my_package.mod+Class"), ("../x", "%2E.%2Fx"), ("a+b", "a%2Bb"), ("..", "%2E.")],
)
def test_every_agent_name_becomes_one_safe_folder(agent: str, folder: str, tmp_path: Path) -> None:
    path, _ = write_record(make(agent=agent), tmp_path)
    assert path.parent.relative_to(tmp_path).as_posix() == f"runs/merge@1/{folder}"
    assert check_records(tmp_path) == []


def _write_when_told(start: Any, results: Path, answers: Any) -> None:
    start.wait()
    answers.put(write_record(make(), results)[1])


def test_of_processes_that_write_the_same_run_exactly_one_creates_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, answers = context.Barrier(4), context.Queue()
    writers = [context.Process(target=_write_when_told, args=(start, tmp_path, answers)) for _ in range(4)]
    for writer in writers:
        writer.start()
    created = [answers.get(timeout=30) for _ in writers]
    for writer in writers:
        writer.join()
    assert sorted(created) == [False, False, False, True]
    assert load_records(tmp_path) == [make()]
    assert check_records(tmp_path) == []


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process does not clean up either
        patch.setattr(os, "link", killed)
        with pytest.raises(SystemExit):
            write_record(make(), tmp_path)
    assert load_records(tmp_path) == []
    [problem] = check_records(tmp_path)
    assert "left over by a killed run" in problem
    assert write_record(make(), tmp_path)[1]


def test_another_file_of_the_same_name_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / make().relative_path
    path.parent.mkdir(parents=True)
    path.write_text(make(seed=1).to_json())
    with pytest.raises(RecordError, match="another record has this name"):
        write_record(make(), tmp_path)
    assert read_record(path) == make(seed=1)


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RecordError) as caught:
        write_record(make(), blocked)
    assert "\n" not in str(caught.value)
    assert str(blocked) in str(caught.value)


def test_a_malformed_record_is_not_written(tmp_path: Path) -> None:
    ragged = RunRecord(**edited(sections(), "eval.crashed.leader", [0]))
    with pytest.raises(RecordError, match=r"eval\.crashed\.leader is ragged: 1 entries, there are 4"):
        write_record(ragged, tmp_path)
    assert list(tmp_path.iterdir()) == []


def bad_texts() -> dict[str, tuple[str, str]]:
    text = make().to_json()
    nested = text[: text.index('"checkpoint"') - 1]
    return {
        "cut in a word": (text[:200], "truncated after 200 characters"),
        "cut after a brace": (nested + "}", "truncated|edited|lacks"),
        "cut before the last brace": (text.rstrip()[:-1], "truncated"),
        "empty": ("", "truncated after 0 characters"),
        "not JSON": ("{hello}", "not JSON"),
        "not a number": ('{"a":NaN}', "NaN is not allowed"),
        "a list": ("[1]", "truncated|a JSON list"),
        "another schema": (text.replace('"schema":2', '"schema":3'), "unknown schema 3, this version reads schema 2"),
        "a section is gone": (dump({k: v for k, v in json.loads(text).items() if k != "eval"}), "eval"),
        "a key is gone": (text.replace('"collisions":3,', ""), r"lacks train\.totals\.collisions"),
        "edited by hand": (text.replace('"collisions":3', '"collisions":0'), "edited after it was written"),
        "another digest": (text.replace(make().digest, "0" * 64), "edited after it was written"),
    }


@pytest.mark.parametrize("name", bad_texts())
def test_a_bad_file_is_one_clear_line_that_names_it(name: str, tmp_path: Path) -> None:
    text, expected = bad_texts()[name]
    path = tmp_path / make().relative_path
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(RecordError, match=expected) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecordError):
        load_records(tmp_path)
    assert len(check_records(tmp_path)) == 1


def test_bytes_that_are_not_text_and_files_that_are_not_there_are_record_errors(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    with pytest.raises(RecordError, match="not UTF-8"):
        read_record(tmp_path / "x.json")
    with pytest.raises(RecordError, match="No such file"):
        read_record(tmp_path / "y.json")
    with pytest.raises(RecordError, match="no results directory"):
        load_records(tmp_path / "nowhere")


def test_records_are_loaded_sorted_and_an_empty_directory_has_none(tmp_path: Path) -> None:
    assert load_records(tmp_path) == []
    for agent, seed in [("csq", 1), ("bi_ac", 0), ("csq", 0)]:
        write_record(make(agent=agent, seed=seed), tmp_path)
    assert [(record.agent, record.seed) for record in load_records(tmp_path)] == [("bi_ac", 0), ("csq", 0), ("csq", 1)]


def place(record: RunRecord, results: Path) -> str:
    """Put a record where it belongs without the checks of `write_record`."""
    path = results / record.relative_path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.to_json())
    return record.relative_path


def test_good_records_have_no_problems(tmp_path: Path) -> None:
    for seed in range(3):
        write_record(make(seed=seed), tmp_path)
    write_record(make(agent="idle", deterministic=True), tmp_path)
    summary = sections(agent="bi_ac", episodes=600)
    write_record(RunRecord(**{**summary, "eval": summarise_evaluation(summary["eval"])}), tmp_path)
    assert check_records(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("validation.collisions", [5], r"validation\.collisions is ragged: 1 points, validation\.steps has 2"),
        ("validation.returns.leader", [5.0], r"validation\.returns\.leader is ragged"),
        ("validation.costs.leader", [[1.0], [1.0, 2.0]], r"validation\.costs\.leader is ragged: every point needs 1"),
        ("validation.final.costs", {}, r"validation\.costs\.leader is ragged"),
        ("validation.final.returns", {}, r"validation\.final\.returns\.leader is missing"),
        ("validation.final.episodes", 3, r"validation\.final has 3 episodes, the cell says 4"),
        ("validation.kept", 2, r"validation\.kept must be in 0\.\.1, got 2"),
        ("validation.steps", [1000, 1900], r"validation must end with the last policy, at step 2000"),
        ("validation", None, r"validation must be there if and only if there was training \(2000 steps\)"),
        ("train.episodes", [5], r"train\.episodes is ragged: 1 points, train\.steps has 2"),
        ("train.costs.leader", [[1.0]], r"train\.costs\.leader is ragged"),
        ("train.costs.leader", [[1.0], [1.0, 2.0]], r"train\.costs\.leader is ragged: every point needs 1 costs"),
        ("train.costs", {"leader": [[1.0], [0.5]]}, r"train\.costs\.follower is missing"),
        ("train.collisions", [3, 1], r"train\.collisions decreases"),
        ("train.metrics.loss", [0.25], r"train\.metrics\.loss is ragged: 1 points, train\.steps has 2"),
        ("train.metrics.loss", [True, 0.25], r"train\.metrics\.loss must be a list of numbers and nulls"),
        ("train.metrics.loss", "ab", r"train\.metrics\.loss must be a list of numbers and nulls"),
        ("train.steps", list(range(65)), "at most 64"),
        ("eval.crashed", {"leader": [0, 0, 0, 0]}, r"eval\.crashed\.follower is missing"),
        ("eval.crashed.leader", [0, 0, 2, 0], r"eval\.crashed\.leader has a value outside 0\.\.1"),
        ("eval.costs.leader", [[0], [0], [0], [0, 0]], r"every episode needs 1 costs"),
        ("eval.costs.leader", [[0], [0], [0], [-1]], "negative cost"),
        ("eval.longest_cost_run", [0, 0, 0], r"eval\.longest_cost_run is ragged"),
        ("cell.evaluation_episodes", 5, "the cell says 5"),
        ("cell.game.cost_limits", {"leader": [0.25]}, "cost_limits lacks follower"),
        ("eval.returns.leader", None, "malformed series"),
        ("provenance.dirty", True, "uncommitted changes"),
    ],
)
def test_check_names_the_file_and_the_problem(path: str, value: Any, expected: str, tmp_path: Path) -> None:
    name = place(RunRecord(**edited(sections(), path, value)), tmp_path)
    problems = check_records(tmp_path)
    assert problems
    assert all(problem.startswith(f"{name}: ") and "\n" not in problem for problem in problems)
    assert any(re.search(expected, problem) for problem in problems), problems


SPOT_CHECK: dict[str, Any] = {
    "backend": "exact",
    "episodes": 4,
    "decisions": 60,
    "largest_return_difference": 1e-6,
    "largest_cost_difference": 0.0,
    "largest_observation_difference": 0.0,
}


@pytest.mark.parametrize("episodes", [4, 600])
def test_a_spot_check_is_kept_in_every_form_of_the_evaluation(episodes: int, tmp_path: Path) -> None:
    content = edited(sections(episodes=episodes), "eval.spot_check", {**SPOT_CHECK, "episodes": min(episodes, 20)})
    record = RunRecord(**{**content, "eval": summarise_evaluation(content["eval"])})
    assert record.eval["spot_check"]["episodes"] == min(episodes, 20)
    place(record, tmp_path)
    assert check_records(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("backend", "highway", "spot_check is of highway, the backend that evaluated"),
        ("episodes", 3, "spot_check has 3 episodes, of 4 at least 4 are needed"),
        ("episodes", 5, "spot_check has 5 episodes, of 4 at least 4"),
        ("largest_return_difference", 1.1e-6, r"largest_return_difference is 1\.1e-06, at most 1e-06"),
        ("largest_cost_difference", 1.0, "largest_cost_difference is 1, at most"),
        ("largest_observation_difference", -1.0, "largest_observation_difference is -1"),
    ],
)
def test_a_spot_check_that_proves_nothing_is_no_record(key: str, value: Any, expected: str, tmp_path: Path) -> None:
    record = RunRecord(**edited(sections(), "eval.spot_check", {**SPOT_CHECK, key: value}))
    with pytest.raises(RecordError, match=expected):
        write_record(record, tmp_path)
    place(record, tmp_path)
    [problem] = check_records(tmp_path)
    assert re.search(expected, problem)


def test_a_spot_check_without_its_keys_is_refused_by_name() -> None:
    partial = {key: value for key, value in SPOT_CHECK.items() if key != "decisions"}
    with pytest.raises(RecordError, match=r"lacks eval\.spot_check\.decisions"):
        RunRecord(**edited(sections(), "eval.spot_check", partial))
    with pytest.raises(RecordError, match=r"eval\.spot_check has the wrong type str"):
        RunRecord(**edited(sections(), "eval.spot_check", "passed"))
    with pytest.raises(RecordError, match=r"lacks cell\.backend\.evaluation"):
        RunRecord(**edited(sections(), "cell.backend", {"train": "highway"}))


def test_check_reports_a_learner_without_training_points(tmp_path: Path) -> None:
    content = sections()
    content["train"] = sections(deterministic=True)["train"]
    place(RunRecord(**content), tmp_path)
    [problem] = check_records(tmp_path)
    assert "train has 0 points for 0 finished episodes in 2000 training steps" in problem


def test_check_reports_results_that_do_not_depend_on_the_seed(tmp_path: Path) -> None:
    first = place(make(seed=0), tmp_path)
    copied = place(RunRecord(**edited(sections(seed=0), "cell.seed", 1)), tmp_path)
    [problem] = check_records(tmp_path)
    assert problem == f"{copied}: seed 1 has the same results as seed 0 in {first}"


def test_check_lets_a_deterministic_agent_repeat_itself(tmp_path: Path) -> None:
    for seed in (0, 1):
        content = sections(agent="idle", deterministic=True)
        place(RunRecord(**edited(content, "cell.seed", seed)), tmp_path)
    assert check_records(tmp_path) == []


def test_check_reports_non_determinism_but_allows_other_versions_and_machines(tmp_path: Path) -> None:
    place(make(), tmp_path)
    other = edited(sections(), "eval.length", [15, 15, 15, 16])
    place(RunRecord(**edited(other, "provenance.cpu", "B")), tmp_path)
    place(RunRecord(**edited(other, "versions.numpy", "9")), tmp_path)
    assert check_records(tmp_path) == []
    place(RunRecord(**edited(sections(), "eval.length", [15, 15, 15, 17])), tmp_path)
    [problem] = check_records(tmp_path)
    assert "non-determinism" in problem


def test_check_reports_wrong_places_other_forms_and_stray_files(tmp_path: Path) -> None:
    record = make()
    for name, text in {
        "runs/merge@1/csq/seed1-000000000000.json": record.to_json(),
        "runs/merge@1/csq/notes.txt": "hello",
        record.relative_path: json.dumps(json.loads(record.to_json()), indent=1),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    problems = check_records(tmp_path)
    assert len(problems) == 3
    assert any("notes.txt: stray file" in problem for problem in problems)
    assert any("seed1-000000000000.json: wrong name or folder" in problem for problem in problems)
    assert any(problem.startswith(record.relative_path) and "another form" in problem for problem in problems)


def test_what_an_untrained_agent_has_nothing_to_say_about_is_left_out_of_its_file() -> None:
    untrained, learner = json.loads(make(deterministic=True).to_json()), json.loads(make().to_json())
    assert set(learner) - set(untrained) == {"validation"}
    assert "metrics" not in TrainLog(("leader",)).section()
