"""The JSON of the benchmarks becomes pages."""

import json

import pytest
from safemarl_bench.suites.perf import report

from safemarl_bench.errors import RecordError

MACHINE = {"cpu": {"brand_raw": "Some CPU"}, "python_version": "3.11.0"}


def cell(size, batch, us, ratios):
    """One cell of the core's benchmark; `us`: contender -> (states of a call, us per state)."""
    info = {"size": size, "batch": batch, "rounds": 9, "data_sets": 16, "ratios": ratios}
    info |= {"states": {name: states for name, (states, _) in us.items()}}
    info |= {"us_per_state": {name: time for name, (_, time) in us.items()}}
    return {"group": "stackelberg", "extra_info": info}


CORE = [
    cell(5, 1, {"cvxpy": (1, 5000.0), "torch": (1, 70.25)}, {"cvxpy/torch": 71.0}),
    cell(9, 256, {"cvxpy": (1, 6000.0), "torch": (256, 2.0), "floor": (256, 0.01)}, {"cvxpy/torch": 2999.0}),
    cell(100, 256, {"numba": (256, 40.0), "floor": (256, 10.0)}, {"numba/floor": 4.0}),
]


def kernel_rate(suite, num_envs, rate, upstream, ratio):
    info = {"suite": suite, "num_envs": num_envs, "decisions_per_second": rate, "ratio": ratio}
    return {"group": "kernel", "extra_info": {**info, "upstream_decisions_per_second": upstream}}


def beside_envpool(num_envs):
    info = {"suite": "merge", "task": "Merge-v0", "num_envs": num_envs}
    info |= {"agents": 2, "cars": 1.9, "frames_per_decision": 15, "observation": "9"}
    info |= {"actions": "1 number", "envpool_actions": "2 numbers"}
    info |= {"envpool_agents": 1, "envpool_cars": 5.0, "envpool_frames_per_decision": 15, "envpool_observation": "5x5"}
    info |= {"decisions_per_second": 2e5, "envpool_decisions_per_second": 1e4, "decisions_ratio": 20.04}
    info |= {"vehicle_frames_per_second": 6e6, "envpool_vehicle_frames_per_second": 7.5e5, "vehicle_frames_ratio": 8.0}
    return {"group": "envpool", "extra_info": info}


KERNEL = [
    kernel_rate("merge", 1, 150_000.4, 300.0, 501.2),
    kernel_rate("merge", 4096, 270_000.0, 320.0, 850.0),
    kernel_rate("racetrack", 1, 500_000.0, 600.0, 820.0),
    {"group": "memory", "extra_info": {"suite": "merge", "bytes_per_environment": 606.0}},
    {
        "group": "start",
        "extra_info": {"cache": "cold", "first_call_seconds": 11.234, "import_seconds": 1.5},
    },
]


def pages(tmp_path, benchmarks):
    """Return page -> its lines, as the command writes them."""
    source, folder = tmp_path / "timings.json", tmp_path / "results" / "perf"
    source.write_text(json.dumps({"benchmarks": benchmarks, "machine_info": MACHINE}))
    report.main([str(source), str(folder)])
    return {path.name: path.read_text().splitlines() if path.suffix == ".md" else [] for path in folder.iterdir()}


def test_the_page_of_the_equilibrium_core_shows_goals_times_and_a_figure(tmp_path):
    written = pages(tmp_path, CORE)
    assert set(written) == {"stackelberg.md", "stackelberg.png"}
    lines = written["stackelberg.md"]
    assert "| cvxpy / torch >= 3,000 | 9x9 | 256 | 2,999.0 | **no** |" in lines
    assert "| numba / floor <= 4 | 100x100 | 256 | 4.0 | yes |" in lines
    assert "| backend | batch | 5x5 | 9x9 | 100x100 |" in lines
    assert "| cvxpy | 1 | 5,000 |  |  |" in lines  # one state in the cell of 256 is for comparison, not a row
    assert "| torch | 256 |  | 2 |  |" in lines
    assert any("Some CPU" in line for line in lines)


def test_only_when_asked_does_a_broken_goal_fail_the_command(tmp_path, capsys):
    source = tmp_path / "timings.json"
    source.write_text(json.dumps({"benchmarks": CORE, "machine_info": MACHINE}))
    arguments = [str(source), str(tmp_path / "out")]
    assert report.main(arguments) == 0
    assert report.main([*arguments, "--gates"]) == 1
    assert capsys.readouterr().err.endswith("cvxpy / torch >= 3,000 at 9x9, batch 256: measured 2,999.0\n")
    source.write_text(json.dumps({"benchmarks": CORE[:1], "machine_info": MACHINE}))
    assert report.main([*arguments, "--gates"]) == 0


def test_the_page_of_the_kernel_shows_rates_with_their_ratios_memory_and_start(tmp_path):
    (lines,) = pages(tmp_path, KERNEL).values()
    assert "| suite | highway-env | E = 1 | E = 4096 |" in lines
    assert "| merge | 310 | 150,000 (501x) | 270,000 (850x) |" in lines
    assert "| racetrack | 600 | 500,000 (820x) |  |" in lines
    assert "| merge | 606 |" in lines
    assert "| cold | 11.23 | 1.50 |" in lines
    assert any("Some CPU" in line for line in lines)


def test_the_page_of_the_kernel_says_what_differs_from_envpool(tmp_path):
    (lines,) = pages(tmp_path, [*KERNEL, beside_envpool(1), beside_envpool(16)]).values()
    assert lines.count("| Merge-v0 | merge | 1 / 2 | 5.0 / 1.9 | 15 / 15 | 2 numbers / 1 number | 5x5 / 9 |") == 1
    for num_envs in (1, 16):
        assert f"| Merge-v0 | {num_envs} | 10,000 | 200,000 | 20.0 | 750,000 | 6,000,000 | 8.0 |" in lines
    text = " ".join(lines)
    assert all(word in text for word in ("traffic", "no costs", "one controlled car", "their own observation"))


def test_the_page_of_the_kernel_says_when_envpool_was_not_there(tmp_path):
    (lines,) = pages(tmp_path, KERNEL).values()
    assert "Not measured: EnvPool was not installed; the extra `compare` brings it." in lines


def test_the_page_of_the_learners_shows_updates_and_actions(tmp_path):
    update = {"updates_per_second": 1365, "ratio_to_matrix_floor": 2.5}
    params = {"name": "bi_ac", "kind": "discrete", "critics": 2, "batch": 64}
    learning = [{"params": params, "extra_info": update, "stats": {"min": 7e-4}}]
    learning.append({"params": params | {"kind": "continuous", "batch": 256}, "extra_info": update, "stats": {}})
    for explore, seconds in ((False, 1e-4), (True, 2e-4)):
        params = {"name": "bi_ac", "kind": "discrete", "explore": explore}
        learning.append({"params": params, "extra_info": {}, "stats": {"min": seconds}})
    whole = {"suite": "merge", "agent": "csq", "num_envs": 16, "training_decisions_per_second": 10_039.4}
    learning.append({"group": "training", "extra_info": whole | {"ratio_to_matrix_floor": 4.123}})
    learning.append({"group": "training", "extra_info": whole | {"agent": "macpo"}})
    written = pages(tmp_path, [*learning, *KERNEL])
    assert set(written) == {"learning.md", "kernel.md"}
    assert "| bi_ac | discrete | 64 | 1,365 | 2.50 | 100 | 200 |" in written["learning.md"]
    assert "| bi_ac | continuous | 256 | 1,365 | 2.50 |  |  |" in written["learning.md"]
    assert "| merge | csq | 16 | 10,039 | 4.12 |" in written["learning.md"]
    assert "| merge | macpo | 16 | 10,039 |  |" in written["learning.md"]
    assert "The floor of the first row took 293 us" in " ".join(written["learning.md"])


def test_the_page_of_the_weakly_coupled_suites_shows_environment_updates_and_trainings(tmp_path):
    entries = {
        "coupled environment": {"n_bays": 3, "num_envs": 4096, "subproblem_steps_per_second": 5_000_000.4},
        "coupled updates": {"agent": "wcql", "n_bays": 5, "multipliers": 100, "transitions_per_second": 100_088.0},
        "coupled training": {"agent": "wcdqn", "num_envs": 10, "training_steps_per_second": 1_500.0},
    }
    written = pages(tmp_path, [{"group": group, "params": None, "extra_info": info} for group, info in entries.items()])
    assert set(written) == {"weakly_coupled.md"}
    for line in ("| 3 | 4,096 | 5,000,000 |", "| wcql | 5 | 100 | 100,088 |", "| wcdqn | 10 | 1,500 |"):
        assert line in written["weakly_coupled.md"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"benchmarks": [], "machine_info": {"cpu": {}}}'])
def test_a_file_that_is_not_of_pytest_benchmark_is_refused(tmp_path, content):
    source = tmp_path / "timings.json"
    source.write_text(content)
    with pytest.raises(RecordError, match=r"timings\.json"):
        report.main([str(source), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_file_without_timings_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"timings\.json holds no timings"):
        pages(tmp_path, [{"group": None, "params": None, "extra_info": {}}])
    assert not (tmp_path / "results").exists()
