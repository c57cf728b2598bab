"""Tuning: what ranks trials, that evaluation episodes have no say, and that a sweep goes on where it was."""

import dataclasses

import pytest

import safemarl_bench as smb
from safemarl_bench import cli, runner, validation
from safemarl_bench.errors import RegistryError, SafeMARLBenchError
from safemarl_bench.record import load_records
from safemarl_bench.sweep import Trial, sweep

AGENT = "toy_suite.agents:Counter"


def small(tmp_path, trials, **options):
    return sweep(
        "toy", AGENT, trials, **{"seeds": 2, "budget": "smoke", "results_dir": tmp_path, "progress": False, **options}
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Trial({}, (1.0, 1.0), (0.0, 1.0)), Trial({}, (9.0, 9.0), (0.0, 1.01))),
        (Trial({}, (4.0, 6.0), (0.9, 0.9)), Trial({}, (4.0, 5.0), (0.0, 0.0))),
    ],
    ids=["limits-first", "then-return"],
)
def test_trials_are_ranked_by_limits_and_then_by_return(better, worse):
    assert better.merit > worse.merit


def test_only_the_validation_episodes_decide(tmp_path, monkeypatch):
    """Every policy does as well as its config says on validation, and as badly on evaluation."""
    real = validation.play

    def play(games, agent, name, episodes, step):
        sign = 1.0 if games.stream == "validation" else -1.0
        returns = {"leader": sign * agent.config.bonus, "follower": 0.0}
        return dataclasses.replace(real(games, agent, name, episodes, step), returns=returns, costs=free(agent))

    monkeypatch.setattr(validation, "play", play)
    found = small(tmp_path, [{"bonus": 2}, {"bonus": 5}, {}])
    assert [trial.changes for trial in found] == [{"bonus": 5}, {"bonus": 2}, {}]
    assert found[0].returns == (5.0, 5.0)


def free(agent):
    return {role: [0.0] for role in agent.context.agents}


def test_what_was_run_is_not_run_again(tmp_path, monkeypatch):
    found = small(tmp_path, [{}])
    assert len(load_records(tmp_path)) == 2
    run = runner.run_cell
    ran = []
    monkeypatch.setattr(
        "safemarl_bench.sweep.run_cell", lambda cell, *rest, **more: ran.append(cell) or run(cell, *rest, **more)
    )
    assert small(tmp_path, [{}]) == found
    assert ran == []
    small(tmp_path, [{}, {"bonus": 2}])
    assert [cell.config.bonus for cell in ran] == [2, 2]


@pytest.mark.parametrize(
    ("agent", "trials", "options", "error", "message"),
    [
        (AGENT, [], {}, SafeMARLBenchError, "at least one trial and one seed, got 0 and 2"),
        (AGENT, [{}], {"seeds": 0}, SafeMARLBenchError, "at least one trial and one seed, got 1 and 0"),
        (AGENT, [{}, {"bonuss": 2}], {}, RegistryError, "no config key 'bonuss': did you mean 'bonus'"),
        ("random", [{}], {}, SafeMARLBenchError, "agent 'random' does not learn: there is nothing to tune"),
    ],
)
def test_bad_input_is_named_before_anything_runs(tmp_path, agent, trials, options, error, message):
    with pytest.raises(error, match=message):
        sweep("toy", agent, trials, **{"budget": "smoke", "results_dir": tmp_path / "r", "progress": False, **options})
    assert not (tmp_path / "r").exists()


def test_the_command_prints_the_trials_in_order(tmp_path, capsys):
    arguments = ["sweep", "toy", AGENT, "--trial", "bonus=3 epsilon=0.5", "--seeds=1", "--budget=smoke"]
    assert cli.main([*arguments, "--results-dir", str(tmp_path)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("rank  within limits  return")
    assert len(rows) == 2
    assert any("bonus=3 epsilon=0.5" in row for row in rows)
    assert any("(as it is)" in row for row in rows)
    assert all(record.cell["evaluation_episodes"] == 20 for record in smb.load_records(tmp_path))
