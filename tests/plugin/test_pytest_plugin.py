"""`pytest suites/ --agent=...` as its users type it, in processes of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from safemarl_bench.record import load_records

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support"), "OMP_NUM_THREADS": "1"}
COUNTER = "toy_suite.agents:Counter"


def pytest_run(*arguments, cwd=ROOT, target="suites/"):
    command = [sys.executable, "-m", "pytest", target, "-p", "no:cacheprovider", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


def toy_run(results, *arguments, **settings):
    return pytest_run("--suite=toy", "--budget=smoke", f"--results-dir={results}", *arguments, **settings)


def test_one_command_trains_evaluates_records_and_prints_a_table(tmp_path):
    done = toy_run(tmp_path, f"--agent={COUNTER}", "--agent=random")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed, 2 skipped" in done.stdout
    records = load_records(tmp_path)
    assert [record.agent for record in records] == ["random", COUNTER]
    for record in records:
        assert re.search(
            rf"toy +{re.escape(record.agent)} +0 +smoke +{record.total_return:.2f} .*{record.digest[:12]}", done.stdout
        )
    assert f"leaderboard: {tmp_path / 'LEADERBOARD.md'}" in done.stdout
    assert (tmp_path / "LEADERBOARD.md").exists()


def test_two_workers_write_the_same_records_as_one(tmp_path):
    arguments = (f"--agent={COUNTER}", "--agent=random", "--agent=toy_counter", "--seeds=2")
    assert toy_run(tmp_path / "one", *arguments).returncode == 0
    done = toy_run(tmp_path / "two", *arguments, "-n2")
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = ([record.digest for record in load_records(tmp_path / name)] for name in ("one", "two"))
    assert one == two
    assert len(one) == 6


def test_it_works_from_anywhere_by_package_name(tmp_path):
    done = toy_run("results", "--agent=toy_counter", "--pyargs", cwd=tmp_path, target="safemarl_bench.suites")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(load_records(tmp_path / "results")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent=mip_pcs"], "unknown agent 'mip_pcs': did you mean 'mip_pcsq'"),
        (["--agent=nowhere.agents:Mine"], "cannot import 'nowhere.agents'"),
        (["--agent=random", "--suite=mergee"], "unknown suite 'mergee': did you mean 'merge'"),
        (["--agent=random", "--budget=quikc"], "unknown budget 'quikc': did you mean 'quick'"),
        (["--agent=random", "--evaluation-backend=kernl"], "unknown evaluation backend 'kernl': did you mean 'kernel'"),
        (["--agent=random", "--seeds=5:5"], "--seeds must be N (seeds 0..N-1) or A:B (seeds A..B-1), got '5:5'"),
        (["--agent=random", "--episodes=0"], "--episodes must be at least 1, got 0"),
        (["--agent=random", "--results-dir=/dev/null/x"], "--results-dir /dev/null/x cannot be written"),
    ],
)
def test_a_wrong_option_is_a_usage_error_and_no_failed_test(arguments, message):
    done = pytest_run(*arguments)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: {message}" in done.stderr


def test_a_pair_that_does_not_fit_is_skipped_with_the_reason(tmp_path):
    done = toy_run(tmp_path, "--agent=toy_suite.agents:Continuous", "-rs")
    assert done.returncode == 0
    assert "Continuous plays continuous actions, suite toy has discrete ones" in done.stdout


def test_an_evaluation_backend_is_used_where_a_suite_has_it(tmp_path):
    arguments = ("--agent=random", "--suite=merge", "--evaluation-backend=highway", "--episodes=2", "-rs")
    done = toy_run(tmp_path, *arguments)
    assert "2 passed, 4 skipped" in done.stdout, done.stdout + done.stderr
    assert "suite toy has no backend 'highway'" in done.stdout
    (record,) = load_records(tmp_path)
    assert record.cell["backend"] == {"train": "kernel", "evaluation": "highway"}
    assert record.eval["spot_check"] is None


def test_by_default_an_agent_meets_every_suite_of_the_leaderboard_and_no_other():
    done = pytest_run("--agent=idle", "--collect-only", "-q")
    suites = set(re.findall(r"sound\[(.+)-idle-0\]", done.stdout))
    driving = {"intersection", "merge", "racetrack", "racetrack-frenet", "roundabout"}
    assert suites == {*driving, "ev_charging", "ev_charging-game", "inventory", "ad_matching", "toy"}
    done = pytest_run("--agent=idle", "--suite=merge-official", "--collect-only", "-q")
    assert "sound[merge-official-idle-0]" in done.stdout


def test_a_discrete_learner_is_skipped_on_the_continuous_suites_with_the_reason():
    done = pytest_run("--agent=csq", "--suite=intersection", "--suite=racetrack-frenet", "-rs")
    assert done.returncode == 0
    for suite in ("intersection", "racetrack-frenet"):
        assert f"CSQ plays discrete actions, suite {suite} has continuous ones" in done.stdout


@pytest.mark.parametrize("suite", ["intersection", "racetrack-frenet"])
def test_random_and_idle_run_on_continuous_suites(tmp_path, suite):
    arguments = ("--agent=random", "--agent=idle", f"--suite={suite}", "--budget=smoke", f"--results-dir={tmp_path}")
    done = pytest_run(*arguments)
    assert "4 passed, 2 skipped" in done.stdout, done.stdout + done.stderr
    assert sorted(record.agent for record in load_records(tmp_path)) == ["idle", "random"]


def test_an_agent_that_breaks_its_contract_fails_in_one_line_and_the_others_are_kept(tmp_path):
    done = toy_run(tmp_path, "--agent=toy_suite.agents:OutOfRange", "--agent=random")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert done.stdout.count("action of 'leader' must be in 0..2, got [7]") <= 6  # three tests, and the summary
    assert "Traceback" not in done.stdout
    assert [record.agent for record in load_records(tmp_path)] == ["random"]


def test_an_agent_in_the_current_folder_needs_no_installation(tmp_path):
    (tmp_path / "mine.py").write_text("from toy_suite.agents import Counter\n\n\nclass Mine(Counter):\n    pass\n")
    done = toy_run("r", "--agent=mine:Mine", "--pyargs", cwd=tmp_path, target="safemarl_bench.suites")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_truncated_record_beside_is_named_and_loses_nothing(tmp_path):
    toy_run(tmp_path, "--agent=random")
    (path,) = tmp_path.glob("runs/**/*.json")
    path.write_text(path.read_text()[:500])
    done = toy_run(tmp_path, "--agent=toy_counter")
    assert done.returncode == 0
    assert "no leaderboard: " in done.stdout
    assert "truncated after 500 characters" in done.stdout
    done = toy_run(tmp_path, "--agent=toy_counter", "--reuse=valid")
    assert "Traceback" not in done.stdout


def test_without_an_agent_the_suites_say_what_to_type():
    done = pytest_run("-rs")
    assert done.returncode == 0
    assert "no agent given: pytest suites/ --agent=NAME" in done.stdout


def test_reuse_only_never_runs_anything(tmp_path):
    arguments = ("--agent=random", "--reuse=only", "-rs")
    assert "no record of toy-random-0" in toy_run(tmp_path, *arguments).stdout
    toy_run(tmp_path, "--agent=random")
    (path,) = tmp_path.glob("runs/**/*.json")
    before = path.stat().st_mtime_ns
    assert "2 passed, 1 skipped" in toy_run(tmp_path, *arguments).stdout
    assert path.stat().st_mtime_ns == before


def test_thresholds_are_asserted_when_asked_for(tmp_path):
    done = toy_run(tmp_path, "--agent=idle", "--assert-thresholds")
    (record,) = load_records(tmp_path)
    assert record.cost_ratio > 1, "two idle counters start close to each other and stay there"
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "a mean cost exceeds its limit" in done.stdout
