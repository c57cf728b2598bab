"""The benchmark files run, and what they measure is what they say."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safemarl_bench.suites.perf import bench_envpool, bench_stackelberg, driving, report

from safemarl_bench import stackelberg
from safemarl_bench.driving import kernel
from safemarl_bench.registry import get_suite

FOLDER = Path(report.__file__).parent
SPAWNS = {
    "merge": [(70, 4), (70, 14.5)],
    "roundabout": [(-45, 2), (2, 85)],
    "intersection": [(2, 50), (-50, 2)],
    "racetrack": [(77, 0), (77, 5)],
}
"""Suite -> x, y of both cars at the start, m."""


needs_compiler = pytest.mark.skipif(not kernel.COMPILED, reason="the kernel is not compiled here")


def run(file, chosen):
    command = [sys.executable, "-m", "pytest", str(FOLDER / file), "-q", "-p", "no:cacheprovider", "-rs"]
    command += ["--benchmark-disable", "-n0", "-k", chosen]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=FOLDER.parents[1])
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_compiler
def test_every_backend_of_the_equilibrium_core_is_benchmarked():
    assert "4 passed" in run("bench_stackelberg.py", "2x2")
    sets = bench_stackelberg.data_sets(2, 1)
    timed = [contender.name for contender in bench_stackelberg.contenders(sets, 2, 1)]
    assert sorted(timed) == sorted([*stackelberg.BACKENDS, "floor"])
    assert "1 skipped" in run("bench_stackelberg.py", "300x300-4096")


@needs_compiler
def test_every_suite_with_a_kernel_is_benchmarked():
    assert f"{2 * len(driving.SUITES)} passed" in run("bench_kernel.py", "second and 16 or memory")


@needs_compiler
def test_whole_trainings_are_benchmarked():
    assert "1 passed" in run("bench_training.py", "csq and 16 and not mip")


@needs_compiler
def test_weakly_coupled_environment_updates_and_trainings_are_benchmarked():
    assert "3 passed" in run("bench_weakly_coupled.py", "test_environment or wcdqn")


@needs_compiler
def test_without_envpool_the_comparison_is_skipped_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "envpool.py").write_text("raise ModuleNotFoundError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    printed = run("bench_envpool.py", "Merge and 16")
    assert "1 skipped" in printed
    assert "EnvPool is not installed; the extra `compare` brings it" in printed


@needs_compiler
def test_envpools_tasks_are_run_beside_the_kernel_where_it_is_installed():
    pytest.importorskip("envpool", reason="the extra `compare` is not installed")
    tasks = sum(suite in driving.SUITES for suite in bench_envpool.TASKS.values())
    assert f"{tasks} passed" in run("bench_envpool.py", "16")


@pytest.mark.parametrize("suite", SPAWNS)
def test_upstream_drives_the_suites_two_cars_alone_and_at_the_suites_rate(suite):
    driver = driving.Upstream(suite)
    driver.game.reset()
    cars = driver.game.controlled_vehicles
    assert driver.game.road.vehicles == cars
    np.testing.assert_allclose([car.position for car in cars], SPAWNS[suite], atol=1e-9)
    assert driver.rate(1) > 0
    assert driver.game.steps == (3 if suite == "racetrack" else 15)
    assert len(driver.game.road.vehicles) == 2
    assert [seen.shape for seen in driver.game.observation_type.observe()] == [(2, 4), (2, 4)]


def test_on_the_racetrack_upstreams_drivers_stay_on_the_road_for_a_whole_episode():
    driver = driving.Upstream("racetrack")
    for decision in range(get_suite("racetrack").horizon):
        assert not driver.over or decision == 0
        driver.rate(1)
    assert driver.over
    assert all(car.on_road and not car.crashed for car in driver.game.controlled_vehicles)


@pytest.mark.parametrize("suite", driving.SUITES)
def test_rounds_of_the_kernel_take_as_many_decisions_as_they_say(suite):
    core, drive = driving.kernel_rounds(suite, 3, 4)
    drive()
    assert core.get_state()[:, :, kernel.DECISION].tolist() == [[4.0, 4.0]] * 3
    for _ in range(driving.ROUNDS + driving.WARMUP_ROUNDS - 1):
        drive()
    with pytest.raises(StopIteration):
        drive()


@pytest.mark.skipif("racetrack" not in driving.SUITES, reason="the racetrack has no kernel")
def test_on_the_racetrack_the_kernels_drivers_stay_on_the_road_for_a_whole_episode():
    horizon = get_suite("racetrack").horizon
    core, drive = driving.kernel_rounds("racetrack", 3, horizon - 1)
    drive()
    assert core.get_state()[:, :, kernel.DECISION].tolist() == [[horizon - 1.0] * 2] * 3
    assert core.get_state()[:, :, kernel.LIVE].all()
