"""Spawn noise: its distribution, its draws, and what a reset starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats

import safemarl_bench as smb
from safemarl_bench.rng import generator

MEANS = {  # of metres along the lane and m/s, per agent
    "merge": {"leader": (70.0, 25.0), "follower": (70.0, 25.0)},
    "roundabout": {"leader": (125.0, 8.0), "follower": (85.0, 8.0)},
    "intersection": {"leader": (61.0, 10.0), "follower": (61.0, 10.0)},
    "racetrack": {"leader": (35.0, 10.0), "follower": (35.0, 10.0)},
}
NOISE = {  # size of the noise along the lane [m], of speed [m/s], of heading [rad] and across the lane [m]
    "merge": (10.0, 1.0, 0.0, 0.0),
    "roundabout": (5.0, 1.0, 0.0, 0.0),
    "intersection": (3.0, 1.0, 0.0, 0.0),
    "racetrack": (5.0, 0.0, 0.1, 0.5),
    "racetrack-frenet": (5.0, 0.0, 0.1, 0.5),
    "intersection-official": (1.0, 0.0, 0.0, 0.0),
}
LANES = {  # where 0 m along the spawn lane is, and the lane's direction
    "merge": {"leader": ((0.0, 4.0), (1.0, 0.0)), "follower": ((0.0, 14.5), (1.0, 0.0))},
    "roundabout": {"leader": ((-170.0, 2.0), (1.0, 0.0)), "follower": ((2.0, 170.0), (0.0, -1.0))},
    "intersection": {"leader": ((2.0, 111.0), (0.0, -1.0)), "follower": ((-111.0, 2.0), (1.0, 0.0))},
    "racetrack": {"leader": ((42.0, 0.0), (1.0, 0.0)), "follower": ((42.0, 5.0), (1.0, 0.0))},
}
SUITES = tuple(NOISE)
FIXED = ("merge-official", "roundabout-official", "racetrack-official")


def scenario(suite: str) -> str:
    return suite.partition("-")[0]


def unit_noise(suite: str, stream: str, seed: int, episode: int, index: int) -> np.ndarray:
    """Return the four documented draws of an agent: position, speed, heading, lateral."""
    rng = generator(stream, seed, episode, index)
    if suite != "intersection-official":
        return rng.uniform(-1.0, 1.0, size=4)
    draws = rng.random(4)
    polar = np.sqrt(-2 * np.log1p(-draws[::2])) * np.exp(2j * np.pi * draws[1::2])  # Box and Muller
    return np.stack([polar.real, polar.imag], axis=1).ravel()


def state_of(game: Any, **reset: Any) -> list[float]:
    game.reset(**reset)
    return game.state().tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("suite", SUITES)
def test_the_spawns_are_the_documented_draws(suite: str) -> None:
    game = smb.make(suite, backend="highway")
    for stream, seed, episode in [("train", 0, 0), ("train", 7, 123), ("evaluation", 2**63 - 1, 5), ("search", 1, 2)]:
        game.reset(seed=seed, options={"stream": stream, "episode": episode})
        for index, agent in enumerate(("leader", "follower")):
            along, speed, heading, across = NOISE[suite] * unit_noise(suite, stream, seed, episode, index)
            s0, v0 = MEANS[scenario(suite)][agent]
            start, direction = np.array(LANES[scenario(suite)][agent])
            right = np.array([-direction[1], direction[0]])
            vehicle = game.scene.controlled_vehicles[index]
            np.testing.assert_allclose(vehicle.position, start + (s0 + along) * direction + across * right, atol=1e-9)
            assert vehicle.speed == v0 + speed
            assert vehicle.heading == pytest.approx(np.arctan2(direction[1], direction[0]) + heading, abs=1e-12)


@pytest.mark.parametrize("suite", SUITES)
def test_the_noise_has_the_documented_distribution(suite: str) -> None:
    game, draws = smb.make(suite, backend="highway"), []
    for episode in range(400):
        game.reset(seed=1, options={"episode": episode})
        draws.append([[spawn.position, spawn.speed, spawn.heading, spawn.lateral] for spawn in game.scene.spawns])
    noisy, sizes = np.array(NOISE[suite]) > 0, np.array(NOISE[suite])
    units = []
    for index, agent in enumerate(("leader", "follower")):
        offsets = np.array(draws)[:, index] - (*MEANS[scenario(suite)][agent], 0.0, 0.0)
        assert not offsets[:, ~noisy].any()
        units += list((offsets[:, noisy] / sizes[noisy]).T)
    law = "norm" if suite == "intersection-official" else "uniform"
    for column in units:
        assert law == "norm" or np.abs(column).max() <= 1.0
        assert scipy.stats.kstest(column, law, args=() if law == "norm" else (-1.0, 2.0)).pvalue > 1e-3
    correlations = np.corrcoef(units) - np.eye(len(units))
    assert np.abs(correlations).max() < 4 / np.sqrt(400)


@pytest.mark.parametrize("suite", FIXED)
def test_the_other_official_suites_always_start_at_the_means(suite: str) -> None:
    game = smb.make(suite, backend="highway")
    starts = {tuple(state_of(game, seed=seed, options={"episode": seed})) for seed in range(5)}
    assert len(starts) == 1
    for index, agent in enumerate(("leader", "follower")):
        s0, v0 = MEANS[scenario(suite)][agent]
        start, direction = np.array(LANES[scenario(suite)][agent])
        vehicle = game.scene.controlled_vehicles[index]
        np.testing.assert_allclose(vehicle.position, start + s0 * direction, atol=1e-9)
        np.testing.assert_allclose(vehicle.velocity, v0 * direction, atol=1e-9)


@pytest.mark.parametrize("suite", SUITES)
def test_streams_seeds_and_episodes_give_different_spawns(suite: str) -> None:
    game = smb.make(suite, backend="highway")
    states = [
        tuple(state_of(game, seed=seed, options={"stream": stream, "episode": episode}))
        for stream in ("train", "evaluation", "search")
        for seed in (0, 1)
        for episode in (0, 1, 2)
    ]
    assert len(set(states)) == len(states)


@pytest.mark.parametrize("suite", SUITES)
def test_an_episode_depends_neither_on_the_order_nor_on_the_game_object(suite: str, step_by_number: Any) -> None:
    first, second = smb.make(suite, backend="highway"), smb.make(suite, backend="highway")
    keys = [(stream, episode) for stream in ("train", "evaluation") for episode in range(5)]

    def run(game: Any, stream: str, episode: int) -> list[Any]:
        trace: list[Any] = [state_of(game, seed=3, options={"stream": stream, "episode": episode})]
        while game.agents:
            _, rewards, _, _, infos = step_by_number(game, len(trace) + episode)
            trace.append([game.state().tolist(), rewards, [float(info["cost"][0]) for info in infos.values()]])
        return trace

    forwards = [run(first, *key) for key in keys]
    backwards = [run(second, *key) for key in reversed(keys)]
    assert forwards == backwards[::-1]


def test_a_reset_without_a_seed_goes_on_to_the_next_episode_of_the_same_stream() -> None:
    game = smb.make("merge", backend="highway")
    for stream in ("train", "evaluation"):
        named = [state_of(game, seed=4, options={"stream": stream, "episode": episode}) for episode in (6, 7, 8)]
        game.reset(seed=4, options={"stream": stream, "episode": 6})
        assert [state_of(game), state_of(game)] == named[1:]


def test_a_seed_alone_means_episode_0_of_the_training_stream() -> None:
    game = smb.make("merge", backend="highway")
    named = state_of(game, seed=4, options={"stream": "train", "episode": 0})
    game.reset(seed=9, options={"stream": "evaluation", "episode": 5})
    assert state_of(game, seed=4) == named
    assert state_of(game, seed=4, options={"stream": "evaluation"}) != named


def test_a_first_reset_without_a_seed_starts_somewhere_new_each_time() -> None:
    games = [smb.make("merge", backend="highway") for _ in range(4)]
    states = [state_of(game) for game in games]
    assert len({tuple(state) for state in states}) == 4
    assert games[0].agents == ["leader", "follower"]


def test_numpy_integers_are_seeds_too() -> None:
    game = smb.make("merge", backend="highway")
    named = state_of(game, seed=4, options={"episode": 6})
    assert state_of(game, seed=np.int64(4), options={"episode": np.uint8(6)}) == named


@pytest.mark.parametrize("suite", SUITES)
def test_without_noise_every_episode_is_the_same(make_quiet: Any, suite: str) -> None:
    game = make_quiet(suite)
    assert state_of(game, seed=1) == state_of(game, seed=2, options={"stream": "evaluation", "episode": 9})
