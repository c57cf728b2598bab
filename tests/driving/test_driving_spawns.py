"""Spawn noise: its distribution, its draws, and what a reset starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

import safemarl_bench as smb
from safemarl_bench.rng import generator

SUITES = ("merge", "roundabout")
# mean position and half-width [m] along the lane, mean speed and half-width [m/s]; per agent
SPAWNS = {
    "merge": {"leader": (70.0, 10.0, 25.0, 1.0), "follower": (70.0, 10.0, 25.0, 1.0)},
    "roundabout": {"leader": (125.0, 5.0, 8.0, 1.0), "follower": (85.0, 5.0, 8.0, 1.0)},
}
# where 0 m along the spawn lane is, and the lane's direction
LANES = {
    "merge": {"leader": ((0.0, 4.0), (1.0, 0.0)), "follower": ((0.0, 14.5), (1.0, 0.0))},
    "roundabout": {"leader": ((-170.0, 2.0), (1.0, 0.0)), "follower": ((2.0, 170.0), (0.0, -1.0))},
}


def state_of(game: Any, **reset: Any) -> list[float]:
    game.reset(**reset)
    return game.state().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("suite", SUITES)
def test_the_spawns_are_the_documented_draws(suite: str) -> None:
    game = smb.make(suite)
    for stream, seed, episode in [("train", 0, 0), ("train", 7, 123), ("evaluation", 2**63 - 1, 5), ("search", 1, 2)]:
        game.reset(seed=seed, options={"stream": stream, "episode": episode})
        for index, agent in enumerate(("leader", "follower")):
            position, speed = generator(stream, seed, episode, index).uniform(-1.0, 1.0, size=2)
            s0, ds, v0, dv = SPAWNS[suite][agent]
            start, direction = np.array(LANES[suite][agent])
            vehicle = game.scene.controlled_vehicles[index]
            np.testing.assert_allclose(vehicle.position, start + (s0 + ds * position) * direction, atol=1e-9)
            assert vehicle.speed == v0 + dv * speed


@pytest.mark.parametrize("suite", SUITES)
def test_the_noise_is_uniform_within_its_half_widths(suite: str) -> None:
    game, draws = smb.make(suite), []
    for episode in range(400):
        game.reset(seed=1, options={"episode": episode})
        draws.append([[spawn.position, spawn.speed] for spawn in game.scene.spawns])
    units = np.empty((400, 4))
    for index, agent in enumerate(("leader", "follower")):
        s0, ds, v0, dv = SPAWNS[suite][agent]
        units[:, 2 * index : 2 * index + 2] = (np.array(draws)[:, index] - (s0, v0)) / (ds, dv)
    assert np.abs(units).max() <= 1.0
    for column in units.T:
        assert scipy.stats.kstest(column, "uniform", args=(-1.0, 2.0)).pvalue > 1e-3
    correlations = np.corrcoef(units.T) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(400)


@pytest.mark.parametrize("suite", SUITES)
def test_streams_seeds_and_episodes_give_different_spawns(suite: str) -> None:
    game = smb.make(suite)
    states = [
        tuple(state_of(game, seed=seed, options={"stream": stream, "episode": episode}))
        for stream in ("train", "evaluation", "search")
        for seed in (0, 1)
        for episode in (0, 1, 2)
    ]
    assert len(set(states)) == len(states)


@pytest.mark.parametrize("suite", SUITES)
def test_an_episode_depends_neither_on_the_order_nor_on_the_game_object(suite: str) -> None:
    first, second = smb.make(suite), smb.make(suite)
    keys = [(stream, episode) for stream in ("train", "evaluation") for episode in range(5)]

    def run(game: Any, stream: str, episode: int) -> list[Any]:
        trace: list[Any] = [state_of(game, seed=3, options={"stream": stream, "episode": episode})]
        while game.agents:
            _, rewards, _, _, infos = game.step({agent: (len(trace) + episode) % 5 for agent in game.agents})
            trace.append([game.state().tolist(), rewards, [float(info["cost"][0]) for info in infos.values()]])
        return trace

    forwards = [run(first, *key) for key in keys]
    backwards = [run(second, *key) for key in reversed(keys)]
    assert forwards == backwards[::-1]


def test_a_reset_without_a_seed_goes_on_to_the_next_episode_of_the_same_stream() -> None:
    game = smb.make("merge")
    for stream in ("train", "evaluation"):
        named = [state_of(game, seed=4, options={"stream": stream, "episode": episode}) for episode in (6, 7, 8)]
        game.reset(seed=4, options={"stream": stream, "episode": 6})
        assert [state_of(game), state_of(game)] == named[1:]


def test_a_seed_alone_means_episode_0_of_the_training_stream() -> None:
    game = smb.make("merge")
    named = state_of(game, seed=4, options={"stream": "train", "episode": 0})
    game.reset(seed=9, options={"stream": "evaluation", "episode": 5})
    assert state_of(game, seed=4) == named
    assert state_of(game, seed=4, options={"stream": "evaluation"}) != named


def test_a_first_reset_without_a_seed_starts_somewhere_new_each_time() -> None:
    games = [smb.make("merge") for _ in range(4)]
    states = [state_of(game) for game in games]
    assert len({tuple(state) for state in states}) == 4
    assert games[0].agents == ["leader", "follower"]


def test_numpy_integers_are_seeds_too() -> None:
    game = smb.make("merge")
    named = state_of(game, seed=4, options={"episode": 6})
    assert state_of(game, seed=np.int64(4), options={"episode": np.uint8(6)}) == named


@pytest.mark.parametrize("suite", SUITES)
def test_without_noise_every_episode_is_the_same(suite: str) -> None:
    game = smb.make(suite, noise_position=0.0, noise_speed=0.0)
    assert state_of(game, seed=1) == state_of(game, seed=2, options={"stream": "evaluation", "episode": 9})
