"""The command line: what it prints, and what bad input gets."""

import subprocess
import sys

import pytest

from safemarl_bench import cli
from safemarl_bench.errors import SafeMARLBenchError
from safemarl_bench.record import load_records
from safemarl_bench.summary import format_table, sparkline

AGENT = "toy_suite.agents:Counter"


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_list_shows_suites_with_limits_and_agents(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "merge@1" in out
    assert "leader<=0.25 follower<=0.25" in out
    assert "mip_pcsq" in out


def test_run_show_leaderboard_and_check_on_one_record(capsys, tmp_path):
    code, out, _ = run(
        capsys, "run", "toy", AGENT, "--budget=smoke", "--seed=3", "--set", "epsilon=0.5", "--results-dir", tmp_path
    )
    assert code == 0
    (record,) = load_records(tmp_path)
    assert record.cell["config"]["epsilon"] == 0.5
    assert record.relative_path in out

    code, out, _ = run(capsys, "show", tmp_path / record.relative_path)
    assert code == 0
    assert f"return      {record.total_return:.3f}" in out
    assert "(limit 1)" in out
    assert record.digest in out

    assert run(capsys, "leaderboard", "--results-dir", tmp_path)[0] == 0
    assert run(capsys, "leaderboard", "--results-dir", tmp_path, "--check")[0] == 0
    page = tmp_path / "LEADERBOARD.md"
    page.write_text(page.read_text().replace("toy", "boy"))
    code, out, _ = run(capsys, "leaderboard", "--results-dir", tmp_path, "--check")
    assert code == 1
    assert "+" in out
    assert "-" in out

    path = tmp_path / record.relative_path
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"epsilon":0.5', '"epsilon":0.4'))
    code, out, _ = run(capsys, "records", "check", "--results-dir", tmp_path)
    assert code == 1
    assert path.name in out
    code, _, err = run(capsys, "show", path)
    assert code == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "mrge", "csq"], "unknown suite 'mrge': did you mean 'merge'"),
        (["run", "toy", "cqs"], "unknown agent 'cqs'"),
        (["run", "toy", "random", "--budget", "tiny"], "suite toy has no budget 'tiny'"),
        (["run", "merge", "random", "--backend=kernl"], "suite merge has no backend 'kernl': did you mean 'kernel'"),
        (["run", "toy", "random", "--evaluation-backend=x"], "suite toy has no backend 'x': known: plain"),
        (["run", "toy", AGENT, "--set", "epsilon"], "--set takes KEY=VALUE, got 'epsilon'"),
        (["run", "toy", AGENT, "--set", "epsilo=1"], "no config key 'epsilo': did you mean 'epsilon'"),
        (["show", "nothing.json"], "nothing.json: cannot be read: No such file or directory"),
        (["show", "nothing.json", "--png", "x.png"], "nothing.json: cannot be read: No such file or directory"),
        (["leaderboard", "--results-dir", "nowhere"], "no results directory nowhere"),
        (["records", "check", "--results-dir", "nowhere"], "no results directory nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("safemarl-bench: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_ctrl_c_exits_with_130(capsys, monkeypatch):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("safemarl_bench.runner.run", stop)
    code, _, err = run(capsys, "run", "toy", AGENT)
    assert code == 130
    assert "interrupted" in err


@pytest.mark.parametrize("command", [[], ["run"], ["leaderboard"], ["records", "check"], ["show"], ["list"]])
def test_help_teaches(capsys, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert not command or "example: safemarl-bench" in out


def test_settings_are_python_literals_or_text():
    assert cli.parse_settings(["a=1", "b=0.5", "c=torch", "d=(1, 2)", "e=True"]) == {
        "a": 1,
        "b": 0.5,
        "c": "torch",
        "d": (1, 2),
        "e": True,
    }
    with pytest.raises(SafeMARLBenchError):
        cli.parse_settings(["=3"])


def test_a_sparkline_spans_the_blocks():
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_a_sparkline_leaves_a_gap_where_nothing_is_known():
    assert sparkline([None, 0.0, None, 7.0]) == " ▁ █"
    assert sparkline([None]) == " "


def test_a_table_is_aligned():
    assert format_table(["a", "bb"], [["ccc", "d"]]) == "a    bb\nccc  d"


def test_a_reader_who_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "safemarl_bench.cli", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
