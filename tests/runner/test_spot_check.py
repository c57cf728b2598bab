"""Backends: who trains, who evaluates, and what becomes of a fast one that does not tell the truth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import safemarl_bench as smb
from safemarl_bench import cli, pin, registry, runner, spot_check
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
from safemarl_bench.evaluation import play_episode
from safemarl_bench.record_check import check_records
from safemarl_bench.rollout import Rollout

COUNTER = "toy_suite.agents:Counter"
TOY = Path(__file__).parents[1] / "support" / "toy_suite" / "toy.toml"


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(registry, "_registered_suites", {})
    monkeypatch.setattr(runner, "code_state", lambda: {"git_sha": "0" * 40, "dirty": False})
    spot_check.pin_fault.cache_clear()
    yield
    spot_check.pin_fault.cache_clear()


@pytest.fixture
def here(monkeypatch):
    """Do without new processes: the reference is played in this one."""

    def run_here(module, *arguments):
        assert module == ("safemarl_bench.spot_check" if arguments else "safemarl_bench.pin")
        return subprocess.CompletedProcess([], spot_check.main(*arguments) if arguments else 0, "", "")

    monkeypatch.setattr(spot_check, "_pinned_process", run_here)
    monkeypatch.setattr(pin, "require_pin", lambda: None)


@pytest.fixture
def register(tmp_path):
    """Return a function that registers the suite ``two``, wrong as it is told."""

    def register(fault="", faulty="fast"):
        text = TOY.read_text().replace('name = "toy"', 'name = "two"')
        text = text.replace("toy_suite.game:make", "two_backends:make").replace('["plain"]', '["fast", "exact"]')
        path = tmp_path / "two.toml"
        path.write_text(text.replace("[env]", f'[env]\nfault = "{fault}"\nfaulty = "{faulty}"'))
        registry._read_registered.cache_clear()
        return smb.register_suite(path)

    return register


def run(results, agent="random", **settings):
    return smb.run("two", agent, results_dir=results, **{"budget": "smoke", "progress": False, **settings})


def records(results):
    return list(results.glob("runs/**/*.json"))


def test_the_first_backend_trains_and_evaluates_and_the_last_one_checks(register, tmp_path):
    register()
    record = run(tmp_path / "r", COUNTER, episodes=4)
    assert record.cell["backend"] == {"train": "fast", "evaluation": "fast"}
    assert record.eval["spot_check"] == {
        "backend": "exact",
        "episodes": 4,
        "decisions": sum(record.eval["length"]),
        "largest_return_difference": 0,
        "largest_cost_difference": 0,
        "largest_observation_difference": 0,
    }
    assert check_records(tmp_path / "r") == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("crashed", r"decision 2, agent 'leader': crashed is [01] on fast, [01] on exact"),
        ("off_road", "decision 2, agent 'leader': off_road is 1 on fast, 0 on exact"),
        ("arrival_rank", "decision 2, agent 'leader': arrival_rank is 1 on fast, 0 on exact"),
        ("terminated", "decision 2, agent 'leader': terminated is 1 on fast, 0 on exact"),
        ("truncated", "decision 2, agent 'leader': truncated is 1 on fast, 0 on exact"),
        ("over", "decision 2, agent 'leader': terminated is 1 on fast, 0 on exact"),
        ("width", r"decision 2, observation of 'leader': number 3 is 7\.0 on fast, None on exact"),
        ("reward", r"agent 'follower': return is -?[\d.e-]+ on fast, -?[\d.e-]+ on exact"),
        ("cost", r"agent 'follower': cost 0 is \d\.001 on fast, \d\.0 on exact"),
        ("observation", r"decision 2, observation of 'leader': number 0 is [\d.-]+ on fast, [\d.-]+ on exact"),
    ],
)
@pytest.mark.parametrize("faulty", ["fast", "exact"])
@pytest.mark.usefixtures("here")
def test_one_wrong_number_is_named_and_writes_no_record(register, tmp_path, fault, message, faulty):
    register(fault, faulty)
    if faulty == "exact":
        message = message.replace("1 on fast, 0 on exact", "0 on fast, 1 on exact")
        message = message.replace(r"7\.0 on fast, None on exact", r"None on fast, 7\.0 on exact")
        message = message.replace(r"\d\.001 on fast, \d\.0 on", r"\d\.0 on fast, \d\.001 on")
    with pytest.raises(ContractError, match=f"suite two: its backends differ in episode 3, {message}") as caught:
        run(tmp_path / "r", episodes=4)
    assert "\n" not in str(caught.value)
    assert "--evaluation-backend=exact" in str(caught.value)
    assert records(tmp_path / "r") == []
    assert run(tmp_path / "r", episodes=4, evaluation_backend="exact").eval["spot_check"] is None


@pytest.mark.usefixtures("here")
def test_a_return_may_differ_by_a_millionth_and_the_record_says_by_how_much(register, tmp_path):
    register("rounding")
    check = run(tmp_path / "r", episodes=4).eval["spot_check"]
    assert check["largest_return_difference"] == pytest.approx(5e-7, rel=1e-6)
    assert check["largest_cost_difference"] == 0


@pytest.mark.usefixtures("here")
def test_twenty_episodes_are_checked_or_all_where_there_are_fewer(register, tmp_path):
    register()
    assert run(tmp_path / "r", episodes=19).eval["spot_check"]["episodes"] == 19
    assert run(tmp_path / "r", episodes=21).eval["spot_check"]["episodes"] == 20
    assert run(tmp_path / "r", episodes=501).eval["spot_check"]["episodes"] == 20


def test_a_wrong_event_is_found_by_the_pinned_process_too(register, tmp_path):
    register("off_road")
    with pytest.raises(ContractError, match="its backends differ in episode 3, decision 2, agent 'leader': off_road"):
        run(tmp_path / "r", episodes=4)


def test_a_reference_that_cannot_be_played_is_one_line_and_costs_no_second_training(register, tmp_path, monkeypatch):
    register()
    whole = run(tmp_path / "whole", COUNTER, episodes=4)
    monkeypatch.setenv("EXACT_IS_MISSING", "")
    message = "suite two: spot check on backend exact failed: RuntimeError: the exact simulator is not installed"
    with pytest.raises(SafeMARLBenchError, match=message):
        run(tmp_path / "r", COUNTER, episodes=4)
    assert records(tmp_path / "r") == []
    monkeypatch.delenv("EXACT_IS_MISSING")
    monkeypatch.setattr(smb.Agent, "learn", lambda self: pytest.fail("it trains again"))
    assert run(tmp_path / "r", COUNTER, episodes=4).digest == whole.digest


def test_a_pin_that_cannot_be_put_in_force_is_reported_before_training(register, tmp_path, monkeypatch):
    register()
    monkeypatch.setattr(pin, "PIN", {"PYTHONHASHSEED": "none"})  # what Python does not start with, on any machine
    message = r"with NumPy pinned, which cannot be done on this machine \(.+\); .*--evaluation-backend=exact"
    with pytest.raises(SafeMARLBenchError, match=message) as caught:
        run(tmp_path / "r", COUNTER, episodes=4)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()
    record = run(tmp_path / "r", COUNTER, episodes=4, evaluation_backend="exact")
    assert record.cell["backend"] == {"train": "fast", "evaluation": "exact"}


def test_the_processes_of_a_check_are_pinned_and_import_from_where_this_one_does(tmp_path, monkeypatch):
    (tmp_path / "shows.py").write_text(
        "import os, sys\nprint(os.environ['OPENBLAS_CORETYPE'], os.environ['NPY_DISABLE_CPU_FEATURES'])\n"
        "from safemarl_bench import pin\nsys.exit(pin.pin_faults() != [])\n"
    )
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(tmp_path)
    done = spot_check._pinned_process("shows")
    assert done.stdout.split(maxsplit=1) == ["Sandybridge", "X86_V4 AVX512_ICL AVX512_SPR\n"]


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [("fast", "fast"), ("exact", "fast"), ("fast", "exact")],
)
@pytest.mark.usefixtures("here")
def test_a_game_is_built_to_train_on_and_one_to_evaluate_on(register, tmp_path, monkeypatch, train, evaluation):
    register()
    built = []

    def make(suite, *, backend):
        built.append(backend)
        return smb.make(suite, backend=backend)

    monkeypatch.setattr(runner, "make", make)
    record = run(tmp_path / "r", COUNTER, episodes=4, backend=train, evaluation_backend=evaluation)
    assert record.cell["backend"] == {"train": train, "evaluation": evaluation}
    assert built == [train, evaluation]


@pytest.mark.usefixtures("here")
def test_backends_are_part_of_the_cell(register, tmp_path):
    register()
    record = run(tmp_path / "r", COUNTER, episodes=4, backend="exact")
    cells = {
        (train, evaluation): runner.resolve_cell(
            "two", COUNTER, budget="smoke", episodes=4, backend=train, evaluation_backend=evaluation
        )
        for train in ("fast", "exact")
        for evaluation in ("fast", "exact")
    }
    assert len({runner.cell_key(cell) for cell in cells.values()}) == 4
    assert runner.find_record(cells["exact", "fast"], tmp_path / "r").digest == record.digest
    assert runner.find_record(cells["fast", "fast"], tmp_path / "r") is None
    agent = smb.load_agent(record, tmp_path / "r")
    tally = play_episode(Rollout(registry.get_suite("two"), smb.make("two", backend="exact")), agent, COUNTER, 0)
    assert tally.returns["leader"] == record.eval["returns"]["leader"][0]


@pytest.mark.parametrize("key", ["backend", "evaluation_backend"])
def test_an_unknown_backend_is_refused_with_the_nearest_name(register, tmp_path, key):
    register()
    with pytest.raises(RegistryError, match="suite two has no backend 'exakt': did you mean 'exact'"):
        run(tmp_path / "r", **{key: "exakt"})
    assert not (tmp_path / "r").exists()


@pytest.mark.usefixtures("here")
def test_the_command_line_says_what_was_checked(register, tmp_path, capsys):
    register()
    options = ["--budget=smoke", "--episodes=4", f"--results-dir={tmp_path / 'r'}", "--backend=exact"]
    assert cli.main(["run", "two", "random", *options]) == 0
    captured = capsys.readouterr()
    assert "fast, 4 checked on exact" in captured.out
    assert "two-random-0: playing 4 episodes again on exact" in captured.err
    (path,) = records(tmp_path / "r")
    assert cli.main(["show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "backends    trained on exact, evaluated on fast, 4 checked on exact" in out
    assert "decisions, all events equal; largest difference: return 0, cost 0, observation 0" in out
    assert cli.main(["run", "two", "random", *options, "--evaluation-backend=exact"]) == 0
    assert "checked" not in capsys.readouterr().out


SAME_NUMBERS = """
import json, sys
import safemarl_bench as smb
for suite, agent in (("merge", "csq"), ("roundabout", "random")):
    records = [
        smb.run(suite, agent, budget="smoke", episodes=5, backend=backend, evaluation_backend=backend,
                results_dir=sys.argv[1], progress=False)
        for backend in ("kernel", "highway")
    ]
    print(json.dumps([[record.train, record.checkpoint, {**record.eval, "spot_check": None}] for record in records]))
"""


def test_the_kernel_trains_and_evaluates_to_highway_envs_numbers_under_the_pin(tmp_path):
    environment = {**os.environ, **pin.PIN, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAME_NUMBERS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        kernel, highway = json.loads(line)
        assert kernel == highway
    assert len(records(tmp_path)) == 4
