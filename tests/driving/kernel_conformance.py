"""Drive the kernel beside the highway-env backend and compare every bit; run by `test_kernel_conformance.py`.

    python kernel_conformance.py MODE SUITE FIRST_EPISODE EPISODES

Prints the counts of what was compared as JSON; the first difference raises.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from highway_env.envs.intersection_env import IntersectionEnv
from highway_env.envs.merge_env import MergeEnv
from highway_env.envs.racetrack_env import RacetrackEnv
from highway_env.envs.roundabout_env import RoundaboutEnv

import safemarl_bench as smb
from safemarl_bench.driving import kernel
from safemarl_bench.driving.clearance import clearances
from safemarl_bench.driving.core import STATE_COLUMNS, BatchedDriving, Step
from safemarl_bench.driving.frenet import lane_numbers
from safemarl_bench.driving.tables import lane_row
from safemarl_bench.pin import require_pin

Choose = Callable[[int], list[Any]]
LEFT, IDLE, RIGHT, FASTER, SLOWER = range(5)
NUMBERS = ("x", "y", "heading", "speed", "target_speed")
CONTROLS = ("steering", "acceleration", "impact_x", "impact_y", "lane", "target_lane")
EVENTS = ("crashed", "off_road", "arrived")
FLAGS = ("crashed", "impact", "present", "live", "off_road", "arrival_rank", "decision")


def rows_of(game: Any, core: BatchedDriving) -> np.ndarray:
    """Return the kernel's state, (1, 2, 20), of a highway-env game; a route by what is left of it."""
    rows = np.zeros((1, 2, len(STATE_COLUMNS)))
    index = core.tables.lane_indices
    for number, (agent, vehicle) in enumerate(zip(game.possible_agents, game.scene.controlled_vehicles, strict=True)):
        car = rows[0, number]
        car[[kernel.X, kernel.Y, kernel.HEADING, kernel.SPEED]] = *vehicle.position, vehicle.heading, vehicle.speed
        car[kernel.STEERING], car[kernel.ACCELERATION] = vehicle.action["steering"], vehicle.action["acceleration"]
        if vehicle.impact is not None:
            car[[kernel.IMPACT, kernel.IMPACT_X, kernel.IMPACT_Y]] = 1.0, *vehicle.impact
        car[kernel.LANE] = index.index(tuple(vehicle.lane_index))
        car[kernel.CRASHED] = vehicle.crashed
        car[kernel.PRESENT] = vehicle in game.scene.road.vehicles
        car[kernel.LIVE] = agent in game.agents
        car[kernel.OFF_ROAD] = agent in game._off_road
        car[kernel.RANK], car[kernel.DECISION] = game._ranks.get(agent, 0), game._decision
        car[kernel.ROUTE] = -1
        if not game.scene.CONTINUOUS:
            car[kernel.TARGET_SPEED] = vehicle.target_speed
            start, end, lane = vehicle.target_lane_index
            car[kernel.TARGET_LANE] = index.index((start, end, int(lane)))
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


def compare_states(game: Any, core: BatchedDriving, where: Any) -> None:
    """Compare every bit of all vehicles that are on the road, and everybody's flags."""
    mine, theirs = core.get_state()[0], rows_of(game, core)[0]
    for number in range(2):
        names = (*NUMBERS, *CONTROLS, *FLAGS) if theirs[number, kernel.PRESENT] else FLAGS
        for name in names:
            if name == "target_lane" and game.scene.CONTINUOUS:
                continue
            a, b = (float(rows[number, STATE_COLUMNS.index(name)]) for rows in (mine, theirs))
            assert a == b, (where, number, name, a, b)


def compare_closely(game: Any, core: BatchedDriving, before: np.ndarray, where: Any) -> None:
    """Compare one decision from the state `before`: events exactly, numbers to 1e-12.

    Below 0.5 m/s the steering gain grows with 1 / speed: there a last bit of one frame is up to 1e-6 of the decision.
    """
    mine, theirs = core.get_state()[0], rows_of(game, core)[0]
    for number in range(2):
        slowest = min(abs(before[number, kernel.SPEED]), abs(theirs[number, kernel.SPEED]))
        tolerance = 1e-12 if slowest >= 0.5 else 1e-5
        # A wreck comes to rest within 8.9e-16 m of touching what it hit: rounding decides whether it is pushed again.
        events = [name for name in FLAGS if name != "impact"]
        for name in (*NUMBERS, *events, "lane", "target_lane"):
            if name not in FLAGS and not theirs[number, kernel.PRESENT]:
                continue
            a, b = (float(rows[number, STATE_COLUMNS.index(name)]) for rows in (mine, theirs))
            assert abs(a - b) <= (tolerance if name in NUMBERS else 0.0), (where, number, name, a, b)


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
            bool(shown.terminated[0, number]),
            bool(shown.truncated[0] and not shown.terminated[0, number]),
            *(bool(shown.crashed[0, number]), bool(shown.off_road[0, number])),
            *(int(shown.arrival_rank[0, number]), float(shown.gap[0])),
        )
        info = infos[agent]
        theirs = (
            seen[agent].tobytes(),
            *(float(rewards[agent]), info["cost"].tolist()),
            *(terminations[agent], truncations[agent]),
            *(info["crashed"], info["off_road"], info["arrival_rank"], float(info["gap"])),
        )
        assert mine == theirs, (where, agent, mine, theirs)
    assert bool(shown.over[0]) == (not game.agents), (where, "over")


def take(game: Any, actions: list[Any]) -> Any:
    """Step a game with the leader's and the follower's action; those of done agents are left out."""
    given = [np.array([action], np.float32) if game.scene.CONTINUOUS else action for action in actions]
    return game.step({agent: given[game.possible_agents.index(agent)] for agent in game.agents})


def count_events(counts: dict[str, int], answer: Any, seen: set[tuple[str, str]]) -> None:
    """Count what happened in a decision; crashes, departures and arrivals once an episode, which `seen` remembers."""
    _, _, _, truncations, infos = answer
    new = {(agent, event) for agent, info in infos.items() for event in EVENTS if info[event]} - seen
    seen |= new
    happened = [event for _, event in new]
    counts["decisions"] += 1
    counts["crashes"] += happened.count("crashed")
    counts["departures"] += happened.count("off_road")
    counts["arrivals"] += happened.count("arrived")
    counts["arrivals_in_one_decision"] += happened.count("arrived") == 2
    counts["truncations"] += any(truncations.values())
    counts["gap_costs"] += any(info["cost"][0] % 5 == 1.0 for info in infos.values())


def new_counts() -> dict[str, int]:
    events = ("crashes", "departures", "truncations", "arrivals", "arrivals_in_one_decision", "gap_costs")
    return dict.fromkeys(("episodes", "decisions", *events), 0)


def play(game: Any, core: BatchedDriving, choose: Choose, counts: dict[str, int], where: Any) -> None:
    """Play both to the end, comparing every bit after every decision."""
    seen: set[tuple[str, str]] = set()
    for decision in range(game.spec.horizon):
        actions = choose(decision)
        answer = take(game, actions)
        compare_answers(game, answer, core.step(np.array([actions])), (where, decision))
        compare_states(game, core, (where, decision))
        count_events(counts, answer, seen)
        if not game.agents:
            break
    counts["episodes"] += 1


def by_habit(game: Any, rng: np.random.Generator) -> Choose:
    """Random actions; each agent has habits of its own, and on the racetrack may steer by its lane."""
    if not game.scene.CONTINUOUS:
        habits = rng.dirichlet(np.ones(5), size=2)
        return lambda _: [int(rng.choice(5, p=row)) for row in habits]
    means, spread = rng.uniform(-0.3, 0.3, size=2), rng.choice([0.05, 0.3, 1.0])
    steers_by_lane = game.spec.env["scenario"] == "racetrack" and rng.random() < 0.5

    def choose(_: int) -> list[float]:
        base = [follow_lane(vehicle) for vehicle in game.scene.controlled_vehicles] if steers_by_lane else means
        chosen: list[float] = np.clip(base + rng.normal(0.0, spread, size=2), -1.0, 1.0).astype(np.float32).tolist()
        return chosen

    return choose


def follow_lane(vehicle: Any) -> float:
    """Return the steering that keeps a vehicle on the racetrack."""
    lateral, turned, bend, *_ = lane_numbers(vehicle)
    return -0.5 * lateral - 1.6 * turned + 0.5 * bend


def random_episodes(suite: str, first: int, episodes: int) -> dict[str, int]:
    """Whole episodes of random actions, each agent with habits of its own."""
    game = smb.make(suite, backend="highway")
    core, counts = BatchedDriving(game.spec, 1), new_counts()
    for episode in range(first, first + episodes):
        game.reset(seed=11, options={"episode": episode})
        core.reset(seeds=11, episodes=episode)
        compare_states(game, core, (episode, "start"))
        play(game, core, by_habit(game, np.random.default_rng(episode)), counts, episode)
    return counts


SCRIPTS: dict[str, tuple[tuple[Any, Any], ...]] = {
    "all brake": ((SLOWER, SLOWER),),
    "all fast": ((FASTER, FASTER),),
    "brake and fast by turns": ((SLOWER, FASTER), (FASTER, SLOWER)),
    "lane changes in every decision": ((LEFT, RIGHT), (RIGHT, LEFT)),
    "left for ever": ((LEFT, LEFT),),
    "right for ever": ((RIGHT, RIGHT),),
    "weaving at speed": ((FASTER, FASTER), (LEFT, LEFT), (RIGHT, RIGHT)),
    "rear end": ((SLOWER, FASTER),),
    "front end": ((FASTER, SLOWER),),
}


PUSHES: dict[str, tuple[tuple[Any, Any], ...]] = {
    "all full back": ((-1.0, -1.0),),
    "all full on": ((1.0, 1.0),),
    "back and on by turns": ((-1.0, 1.0), (1.0, -1.0)),
    "straight on": ((0.0, 0.0),),
    "one yields": ((-0.4, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.4, 0.0)),
    "barely": ((-1e-8, 1e-8),),
    "one stops, one goes": ((-1.0, 0.0),),
}
"""For actions that are numbers; where speeds are not clipped, braking for ever is reversing."""


def scripted_episodes(suite: str, first: int, episodes: int) -> dict[str, int]:
    """Every script from every spawn; each spawn changes to the next script at another decision."""
    game = smb.make(suite, backend="highway")
    core, counts = BatchedDriving(game.spec, 1), new_counts()
    scripts = list((PUSHES if game.scene.CONTINUOUS else SCRIPTS).values())
    for episode in range(first, first + episodes):
        for number in range(len(scripts)):
            game.reset(seed=12, options={"episode": episode})
            core.reset(seeds=12, episodes=episode)
            change = episode % 20

            def choose(decision: int, number: int = number, change: int = change) -> list[Any]:
                script = scripts[(number + (decision > change)) % len(scripts)]
                return list(script[decision % len(script)])

            play(game, core, choose, counts, (episode, number))
    return counts


def place_cars(game: Any, rng: np.random.Generator) -> None:
    """Put both vehicles anywhere near the roads, often upon each other: head on, crosswise, reversing, too fast."""
    network = game.scene.road.network
    lanes = list(network.lanes_dict())
    here: Any = None
    for vehicle in game.scene.controlled_vehicles:
        index = lanes[rng.integers(len(lanes))]
        lane = network.get_lane(index)
        along = rng.uniform(-10.0, lane.length + 10.0)
        position, heading = lane.position(along, rng.normal(0.0, 1.5)), lane.heading_at(along)
        if here is not None and rng.random() < 0.7:
            position, heading = here[0] + rng.normal(0.0, 6.0, size=2), here[1] + rng.choice([0.0, np.pi, 1.0])
        vehicle.position, vehicle.heading = np.array(position, np.float64), float(heading + rng.normal(0.0, 0.2))
        vehicle.speed = float(rng.choice([0.0, rng.uniform(-5.0, 45.0), rng.uniform(5.0, 30.0)]))
        vehicle.on_state_update()
        here = position, heading
        if game.scene.CONTINUOUS:
            continue
        vehicle.target_lane_index = vehicle.lane_index if rng.random() < 0.8 else index
        if rng.random() < 0.3:
            vehicle.route = None


def placed_episodes(suite: str, first: int, episodes: int) -> dict[str, int]:
    """Random actions from vehicles put at random, with a finish line that the placements often straddle."""
    game = smb.make(suite, backend="highway")
    core, counts = BatchedDriving(game.spec, 1), new_counts()
    for episode in range(first, first + episodes):
        rng = np.random.default_rng(episode)
        game.reset(seed=13, options={"episode": episode})
        place_cars(game, rng)
        core.set_state(rows_of(game, core))
        play(game, core, by_habit(game, rng), counts, episode)
    return counts


def viewed_episodes(suite: str, first: int, episodes: int) -> dict[str, int]:
    """The kernel's parallel API shows what the highway-env backend's shows, character by character."""
    games = [smb.make(suite, backend=backend) for backend in ("highway", "kernel")]
    counts = new_counts()
    for episode in range(first, first + episodes):
        options = {"episode": episode, "stream": ("train", "evaluation", "search")[episode % 3]}
        starts = [str(game.reset(seed=2**63 - 1 - episode, options=options)) for game in games]
        assert starts[0] == starts[1], (episode, starts)
        choose, seen = by_habit(games[0], np.random.default_rng(episode)), set[tuple[str, str]]()
        while games[0].agents:
            actions = choose(0)
            answers = [take(game, actions) for game in games]
            assert str(answers[0]) == str(answers[1]), (episode, counts["decisions"], answers)
            assert games[0].state().tobytes() == games[1].state().tobytes()
            assert games[0].agents == games[1].agents
            count_events(counts, answers[0], seen)
        counts["episodes"] += 1
    return counts


def resynchronised_episodes(suite: str, first: int, episodes: int) -> dict[str, int]:
    """Random episodes, the kernel put into highway-env's state before every decision; needs no pin."""
    game = smb.make(suite, backend="highway")
    core, counts = BatchedDriving(game.spec, 1), new_counts()
    for episode in range(first, first + episodes):
        game.reset(seed=14, options={"episode": episode})
        choose, seen = by_habit(game, np.random.default_rng(episode)), set[tuple[str, str]]()
        while game.agents:
            before = rows_of(game, core)
            core.set_state(before)
            actions = choose(0)
            answer = take(game, actions)
            core.step(np.array([actions]))
            compare_closely(game, core, before[0], (episode, counts["decisions"]))
            count_events(counts, answer, seen)
        counts["episodes"] += 1
    return counts


NETWORKS = {
    "merge": MergeEnv,
    "roundabout": RoundaboutEnv,
    "intersection": IntersectionEnv,
    "racetrack": RacetrackEnv,
}


def lane_points(suite: str, first: int, points: int) -> dict[str, int]:
    """Coordinates, headings and closest lanes at random points of upstream's road networks."""
    network = NETWORKS[suite]().road.network
    found, rng = set(), np.random.default_rng(first)
    lanes = list(network.lanes_dict().items())
    roads = list(dict.fromkeys(index[:2] for index, _ in lanes))
    rows = np.array([lane_row(lane, roads.index(index[:2]), index[2]) for index, lane in lanes])
    rows[:, kernel.STEEPNESS], clear = clearances(rows)
    for _ in range(points):
        lane = lanes[rng.integers(len(lanes))][1]
        along, lateral = rng.uniform(-20.0, lane.length + 20.0), rng.normal(0.0, 4.0)
        point, heading = lane.position(along, lateral), rng.uniform(-7.0, 7.0)
        for row, (_, upstream) in enumerate(lanes):
            theirs = [*upstream.local_coordinates(point), upstream.heading_at(along)]
            theirs += [*upstream.position(along, lateral), upstream.distance(point)]
            theirs.append(upstream.distance_with_heading(point, heading))
            mine = [*kernel.local_coordinates(rows, row, *point), kernel.heading_at(rows, row, along)]
            mine += [*kernel.position_at(rows, row, along, lateral), kernel.distance(rows, row, *point)]
            assert [*mine, kernel.distance_with_heading(rows, row, *point, heading)] == theirs
        if rng.random() < 0.5:
            heading = lane.heading_at(along) + rng.normal(0.0, 0.2)
        closest = network.get_closest_lane_index(point, heading)
        for guess in {int(rng.integers(len(lanes))), [index for index, _ in lanes].index(closest)}:
            assert lanes[kernel.closest_lane(rows, clear, *point, heading, guess)][0] == closest
        found.add(closest)
    return {"points": points, "lanes found closest": len(found)}


MODES = {
    "lanes": lane_points,
    "random": random_episodes,
    "scripted": scripted_episodes,
    "placed": placed_episodes,
    "viewed": viewed_episodes,
    "resynchronised": resynchronised_episodes,
}

if __name__ == "__main__":
    logging.disable(logging.WARNING)  # upstream warns of routes that a placed vehicle has left
    mode, suite, first, episodes = sys.argv[1:]
    if mode != "resynchronised":
        require_pin()
    print(json.dumps(MODES[mode](suite, int(first), int(episodes))))
