"""The game's promises: the parallel API, refusals, and no hidden randomness."""

from __future__ import annotations

import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch

import safemarl_bench as smb
from safemarl_bench import driving
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError

SUITES = ("merge", "roundabout", "intersection", "racetrack", "racetrack-frenet")
SUITES += tuple(f"{scenario}-official" for scenario in ("merge", "roundabout", "intersection", "racetrack"))


@pytest.mark.parametrize("suite", SUITES)
def test_the_suite_keeps_the_contract(suite: str) -> None:
    smb.testing.check_suite(suite)


def finish(game: Any) -> None:
    while game.agents:
        game.step(dict.fromkeys(game.agents, 3))


def fingerprint(game: Any) -> tuple[Any, ...]:
    """Return all that a refused call must leave alone."""
    scene = game.scene
    cars = [(*car.position, car.speed, car.heading, car.crashed) for car in scene.controlled_vehicles]
    lanes = [
        (car.lane_index, getattr(car, "target_lane_index", None), getattr(car, "target_speed", None), str(car.action))
        for car in scene.controlled_vehicles
    ]
    return tuple(game.agents), game.state().tolist(), cars, lanes, scene.time, scene.steps, len(scene.road.vehicles)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(ContractError, match="call reset first"):
        smb.make("merge", backend="highway").step({"leader": 1, "follower": 1})


def test_a_step_after_the_end_is_refused(roundabout: Any) -> None:
    finish(roundabout)
    before = fingerprint(roundabout)
    for actions in ({}, {"leader": 1, "follower": 1}):
        with pytest.raises(ContractError, match="call reset first"):
            roundabout.step(actions)
    assert fingerprint(roundabout) == before


@pytest.mark.parametrize(
    "actions",
    [
        {},
        {"leader": 1},
        {"leader": 1, "follower": 1, "third": 1},
        {"leader": 1, "folower": 1},
        {"leader": 1, None: 1},
        [1, 1],
        (1, 1),
        None,
        1,
    ],
    ids=repr,
)
def test_anything_but_one_action_for_each_live_agent_is_refused(merge: Any, actions: Any) -> None:
    before = fingerprint(merge)
    with pytest.raises(ContractError, match=r"one action for each live agent \['leader', 'follower'\], got "):
        merge.step(actions)
    assert fingerprint(merge) == before


@pytest.mark.parametrize(
    "action",
    [1.0, True, np.True_, "1", "IDLE", None, float("nan"), np.float32(1.0), np.array(1), np.array([1]), [1], 1 + 0j],
    ids=repr,
)
def test_an_action_that_is_no_integer_is_refused(merge: Any, action: Any) -> None:
    before = fingerprint(merge)
    for agent in merge.agents:
        with pytest.raises(ContractError, match=f"action of '{agent}' must be an integer, got {type(action).__name__}"):
            merge.step({**dict.fromkeys(merge.agents, 3), agent: action})
    assert fingerprint(merge) == before


@pytest.mark.parametrize("action", [-1, 5, 2**40, np.int64(-1), np.uint8(5)], ids=repr)
def test_an_action_out_of_range_is_refused(merge: Any, action: Any) -> None:
    before = fingerprint(merge)
    for agent in merge.agents:
        with pytest.raises(ContractError, match=f"action of '{agent}' must be in 0..4, got {action}"):
            merge.step({**dict.fromkeys(merge.agents, 3), agent: action})
    assert fingerprint(merge) == before


@pytest.mark.parametrize(
    "action",
    [
        0,
        1,
        0.5,
        True,
        None,
        "0.5",
        [0.5],
        (0.5,),
        np.float32(0.5),
        np.array(0.5),
        np.array([0.5, 0.5]),
        np.array([[0.5]]),
        np.array([]),
        np.array([0]),
        np.array([True]),
        np.array([0.5 + 0j]),
        np.array(["0.5"]),
        np.array([None]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("suite", ["intersection", "racetrack"])
def test_a_continuous_action_that_is_no_float_array_of_length_one_is_refused(
    make_quiet: Any, suite: str, action: Any
) -> None:
    game = make_quiet(suite)
    before = fingerprint(game)
    for agent in game.agents:
        with pytest.raises(ContractError, match=rf"action of '{agent}' must be a float array of shape \(1,\), got "):
            game.step({**dict.fromkeys(game.agents, np.zeros(1, np.float32)), agent: action})
    assert fingerprint(game) == before


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1.0000001, -1.5, np.nextafter(1.0, 2.0)])
def test_a_continuous_action_out_of_range_is_refused(intersection: Any, number: float) -> None:
    before = fingerprint(intersection)
    for agent in intersection.agents:
        with pytest.raises(ContractError, match=rf"action of '{agent}' must be in \[-1, 1\], got {number}"):
            intersection.step({**dict.fromkeys(intersection.agents, np.zeros(1)), agent: np.array([number])})
    assert fingerprint(intersection) == before


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("number", [-1.0, -0.3, 0.0, 1.0])
def test_every_float_type_is_an_action_of_the_same_float32(make_quiet: Any, dtype: type, number: float) -> None:
    given = np.array([number], dtype)
    one, other = make_quiet("racetrack"), make_quiet("racetrack")
    mine = one.step(dict.fromkeys(one.agents, given))
    assert str(mine) == str(other.step(dict.fromkeys(other.agents, given.astype(np.float32))))
    assert given == np.array([number], dtype)


def test_an_action_for_a_done_agent_is_refused(merge: Any) -> None:
    while len(merge.agents) == 2:
        merge.step({"leader": 1, "follower": 1})
    assert merge.agents == ["leader"]
    before = fingerprint(merge)
    with pytest.raises(ContractError, match=r"each live agent \['leader'\], got \['leader', 'follower'\]"):
        merge.step({"leader": 1, "follower": 1})
    assert fingerprint(merge) == before
    merge.step({"leader": 1})


@pytest.mark.parametrize("integer", [int, np.int64, np.int32, np.uint8])
def test_every_integer_type_is_an_action(merge: Any, integer: type) -> None:
    merge.step({"leader": integer(3), "follower": integer(4)})
    assert [vehicle.target_speed for vehicle in merge.scene.controlled_vehicles] == [30, 20]


def test_a_refused_step_does_not_change_what_follows(make_quiet: Any) -> None:
    clean, disturbed = make_quiet("roundabout"), make_quiet("roundabout")
    while clean.agents:
        with pytest.raises(ContractError):
            disturbed.step({**dict.fromkeys(clean.agents, 3), clean.agents[-1]: 9})
        mine = clean.step(dict.fromkeys(clean.agents, 3))
        assert str(disturbed.step(dict.fromkeys(disturbed.agents, 3))) == str(mine)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, "1"], ids=repr)
def test_a_bad_seed_or_episode_is_refused_and_the_episode_goes_on(merge: Any, seed: Any) -> None:
    merge.step({"leader": 3, "follower": 4})
    before = fingerprint(merge)
    with pytest.raises(SafeMARLBenchError, match="seed must be an integer"):
        merge.reset(seed=seed)
    with pytest.raises(SafeMARLBenchError, match="episode must be an integer"):
        merge.reset(seed=0, options={"episode": seed})
    assert fingerprint(merge) == before


def test_an_unknown_stream_is_refused_with_the_nearest_and_the_next_episode_stays_the_next() -> None:
    game = smb.make("merge", backend="highway")
    game.reset(seed=5, options={"episode": 1})
    expected = game.state().tolist()
    game.reset(seed=5, options={"episode": 0})
    before = fingerprint(game)
    for seed in (None, 8):
        with pytest.raises(SafeMARLBenchError, match="did you mean 'evaluation'"):
            game.reset(seed=seed, options={"stream": "evaluate"})
    assert fingerprint(game) == before
    game.reset()
    assert game.state().tolist() == expected


def test_options_of_others_are_ignored_as_pettingzoo_asks() -> None:
    game = smb.make("merge", backend="highway")
    game.reset(seed=5)
    expected = game.state().tolist()
    game.reset(seed=5, options={"options": 1})
    assert game.state().tolist() == expected


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"noise_positon": 0.0}, "no setting 'noise_positon': did you mean 'noise_position'"),
        ({"horizon": 3}, "no setting 'horizon'"),
        ({"scenario": "roundabout"}, "no setting 'scenario'"),
        ({"render_mode": "rgb"}, "unknown render mode 'rgb': did you mean 'rgb_array'"),
        ({"spawn_position": {"leader": 70.0}}, "spawn_position needs one number for each of leader, follower"),
        ({"spawn_speed": 25.0}, "spawn_speed needs one number for each agent, got 25.0"),
        ({"backend": "highwya"}, "no backend 'highwya': did you mean 'highway'"),
        ({"noise_lateral": 1.0}, "suite merge has no setting 'noise_lateral'"),
        ({"profile": "official"}, "suite merge has no setting 'profile'"),
    ],
    ids=str,
)
def test_an_unknown_setting_is_refused_with_the_nearest(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        smb.make("merge", **setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gap": "x"}, "gap needs a finite number, got 'x'"),
        ({"gap": [26.0]}, r"gap needs a finite number, got \(26.0,\)"),
        ({"zone": True}, "zone needs a finite number, got True"),
        ({"finish": None}, "finish needs a finite number, got None"),
        ({"noise_position": float("nan")}, "noise_position needs a number that is not negative, got nan"),
        ({"noise_speed": -0.5}, "noise_speed needs a number that is not negative, got -0.5"),
        ({"spawn_speed": {"leader": 25.0, "follower": "fast"}}, "spawn_speed needs one number for each agent"),
        ({"speed_band": [24.5]}, "speed_band needs two numbers, low before high"),
        ({"speed_band": [30.5, 24.5]}, "speed_band needs two numbers, low before high"),
        ({"speed_band": [1, 2, 3]}, "speed_band needs two numbers, low before high"),
        ({"speed_band": 25.0}, "speed_band needs two numbers, low before high, got 25.0"),
        ({"target_speeds": [20]}, "target_speeds needs two or more evenly spaced numbers, rising"),
        ({"target_speeds": [20, 25, 40]}, "target_speeds needs two or more evenly spaced numbers, rising"),
        ({"target_speeds": [30, 25, 20]}, "target_speeds needs two or more evenly spaced numbers, rising"),
    ],
    ids=str,
)
def test_a_setting_of_the_wrong_kind_is_refused_before_any_episode(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        smb.make("merge", **setting)


def test_an_evenly_spaced_grid_of_fractions_is_accepted(make_quiet: Any) -> None:
    game = make_quiet("merge", target_speeds=[0.1, 0.2, 0.3], speed_band=[0.1, 0.3])
    assert game.scene.settings.target_speeds == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("scenario", "message"),
    [("roundabuot", "unknown scenario 'roundabuot': did you mean 'roundabout'"), (None, "unknown scenario None")],
)
def test_a_data_file_without_a_known_scenario_is_refused(scenario: str | None, message: str) -> None:
    spec = smb.get_suite("merge")
    settings = {key: value for key, value in spec.env.items() if key != "scenario"}
    if scenario:
        settings["scenario"] = scenario
    with pytest.raises(RegistryError, match=message):
        driving.make(dataclasses.replace(spec, env=settings))


@pytest.mark.parametrize("stream", ["explore", "policy", "", None, 2], ids=repr)
def test_episodes_never_come_from_the_agents_own_streams(merge: Any, stream: Any) -> None:
    before = fingerprint(merge)
    with pytest.raises(ContractError, match=f"unknown spawn stream {stream!r}"):
        merge.reset(seed=0, options={"stream": stream})
    assert fingerprint(merge) == before


@pytest.mark.parametrize(
    ("suite", "setting", "message"),
    [
        ("racetrack", {"gap": 12.0}, "suite racetrack has no setting 'gap'"),
        ("racetrack", {"policy_frequency": 4}, "policy_frequency must be a divisor of 15, got 4"),
        ("racetrack", {"policy_frequency": 0}, "policy_frequency must be a divisor of 15, got 0"),
        ("racetrack", {"policy_frequency": 5.0}, r"policy_frequency must be a divisor of 15, got 5\.0"),
        ("racetrack-frenet", {"observation": "absolute"}, "suite racetrack-frenet has no setting 'observation'"),
        ("merge-official", {"profile": "default"}, "suite merge-official has no setting 'profile'"),
        ("intersection-official", {"noise": "gauss"}, "unknown noise 'gauss'"),
    ],
    ids=str,
)
def test_a_setting_that_does_not_fit_is_refused(suite: str, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        smb.make(suite, **setting)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "racetrak"}, "suite merge: unknown scenario 'racetrak': did you mean 'racetrack'"),
        ({"profile": "offical"}, "suite merge: unknown profile 'offical': did you mean 'official'"),
        ({"observation": "frenet"}, "needs a closed track, scenario 'racetrack', got 'merge'"),
        ({"observation": "frenett"}, "unknown observation 'frenett': did you mean 'frenet'"),
        ({"gapp": 1.0}, "no setting 'gapp': did you mean 'gap'"),
        ({"finish": None}, "needs the settings finish"),
    ],
    ids=str,
)
def test_a_data_file_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    spec = smb.get_suite("merge")
    env = {key: value for key, value in {**spec.env, **change}.items() if value is not None}
    with pytest.raises(RegistryError, match=message):
        driving.make(dataclasses.replace(spec, env=env))


def test_overrides_change_the_game(make_quiet: Any) -> None:
    positions, speeds = {"leader": 60.0, "follower": 80.0}, {"leader": 24.0, "follower": 20.0}
    game = make_quiet("merge", spawn_position=positions, spawn_speed=speeds, target_speeds=[10, 20, 30])
    np.testing.assert_array_equal(game.state()[[0, 2, 4, 6]], np.array([60, 24, 80, 20], np.float32))
    game.step({"leader": 4, "follower": 4})
    assert [vehicle.target_speed for vehicle in game.scene.controlled_vehicles] == [10, 10]


@pytest.mark.parametrize("suite", SUITES)
def test_an_episode_touches_no_global_random_state_and_does_not_depend_on_it(suite: str, step_by_number: Any) -> None:
    traces = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the state that must not matter
        torch.manual_seed(seed)
        before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
        game = smb.make(suite, backend="highway")
        trace: list[Any] = []
        game.action_space("leader").seed(seed)
        game.reset(seed=3)
        while game.agents:
            game.action_space("leader").sample()
            step_by_number(game, len(trace))
            trace.append(game.state().tolist())
        game.reset()
        trace.append(game.state().tolist())
        after = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
        traces.append(trace)
    assert traces[0] == traces[1]


@pytest.mark.parametrize("suite", ["merge", "roundabout"])
def test_a_copy_in_mid_episode_plays_on_by_itself(suite: str) -> None:
    everywhere = {"merge": 0.0, "roundabout": 1e3}[suite]  # so that each decision costs something
    game = smb.make(suite, backend="highway", zone=everywhere, gap=1e3)
    game.reset(seed=2)
    game.step({"leader": 3, "follower": 4})
    copied = copy.deepcopy(game)
    before = fingerprint(game)
    futures = []
    for one in (copied, game):
        if one is game:
            assert fingerprint(game) == before
        answers = []
        while one.agents:
            answers.append(str(one.step(dict.fromkeys(one.agents, 3))))
        futures.append(answers)
    assert futures[0] == futures[1]
    assert "array([1.])" in futures[0][0]


@pytest.mark.parametrize("driver", ["dummy", None])
@pytest.mark.parametrize("suite", SUITES)
def test_rendering_gives_an_image_of_the_scene_and_closes_twice(
    suite: str, driver: str | None, idle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if driver:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    else:
        monkeypatch.delenv("SDL_VIDEODRIVER", raising=False)
    game = smb.make(suite, backend="highway", render_mode="rgb_array")
    assert game.render_mode in game.metadata["render_modes"]
    game.reset(seed=0)
    first = game.render()
    idle(game)
    second = game.render()
    game.close()
    game.close()
    for image in (first, second):
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert len(np.unique(image)) > 3
    assert (first != second).any()


def test_rendering_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    drawn, plain = smb.make("merge", backend="highway", render_mode="human"), smb.make("merge", backend="highway")
    drawn.reset(seed=1)
    plain.reset(seed=1)
    while plain.agents:
        answers = [str(game.step(dict.fromkeys(game.agents, 3))) for game in (drawn, plain)]
        assert answers[0] == answers[1]
    drawn.close()


def test_rendering_without_a_render_mode_is_refused(merge: Any) -> None:
    with pytest.raises(ContractError, match="render_mode='rgb_array'"):
        merge.render()
