"""From names to a record: what is written, what is refused, and that interruption changes nothing."""

import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench import runner, training
from safemarl_bench.collection import make_games
from safemarl_bench.errors import (
    CheckpointError,
    ContractError,
    IncompatiblePair,
    RecordError,
    RegistryError,
    SafeMARLBenchError,
)
from safemarl_bench.record import read_record
from safemarl_bench.record_check import check_records
from safemarl_bench.training import Interrupted, Trainer, TrainLog, log_steps

AGENT = "toy_suite.agents:Counter"


@pytest.fixture(autouse=True)
def _clean_tree(monkeypatch):
    monkeypatch.setattr(runner, "code_state", lambda: {"git_sha": "0" * 40, "dirty": False})


def run(results, agent=AGENT, **settings):
    settings = {"budget": "smoke", "episodes": 4, "progress": False, **settings}
    return smb.run("toy", agent, results_dir=results, **settings)


def files(results):
    return sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())


def test_a_run_leaves_one_record_and_one_checkpoint_and_nothing_else(tmp_path):
    record = run(tmp_path)
    folder = f"checkpoints/{record.checkpoint['sha256'][:16]}"
    assert files(tmp_path) == [f"{folder}/counter.json", f"{folder}/counter.safetensors", record.relative_path]
    assert check_records(tmp_path) == []
    assert record.cell["training_steps"] == 60
    assert record.train["steps"][-1] == 60
    assert record.episodes == 4
    assert record.cell["config"] == {"epsilon": 0.3, "bonus": 1}


def test_the_same_cell_run_twice_is_the_same_record(tmp_path):
    first = run(tmp_path)
    before = files(tmp_path)
    assert run(tmp_path).digest == first.digest
    assert files(tmp_path) == before


def test_neither_order_nor_neighbours_change_a_record(tmp_path):
    alone = run(tmp_path / "a", seed=1)
    run(tmp_path / "b", seed=0)
    run(tmp_path / "b", "random", seed=0)
    assert run(tmp_path / "b", seed=1).digest == alone.digest
    assert run(tmp_path / "b", seed=2).digest != alone.digest


def interrupt_at(monkeypatch, call):
    """Press Ctrl-C during the given call of learn."""
    learn = smb.Agent.learn
    calls = 0

    def interrupting(self):
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGINT)
        return learn(self)

    monkeypatch.setattr(smb.Agent, "learn", interrupting)


@pytest.mark.parametrize("after", [1, 7, 31])
def test_an_interrupted_run_resumes_to_the_same_digest(tmp_path, monkeypatch, after):
    whole = run(tmp_path / "whole")
    interrupt_at(monkeypatch, after)
    with pytest.raises(Interrupted, match=r"toy-.* stopped at decision \d+ of 60; the same command resumes it from"):
        run(tmp_path / "parts")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(tmp_path / "parts").digest == whole.digest


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("after", [3, 29, 58])
def test_a_killed_run_resumes_from_its_last_checkpoint_to_the_same_digest(tmp_path, monkeypatch, after):
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    learn = smb.Agent.learn
    calls = 0

    def dying(self):
        nonlocal calls
        calls += 1
        if calls == after:
            raise Killed
        return learn(self)

    monkeypatch.setattr(smb.Agent, "learn", dying)
    with pytest.raises(Killed):
        run(tmp_path / "parts")
    monkeypatch.setattr(smb.Agent, "learn", learn)
    assert run(tmp_path / "parts").digest == whole.digest
    assert calls == after, "the resumed run must not start from the beginning"


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    cell = runner.resolve_cell("toy", AGENT, budget="smoke")
    game = smb.make("toy")
    games = make_games(cell.spec, game, lambda: smb.make("toy"), 1, seed=0)
    trainer = Trainer(games, runner.build_agent(cell, game), AGENT, 60, tmp_path)
    (tmp_path / "step-000000000012").mkdir()
    assert trainer.resume() is False
    trainer.step = 12
    trainer.save()
    assert trainer.resume() is True


def test_a_corrupt_checkpoint_is_named(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 7)
    with pytest.raises(Interrupted):
        run(tmp_path)
    (damaged,) = (tmp_path / "in_progress").rglob("counter.safetensors")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"cannot resume from .*; delete that folder to start again"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (
            "OutOfRange",
            r"agent 'toy_suite.*OutOfRange.*' at step 0 of an episode: action of 'leader' must be in 0\.\.2, got \[7\]",
        ),
        ("WrongType", "action of 'leader' must be integers, got float64"),
        ("NotANumber", "action of 'leader' must be integers, got float64"),
        ("WrongShape", r"action of 'leader' must have shape \(1,\), got \(3,\)"),
        (
            "Raiser",
            r"agent 'toy_suite.agents:Raiser' raised in observe at step \d+: ZeroDivisionError: the counter broke",
        ),
    ],
)
def test_a_misbehaving_agent_is_one_clear_line_and_no_record(tmp_path, agent, message):
    with pytest.raises(ContractError, match=message) as caught:
        run(tmp_path, f"toy_suite.agents:{agent}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("runs/**/*.json"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"agent": "mip"}, RegistryError, "unknown agent 'mip'"),
        ({"agent": "toy_suite.agents:Continuous"}, IncompatiblePair, "plays continuous actions"),
        ({"budget": "smok"}, RegistryError, "no budget 'smok': did you mean 'smoke'"),
        ({"config": {"epsilom": 1.0}}, RegistryError, "did you mean 'epsilon'"),
        ({"seed": -1}, SafeMARLBenchError, "seed must be an integer"),
        ({"episodes": 0}, SafeMARLBenchError, "at least 1, got 0"),
        ({"episodes": 2.5}, SafeMARLBenchError, "at least 1, got 2.5"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path, **settings)
    assert files(tmp_path) == []


def test_an_unwritable_results_directory_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecordError, match=r"results directory .* cannot be written: Not a directory"):
        run(tmp_path / "file")


def test_a_cell_that_runs_elsewhere_is_left_alone(tmp_path):
    cell = runner.resolve_cell("toy", AGENT, budget="smoke", episodes=4)
    (tmp_path / "in_progress").mkdir()
    lock = runner.filelock.FileLock(tmp_path / "in_progress" / f"{runner.cell_key(cell)}.lock")
    with lock, pytest.raises(RecordError, match="is being run by another process"):
        run(tmp_path)
    assert run(tmp_path).episodes == 4


def test_a_saved_agent_acts_as_it_was_evaluated(tmp_path):
    record = run(tmp_path, budget="quick")
    agent = smb.load_agent(tmp_path / record.relative_path)
    from safemarl_bench.evaluation import play_episode

    rollout = runner.Rollout(smb.get_suite("toy"), smb.make("toy"))
    for episode in range(4):
        tally = play_episode(rollout, agent, AGENT, episode)
        assert tally.returns["leader"] == record.eval["returns"]["leader"][episode]


def test_an_altered_checkpoint_is_refused_reported_and_repaired_by_the_next_run(tmp_path):
    record = run(tmp_path)
    (path,) = tmp_path.glob("checkpoints/*/counter.safetensors")
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="was altered"):
        smb.load_agent(record, tmp_path)
    assert [problem.rpartition(" ")[2] for problem in check_records(tmp_path)] == ["altered"]
    run(tmp_path)
    assert check_records(tmp_path) == []
    assert smb.load_agent(record, tmp_path).counts.sum() == 60


def test_a_missing_checkpoint_is_reported(tmp_path):
    run(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (problem,) = check_records(tmp_path)
    assert problem.endswith("is missing")


def test_a_second_ctrl_c_stops_at_once_and_says_what_is_kept(tmp_path, monkeypatch):
    def insist(self):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(smb.Agent, "learn", insist)
        with pytest.raises(Interrupted, match="the same command starts it anew: nothing was saved yet"):
            run(tmp_path)
    assert run(tmp_path).episodes == 4


def reporting(monkeypatch):
    """Let the counter report what it has seen, one number at every decision and one at every third."""

    def learn(self):
        seen = float(self.counts.sum())
        return {"seen": seen / 3.0, **({"first": float(self.counts[0, 0])} if seen % 3 == 0 else {})}

    monkeypatch.setattr(smb.Agent, "learn", learn)


@pytest.mark.parametrize("after", [7, 30, 31, 32])
def test_a_run_stopped_between_points_resumes_to_the_same_metrics(tmp_path, monkeypatch, after):
    reporting(monkeypatch)
    whole = run(tmp_path / "whole")
    assert {len(series) for series in whole.train["metrics"].values()} == {len(whole.train["steps"])}
    interrupt_at(monkeypatch, after)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts")
    resumed = run(tmp_path / "parts")
    assert resumed.train["metrics"] == whole.train["metrics"]
    assert resumed.digest == whole.digest


def test_a_point_holds_the_mean_of_each_metric_since_the_last_one_and_null_without_any():
    log = TrainLog(("a",))
    reports = [[{"x": 1.0}, {}, {"x": 2.0}], [{"y": 1 / 3}], [{"x": -5.0}], [{"x": -2.0}]]
    for step, (metrics, finished) in enumerate(zip(reports, (True, True, False, True), strict=True)):
        for report in metrics:
            log.report(report)
        log.pending = [[[0.0], [[0.0]]]] if finished else []
        log.close_point(step)
    assert log.section()["metrics"] == {"x": [1.5, None, -3.5], "y": [None, 0.333333, None]}


def test_more_metrics_than_fit_into_a_record_stop_the_run_at_once(tmp_path, monkeypatch):
    metrics = {f"metric_{k}": -1.234567e-89 for k in range(training.MAX_METRICS)}
    monkeypatch.setattr(smb.Agent, "learn", lambda self: metrics)
    record = run(tmp_path, budget="quick", episodes=500)
    assert len(record.to_json()) < 62_000
    metrics["another"] = 0.0
    with pytest.raises(ContractError, match="learn may report 24 metrics at most, got another, metric_0"):
        run(tmp_path, seed=1)


@pytest.mark.parametrize("metrics", ["nonsense", {"loss": float("nan")}, {"loss": "low"}, {1: 0.5}])
def test_metrics_that_are_no_finite_floats_stop_the_run(tmp_path, monkeypatch, metrics):
    monkeypatch.setattr(smb.Agent, "learn", lambda self: metrics)
    with pytest.raises(ContractError, match="learn must return"):
        run(tmp_path)


def test_an_agents_own_long_message_becomes_one_line(tmp_path, monkeypatch):
    def fail(self):
        raise RuntimeError("many\nlines\n  of text")

    monkeypatch.setattr(smb.Agent, "learn", fail)
    with pytest.raises(ContractError, match="raised in learn at step 0: RuntimeError: many lines of text"):
        run(tmp_path)


def test_find_record_wants_the_same_cell(tmp_path):
    record = run(tmp_path)
    same = runner.resolve_cell("toy", AGENT, budget="smoke", episodes=4)
    assert runner.find_record(same, tmp_path).digest == record.digest
    other = dataclasses.replace(same, config=dataclasses.replace(same.config, epsilon=0.9))
    assert runner.find_record(other, tmp_path) is None
    assert runner.find_record(same, tmp_path / "nowhere") is None


def test_an_agent_that_does_not_learn_spends_no_budget(tmp_path):
    record = run(tmp_path, "random")
    assert record.cell["training_steps"] == 0
    assert record.train["steps"] == []
    assert record.checkpoint == {"sha256": None, "bytes": 0}


def test_more_than_500_episodes_are_summarised(tmp_path):
    record = run(tmp_path, "random", episodes=501)
    assert record.episodes == 501
    assert len((tmp_path / record.relative_path).read_bytes()) < 10_000
    assert read_record(tmp_path / record.relative_path).digest == record.digest


def test_the_log_adds_up(tmp_path):
    record = run(tmp_path, budget="quick")
    train = record.train
    assert train["episodes"] == sorted(train["episodes"])
    assert train["episodes"][-1] == train["totals"]["episodes"]
    assert train["collisions"][-1] == train["totals"]["collisions"]
    assert len(train["steps"]) <= 64


def test_log_points_are_log_spaced_and_end_at_the_total():
    steps = sorted(log_steps(20_000))
    assert len(steps) <= 64
    assert steps[-1] == 20_000
    ratios = np.diff(np.log(steps))
    assert ratios[-20:] == pytest.approx(ratios[-1], rel=0.01)
    assert log_steps(0) == set()


def test_a_log_point_averages_the_episodes_since_the_last_one():
    log = TrainLog(("a",))
    log.pending = [[[2.0], [[0.0, 1.0]]], [[4.0], [[1.0, 1.0]]]]
    log.totals["episodes"] = 2
    log.close_point(10)
    log.close_point(11)
    assert log.section()["returns"] == {"a": [3.0]}
    assert log.section()["costs"] == {"a": [[0.5, 1.0]]}
    assert log.section()["steps"] == [10]
    assert json.dumps(log.section())


def test_an_agent_of_two_forms_has_the_settings_of_the_suites_kind_of_action():
    discrete, continuous = (runner.resolve_cell(suite, "bi_ac", budget="smoke") for suite in ("merge", "intersection"))
    assert discrete.agent == continuous.agent == "bi_ac"
    assert hasattr(continuous.config, "sigma_start")
    assert not hasattr(discrete.config, "sigma_start")
    with pytest.raises(RegistryError, match="agent BiAC has no config key 'sigma_start'"):
        runner.resolve_cell("merge", "bi_ac", config={"sigma_start": 0.2})
    with pytest.raises(RegistryError, match="agent ContinuousBiAC has no config key 'lam_max'"):
        runner.resolve_cell("intersection", "bi_ac", config={"lam_max": 5.0})
