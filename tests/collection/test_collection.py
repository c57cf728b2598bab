"""E games side by side: each as if it were alone, and saved in the middle of an episode without a trace."""

import functools

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench.collection import BatchedGames, SeparateGames, make_games
from safemarl_bench.errors import ContractError

SUITES = ("merge", "intersection", "racetrack-frenet")
E = 5


def separate(suite, num_envs=E, seed=3):
    return SeparateGames(smb.get_suite(suite), [smb.make(suite) for _ in range(num_envs)], seed, "train")


def batched(suite, num_envs=E, seed=3):
    return BatchedGames(smb.get_suite(suite), smb.make(suite), num_envs, seed, "train")


def draw(games, rng):
    """Random actions that keep racing cars on the road for a while."""
    shape, actions = (games.num_envs, 1), {}
    for role in games.spec.roles:
        numbers = rng.uniform(-0.3, 0.3, size=shape).astype(np.float32)
        actions[role] = rng.integers(5, size=games.num_envs) if games.spec.action_kind == "discrete" else numbers
    return actions


def flat(value):
    """Return all arrays in a transition or observation, with where they are from."""
    if isinstance(value, np.ndarray):
        return [("", value)]
    if value is None:
        return []
    items = value.items() if isinstance(value, dict) else value._asdict().items()
    return [(f"{key}.{where}", array) for key, part in items for where, array in flat(part)]


def same(one, other):
    for (where, a), (_, b) in zip(flat(one), flat(other), strict=True):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)


@pytest.mark.parametrize("suite", SUITES)
def test_batched_games_are_separate_games(suite):
    one, other = separate(suite), batched(suite)
    ends = 0
    for number in range(80):
        same(one.observation, other.observation)
        actions = draw(one, np.random.default_rng(number))
        (a, finished), (b, also) = one.step(actions, by="one"), other.step(actions, by="other")
        same(a, b)
        assert finished == also
        ends += len(finished)
    assert ends >= 5


@pytest.mark.parametrize("build", [separate, batched])
@pytest.mark.parametrize("suite", SUITES)
def test_a_finished_game_shows_its_end_and_goes_on_with_its_own_next_episode(suite, build):
    games, rng = build(suite), np.random.default_rng(0)
    alone = separate(suite, 1)
    for _ in range(60):
        playing = games.episodes.copy()
        transition, finished = games.step(draw(games, rng), by="test")
        over = np.flatnonzero(transition.episode_over)
        assert len(finished) == len(over)
        assert (games.episodes - playing == E * transition.episode_over).all()
        for k in over:
            assert not any(transition.next_observation.alive[role][k] for role in games.spec.roles)
            assert all(games.observation.alive[role][k] for role in games.spec.roles)
            assert transition.next_observation.step[k] > games.observation.step[k] == 0
            alone.episodes[0] = games.episodes[k]
            alone._restart(np.ones(1, bool))
            np.testing.assert_array_equal(alone.observation.state[0], games.observation.state[k])


def test_returns_and_costs_of_finished_episodes_are_the_sums_of_their_decisions():
    games, rng = batched("merge"), np.random.default_rng(1)
    paid, crashed, crashes, roles = np.zeros((E, 4)), np.zeros(E, bool), 0, games.spec.roles
    for _ in range(60):
        transition, finished = games.step(draw(games, rng), by="test")
        costs = [transition.costs[role][:, 0] for role in roles]
        paid += np.stack([*(transition.rewards[role] for role in roles), *costs], axis=1)
        crashed |= np.max(costs, axis=0) >= 5.0  # a collision; gaps cost 1 in a decision
        for k, episode in zip(np.flatnonzero(transition.episode_over), finished, strict=True):
            sums = [episode.returns[role] for role in roles] + [episode.costs[role][0] for role in roles]
            np.testing.assert_allclose(sums, paid[k])
            assert episode.crashed == crashed[k]
            crashes += episode.crashed
            paid[k], crashed[k] = 0.0, False
    assert crashes > 3


@pytest.mark.parametrize("build", [separate, batched, functools.partial(separate, num_envs=1)])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("cut", [0, 7, 23])
def test_games_saved_in_mid_episode_go_on_as_if_nothing_had_happened(suite, build, cut):
    games, again = build(suite), build(suite)
    for number in range(cut):
        games.step(draw(games, np.random.default_rng(number)), by="test")
    again.restore(games.save())
    for number in range(cut, cut + 25):
        same(games.observation, again.observation)
        actions = draw(games, np.random.default_rng(number))
        (a, finished), (b, also) = games.step(actions, by="test"), again.step(actions, by="test")
        same(a, b)
        assert finished == also


@pytest.mark.parametrize("build", [separate, batched])
def test_bad_actions_name_the_agent_and_move_nothing(build):
    games = build("merge")
    before = games.observation.state.copy()
    good = draw(games, np.random.default_rng(0))
    for actions, message in [
        ({**good, "leader": good["leader"][:2]}, r"agent 'me': action of 'leader' must have shape \(5,\), got \(2,\)"),
        ({**good, "follower": np.full(E, 5)}, "action of 'follower' must be in 0..4"),
        ({"leader": good["leader"]}, "one action array for each of"),
    ]:
        with pytest.raises(ContractError, match=message):
            games.step(actions, by="me")
    np.testing.assert_array_equal(games.observation.state, before)


def test_games_are_batched_where_the_backend_is():
    def build(suite, backend, num_envs):
        make = functools.partial(smb.make, suite, backend=backend)
        return make_games(smb.get_suite(suite), make(), make, num_envs, 0)

    for num_envs in (1, 2):
        assert isinstance(build("merge", "kernel", num_envs), BatchedGames)
    assert isinstance(build("merge", "highway", 2), SeparateGames)
    assert isinstance(build("toy", "plain", 2), SeparateGames)
