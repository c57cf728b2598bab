"""Building and using a batch of games: spaces, seeds, endings, refusals, pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import safemarl_bench as smb
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
from safemarl_bench.registry import suite_names
from safemarl_bench.vector import VectorGame

SUITES = [name for name in suite_names() if "kernel" in smb.get_suite(name).backends]
IDLE = np.ones((3, 2), np.int64)


@pytest.fixture
def envs() -> VectorGame:
    """Return three merge games, reset."""
    made = smb.make_vec("merge", 3)
    made.reset(seed=0)
    return made


@pytest.mark.parametrize("suite", SUITES)
def test_spaces_hold_what_is_returned(suite: str) -> None:
    envs, game = smb.make_vec(suite, 3), smb.make(suite)
    obs, _ = envs.reset(seed=0)
    width = game.observation_space("leader").shape[0]
    assert envs.single_observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (2, width), np.float32)
    if smb.get_suite(suite).action_kind == "discrete":
        assert envs.single_action_space == gymnasium.spaces.MultiDiscrete([5, 5])
    else:
        assert envs.single_action_space == gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    assert envs.observation_space.shape == (3, 2, width)
    assert envs.action_space.shape == (3, 2)
    envs.action_space.seed(0)
    obs, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(obs)
    assert [(array.shape, str(array.dtype)) for array in (rewards, terminations, truncations)] == [
        ((3,), "float64"),
        ((3,), "bool"),
        ((3,), "bool"),
    ]
    assert infos["cost"].shape == (3, *envs.cost_limits.shape)
    assert envs.cost_limits.tolist() == [
        list(smb.get_suite(suite).cost_limits[agent]) for agent in game.possible_agents
    ]


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_the_mode_is_in_the_metadata_and_may_be_given_by_its_name(mode: AutoresetMode) -> None:
    for given in (mode, mode.value):
        envs = smb.make_vec("merge", 1, autoreset_mode=given)
        assert envs.metadata["autoreset_mode"] is mode
        assert envs.metadata["roles"] == {"leader": ["leader"], "followers": ["follower"]}
    assert smb.make_vec("merge", 1).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_without_a_seed_it_starts_somewhere_and_goes_on_from_there() -> None:
    first, second = smb.make_vec("merge", 3), smb.make_vec("merge", 3)
    states = [envs.reset()[1]["state"].tobytes() for envs in (first, second, first)]
    assert len(set(states)) == 3


def test_settings_reach_the_simulator() -> None:
    quiet = smb.make_vec("merge", 2, noise_position=0.0, noise_speed=0.0)
    obs, _ = quiet.reset(seed=0)
    assert obs[0].tobytes() == obs[1].tobytes()
    assert obs[0, 0].tolist() == [70.0, 4.0, 25.0, 0.0, 70.0, 14.5, 25.0, 0.0, 1.0]


class Shown(NamedTuple):
    """What the scripted simulator shows."""

    obs: np.ndarray
    state: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    over: np.ndarray


class ScriptedCore:
    """Six games whose agents end by themselves at the decisions in `ENDS`; the clock cuts at decision 3."""

    ENDS = np.array([[1, 2], [1, 9], [3, 3], [3, 9], [9, 9], [9, 2]])

    def __init__(self) -> None:
        self.time = np.zeros(6, int)
        self.terminated, self.truncated = np.zeros((6, 2), bool), np.zeros(6, bool)

    def reset(self, mask: Any, *, seeds: Any, episodes: Any, stream: str) -> Shown:
        self.time[mask] = 0
        self.terminated[mask], self.truncated[mask] = False, False
        return self._show()

    def step(self, actions: Any) -> Shown:
        running = ~self._over()
        self.time += running
        self.terminated[:] = (self.time[:, None] == self.ENDS) & running[:, None]
        self.truncated[:] = running & (self.time == 3)
        return self._show()

    def _over(self) -> np.ndarray:
        return (self.time >= 3) | (self.time[:, None] >= self.ENDS).all(axis=1)

    def _show(self) -> Shown:
        zeros, state = np.zeros((6, 2)), self.time[:, None].astype(np.float32)
        return Shown(zeros[:, :, None], state, zeros, zeros[:, :, None], self.terminated, self.truncated, self._over())


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_a_game_is_truncated_when_the_clock_cut_a_live_agent_and_terminated_otherwise(mode: AutoresetMode) -> None:
    game: Any = smb.make("merge", backend="kernel")
    game.simulator = lambda num_envs: ScriptedCore()
    envs = VectorGame(game, 6, mode)
    envs.reset(seed=0)
    ended: dict[int, tuple[int, str, list[bool]]] = {}
    for decision in (1, 2, 3):
        _, _, terminations, truncations, infos = envs.step(np.ones((6, 2), np.int64))
        assert not (terminations & truncations).any()
        for k in np.flatnonzero(terminations | truncations):
            ended.setdefault(k, (decision, "cut" if truncations[k] else "end", infos["truncated"][k].tolist()))
        if mode is AutoresetMode.DISABLED and (terminations | truncations).any():
            envs.reset(options={"reset_mask": terminations | truncations})
    assert ended == {
        0: (2, "end", [False, False]),
        1: (3, "cut", [False, True]),  # the leader was done before
        2: (3, "end", [False, False]),  # in that very decision, but by themselves
        3: (3, "cut", [False, True]),
        4: (3, "cut", [True, True]),
        5: (3, "cut", [True, False]),
    }


def test_a_suite_without_a_batched_simulator_is_refused() -> None:
    message = (
        r"suite toy has no batched simulator for make_vec: its backends are plain; make\(\) gives one game at a time"
    )
    with pytest.raises(RegistryError, match=message):
        smb.make_vec("toy", 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "highway"}, "no batched simulator for make_vec: backend 'highway' has none"),
        ({"backend": "kernl"}, "no backend 'kernl': did you mean 'kernel'"),
        ({"autoreset_mode": "SameSteps"}, "unknown autoreset mode 'SameSteps': did you mean 'SameStep'"),
        ({"autoreset_mode": None}, "unknown autoreset mode None: known: Disabled, NextStep, SameStep"),
        ({"render_mode": "human"}, "render_mode must be 'rgb_array', not 'human'"),
        ({"noise_positon": 0.0}, "no setting 'noise_positon': did you mean 'noise_position'"),
    ],
    ids=str,
)
def test_what_make_vec_does_not_know_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        smb.make_vec("merge", 2, **options)


@pytest.mark.parametrize("num_envs", [0, -1, 1.5, None, True])
def test_a_batch_needs_at_least_one_game(num_envs: Any) -> None:
    with pytest.raises(SafeMARLBenchError, match="num_envs must be"):
        smb.make_vec("merge", num_envs)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (IDLE[:2], r"integers of shape \(3, 2\), got int64 of shape \(2, 2\)"),
        (IDLE[:, 0], r"integers of shape \(3, 2\), got int64 of shape \(3,\)"),
        (IDLE.astype(float), r"integers of shape \(3, 2\), got float64"),
        (np.full((3, 2), np.nan), r"integers of shape \(3, 2\), got float64"),
        (IDLE.tolist(), r"integers of shape \(3, 2\), got list"),
        (5 * IDLE, "action of 'leader' in environment 0 must be in 0..4, got 5"),
        (-IDLE, "action of 'leader' in environment 0 must be in 0..4, got -1"),
    ],
)
def test_bad_actions_are_refused_and_nothing_moves(envs: VectorGame, actions: Any, message: str) -> None:
    untouched = smb.make_vec("merge", 3)
    untouched.reset(seed=0)
    with pytest.raises(ContractError, match=message):
        envs.step(actions)
    assert repr(envs.step(IDLE)) == repr(untouched.step(IDLE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must be an integer in"),
        ({"seed": 2**63 - 3 + 1}, r"seed \+ 2, of the last environment, must be an integer in"),
        ({"seed": 1.0}, "seed must be an integer in"),
        ({"seed": "1"}, "seed must be an integer in"),
        ({"seed": [0, 1]}, "seed must be an integer or 3 of them, got 2"),
        ({"seed": [0, -1, 2]}, "seed of environment 1 must be an integer in"),
        ({"seed": np.zeros(3)}, "seed of environment 0 must be an integer in"),
        ({"options": {"mask": np.ones(3, bool)}}, "reset has no option 'mask': did you mean 'reset_mask'"),
        ({"options": {"reset_mask": np.ones(2, bool)}}, r"bool of shape \(3,\), .*got bool of shape \(2,\)"),
        ({"options": {"reset_mask": np.ones(3, int)}}, r"bool of shape \(3,\), .*got int64"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, "true nowhere"),
        ({"options": {"stream": "trian"}}, "unknown random stream 'trian': did you mean 'train'"),
        ({"options": {"stream": ["train"]}}, "unknown random stream"),
        ({"options": {"episode": -1}}, "episode must be an integer in"),
        ({"options": {"episode": [0, 1]}}, r"episodes must be an integer or integers of shape \(3,\)"),
        ({"options": {"episode": np.array([0, 1, -2])}}, "episodes must be in"),
    ],
    ids=str,
)
def test_bad_resets_are_refused_and_nothing_changes(envs: VectorGame, arguments: dict[str, Any], message: str) -> None:
    untouched = smb.make_vec("merge", 3)
    untouched.reset(seed=0)
    with pytest.raises(SafeMARLBenchError, match=message):
        envs.reset(**arguments)
    assert repr(envs.step(IDLE)) == repr(untouched.step(IDLE))
    assert repr(envs.reset()) == repr(untouched.reset())


def test_seeds_up_to_the_largest_are_taken(envs: VectorGame) -> None:
    obs, _ = envs.reset(seed=2**63 - 3)
    again, _ = envs.reset(seed=[2**63 - 3, 2**63 - 2, 2**63 - 1])
    assert obs.tobytes() == again.tobytes()


def test_nothing_works_before_the_first_reset_which_starts_all_games() -> None:
    envs = smb.make_vec("merge", 3, render_mode="rgb_array")
    with pytest.raises(ContractError, match="step: no episode is running; call reset first"):
        envs.step(IDLE)
    with pytest.raises(ContractError, match="render: no episode is running; call reset first"):
        envs.render()
    with pytest.raises(ContractError, match="the first reset starts all environments"):
        envs.reset(options={"reset_mask": np.array([True, False, True])})
    envs.reset(options={"reset_mask": np.ones(3, bool)})
    envs.step(IDLE)


def test_a_disabled_autoreset_insists_on_a_reset() -> None:
    envs = smb.make_vec("merge", 3, autoreset_mode="Disabled")
    envs.reset(seed=0)
    over = np.zeros(3, bool)
    while not over.any():
        _, _, over, _, _ = envs.step(IDLE)
    with pytest.raises(ContractError, match=r"step: \d games are over, the first in environment \d; start them"):
        envs.step(IDLE)
    envs.reset(options={"reset_mask": over})
    envs.step(IDLE)


def test_nothing_works_after_close(envs: VectorGame) -> None:
    envs.close()
    envs.close()
    for what in (lambda: envs.step(IDLE), envs.reset, envs.render):
        with pytest.raises(ContractError, match="the environment is closed; make a new one"):
            what()


def test_it_draws_every_game_as_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    envs, game = smb.make_vec("merge", 2, render_mode="rgb_array"), smb.make("merge", render_mode="rgb_array")
    envs.reset(seed=3)
    for decision in range(4):
        pictures = envs.render()
        assert [(picture.shape, str(picture.dtype)) for picture in pictures] == [(pictures[0].shape, "uint8")] * 2
        for k, picture in enumerate(pictures):
            game.reset(seed=3 + k)
            for _ in range(decision):
                game.step({"leader": 3, "follower": 1})
            assert (picture != game.render()).any(axis=2).mean() < 1e-3  # a pixel may differ by rounding
        assert (pictures[0] != pictures[1]).any()
        envs.step(np.array([[3, 1], [3, 1]]))
    envs.close()
    game.close()


def test_drawing_needs_a_render_mode(envs: VectorGame) -> None:
    with pytest.raises(ContractError, match="make it with render_mode='rgb_array'"):
        envs.render()
