"""The batched simulator: draws, independence of the batch, resets, states, refusals, and plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import safemarl_bench as smb
from safemarl_bench.driving import core as core_module
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import STATE_COLUMNS, BatchedDriving, Step
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
from safemarl_bench.rng import MAX_SEED, STREAMS, generator

SUITES = ("merge", "roundabout", "intersection", "racetrack", "racetrack-frenet", "racetrack-official")


def build(suite: str = "merge", num_envs: int = 3, **options: Any) -> BatchedDriving:
    return BatchedDriving(smb.get_suite(suite), num_envs, **options)


def draw_actions(core: BatchedDriving, rng: np.random.Generator) -> np.ndarray:
    if core.spec.action_kind == "discrete":
        return rng.integers(5, size=(core.num_envs, 2))
    return rng.uniform(-0.3, 0.3, size=(core.num_envs, 2)).astype(np.float32)


def image(step: Step) -> list[np.ndarray]:
    return [array.copy() for array in step]


def test_the_state_has_a_name_for_every_column() -> None:
    assert len(STATE_COLUMNS) == kernel.STATE_WIDTH
    for name in ("HEADING", "ACCELERATION", "TARGET_LANE", "CRASHED", "LIVE", "ROUTE_STEP", "DECISION"):
        assert STATE_COLUMNS[getattr(kernel, name)] == name.lower()


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(STREAMS)), st.integers(0, MAX_SEED), st.integers(0, MAX_SEED), st.integers(0, 1))
def test_spawn_noise_is_the_documented_generators(stream: str, seed: int, episode: int, agent: int) -> None:
    key = np.array([STREAMS[stream], seed, episode], np.uint64)
    expected = generator(stream, seed, episode, agent).uniform(-1.0, 1.0, size=4)
    assert list(kernel.noise(key, agent, False)) == expected.tolist()


def test_normal_spawn_noise_has_the_moments_of_a_normal_distribution() -> None:
    keys = [np.array([1, 0, episode], np.uint64) for episode in range(20_000)]
    draws = np.array([kernel.noise(key, 0, True) for key in keys])
    np.testing.assert_allclose(draws.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(np.cov(draws.T), np.eye(4), atol=0.04)
    np.testing.assert_allclose((draws**4).mean(0), 3.0, atol=0.25)


@pytest.mark.parametrize("suite", ["merge", "roundabout", "intersection", "racetrack"])
def test_no_other_lane_is_closer_than_the_clearance_says(suite: str) -> None:
    tables, rng = build(suite, 1).tables, np.random.default_rng(3)
    lanes, clear = tables.lanes, tables.clear
    tight = 0
    for _ in range(1000):
        lane = int(rng.integers(len(lanes)))
        metre, lateral = int(rng.integers(lanes[lane, kernel.LENGTH])), rng.normal(0.0, 1.0)
        x, y = kernel.position_at(lanes, lane, metre + rng.random(), lateral)
        others = [kernel.distance(lanes, other, x, y) for other in range(len(lanes)) if other != lane]
        least = clear[lane, metre] - lanes[lane, kernel.STEEPNESS] * abs(lateral)
        assert min(others) >= least
        tight += min(others) - least < 1.0
    assert tight >= 20  # it says something


@pytest.mark.parametrize("suite", SUITES)
def test_each_environment_of_a_batch_equals_a_batch_of_one(suite: str) -> None:
    rng = np.random.default_rng(0)
    seeds, episodes = rng.integers(MAX_SEED, size=6), rng.integers(MAX_SEED // 2, size=6)
    batch = build(suite, 6, episode_stride=1000)
    alone = [build(suite, 1, episode_stride=1000) for _ in range(6)]
    batch.reset(seeds=seeds, episodes=episodes, stream="evaluation")
    for one, seed, episode in zip(alone, seeds, episodes, strict=True):
        one.reset(seeds=int(seed), episodes=int(episode), stream="evaluation")
    for _ in range(70):
        actions = draw_actions(batch, rng)
        shown = batch.step(actions)
        for k, one in enumerate(alone):
            mine = one.step(actions[k : k + 1])
            for name, array in shown._asdict().items():
                assert array[k : k + 1].tobytes() == getattr(mine, name).tobytes(), (name, k)
            assert batch.get_state()[k].tobytes() == one.get_state()[0].tobytes()
    assert (batch.episodes - episodes >= (1000 if "racetrack" in suite else 3000)).all()


@pytest.mark.parametrize("suite", SUITES)
def test_a_finished_environment_goes_on_with_a_later_episode_and_shows_both(suite: str) -> None:
    running, rng = build(suite, 4, episode_stride=4), np.random.default_rng(1)
    running.reset(seeds=5)
    restarts = 0
    for _ in range(60):
        shown = running.step(draw_actions(running, rng))
        for k in range(4):
            if not shown.over[k]:
                assert shown.obs[k].tobytes() == shown.final_obs[k].tobytes()
                continue
            restarts += 1
            fresh = build(suite, 1)
            start = fresh.reset(seeds=5, episodes=int(running.episodes[k]))
            assert running.episodes[k] % 4 == k
            assert shown.obs[k].tobytes() == start.obs[0].tobytes()
            assert shown.state[k].tobytes() == start.state[0].tobytes()
            assert shown.final_state[k].tobytes() != shown.state[k].tobytes()
            assert running.get_state()[k].tobytes() == fresh.get_state()[0].tobytes()
    assert restarts >= 8


def test_without_a_stride_a_finished_environment_stays_as_it_is() -> None:
    core = build("merge", 2)
    core.reset(episodes=np.array([0, 1]))
    while not core.step(np.full((2, 2), kernel.FASTER)).over.all():
        pass
    before = core.get_state()
    shown = core.step(np.full((2, 2), 99))
    assert core.get_state().tobytes() == before.tobytes()
    assert shown.over.all()
    assert not shown.terminated.any()
    assert not shown.reward.any()
    assert not shown.cost.any()


def test_a_masked_reset_leaves_the_others_alone() -> None:
    core = build("roundabout", 3)
    core.reset(seeds=1)
    core.step(np.full((3, 2), kernel.FASTER))
    before, shown = core.get_state(), image(core.step(np.full((3, 2), kernel.IDLE)))
    middle = core.get_state()
    assert before.tobytes() != middle.tobytes()
    after = core.reset(np.array([False, True, False]), seeds=2, episodes=7)
    others = [0, 2]
    assert core.get_state()[others].tobytes() == middle[others].tobytes()
    for old, new in zip(shown, after, strict=True):
        assert old[others].tobytes() == new[others].tobytes()
    fresh = build("roundabout", 1)
    fresh.reset(seeds=2, episodes=7)
    assert core.get_state()[1].tobytes() == fresh.get_state()[0].tobytes()
    assert core.episodes.tolist() == [0, 7, 2]


@pytest.mark.parametrize("suite", SUITES)
def test_a_state_put_back_plays_on_in_the_same_way(suite: str) -> None:
    core, rng = build(suite, 5), np.random.default_rng(2)
    core.reset(seeds=9)
    actions = [draw_actions(core, rng) for _ in range(12)]
    for joint in actions[:4]:
        shown = core.step(joint)
    saved, seen = core.get_state(), shown.obs.copy()
    futures = []
    for _ in range(2):
        futures.append([array.tobytes() for joint in actions[4:] for array in core.step(joint)])
        assert core.get_state().tobytes() != saved.tobytes()
        assert core.set_state(saved).obs.tobytes() == seen.tobytes()
        assert core.get_state().tobytes() == saved.tobytes()
    assert futures[0] == futures[1]


def test_a_returned_state_is_a_copy() -> None:
    core = build()
    core.get_state()[:] = 0.0
    assert core.get_state().any()


def test_shapes_and_types_are_the_documented_ones() -> None:
    shown = build("merge", 3).step(np.ones((3, 2), np.int64))
    kinds = {name: (array.shape, str(array.dtype)) for name, array in shown._asdict().items()}
    assert kinds == {
        "obs": ((3, 2, 9), "float32"),
        "state": ((3, 9), "float32"),
        "final_obs": ((3, 2, 9), "float32"),
        "final_state": ((3, 9), "float32"),
        "reward": ((3, 2), "float64"),
        "cost": ((3, 2, 1), "float64"),
        "terminated": ((3, 2), "bool"),
        "truncated": ((3,), "bool"),
        "over": ((3,), "bool"),
        "crashed": ((3, 2), "bool"),
        "off_road": ((3, 2), "bool"),
        "arrival_rank": ((3, 2), "int64"),
        "gap": ((3,), "float64"),
    }


def test_an_environment_takes_less_than_four_kilobytes() -> None:
    assert build("merge", 100).nbytes / 100 < 4000


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_integers_of_every_type_and_layout_are_actions(dtype: type) -> None:
    plain, other = build(), build()
    joint = np.array([[3, 4], [0, 2], [1, 3]])
    plain.step(joint)
    other.step(np.asfortranarray(joint, dtype))
    assert plain.get_state().tobytes() == other.get_state().tobytes()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.ones((2, 2), int), r"integers of shape \(3, 2\), got int64 of shape \(2, 2\)"),
        (np.ones((3,), int), r"integers of shape \(3, 2\), got int64 of shape \(3,\)"),
        (np.ones((3, 2)), r"integers of shape \(3, 2\), got float64 of shape \(3, 2\)"),
        (np.full((3, 2), np.nan), r"integers of shape \(3, 2\), got float64"),
        (np.ones((3, 2), bool), r"integers of shape \(3, 2\), got bool"),
        ([[1, 1]] * 3, r"integers of shape \(3, 2\), got list"),
        (np.array([[1, 1], [1, 5], [1, 1]]), "action of 'follower' in environment 1 must be in 0..4, got 5"),
        (np.array([[1, 1], [1, 1], [-1, 1]]), "action of 'leader' in environment 2 must be in 0..4, got -1"),
        (np.full((3, 2), 2**64 - 1, np.uint64), "must be in 0..4"),
    ],
)
def test_bad_actions_are_refused_and_nothing_moves(actions: Any, message: str) -> None:
    core = build()
    before = core.get_state()
    with pytest.raises(ContractError, match=message):
        core.step(actions)
    assert core.get_state().tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((2, 2)), r"floats of shape \(3, 2\), got float64 of shape \(2, 2\)"),
        (np.zeros((3, 2, 1)), r"floats of shape \(3, 2\), got float64 of shape \(3, 2, 1\)"),
        (np.zeros((3, 2), int), r"floats of shape \(3, 2\), got int64 of shape \(3, 2\)"),
        (np.full((3, 2), np.nan), r"action of 'leader' in environment 0 must be in \[-1, 1\], got nan"),
        (np.array([[0, 0], [0, 1.0000001], [0, 0]]), "action of 'follower' in environment 1 must be in"),
        (np.full((3, 2), -np.inf, np.float32), r"must be in \[-1, 1\], got -inf"),
    ],
)
@pytest.mark.parametrize("suite", ["intersection", "racetrack"])
def test_bad_numbers_are_refused_and_nothing_moves(suite: str, actions: Any, message: str) -> None:
    core = build(suite)
    before = core.get_state()
    with pytest.raises(ContractError, match=message):
        core.step(actions)
    assert core.get_state().tobytes() == before.tobytes()


def test_numbers_count_in_single_precision_in_every_type() -> None:
    single, double = build("racetrack"), build("racetrack")
    joint = np.array([[0.1, -0.1], [1.0, -1.0], [1e-9, 0.3]])
    for core, dtype in ((single, np.float32), (double, np.float64)):
        core.step(joint.astype(dtype))
    assert single.get_state().tobytes() == double.get_state().tobytes()


@pytest.mark.parametrize("suite", ["racetrack", "racetrack-frenet"])
def test_the_clock_truncates_who_is_still_driving_and_no_other(suite: str) -> None:
    core = build(suite, 2, noise_position=0.0, noise_heading=0.0, noise_lateral=0.0)
    state = core.get_state()
    state[:, :, STATE_COLUMNS.index("decision")] = 199.0
    state[1, 1, STATE_COLUMNS.index("y")] += 3.0  # the second follower is leaving the road
    core.set_state(state)
    shown = core.step(np.zeros((2, 2), np.float32))
    assert shown.truncated.tolist() == [True, True]
    assert shown.terminated.tolist() == [[False, False], [False, True]]
    assert shown.off_road.tolist() == [[False, False], [False, True]]
    assert shown.over.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": np.ones(2, bool)}, r"mask must be bool of shape \(3,\), got bool of shape \(2,\)"),
        ({"mask": np.ones(3, int)}, r"mask must be bool of shape \(3,\), got int64"),
        ({"seeds": -1}, "seeds must be an integer in"),
        ({"seeds": 2**63}, "seeds must be an integer in"),
        ({"seeds": 1.0}, "seeds must be an integer in"),
        ({"seeds": np.array([0, -1, 0])}, r"seeds must be in \[0, 2\*\*63 - 1\], got -1 to 0"),
        ({"seeds": np.array([0, 2**63, 0], np.uint64)}, r"seeds must be in \[0, 2\*\*63 - 1\]"),
        ({"seeds": np.zeros(2, int)}, r"integers of shape \(3,\), got int64 of shape \(2,\)"),
        ({"episodes": np.zeros(3)}, r"episodes must be an integer or integers of shape \(3,\), got float64"),
        ({"episodes": -3}, "episodes must be an integer in"),
        ({"stream": "trian"}, "unknown random stream 'trian': did you mean 'train'"),
    ],
    ids=str,
)
def test_bad_resets_are_refused_and_nothing_changes(arguments: dict[str, Any], message: str) -> None:
    core = build()
    core.reset(seeds=4)
    before = core.get_state()
    with pytest.raises(SafeMARLBenchError, match=message):
        core.reset(**arguments)
    assert core.get_state().tobytes() == before.tobytes()
    assert core.episodes.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("x", np.nan, r"state\[1, 0\] has a x that is nan"),
        ("speed", np.inf, "has a speed that is inf"),
        ("lane", 9.0, r"state\[1, 0\] has lane 9.0; it must be an integer in 0..8"),
        ("target_lane", -1.0, "has target_lane -1.0"),
        ("lane", 1.5, "has lane 1.5"),
        ("off_road", 0.5, "has off_road 0.5; it must be an integer in 0..1"),
        ("crashed", 2.0, "has crashed 2.0; it must be an integer in 0..1"),
        ("arrival_rank", 3.0, "has arrival_rank 3.0"),
        ("route", 9.0, "has route 9.0; it must be an integer in -1..8"),
        ("route_step", 5.0, "has route_step 5.0"),
        ("decision", 21.0, "has decision 21.0; it must be an integer in 0..20"),
        ("decision", 3.0, "both vehicles of a state must have the same decision"),
    ],
)
def test_an_impossible_state_is_refused_and_nothing_changes(column: str, value: float, message: str) -> None:
    core = build()
    state = core.get_state()
    state[1, 0, STATE_COLUMNS.index(column)] = value
    before = core.get_state()
    with pytest.raises(ContractError, match=message):
        core.set_state(state)
    assert core.get_state().tobytes() == before.tobytes()


@pytest.mark.parametrize(
    "state", [np.zeros((3, 2, 19)), np.zeros((2, 2, 20)), np.zeros((3, 2, 20), np.float32), None], ids=str
)
def test_a_state_of_another_layout_is_refused(state: Any) -> None:
    with pytest.raises(ContractError, match=r"state must be float64 of shape \(3, 2, 20\), got"):
        build().set_state(state)


@pytest.mark.parametrize("num_envs", [0, -1, 1.0, True, None])
def test_a_batch_needs_at_least_one_environment(num_envs: Any) -> None:
    with pytest.raises(SafeMARLBenchError, match="num_envs must be"):
        build("merge", num_envs)


def test_settings_are_checked_and_used() -> None:
    with pytest.raises(RegistryError, match="no setting 'noise_positon': did you mean 'noise_position'"):
        build("merge", 1, noise_positon=0.0)
    quiet = build("merge", 1, noise_position=0.0, noise_speed=0.0, spawn_speed={"follower": 20.0, "leader": 24.0})
    np.testing.assert_array_equal(quiet.reset().state[0], np.array([70, 4, 24, 0, 70, 14.5, 20, 0, 1], np.float32))


def test_an_action_of_a_done_agent_is_ignored() -> None:
    core = build("merge", 1, noise_position=0.0, noise_speed=0.0)
    while not core.step(np.array([[1, 1]])).terminated.any():
        pass
    state = core.get_state()
    assert state[0, :, STATE_COLUMNS.index("live")].tolist() == [1.0, 0.0]
    core.step(np.array([[1, 99]]))
    ended = core.get_state()
    core.set_state(state)
    core.step(np.array([[1, 1]]))
    assert core.get_state().tobytes() == ended.tobytes()


DIGEST = """
import hashlib, sys, numpy as np
import safemarl_bench as smb
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
digest = hashlib.sha256()
for suite in ("merge", "roundabout", "intersection", "racetrack-frenet", "intersection-official"):
    core, rng = BatchedDriving(smb.get_suite(suite), 2, episode_stride=2), np.random.default_rng(0)
    core.reset(seeds=2**63 - 1)
    for _ in range(40):
        numbers, joint = rng.uniform(-0.4, 0.4, size=(2, 2)), rng.integers(5, size=(2, 2))
        actions = joint if core.spec.action_kind == "discrete" else numbers
        for array in (*core.step(actions), core.get_state()):
            digest.update(array.tobytes())
print(kernel.COMPILED, digest.hexdigest())
"""


def test_plain_python_gives_the_same_bits_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    (tmp_path / "numba.py").write_text("raise ImportError('not installed')")
    answers = []
    for folder in ((), (str(tmp_path),)):
        process = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", DIGEST],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*folder, *filter(None, sys.path)])},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.append(process.stdout.split())
    assert [compiled for compiled, _ in answers] == ["True", "False"]
    assert answers[0][1] == answers[1][1]


def test_a_slow_first_use_says_that_it_compiles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel, "COMPILED", True)
    monkeypatch.setattr(core_module, "_ready", False)
    monkeypatch.setattr(core_module, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(BatchedDriving, "reset", lambda self: time.sleep(0.2))
    build()
    assert "compiling the driving kernel" in capsys.readouterr().err
    build()
    assert capsys.readouterr().err == ""
