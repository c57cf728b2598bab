"""The batch does what gymnasium's own vector environment does with E games, in every autoreset mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import safemarl_bench as smb
from safemarl_bench.registry import suite_names

SUITES = [name for name in suite_names() if "kernel" in smb.get_suite(name).backends]
COUNTS_SAME_STEP = not gymnasium.__version__.startswith(("1.2.", "1.3."))
"""Those versions' RecordEpisodeStatistics take every mode for NEXT_STEP."""
DECISION = ("reward", "cost", "terminated", "truncated")


class Twins:
    """Our vector environment and gymnasium's, asked the same and compared in every bit."""

    def __init__(self, mine: Any, theirs: Any) -> None:
        self.mine, self.theirs = mine, theirs
        self.seen = np.zeros((mine.num_envs, 2), bool)

    def reset(self, **arguments: Any) -> None:
        options = arguments.pop("options", {})
        obs, infos = self.mine.reset(**arguments, options=options)
        other_obs, other_infos = self.theirs.reset(**arguments, options=dict(options))
        self.compare_obs(obs, other_obs, other_infos)
        compare_infos(infos, other_infos)

    def step(self, actions: np.ndarray) -> np.ndarray:
        obs, rewards, terminations, truncations, infos = self.mine.step(actions)
        other_obs, *numbers, other_infos = self.theirs.step(actions)
        for one, other in zip((rewards, terminations, truncations), numbers, strict=True):
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()
        over = terminations | truncations
        self.compare_obs(obs, other_obs, other_infos)
        if "final_info" in other_infos:
            last = other_infos["final_info"]
            for key in DECISION:  # the decision's outcome stays beside the rewards
                other_infos[key][over] = last[key][over]
            for k, seen in enumerate(last.pop("seen")):
                one, other = infos["final_obs"][k], other_infos["final_obs"][k]
                assert (one is None) == (other is None) == (not over[k])
                assert one is None or one[seen].tobytes() == other[seen].tobytes()
            del last["_seen"], infos["final_obs"], other_infos["final_obs"]
        compare_infos(infos, other_infos)
        np.testing.assert_array_equal(infos["reward"].sum(axis=1), rewards)
        return over

    def compare_obs(self, obs: np.ndarray, other: np.ndarray, infos: dict[str, Any]) -> None:
        self.seen = np.where(infos.pop("_seen")[:, None], infos.pop("seen"), self.seen)
        assert (obs.shape, obs.dtype) == (other.shape, other.dtype)
        assert obs[self.seen].tobytes() == other[self.seen].tobytes()


def compare_infos(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(mine) == set(theirs)
    for key, value in mine.items():
        if isinstance(value, dict):
            compare_infos(value, theirs[key])
        else:
            assert (value.shape, value.dtype) == (theirs[key].shape, theirs[key].dtype), key
            assert value.tobytes() == theirs[key].tobytes(), key


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("suite", SUITES)
def test_it_equals_gymnasiums_vector_environment(
    suite: str, mode: AutoresetMode, make_sync: Callable[..., Any]
) -> None:
    envs = smb.make_vec(suite, 3, autoreset_mode=mode)
    twins = Twins(envs, make_sync(suite, 3, mode))
    envs.action_space.seed(0)
    endings = 0
    for arguments in ({"seed": 4}, {}, {"seed": [9, 0, 7], "options": {"stream": "evaluation", "episode": 5}}, {}):
        twins.reset(**arguments)
        for _ in range(smb.get_suite(suite).horizon + 15):
            over = twins.step(envs.action_space.sample())
            endings += over.sum()
            if mode is AutoresetMode.DISABLED and over.any():
                twins.reset(options={"reset_mask": over})
    assert endings >= 12


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_a_masked_reset_starts_the_chosen_games_only(mode: AutoresetMode, make_sync: Callable[..., Any]) -> None:
    twins = Twins(smb.make_vec("merge", 3, autoreset_mode=mode), make_sync("merge", 3, mode))
    twins.reset(seed=0)
    actions = np.ones((3, 2), np.int64)
    twins.step(actions)
    twins.reset(options={"reset_mask": np.array([True, False, True])})
    twins.step(actions)
    twins.reset(seed=7, options={"reset_mask": np.array([False, True, True]), "stream": "search", "episode": 2})
    twins.step(actions)
    twins.reset(seed=[None, 3, None])  # the others go on, each in its own stream
    for _ in range(2 if mode is AutoresetMode.DISABLED else 30):
        twins.step(actions)


@pytest.mark.parametrize("suite", SUITES)
def test_each_environment_equals_a_batch_of_one(suite: str) -> None:
    batch, rng = smb.make_vec(suite, 5), np.random.default_rng(0)
    seeds = rng.integers(2**62, size=5)
    alone = [smb.make_vec(suite, 1) for _ in seeds]
    starts = [envs.reset(seed=int(seed))[0] for envs, seed in zip(alone, seeds, strict=True)]
    assert batch.reset(seed=seeds)[0].tobytes() == np.concatenate(starts).tobytes()
    batch.action_space.seed(0)
    endings = 0
    for _ in range(smb.get_suite(suite).horizon * 2):
        actions = batch.action_space.sample()
        *arrays, infos = batch.step(actions)
        endings += (arrays[2] | arrays[3]).sum()
        for k, envs in enumerate(alone):
            *mine, own = envs.step(actions[k : k + 1])
            for one, other in zip(arrays, mine, strict=True):
                assert one[k : k + 1].tobytes() == other.tobytes()
            for key in set(own) - {"final_obs", "final_info"}:
                assert infos[key][k : k + 1].tobytes() == own[key].tobytes(), key
            if "final_info" in own:
                assert infos["final_obs"][k].tobytes() == own["final_obs"][0].tobytes()
                for key, value in own["final_info"].items():
                    assert infos["final_info"][key][k : k + 1].tobytes() == value.tobytes(), key
    assert endings >= 10


def test_the_cost_of_a_games_last_decision_is_beside_its_reward() -> None:
    envs = smb.make_vec("merge", 8)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    collisions = 0
    for _ in range(60):
        _, _, over, _, infos = envs.step(envs.action_space.sample())
        if over.any():
            last = infos["final_info"]
            collided = last["terminated"] & last["crashed"]
            collisions += collided.sum()
            assert (infos["cost"][collided] >= 5.0).all()
            assert infos["terminated"][collided].all()
            assert not infos["crashed"][over].any()  # the next episode has begun
            assert (infos["state"][over, -1] == 1.0).all()
            assert (last["state"][over, -1] < 1.0).all()
    assert collisions >= 10


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)
def test_gymnasiums_wrappers_take_it(mode: AutoresetMode) -> None:
    plain, inner, outer = (smb.make_vec("roundabout", 4, autoreset_mode=mode) for _ in range(3))
    counted = gymnasium.wrappers.vector.RecordEpisodeStatistics(inner)
    listed = gymnasium.wrappers.vector.DictInfoToList(outer)
    for envs in (plain, counted, listed):
        envs.reset(seed=1)
    returns, actions = np.zeros(4), np.full((4, 2), 3)
    for _ in range(60):
        _, rewards, terminations, truncations, infos = plain.step(actions)
        statistics, single = counted.step(actions)[-1], listed.step(actions)[-1]
        returns += rewards
        over = terminations | truncations
        for k in range(4):
            assert single[k]["cost"].tolist() == infos["cost"][k].tolist()
            assert ("final_info" in single[k]) == (over[k] and mode is AutoresetMode.SAME_STEP)
            if "final_info" in single[k]:
                assert single[k]["final_obs"].tobytes() == infos["final_obs"][k].tobytes()
                assert single[k]["final_info"]["gap"] == infos["final_info"]["gap"][k]
            if over[k] and (COUNTS_SAME_STEP or mode is not AutoresetMode.SAME_STEP):
                assert statistics["episode"]["r"][k] == pytest.approx(returns[k])
        returns[over] = 0.0
        if mode is AutoresetMode.DISABLED and over.any():
            for envs in (plain, counted, listed):
                envs.reset(options={"reset_mask": over})
    assert counted.episode_count >= 8


def test_what_it_returned_does_not_change_later() -> None:
    envs = smb.make_vec("merge", 4)
    kept = [envs.reset(seed=0)]
    texts = [repr(kept[0])]
    for _ in range(25):
        kept.append(envs.step(np.full((4, 2), 3)))
        texts.append(repr(kept[-1]))
    assert [repr(answer) for answer in kept] == texts
    assert len(set(texts)) == 26
