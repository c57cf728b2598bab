"""Drive the kernel beside the highway-env backend and compare every bit; run by `test_kernel_conformance.py`.

    python kernel_conformance.py SUITE FIRST_EPISODE EPISODES

Prints the counts of what was compared as JSON; the first difference raises.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np

import safemarl_bench as smb
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import STATE_COLUMNS, BatchedDriving, Step
from safemarl_bench.driving.pin import require_pin

LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
COMPARED = ("x", "y", "heading", "speed", "target_speed", "steering", "acceleration", "lane", "target_lane")
FLAGS = ("crashed", "impact", "present", "live", "arrival_rank", "decision")


def rows_of(game: Any, core: BatchedDriving) -> np.ndarray:
    """Return the kernel's state, (1, 2, 19), of a highway-env game; impacts included, routes by what is left of them."""
    rows = np.zeros((1, 2, len(STATE_COLUMNS)))
    index = core.tables.lane_indices
    for car, (agent, vehicle) in zip(rows[0], zip(game.possible_agents, game.scene.controlled_vehicles, strict=True), strict=True):
        car[[kernel.X, kernel.Y, kernel.HEADING, kernel.SPEED]] = *vehicle.position, vehicle.heading, vehicle.speed
        car[kernel.TARGET_SPEED] = vehicle.target_speed
        car[kernel.STEERING], car[kernel.ACCELERATION] = vehicle.action["steering"], vehicle.action["acceleration"]
        if vehicle.impact is not None:
            car[[kernel.IMPACT, kernel.IMPACT_X, kernel.IMPACT_Y]] = 1.0, *vehicle.impact
        car[kernel.LANE] = index.index(tuple(vehicle.lane_index))
        start, end, number = vehicle.target_lane_index
        car[kernel.TARGET_LANE] = index.index((start, end, int(number)))
        car[kernel.CRASHED] = vehicle.crashed
        car[kernel.PRESENT] = vehicle in game.scene.road.vehicles
        car[kernel.LIVE] = agent in game.agents
        car[kernel.RANK], car[kernel.DECISION] = game._ranks.get(agent, 0), game._decision
        car[kernel.ROUTE], car[kernel.ROUTE_STEP] = route_of(vehicle, core)
    return rows


def route_of(vehicle: Any, core: BatchedDriving) -> tuple[int, int]:
    """Return a row of the route table and a step from which it reads what is left of the vehicle's route."""
    if vehicle.route is None:
        return -1, 0
    indices, tables = core.tables.lane_indices, core.tables
    roads = {tuple(lane[:2]): int(row[kernel.ROAD]) for lane, row in zip(indices, tables.lanes, strict=True)}
    left = [[roads[tuple(step[:2])], -1 if step[2] is None else step[2]] for step in vehicle.route]
    for row, plan in enumerate(tables.routes.tolist()):
        for step in range(len(plan)):
            if [entry for entry in plan[step:] if entry[0] >= 0] == left:
                return row, step
    raise AssertionError(f"the kernel has no route {vehicle.route}")


def compare_states(game: Any, core: BatchedDriving, tolerance: float, where: Any) -> None:
    """Compare all vehicles that are on the road, and everybody's flags."""
    mine, theirs = core.get_state()[0], rows_of(game, core)[0]
    for number in range(2):
        for name in (*COMPARED, *FLAGS):
            if name in COMPARED and not theirs[number, kernel.PRESENT]:
                continue
            a, b = (float(rows[number, STATE_COLUMNS.index(name)]) for rows in (mine, theirs))
            exact = tolerance == 0.0 or name in ("lane", "target_lane", *FLAGS)
            assert a == b if exact else abs(a - b) <= tolerance, (where, number, name, a, b)
        here, there = (rows[number, [kernel.IMPACT_X, kernel.IMPACT_Y]] for rows in (mine, theirs))
        if theirs[number, kernel.PRESENT]:
            assert np.abs(here - there).max() <= tolerance, (where, number, "impact", here, there)


def compare_answers(game: Any, answer: Any, shown: Step, where: Any) -> None:
    """Compare observations, rewards, costs, ends and events bit for bit."""
    seen, rewards, terminations, truncations, infos = answer
    assert shown.final_state[0].tobytes() == game.state().tobytes(), (where, "state")
    for number, agent in enumerate(game.possible_agents):
        if agent not in rewards:
            assert shown.reward[0, number] == shown.cost[0, number, 0] == 0.0
            assert not shown.terminated[0, number]
            continue
        mine = (
            shown.final_obs[0, number].tobytes(),
            *(float(shown.reward[0, number]), shown.cost[0, number].tolist()),
            *(bool(shown.terminated[0, number]), bool(shown.truncated[0])),
            *(bool(shown.crashed[0, number]), int(shown.arrival_rank[0, number]), float(shown.gap[0])),
        )
        info = infos[agent]
        theirs = (
            seen[agent].tobytes(),
            *(float(rewards[agent]), info["cost"].tolist()),
            *(terminations[agent], truncations[agent]),
            *(info["crashed"], info["arrival_rank"], float(info["gap"])),
        )
        assert mine == theirs, (where, agent, mine, theirs)
    assert bool(shown.over[0]) == (not game.agents), (where, "over")


def count_events(counts: dict[str, int], answer: Any) -> None:
    infos = answer[-1]
    counts["decisions"] += 1
    counts["crashes"] += sum(info["crashed"] for info in infos.values())
    counts["arrivals"] += sum(info["arrived"] for info in infos.values())
    counts["arrivals_in_one_decision"] += sum(info["arrived"] for info in infos.values()) == 2
    counts["gap_costs"] += any(info["cost"][0] % 5 == 1.0 for info in infos.values())


def random_episodes(suite: str, first: int, episodes: int) -> dict[str, int]:
    """Whole episodes of random actions, each agent with habits of its own."""
    game = smb.make(suite, backend="highway")
    core = BatchedDriving(game.spec, 1)
    keys = ("episodes", "decisions", "crashes", "arrivals", "arrivals_in_one_decision", "gap_costs")
    counts = dict.fromkeys(keys, 0)
    lanes = set()
    for episode in range(first, first + episodes):
        game.reset(seed=11, options={"episode": episode})
        core.reset(seeds=11, episodes=episode)
        compare_states(game, core, 0.0, (episode, "start"))
        rng = np.random.default_rng(episode)
        habits = rng.dirichlet(np.ones(5), size=2)
        while game.agents:
            actions = np.array([[rng.choice(5, p=row) for row in habits]])
            answer = game.step({agent: int(actions[0, game.possible_agents.index(agent)]) for agent in game.agents})
            where = (suite, episode, counts["decisions"])
            compare_answers(game, answer, core.step(actions), where)
            compare_states(game, core, 0.0, where)
            count_events(counts, answer)
            lanes.update(core.get_state()[0, :, kernel.LANE].tolist())
        counts["episodes"] += 1
    return {**counts, "lanes": len(lanes)}


if __name__ == "__main__":
    require_pin()
    print(json.dumps(random_episodes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
