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
        game = smb.make(suite, **{"noise_position": 0.0, "noise_speed": 0.0, **overrides})
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
    """Take one decision in which every live agent idles."""
    return lambda game: game.step(dict.fromkeys(game.agents, 1))
