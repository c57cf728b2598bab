"""Games without spawn noise, and vehicles put where a test wants them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import safemarl_bench as smb


@pytest.fixture
def make_quiet() -> Iterator[Callable[..., Any]]:
    """Build a game without spawn noise, reset."""
    games = []

    def make(suite: str, **overrides: Any) -> Any:
        noise = [setting for setting in smb.get_suite(suite).env if setting.startswith("noise_")]
        game = smb.make(suite, backend="highway", **{**dict.fromkeys(noise, 0.0), **overrides})
        game.reset(seed=0)
        games.append(game)
        return game

    yield make
    for game in games:
        game.close()


@pytest.fixture
def merge(make_quiet: Callable[..., Any]) -> Any:
    """Return a merge game without spawn noise, reset."""
    return make_quiet("merge")


@pytest.fixture
def roundabout(make_quiet: Callable[..., Any]) -> Any:
    """Return a roundabout game without spawn noise, reset."""
    return make_quiet("roundabout")


@pytest.fixture
def intersection(make_quiet: Callable[..., Any]) -> Any:
    """Return an intersection game without spawn noise, reset."""
    return make_quiet("intersection")


@pytest.fixture
def racetrack(make_quiet: Callable[..., Any]) -> Any:
    """Return a racetrack game without spawn noise, reset."""
    return make_quiet("racetrack")


@pytest.fixture
def place() -> Callable[..., Any]:
    """Put an agent's vehicle somewhere, with the cruise speed it has and the lane it is on as its targets."""

    def put(game: Any, agent: str, x: float, y: float, speed: float = 0.0, heading: float = 0.0) -> Any:
        vehicle = game.scene.controlled_vehicles[game.possible_agents.index(agent)]
        vehicle.position = np.array([x, y], np.float64)
        vehicle.speed = vehicle.target_speed = speed
        vehicle.heading = heading
        vehicle.on_state_update()
        vehicle.target_lane_index, vehicle.route = vehicle.lane_index, None
        assert math.isfinite(vehicle.position[0])
        return vehicle

    return put


@pytest.fixture
def idle() -> Callable[[Any], Any]:
    """Take one decision in which every live agent plays its neutral action."""

    def step(game: Any) -> Any:
        neutral = game.spec.neutral_actions
        return game.step({agent: _as_action(game, neutral[agent]) for agent in game.agents})

    return step


@pytest.fixture
def step_by_number() -> Callable[[Any, int], Any]:
    """Take one decision in which agents do different things, decided by a number."""

    def step(game: Any, number: int) -> Any:
        choices = ([-0.8], [-0.2], [0.0], [0.3], [0.7]) if game.scene.CONTINUOUS else range(5)
        return game.step(
            {agent: _as_action(game, choices[(number + len(agent)) % len(choices)]) for agent in game.agents}
        )

    return step


def _as_action(game: Any, action: Any) -> Any:
    return np.array(action, np.float32) if game.scene.CONTINUOUS else action
