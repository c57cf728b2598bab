"""Every registered suite and every compatible pair keeps the contract; breaches are named."""

import dataclasses

import numpy as np
import pytest
import toy_suite.agents
import toy_suite.game

import safemarl_bench as smb
from safemarl_bench import registry
from safemarl_bench.contract import Features
from safemarl_bench.errors import ContractError, IncompatiblePair
from safemarl_bench.testing import check_agent, check_suite

PAIRS = [
    (suite, agent)
    for suite in registry.suite_names()
    if registry.get_suite(suite).ranked or suite == "ev_charging-game"
    for agent in registry.agent_names()
    if not registry.incompatibility(registry.get_suite(suite), registry.get_agent(agent))
]


@pytest.mark.parametrize("suite", registry.suite_names())
def test_every_registered_suite_keeps_the_contract(suite):
    check_suite(suite)


def pair(suite, agent):
    """A pair as a parameter; a search of full width takes its time."""
    searches = "width" in {field.name for field in dataclasses.fields(registry.get_agent(agent).Config)}
    return pytest.param(suite, agent, id=f"{suite}-{agent}", marks=[pytest.mark.slow] if searches else [])


@pytest.mark.parametrize(("suite", "agent"), [pair(*names) for names in PAIRS])
def test_every_registered_agent_keeps_the_contract(suite, agent):
    check_agent(agent, suite)


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("OutOfRange", r"must be in 0\.\.2"),
        ("WrongType", "must be integers"),
        ("WrongShape", "must have shape"),
        ("Raiser", "raised in observe at step"),
    ],
)
def test_check_agent_names_the_breach(agent, message):
    with pytest.raises(ContractError, match=message):
        check_agent(f"toy_suite.agents:{agent}", "toy")


class Forgetful(toy_suite.agents.Counter):
    """Saves nothing of what it learned."""

    def load(self, path):
        self.counts += 1
        self.sums[0, 0] = 1e9


class Amnesiac(toy_suite.agents.Counter):
    """Loads nothing at all."""

    def load(self, path):
        pass


class Meddler(toy_suite.agents.Counter):
    """Changes what it is shown."""

    def act(self, observation, *, explore, rng):
        actions = super().act(observation, explore=explore, rng=rng)
        observation.state[:] = 0
        return actions


class Nostalgic(toy_suite.agents.Counter):
    """Counts the greedy acts too, which are not training."""

    def act(self, observation, *, explore, rng):
        actions = super().act(observation, explore=explore, rng=rng)
        if not explore:
            self.counts[2, 2] += 1
        return actions


class Unbuildable(toy_suite.agents.Counter):
    """Cannot be built."""

    def __init__(self, context, config):
        raise OSError("no such device")


class Fickle(toy_suite.agents.Counter):
    """Answers the same question differently each time."""

    calls = 0

    def act(self, observation, *, explore, rng):
        self.calls += 1
        actions = super().act(observation, explore=explore, rng=rng)
        return {**actions, "leader": (actions["leader"] + self.calls) % 3}


class Pickler(toy_suite.agents.Counter):
    """Writes a file that is neither safetensors nor JSON."""

    def save(self, path, *, training):
        super().save(path, training=training)
        (path / "extra.pkl").write_bytes(b"")


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (Forgetful, "after save and load it acts differently"),
        (Amnesiac, "after save and load it acts differently"),
        (Meddler, "act changes the observation it is given"),
        (Nostalgic, "a greedy act, as in validation, changes what is learned"),
        (Unbuildable, "raised in __init__ at step 0: OSError: no such device"),
        (Fickle, "the same greedy call gave another action"),
        (Pickler, r"holds only .safetensors and .json, found \['extra.pkl'\]"),
    ],
)
def test_check_agent_sees_what_a_run_would_not(agent, message):
    with pytest.raises(ContractError, match=message):
        check_agent(agent, "toy")


@pytest.mark.parametrize(
    ("agent", "suite"),
    [
        ("csq", "merge"),
        ("mip_pcsq", "merge"),
        ("bi_ac", "merge"),
        ("bi_ac", "intersection"),
        ("cs_maddpg", "racetrack-frenet"),
    ],
)
def test_check_agent_trains_learners_and_sees_one_that_forgets(agent, suite):
    learner = registry.get_agent(agent).for_actions(registry.get_suite(suite).action_kind)
    check_agent(learner, suite)
    forgetful = type("Forgetful", (learner,), {"load": lambda self, path: None})
    with pytest.raises(ContractError, match="after save and load it acts differently"):
        check_agent(forgetful, suite)


def test_check_suite_takes_a_game_too():
    check_suite(smb.make("toy"))
    with pytest.raises(ContractError, match="must be a float64 vector"):
        check_suite(breaking("step", spoil_cost(1.0))(registry.get_suite("toy"), 0.5))


def test_check_agent_refuses_a_pair_that_does_not_fit():
    with pytest.raises(IncompatiblePair):
        check_agent("toy_suite.agents:Continuous", "toy")


def breaking(method, change):
    """Return a toy game class whose method's result is passed through `change`."""

    class Broken(toy_suite.game.ToyGame):
        pass

    original = getattr(toy_suite.game.ToyGame, method)
    setattr(Broken, method, lambda self, *args, **kwargs: change(self, original(self, *args, **kwargs)))
    return Broken


def spoil_cost(value):
    def change(game, result):
        for info in result[4].values():
            info["cost"] = value
        return result

    return change


def drift(game, result):
    game.drift = getattr(game, "drift", 0) + 0.25
    game.position["leader"] += game.drift
    return {role: game._observe(role) for role in result[0]}, result[1]


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("step", spoil_cost(1.0), "must be a float64 vector"),
        ("step", spoil_cost(np.array([-1.0])), "must be a float64 vector of 1 finite numbers >= 0"),
        ("step", spoil_cost(np.array([0.0, 0.0])), "must be a float64 vector"),
        ("reset", drift, r"the same \(stream, seed, episode\) gave another episode"),
        ("action_space", lambda game, space: type(space)(3), "makes a new space at each call"),
    ],
)
def test_check_suite_names_the_breach(monkeypatch, method, change, message):
    monkeypatch.setattr(toy_suite.game, "ToyGame", breaking(method, change))
    with pytest.raises(ContractError, match=message):
        check_suite("toy")


def test_only_a_suite_off_the_leaderboard_may_always_play_the_same_episode(monkeypatch):
    def still(game, _):
        game.position = {"leader": 0.0, "follower": 3.0}
        return {role: game._observe(role) for role in game.agents}, {
            role: {"cost": np.zeros(1)} for role in game.agents
        }

    monkeypatch.setattr(toy_suite.game, "ToyGame", breaking("reset", still))
    with pytest.raises(ContractError, match="nothing is random, every episode is the same"):
        check_suite("toy")
    unranked = dataclasses.replace(registry.get_suite("toy"), ranked=False)
    monkeypatch.setattr("safemarl_bench.testing.get_suite", lambda name: unranked)
    check_suite("toy")


def test_check_suite_compares_the_state_with_its_own_features(monkeypatch):
    two = Features(names=("a", "b"), center=(0, 0), scale=(1, 1))
    changed = dataclasses.replace(registry.get_suite("toy"), state_features=two)
    monkeypatch.setattr("safemarl_bench.testing.get_suite", lambda name: changed)
    with pytest.raises(ContractError, match=r"toy has shape \(.*,\), the features are \(2,\)"):
        check_suite("toy")


def test_a_game_is_a_parallel_env_with_roles_and_limits():
    game = smb.make("toy")
    assert game.metadata["roles"] == {"leader": ["leader"], "followers": ["follower"]}
    assert game.cost_limits["leader"].tolist() == [1.0]
