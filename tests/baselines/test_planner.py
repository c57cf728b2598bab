"""Planners: against enumeration where that is possible, against what is really played, and their privileges."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import gymnasium
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from safemarl_bench.baselines.planner import (
    Plan,
    Planner,
    PlannerConfig,
    SafePlanner,
    beam_search,
    cells_of,
    menu_of,
    queues_of,
    search,
    solo_tables,
)
from safemarl_bench.baselines.script import Script

import safemarl_bench as smb
from safemarl_bench.contract import Agent, Observation, build_config
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.errors import ContractError
from safemarl_bench.evaluation import EVALUATION_SEED, STREAM, play_episode
from safemarl_bench.registry import get_agent, get_suite, incompatibility, make_context, suite_names
from safemarl_bench.rollout import Rollout

SUITES = ("merge", "roundabout", "intersection")
META_ACTIONS, LEVELS = np.arange(5), np.linspace(-1.0, 1.0, 5, dtype=np.float32)
MENUS = {"merge": META_ACTIONS, "roundabout": META_ACTIONS, "intersection": LEVELS}
USUAL = {"merge": [1, 1, 3, 0], "roundabout": [1, 1, 3, 4], "intersection": [0.0, 0.2, -0.2]}
DECISIONS = {"merge": 6, "roundabout": 7, "intersection": 3}
NARROW = PlannerConfig(width=192)


def late_state(suite: str, seed: int, left: int = 3) -> np.ndarray:
    """Return a state, (2, 20), of a running episode with both vehicles near each other and few decisions left."""
    core, rng = BatchedDriving(get_suite(suite), 64), np.random.default_rng(seed)
    core.reset(stream="search", seeds=seed)
    for _ in range(DECISIONS[suite]):
        shown = core.step(rng.choice(USUAL[suite], size=(64, 2)))
    state, spec = core.get_state(), get_suite(suite)
    running = (state[:, :, kernel.LIVE] != 0.0).all(1)
    near = int(np.argmin(np.where(running, shown.gap, np.inf)))
    state[near, :, kernel.DECISION] = spec.horizon - left
    return state[near]


def enumerate_plans(suite: str, start: np.ndarray, decisions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return return, cost and collision of all 25^decisions plans."""
    count = 25**decisions
    core = BatchedDriving(get_suite(suite), count)
    core.set_state(np.repeat(start[None], count, axis=0))
    joint = np.array(list(itertools.product(MENUS[suite], repeat=2 * decisions))).reshape(count, decisions, 2)
    returns, costs, crashed = np.zeros(count), np.zeros(count), np.zeros(count, bool)
    for decision in range(decisions):
        shown = core.step(joint[:, decision])
        returns += shown.reward.sum(1)
        costs += shown.cost.sum((1, 2))
        crashed |= shown.crashed.any(1)
    assert shown.over.all()
    return returns, costs, crashed


def best_pair(returns: np.ndarray, costs: np.ndarray) -> tuple[float, float] | None:
    if not len(returns):
        return None
    k = np.lexsort((costs, -returns))[0]
    return float(returns[k]), float(costs[k])


@pytest.mark.parametrize(("decisions", "seeds"), [(2, range(8)), (3, range(3))])
@pytest.mark.parametrize("suite", SUITES)
def test_a_wide_beam_with_small_cells_finds_what_enumeration_finds(suite: str, decisions: int, seeds: range) -> None:
    core, collisions, costly = BatchedDriving(get_suite(suite), 512), False, False
    for seed in seeds:
        start = late_state(suite, seed, decisions)
        returns, costs, crashed = enumerate_plans(suite, start, decisions)
        tables = [solo_tables(core, start[None], car, MENUS[suite], 0.01) for car in range(2)]
        for free_only in (False, True):
            allowed = ~crashed & ~(free_only & (costs > 0.0))
            plan = beam_search(core, start, tables, width=len(returns), size=0.01, free_only=free_only)
            found = None if plan is None else (plan.total_return, plan.cost)
            assert found == best_pair(returns[allowed], costs[allowed])
        collisions, costly = collisions or crashed.any(), costly or (costs[~crashed] > 0.0).any()
    assert collisions
    assert costly


@pytest.mark.parametrize("suite", SUITES)
def test_a_lone_vehicles_table_holds_the_best_return_of_all_its_plans(suite: str) -> None:
    core, start = BatchedDriving(get_suite(suite), 125), late_state(suite, 0)
    for car in range(2):
        lone = start.copy()
        lone[1 - car, [kernel.PRESENT, kernel.LIVE, kernel.RANK]] = 0.0, 0.0, 1.0
        core.set_state(np.repeat(lone[None], 125, axis=0))
        joint = np.zeros((125, 3, 2), MENUS[suite].dtype)
        joint[:, :, car] = list(itertools.product(MENUS[suite], repeat=3))
        total, crashed = np.zeros(125), np.zeros(125, bool)
        for decision in range(3):
            shown = core.step(joint[:, decision])
            total += shown.reward[:, car]
            crashed |= shown.crashed[:, car]
        tables = solo_tables(core, start[None], car, MENUS[suite], 0.01)
        assert tables.look_up(0, start[None, car]) == [total[~crashed].max()]


def test_cars_share_a_cell_when_position_speed_and_lane_are_alike() -> None:
    car = np.zeros((1, kernel.STATE_WIDTH))
    car[0, [kernel.X, kernel.Y, kernel.SPEED, kernel.TARGET_LANE]] = -12.0, 6.0, 8.0, 3.0
    near, far = np.repeat(car, 4, axis=0), np.repeat(car, 4, axis=0)
    near[range(3), [kernel.X, kernel.Y, kernel.SPEED]] += 0.9
    far[range(4), [kernel.X, kernel.Y, kernel.SPEED, kernel.TARGET_LANE]] += [1.1, -1.1, 1.1, 1.0]
    assert (cells_of(near, 2.0) == cells_of(car, 2.0)).all()
    assert len({*cells_of(far, 2.0), *cells_of(car, 2.0)}) == 5


def test_all_meta_actions_are_tried_and_some_levels_of_a_continuous_action() -> None:
    assert menu_of(gymnasium.spaces.Discrete(5), 9).tolist() == [0, 1, 2, 3, 4]
    menu = menu_of(gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32), 9)
    assert menu.tolist() == [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]
    assert menu.dtype == np.float32


@hypothesis.settings(derandomize=True, deadline=None, max_examples=100)
@hypothesis.given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.lists(st.sets(st.integers(0, 6))))
def test_queues_give_out_one_two_four_candidates_of_a_situation_in_order(
    situations: list[int], requests: list[set[int]]
) -> None:
    queues = queues_of(np.array(situations, np.int64))
    waiting = [
        [index for index, situation in enumerate(situations) if situation == own] for own in dict.fromkeys(situations)
    ]
    assert [[*queues.number].index(own) for own in range(len(waiting))] == [indices[0] for indices in waiting]
    given_out = [0] * len(waiting)
    for request in requests:
        asked = sorted(own for own in request if own < len(waiting))
        expected = []
        for own in asked:
            count = max(given_out[own], 1)
            given_out[own] += len(waiting[own][:count])
            expected += waiting[own][:count]
            del waiting[own][:count]
        assert queues.take(np.array(asked, np.int64)).tolist() == sorted(expected)
        assert queues.lasting(np.arange(len(waiting))).tolist() == [bool(indices) for indices in waiting]


class Yielding(Agent):
    """The follower brakes once and catches up behind the leader: passes the intersection safely without noise."""

    learns = False

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
        acceleration = {0: -0.4, 5: 0.4}.get(int(observation.step[0]), 0.0)
        return {"leader": np.zeros((1, 1), np.float32), "follower": np.full((1, 1), acceleration, np.float32)}


def build(suite: str, agent: type[Agent], backend: str = "auto", **values: Any) -> tuple[Agent, Rollout]:
    spec, game = get_suite(suite), smb.make(suite, backend=backend)
    context = make_context(spec, game, steps=0, seed=0, agent_class=agent)
    return agent(context, build_config(agent, values)), Rollout(spec, game)


@pytest.fixture(scope="module", params=SUITES)
def planned(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Play two held-out episodes on highway-env with both planners, and with an open-loop rival on the kernel."""
    suite, played = request.param, {}
    for name, agent_class in (("planner", Planner), ("planner_safe", SafePlanner)):
        agent, rollout = build(suite, agent_class, "highway", width=NARROW.width)
        tallies, plans = [], []
        for episode in range(2):
            tallies.append(play_episode(rollout, agent, name, episode))
            plans.append(agent.plan)
        rollout.game.close()
        played[name] = (tallies, plans)
    script = get_suite(suite).agents.get("script")
    rival, rollout = build(suite, Script, "kernel", **script) if script else build(suite, Yielding, "kernel")
    played["rival"] = ([play_episode(rollout, rival, "rival", episode) for episode in range(2)], [])
    return {"suite": suite, **played}


def totals(tallies: list[Any]) -> list[float]:
    return [sum(tally.returns.values()) for tally in tallies]


@pytest.mark.parametrize("name", ["planner", "planner_safe"])
def test_a_plan_is_played_on_highway_env_as_it_was_predicted(planned: dict[str, Any], name: str) -> None:
    tallies, plans = planned[name]
    for tally, plan in zip(tallies, plans, strict=True):
        assert sum(tally.returns.values()) == plan.total_return
        assert sum(cost.sum() for cost in tally.costs.values()) == plan.cost
        assert tally.length == len(plan.actions)
        assert not any(tally.crashed.values())


def test_the_safe_planner_pays_nothing_and_earns_no_more(planned: dict[str, Any]) -> None:
    _, plans = planned["planner"]
    _, safe_plans = planned["planner_safe"]
    assert [plan.cost for plan in safe_plans] == [0.0] * 2
    assert all(safe.total_return <= plan.total_return for safe, plan in zip(safe_plans, plans, strict=True))


def test_the_planner_earns_at_least_what_an_open_loop_rival_earns(planned: dict[str, Any]) -> None:
    plans, rival = totals(planned["planner"][0]), totals(planned["rival"][0])
    assert all(plan >= open_loop > 0.0 for plan, open_loop in zip(plans, rival, strict=True))


def test_plans_are_functions_of_the_episode_alone(planned: dict[str, Any]) -> None:
    agent, rollout = build(planned["suite"], SafePlanner, width=NARROW.width)
    rollout.game.close()
    agent.start_episode(STREAM, EVALUATION_SEED, 1)  # without episode 0 before it
    assert agent.plan.actions.tolist() == planned["planner_safe"][1][1].actions.tolist()


def test_without_a_free_plan_the_safe_planner_does_what_the_planner_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_costly(*arguments: Any, free_only: bool = False) -> Plan | None:
        return None if free_only else Plan(np.array([[3, 4]]), 1.0, 2.0)

    monkeypatch.setattr("safemarl_bench.baselines.planner.search", only_costly)
    agent, rollout = build("merge", SafePlanner)
    agent.start_episode("train", 0, 0)
    assert agent.plan.cost == 2.0
    observation = rollout.reset(stream="train", seed=0, episode=0)
    late = observation._replace(step=np.array([1]))
    rng = np.random.default_rng(0)
    assert {role: action.tolist() for role, action in agent.act(observation, explore=False, rng=rng).items()} == {
        "leader": [3],
        "follower": [4],
    }
    assert {int(action[0]) for action in agent.act(late, explore=False, rng=rng).values()} == {1}
    rollout.game.close()


@pytest.mark.parametrize(("suite", "neutral"), [("merge", [1]), ("intersection", [[0.0]])])
def test_without_any_plan_every_action_is_neutral(
    suite: str, neutral: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safemarl_bench.baselines.planner.search", lambda *_, **__: None)
    agent, rollout = build(suite, SafePlanner)
    agent.start_episode("train", 0, 0)
    observation = rollout.reset(stream="train", seed=0, episode=0)
    actions = agent.act(observation, explore=False, rng=np.random.default_rng(0))
    assert {role: action.tolist() for role, action in actions.items()} == dict.fromkeys(("leader", "follower"), neutral)
    rollout.step(actions, by="planner")
    rollout.game.close()


def test_no_plan_is_found_where_every_plan_ends_in_a_collision() -> None:
    core = BatchedDriving(get_suite("merge"), 32)
    start = late_state("merge", 0)
    start[1] = start[0]
    tables = [solo_tables(core, start[None], car, META_ACTIONS, 2.0) for car in range(2)]
    assert search(core, start, tables, NARROW) is None


def test_a_planner_without_a_simulator_says_what_it_lacks() -> None:
    agent, rollout = build("merge", Planner)
    rollout.game.close()
    with pytest.raises(ContractError, match="Planner needs the game's simulator"):
        Planner(dataclasses.replace(agent.context, simulator=None), PlannerConfig())


def test_planners_run_only_on_the_games_that_they_are_made_for() -> None:
    planner = get_agent("planner")
    assert [suite for suite in suite_names() if not incompatibility(get_suite(suite), planner)] == sorted(SUITES)
    assert incompatibility(get_suite("toy"), planner) == "Planner needs the backend kernel, suite toy has none"
    assert incompatibility(get_suite("racetrack"), planner) == (
        "Planner is made for scenario merge or roundabout or intersection, suite racetrack has racetrack"
    )
    assert incompatibility(get_suite("merge-official"), planner) == (
        "Planner is made for profile default, suite merge-official has official"
    )


class Listener(Agent):
    """Plays neutrally and notes which episodes it is told of."""

    learns = False

    def __init__(self, context: Any, config: Any) -> None:
        super().__init__(context, config)
        self.told: list[tuple[str, int, int]] = []

    def start_episode(self, stream: str, seed: int, episode: int) -> None:
        self.told.append((stream, seed, episode))

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {role: np.array([1]) for role in self.context.agents}


class PrivilegedListener(Listener):
    privileged = "planner"


def test_only_a_privileged_agent_is_told_the_episode_and_given_the_simulator() -> None:
    for agent_class, told in ((Listener, []), (PrivilegedListener, [(STREAM, EVALUATION_SEED, 7)])):
        agent, rollout = build("merge", agent_class, "kernel")
        play_episode(rollout, agent, "listener", 7)
        rollout.game.close()
        assert agent.told == told
        assert (agent.context.simulator is None) == (agent_class is Listener)


def test_the_simulator_is_that_of_the_very_game() -> None:
    game = smb.make("merge", gap=11.0, noise_position=0.0)
    core = game.simulator(3)
    assert core.num_envs == 3
    assert core.settings == game.scene.settings
    game.reset(seed=5, options={"stream": "evaluation", "episode": 2})
    core.reset(stream="evaluation", seeds=5, episodes=2)
    assert core.step(np.ones((3, 2), np.int64)).state[0].tolist() == (
        game.step({"leader": 1, "follower": 1}) and game.state().tolist()
    )
    game.close()


def test_records_of_planners_say_what_they_are(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safemarl_bench.runner.code_state", lambda: {"git_sha": "0" * 40, "dirty": False})
    config = {"width": 64, "cells": [2.0]}
    record = smb.run(
        "merge", "planner", results_dir=tmp_path, budget="smoke", episodes=1, config=config, progress=False
    )
    assert record.cell["agent_traits"] == {"learns": False, "deterministic": True, "privileged": "planner"}
    assert json.loads((tmp_path / record.relative_path).read_text())["cell"]["config"]["width"] == 64
