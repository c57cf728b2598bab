"""Policies without learning: idle, random, and the open-loop script with its search."""

import dataclasses
from types import MappingProxyType

import gymnasium
import numpy as np
import pettingzoo
import pytest
from safemarl_bench.baselines.idle import Idle
from safemarl_bench.baselines.script import Script, ScriptConfig, Search, main
from safemarl_bench.baselines.uniform import Uniform

from safemarl_bench import registry
from safemarl_bench.contract import AgentContext, Features, NoConfig, Observation
from safemarl_bench.errors import ContractError

OBSERVED = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
SCALE = Features(("x",), (0.0,), (1.0,))
DISCRETE = {"l": gymnasium.spaces.Discrete(3), "f": gymnasium.spaces.Discrete(4, start=2)}
BOXES = {
    "l": gymnasium.spaces.Box(-2.0, 1.0, (1,), np.float32),
    "f": gymnasium.spaces.Box(np.array([0.0, 5.0], np.float32), np.array([1.0, 9.0], np.float32)),
}


def context(action_spaces, neutral_actions):
    return AgentContext(
        observation_spaces={"l": OBSERVED, "f": OBSERVED},
        action_spaces=action_spaces,
        state_space=OBSERVED,
        leader=("l",),
        followers=("f",),
        cost_limits={"l": (1.0,), "f": (1.0,)},
        gamma=0.9,
        horizon=5,
        neutral_actions=neutral_actions,
        observation_features={"l": SCALE, "f": SCALE},
        state_features=SCALE,
        num_envs=1,
        training_steps=0,
        seed=0,
    )


def observation(*steps):
    raw = np.zeros((len(steps), 1), np.float32)
    alive = np.ones(len(steps), bool)
    return Observation({"l": raw, "f": raw}, raw, {"l": alive, "f": alive}, np.array(steps))


def act(agent, *steps, seed=0, explore=False):
    return agent.act(observation(*steps), explore=explore, rng=np.random.default_rng(seed))


def test_idle_repeats_the_neutral_discrete_actions():
    actions = act(Idle(context(DISCRETE, {"l": 1, "f": 3}), NoConfig()), 0, 7)
    assert {agent: action.tolist() for agent, action in actions.items()} == {"l": [1, 1], "f": [3, 3]}
    assert {action.dtype for action in actions.values()} == {np.dtype(np.int64)}


def test_idle_repeats_the_neutral_box_actions():
    actions = act(Idle(context(BOXES, {"l": 0.5, "f": [1.0, 6.0]}), NoConfig()), 0, 7)
    assert {agent: action.tolist() for agent, action in actions.items()} == {
        "l": [[0.5], [0.5]],
        "f": [[1.0, 6.0], [1.0, 6.0]],
    }
    assert {action.dtype for action in actions.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("explore", [False, True])
def test_uniform_draws_every_discrete_action_equally_often(explore):
    actions = act(Uniform(context(DISCRETE, {}), NoConfig()), *range(6000), explore=explore)
    for agent, low, count in (("l", 0, 3), ("f", 2, 4)):
        seen, counts = np.unique(actions[agent], return_counts=True)
        assert seen.tolist() == list(range(low, low + count))
        assert np.abs(counts - 6000 / count).max() < 5 * (6000 / count) ** 0.5


def test_uniform_fills_its_boxes_and_stays_inside():
    actions = act(Uniform(context(BOXES, {}), NoConfig()), *range(2000))
    for agent, space in BOXES.items():
        drawn = actions[agent]
        assert drawn.dtype == np.float32
        assert drawn.shape == (2000, *space.shape)
        assert ((drawn >= space.low) & (drawn <= space.high)).all()
        assert np.abs(drawn.mean(axis=0) - (space.low + space.high) / 2).max() < 0.15
        assert (np.ptp(drawn, axis=0) > 0.98 * (space.high - space.low)).all()


def test_uniform_is_a_function_of_its_generator():
    agent = Uniform(context(DISCRETE, {}), NoConfig())
    draws = [act(agent, *range(50), seed=seed)["f"].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_uniform_refuses_an_unbounded_box():
    spaces = {**BOXES, "f": gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)}
    with pytest.raises(ContractError, match="'f' must be Discrete or a bounded Box"):
        act(Uniform(context(spaces, {}), NoConfig()), 0)


def test_script_plays_its_entry_of_the_step_and_then_the_neutral_action():
    script = Script(context(DISCRETE, {"l": 1, "f": 3}), ScriptConfig(leader=(2, 0), follower=(5,)))
    actions = act(script, 0, 1, 2, 19)
    assert actions["l"].tolist() == [2, 0, 1, 1]
    assert actions["f"].tolist() == [5, 3, 3, 3]
    assert {action.dtype for action in actions.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize("bad", [(3,), (0, -1), (0.5,), ("x",)])
def test_script_refuses_actions_outside_the_space(bad):
    with pytest.raises(ContractError, match="config key 'leader' of Script must hold actions of Discrete"):
        Script(context(DISCRETE, {"l": 1, "f": 3}), ScriptConfig(leader=bad))


class Locks(pettingzoo.ParallelEnv):
    """Each agent earns 1 per right digit of its code; the spawn adds a little to the leader."""

    codes = MappingProxyType({"l": (2, 0, 1, 1, 2), "f": (5, 5, 2, 4, 3)})
    possible_agents = ("l", "f")

    def action_space(self, agent):
        return DISCRETE[agent]

    def reset(self, seed=None, options=None):
        assert options["stream"] == "search"
        self.agents, self.step_count, self.noise = ["l", "f"], 0, options["episode"] % 3
        return {}, {}

    def step(self, actions):
        rewards = {agent: float(self.codes[agent][self.step_count] == action) for agent, action in actions.items()}
        rewards["l"] += 0.1 * self.noise
        self.step_count += 1
        if self.step_count == 5:
            self.agents = []
        return {}, rewards, {}, {}, {}


def search(budget=4000, seed=0):
    spec = dataclasses.replace(registry.get_suite("merge"), leader=("l",), followers=("f",), horizon=5)
    return Search(spec, Locks(), budget=budget, seed=seed)


def test_the_search_opens_a_lock_whose_code_is_known():
    found = search()
    mean, sequences = found.run()
    assert sequences.tolist() == [list(Locks.codes["l"]), list(Locks.codes["f"])]
    assert mean == pytest.approx(10 + 5 * 0.1)  # spawns add 0, 0.1, 0.2 per step in turn
    assert 4000 - 24 <= found.played <= 4000 + 24 * 3


def test_the_search_is_a_function_of_its_seed():
    results = [search(900, seed).run() for seed in (0, 0, 1)]
    assert results[0][1].tolist() == results[1][1].tolist()
    assert results[0][1].tolist() != results[2][1].tolist()


def test_a_candidate_that_falls_behind_on_the_first_spawns_is_given_up():
    found = search()
    codes = np.array([Locks.codes["l"], Locks.codes["f"]])
    returns, length = found.compare(codes, np.full(24, -np.inf))
    assert (found.played, length) == (24, 5)
    assert found.compare(np.array([[0] * 5, [2] * 5]), returns) is None
    assert found.played == 24 + 4


def test_an_unknown_suite_is_one_line_and_exit_code_2(capsys):
    assert main(["merg"]) == 2
    assert "unknown suite 'merg': did you mean 'merge'?" in capsys.readouterr().err
