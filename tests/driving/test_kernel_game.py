"""The kernel behind PettingZoo's parallel API: the same promises as the highway-env backend."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pettingzoo.test
import pytest

import safemarl_bench as smb
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError

SUITES = ("merge", "roundabout", "intersection", "racetrack-frenet", "roundabout-official")


def make(suite: str, **options: Any) -> Any:
    return smb.make(suite, backend="kernel", **options)


def same(game: Any, action: int, number: float) -> dict[str, Any]:
    """Return the same action for every live agent: a meta-action, or a number where actions are numbers."""
    given = action if game.spec.action_kind == "discrete" else np.array([number], np.float32)
    return dict.fromkeys(game.agents, given)


def draw(game: Any, rng: np.random.Generator) -> list[Any]:
    if game.spec.action_kind == "discrete":
        return rng.integers(5, size=2).tolist()  # type: ignore[no-any-return]
    return list(rng.uniform(-0.3, 0.3, size=(2, 1)).astype(np.float32))


@pytest.mark.parametrize("suite", SUITES)
def test_it_passes_pettingzoos_test(suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pettingzoo.test.parallel_api_test(make(suite), num_cycles=60)
    assert "Passed" in capsys.readouterr().out


@pytest.mark.parametrize("suite", SUITES)
def test_the_kernel_is_the_default_and_highway_env_the_reference(suite: str) -> None:
    spec = smb.get_suite(suite)
    assert (spec.backends[0], spec.reference_backend) == ("kernel", "highway")
    assert type(smb.make(suite)).__name__ == type(make(suite)).__name__ == "KernelGame"
    assert not hasattr(smb.make(suite, backend="highway"), "core")


@pytest.mark.parametrize("suite", SUITES)
def test_it_shows_the_batched_simulators_numbers(suite: str) -> None:
    game, core = make(suite), BatchedDriving(smb.get_suite(suite), 1)
    rng = np.random.default_rng(0)
    for episode in range(20):
        seen, _ = game.reset(seed=6, options={"stream": "search", "episode": episode})
        shown = core.reset(seeds=6, episodes=episode, stream="search")
        while True:
            for number, agent in enumerate(game.possible_agents):
                if agent in seen:
                    assert seen[agent].tobytes() == shown.obs[0, number].tobytes()
            assert game.state().tobytes() == shown.state[0].tobytes()
            if not game.agents:
                break
            joint = draw(game, rng)
            live = [game.possible_agents.index(agent) for agent in game.agents]
            seen, rewards, terminations, _, infos = game.step({game.possible_agents[i]: joint[i] for i in live})
            shown = core.step(np.array(joint).reshape(1, 2))
            assert list(rewards.values()) == shown.reward[0, live].tolist()
            assert list(terminations.values()) == shown.terminated[0, live].tolist()
            assert [info["cost"].tolist() for info in infos.values()] == shown.cost[0, live].tolist()
            assert [info["arrival_rank"] for info in infos.values()] == shown.arrival_rank[0, live].tolist()


def test_the_episode_goes_on_after_a_refusal() -> None:
    game = make("merge")
    with pytest.raises(ContractError, match="call reset first"):
        game.step({"leader": 1, "follower": 1})
    game.reset(seed=0)
    before = game.state().tolist()
    with pytest.raises(ContractError, match="one action for each live agent"):
        game.step({"leader": 1})
    with pytest.raises(ContractError, match=r"action of 'follower' must be in 0\.\.4, got 5"):
        game.step({"leader": 1, "follower": 5})
    with pytest.raises(ContractError, match="must be an integer, got float nan"):
        game.step({"leader": float("nan"), "follower": 1})
    with pytest.raises(SafeMARLBenchError, match="did you mean 'evaluation'"):
        game.reset(seed=0, options={"stream": "evaluate"})
    with pytest.raises(SafeMARLBenchError, match="seed must be an integer"):
        game.reset(seed=-1)
    assert game.state().tolist() == before
    assert game.agents == ["leader", "follower"]
    game.step({"leader": 1, "follower": 1})


def test_settings_are_checked_as_on_the_other_backend() -> None:
    with pytest.raises(RegistryError, match="no setting 'noise_positon': did you mean 'noise_position'"):
        make("merge", noise_positon=0.0)
    with pytest.raises(RegistryError, match="no backend 'kernl': did you mean 'kernel'"):
        smb.make("merge", backend="kernl")


@pytest.mark.parametrize("suite", SUITES)
def test_a_copy_in_mid_episode_plays_on_by_itself(suite: str) -> None:
    game = make(suite)
    game.reset(seed=2)
    game.step(same(game, 3, 0.1))
    copied, futures = copy.deepcopy(game), []
    for one in (copied, game):
        answers = [str(one.state())]
        while one.agents:
            answers.append(str(one.step(same(one, 3, 0.02))))
        futures.append(answers)
    assert futures[0] == futures[1]


@pytest.mark.parametrize("suite", SUITES)
def test_what_it_showed_does_not_change_later(suite: str) -> None:
    game = make(suite)
    seen, _ = game.reset(seed=2)
    state, text = game.state(), str(seen)
    before = state.copy()
    game.step(same(game, 3, 0.1))
    assert str(seen) == text
    assert state.tolist() == before.tolist()


@pytest.mark.parametrize("suite", SUITES)
def test_it_draws_the_picture_of_the_other_backend(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pictures = []
    for backend in ("highway", "kernel"):
        game = smb.make(suite, backend=backend, render_mode="rgb_array", noise_position=0.0, noise_speed=0.0)
        game.reset(seed=0)
        frames = [game.render()]
        while game.agents and len(frames) < 20:
            game.step(same(game, 1, 0.02))
            frames.append(game.render())
        pictures.append(frames)
        game.close()
    highway, drawn = pictures
    assert len(highway) == len(drawn) > 5
    for one, other in zip(highway, drawn, strict=True):
        assert (one != other).any(axis=2).mean() < 1e-3  # a pixel may differ by rounding
    assert (drawn[0] != drawn[-1]).any()


def test_drawing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    drawn, plain = make("roundabout", render_mode="human"), make("roundabout")
    drawn.reset(seed=1)
    plain.reset(seed=1)
    while plain.agents:
        answers = [str(game.step(dict.fromkeys(game.agents, 3))) for game in (drawn, plain)]
        assert answers[0] == answers[1]
    drawn.close()


def test_an_arrived_vehicle_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    game = make("merge", render_mode="rgb_array", noise_position=0.0, noise_speed=0.0)
    game.reset(seed=0)
    while game.agents:
        game.step({agent: {"leader": 3, "follower": 4}[agent] for agent in game.agents})
        game.render()
        if game.agents == ["follower"]:
            break
    assert game.core.get_state()[0, :, kernel.PRESENT].tolist() == [0.0, 1.0]
    assert game.scene.road.vehicles == [game.scene.controlled_vehicles[1]]
