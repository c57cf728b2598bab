"""The driving kernel: highway-env's vehicles and this package's game rules as scalar code over tables.

Compiled by numba where it is installed; without it the same source runs as plain Python, with the same bits.
Every formula keeps upstream's order of operations: a sum of two products is what an unfused dot product gives,
so nothing here may be rearranged, fused or vectorised. All compiled functions live in this one file, because
numba's cache does not notice edits in other modules.

Arrays (columns are the constants below): ``state`` (E, 2, STATE_WIDTH) float64, integers and flags stored as
floats; ``lanes`` (L, LANE_WIDTH) float64; ``roads`` (R, 4 + successors) int64; ``routes`` (L, steps, 2) int64;
``obstacles`` (O, 2) float64 m; ``spawns`` (2, SPAWN_WIDTH) float64; ``rules`` (RULES_WIDTH,) float64.
A ``car`` is one row of the state. Built by `safemarl_bench.driving.tables`.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

numba: Any
try:
    numba = importlib.import_module("numba")
except ImportError:  # the extra "kernel" brings it
    numba = None

COMPILED = numba is not None and not numba.config.DISABLE_JIT
"""Whether this process runs the kernel as machine code."""

F = TypeVar("F", bound=Callable[..., Any])
Array = Any


def compiled(function: F) -> F:
    """Compile a function, cached on disk; return it as it is where numba is not installed."""
    return function if numba is None else cast(F, numba.njit(cache=True, error_model="numpy")(function))


# Columns of the state: one row per vehicle. Angles in rad, lanes as rows of the lane table.
X, Y, HEADING, SPEED, TARGET_SPEED, STEERING, ACCELERATION, IMPACT_X, IMPACT_Y = range(9)
LANE, TARGET_LANE, CRASHED, IMPACT, PRESENT, LIVE, RANK, ROUTE, ROUTE_STEP, DECISION = range(9, 19)
STATE_WIDTH = 19

# Columns of the lane table. Circular lanes: X0, Y0 are the centre, PHASE the start phase, SIGN +1 clockwise.
KIND, X0, Y0, DIRECTION_X, DIRECTION_Y, LATERAL_X, LATERAL_Y, LANE_HEADING, LENGTH, WIDTH, FORBIDDEN = range(11)
AMPLITUDE, PULSATION, PHASE, RADIUS, SIGN, ROAD, NUMBER = range(11, 18)
LANE_WIDTH = 18
STRAIGHT, SINE, CIRCULAR = range(3)

# Columns of the road table; the successors follow, padded with -1.
FIRST_LANE, LANE_COUNT, FROM_NODE, TO_NODE, SUCCESSORS = range(5)

# Columns of the spawn table: lane, then metres along it, m/s, and the half-widths of their noise.
SPAWN_LANE, SPAWN_POSITION, SPAWN_SPEED, NOISE_POSITION, NOISE_SPEED = range(5)
SPAWN_WIDTH = 5

# The rules of the game.
SCENARIO, HORIZON, GAP, ZONE, FINISH, BAND_LOW, BAND_HIGH, FRAMES, FRAME_SECONDS, EXIT_ROAD = range(10)
RULES_WIDTH = 10
MERGE, ROUNDABOUT = range(2)

LANE_LEFT, IDLE, LANE_RIGHT, FASTER, SLOWER = range(5)
ACTIONS = 5
BAND_REWARD, REMAINING_REWARD = 2.0, 5.0
FIRST_REWARD, SECOND_REWARD = 10.0, 5.0
COLLISION_COST, GAP_COST = 5.0, 1.0
SIGHT = 200.0
"""The other vehicle is not observed beyond this distance, m."""

# Upstream's constants: metres, seconds, rad.
CAR_LENGTH, CAR_WIDTH, OBSTACLE_SIZE = 5.0, 2.0, 2.0
CAR_DIAGONAL, OBSTACLE_DIAGONAL = math.sqrt(29.0), math.sqrt(8.0)
TOP_SPEED = 40.0
GAIN_SPEED, GAIN_HEADING, GAIN_LATERAL, PURSUIT_SECONDS = 1 / 0.6, 1 / 0.2, 1 / 0.6, 0.5 * 0.2
TURN_LIMIT, STEERING_LIMIT = math.pi / 4, math.pi / 3

MARGIN = 1e-6
"""Rounding allowance of the lower bounds on a lane's distance, m."""


# ---------------------------------------------------------------------------------------------- lanes


@compiled
def dot(ax: float, ay: float, bx: float, by: float) -> float:
    """Return the dot product as BLAS accumulates it, from +0."""
    return 0.0 + ax * bx + ay * by


@compiled
def clip(value: float, low: float, high: float) -> float:
    """Return `value` limited to [low, high]."""
    return min(max(value, low), high)


@compiled
def wrap_to_pi(angle: float) -> float:
    """Return the angle in [-pi, pi), by floor modulo."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


@compiled
def local_coordinates(lane: Array, x: float, y: float) -> tuple[float, float]:
    """Return (longitudinal, lateral) of a point, m; sine lanes measure along their axis."""
    dx, dy = x - lane[X0], y - lane[Y0]
    if lane[KIND] == CIRCULAR:
        phi = lane[PHASE] + wrap_to_pi(math.atan2(dy, dx) - lane[PHASE])
        along = lane[SIGN] * (phi - lane[PHASE]) * lane[RADIUS]
        return along, lane[SIGN] * (lane[RADIUS] - math.sqrt(dot(dx, dy, dx, dy)))
    along = dot(dx, dy, lane[DIRECTION_X], lane[DIRECTION_Y])
    lateral = dot(dx, dy, lane[LATERAL_X], lane[LATERAL_Y])
    if lane[KIND] == SINE:
        lateral = lateral - lane[AMPLITUDE] * math.sin(lane[PULSATION] * along + lane[PHASE])
    return along, lateral


@compiled
def heading_at(lane: Array, along: float) -> float:
    """Return the lane's heading at a longitudinal coordinate."""
    if lane[KIND] == CIRCULAR:
        phi = lane[SIGN] * along / lane[RADIUS] + lane[PHASE]
        return phi + math.pi / 2 * lane[SIGN]
    if lane[KIND] == SINE:
        slope = lane[AMPLITUDE] * lane[PULSATION] * math.cos(lane[PULSATION] * along + lane[PHASE])
        return lane[LANE_HEADING] + math.atan(slope)
    return lane[LANE_HEADING]


@compiled
def position_at(lane: Array, along: float, lateral: float) -> tuple[float, float]:
    """Return the point at lane coordinates, m."""
    if lane[KIND] == CIRCULAR:
        phi = lane[SIGN] * along / lane[RADIUS] + lane[PHASE]
        radius = lane[RADIUS] - lateral * lane[SIGN]
        return lane[X0] + radius * math.cos(phi), lane[Y0] + radius * math.sin(phi)
    if lane[KIND] == SINE:
        lateral = lateral + lane[AMPLITUDE] * math.sin(lane[PULSATION] * along + lane[PHASE])
    x = lane[X0] + along * lane[DIRECTION_X] + lateral * lane[LATERAL_X]
    y = lane[Y0] + along * lane[DIRECTION_Y] + lateral * lane[LATERAL_Y]
    return x, y


@compiled
def distance(lane: Array, x: float, y: float) -> float:
    """Return |lateral| + overshoot at either end, m."""
    along, lateral = local_coordinates(lane, x, y)
    return abs(lateral) + max(along - lane[LENGTH], 0.0) + max(0.0 - along, 0.0)


@compiled
def distance_with_heading(lane: Array, x: float, y: float, heading: float) -> float:
    """Return the distance plus the angle between the heading and the lane's."""
    along, lateral = local_coordinates(lane, x, y)
    angle = abs(wrap_to_pi(heading - heading_at(lane, along)))
    return abs(lateral) + max(along - lane[LENGTH], 0.0) + max(0.0 - along, 0.0) + angle


@compiled
def lower_bound(lane: Array, x: float, y: float) -> float:
    """Return at most the lane's distance plus rounding, without trigonometry."""
    dx, dy = x - lane[X0], y - lane[Y0]
    if lane[KIND] == CIRCULAR:
        return abs(lane[RADIUS] - math.sqrt(dx * dx + dy * dy))
    along = dx * lane[DIRECTION_X] + dy * lane[DIRECTION_Y]
    lateral = abs(dx * lane[LATERAL_X] + dy * lane[LATERAL_Y]) - abs(lane[AMPLITUDE])
    return max(lateral, 0.0) + max(along - lane[LENGTH], 0.0) + max(-along, 0.0)


@compiled
def closest_lane(lanes: Array, x: float, y: float, heading: float, guess: int) -> int:
    """Return the first lane, in the network's order, at the smallest distance with heading.

    Args:
        guess: any lane; the closer it is, the fewer lanes are measured.
    """
    best, shortest = guess, distance_with_heading(lanes[guess], x, y, heading)
    for index in range(lanes.shape[0]):
        if index == guess or lower_bound(lanes[index], x, y) - MARGIN > shortest:
            continue
        away = distance_with_heading(lanes[index], x, y, heading)
        if away < shortest or (away == shortest and index < best):
            best, shortest = index, away
    return best


# ------------------------------------------------------------------------------------------ following


@compiled
def entry_lane(lane: int, road: int, wanted: int, x: float, y: float, lanes: Array, roads: Array) -> tuple[int, float]:
    """Return the lane of `road` to enter from `lane`, and its distance from the point.

    Args:
        wanted: lane number that the route asks for, or -1.
    """
    first, count = roads[road, FIRST_LANE], roads[road, LANE_COUNT]
    if roads[int(lanes[lane, ROAD]), LANE_COUNT] == count:
        number = wanted if wanted >= 0 else int(lanes[lane, NUMBER])
        return first + number, distance(lanes[first + number], x, y)
    best, shortest = first, distance(lanes[first], x, y)
    for index in range(first + 1, first + count):
        away = distance(lanes[index], x, y)
        if away < shortest:
            best, shortest = index, away
    return best, shortest


@compiled
def next_lane(car: Array, lanes: Array, roads: Array, routes: Array) -> int:
    """Return the lane that follows the target lane: along the route, else the closest; drops a finished route step."""
    lane = int(car[TARGET_LANE])
    road = int(lanes[lane, ROAD])
    along, _ = local_coordinates(lanes[lane], car[X], car[Y])
    x, y = position_at(lanes[lane], along, 0.0)
    if car[ROUTE] >= 0.0:
        route = routes[int(car[ROUTE])]
        if route[int(car[ROUTE_STEP]), 0] == road:
            car[ROUTE_STEP] += 1.0
        following, wanted = route[int(car[ROUTE_STEP]), 0], route[int(car[ROUTE_STEP]), 1]
        if following >= 0 and roads[following, FROM_NODE] == roads[road, TO_NODE]:
            return entry_lane(lane, following, wanted, x, y, lanes, roads)[0]
    best, shortest = lane, math.inf
    for column in range(SUCCESSORS, roads.shape[1]):
        if roads[road, column] >= 0:
            candidate, away = entry_lane(lane, roads[road, column], -1, x, y, lanes, roads)
            if away < shortest:
                best, shortest = candidate, away
    return best


@compiled
def change_lane(car: Array, side: int, lanes: Array, roads: Array) -> None:
    """Target the next lane on a side (-1 left, +1 right) of the target lane's road, where it can be reached."""
    target = int(car[TARGET_LANE])
    road = int(lanes[target, ROAD])
    number = min(max(int(lanes[target, NUMBER]) + side, 0), roads[road, LANE_COUNT] - 1)
    index = roads[road, FIRST_LANE] + number
    lane = lanes[index]
    if lane[FORBIDDEN] != 0.0:
        return
    along, lateral = local_coordinates(lane, car[X], car[Y])
    if abs(lateral) <= 2 * lane[WIDTH] and 0.0 <= along < lane[LENGTH] + CAR_LENGTH:
        car[TARGET_LANE] = index


@compiled
def speed_index(speed: float, speeds: Array) -> int:
    """Return the target speed nearest to a speed, halves to even."""
    last = len(speeds) - 1
    scaled = (speed - speeds[0]) / (speeds[last] - speeds[0]) * last
    whole = math.floor(scaled)
    rest = scaled - whole
    if rest > 0.5 or (rest == 0.5 and whole % 2 == 1):
        whole += 1
    return int(min(max(whole, 0), last))


@compiled
def not_zero(value: float) -> float:
    """Return the value, at least 0.01 away from 0."""
    if abs(value) > 1e-2:
        return value
    return 1e-2 if value >= 0.0 else -1e-2


@compiled
def steer(car: Array, lane: Array) -> float:
    """Return the steering angle that follows a lane's centre, rad."""
    along, lateral = local_coordinates(lane, car[X], car[Y])
    ahead = heading_at(lane, along + car[SPEED] * PURSUIT_SECONDS)
    command = math.asin(clip(-GAIN_LATERAL * lateral / not_zero(car[SPEED]), -1.0, 1.0))
    reference = ahead + clip(command, -TURN_LIMIT, TURN_LIMIT)
    rate = GAIN_HEADING * wrap_to_pi(reference - car[HEADING])
    slip = math.asin(clip(CAR_LENGTH / 2 / not_zero(car[SPEED]) * rate, -1.0, 1.0))
    return clip(math.atan(2 * math.tan(slip)), -STEERING_LIMIT, STEERING_LIMIT)


@compiled
def act(car: Array, action: int, speeds: Array, lanes: Array, roads: Array, routes: Array) -> None:
    """Take a meta-action, follow the road, and set steering and acceleration; IDLE only follows and controls."""
    if action in (FASTER, SLOWER):
        index = speed_index(car[SPEED], speeds) + (1 if action == FASTER else -1)
        car[TARGET_SPEED] = speeds[min(max(index, 0), len(speeds) - 1)]
    target = lanes[int(car[TARGET_LANE])]
    along, _ = local_coordinates(target, car[X], car[Y])
    if along > target[LENGTH] - CAR_LENGTH / 2:
        car[TARGET_LANE] = next_lane(car, lanes, roads, routes)
    if action == LANE_LEFT:
        change_lane(car, -1, lanes, roads)
    elif action == LANE_RIGHT:
        change_lane(car, 1, lanes, roads)
    car[STEERING] = steer(car, lanes[int(car[TARGET_LANE])])
    car[ACCELERATION] = GAIN_SPEED * (car[TARGET_SPEED] - car[SPEED])


# ------------------------------------------------------------------------------- motion and collisions


@compiled
def drive(car: Array, lanes: Array, seconds: float) -> None:
    """Move a vehicle for one frame: kinematic bicycle, pending impact, speed limit, and where it is."""
    if car[CRASHED] != 0.0:
        car[STEERING] = 0.0
        car[ACCELERATION] = -1.0 * car[SPEED]
    if car[SPEED] > TOP_SPEED:
        car[ACCELERATION] = min(car[ACCELERATION], 1.0 * (TOP_SPEED - car[SPEED]))
    elif car[SPEED] < -TOP_SPEED:
        car[ACCELERATION] = max(car[ACCELERATION], 1.0 * (-TOP_SPEED - car[SPEED]))
    speed, heading = car[SPEED], car[HEADING]
    slip = math.atan(1 / 2 * math.tan(car[STEERING]))
    car[X] += speed * math.cos(heading + slip) * seconds
    car[Y] += speed * math.sin(heading + slip) * seconds
    if car[IMPACT] != 0.0:
        car[X] += car[IMPACT_X]
        car[Y] += car[IMPACT_Y]
        car[CRASHED] = 1.0
        set_impact(car, 0.0, 0.0, 0.0)
    car[HEADING] = heading + speed * math.sin(slip) / (CAR_LENGTH / 2) * seconds
    car[SPEED] = speed + car[ACCELERATION] * seconds
    car[LANE] = closest_lane(lanes, car[X], car[Y], car[HEADING], int(car[LANE]))


@compiled
def set_impact(car: Array, pending: float, x: float, y: float) -> None:
    """Note a displacement, m, for the next frame, or clear it."""
    car[IMPACT] = pending
    car[IMPACT_X] = x
    car[IMPACT_Y] = y


@compiled
def corners(x: float, y: float, heading: float, length: float, width: float) -> Array:
    """Return a rectangle's corners, (4, 2) m."""
    points = np.empty((4, 2), np.float64)
    c, s = math.cos(heading), math.sin(heading)
    for index in range(4):
        along = -length / 2 if index < 2 else length / 2
        across = -width / 2 if index == 0 or index == 3 else width / 2
        points[index, 0] = c * along + -s * across + x
        points[index, 1] = s * along + c * across + y
    return points


@compiled
def project(polygon: Array, x: float, y: float) -> tuple[float, float]:
    """Return the interval that a polygon covers on an axis."""
    low = high = dot(polygon[0, 0], polygon[0, 1], x, y)
    for index in range(1, 4):
        at = dot(polygon[index, 0], polygon[index, 1], x, y)
        low, high = min(low, at), max(high, at)
    return low, high


@compiled
def interval_distance(low_a: float, high_a: float, low_b: float, high_b: float) -> float:
    """Return the distance of two intervals, negative where they overlap."""
    return low_b - high_a if low_a < low_b else low_a - high_b


@compiled
def mean_difference(a: Array, b: Array, axis: int) -> float:
    """Return the difference of two polygons' centres along one coordinate."""
    mean_a = (a[0, axis] + a[1, axis] + a[2, axis] + a[3, axis]) / 4.0
    mean_b = (b[0, axis] + b[1, axis] + b[2, axis] + b[3, axis]) / 4.0
    return mean_a - mean_b


@compiled
def intersect(a: Array, b: Array, move_x: float, move_y: float) -> tuple[bool, bool, float, float]:
    """Test two polygons by their separating axes.

    Args:
        move_x, move_y: displacement of `a` relative to `b` in the coming frame, m.

    Returns:
        whether they intersect, whether they will, and the translation that parts them.
    """
    now, soon = True, True
    depth, out_x, out_y = math.inf, 0.0, 0.0
    for side in range(8):
        polygon = a if side < 4 else b
        start, end = polygon[side % 4], polygon[(side + 1) % 4]
        x, y = -end[1] + start[1], end[0] - start[0]
        norm = math.sqrt(dot(x, y, x, y))
        x, y = x / norm, y / norm
        low_a, high_a = project(a, x, y)
        low_b, high_b = project(b, x, y)
        if interval_distance(low_a, high_a, low_b, high_b) > 0.0:
            now = False
        moved = dot(x, y, move_x, move_y)
        if moved < 0.0:
            low_a += moved
        else:
            high_a += moved
        away = interval_distance(low_a, high_a, low_b, high_b)
        if away > 0.0:
            soon = False
        if not now and not soon:
            break
        if abs(away) < depth:
            depth = abs(away)
            outward = dot(mean_difference(a, b, 0), mean_difference(a, b, 1), x, y) > 0.0
            out_x, out_y = (x, y) if outward else (-x, -y)
    return now, soon, depth * out_x, depth * out_y


@compiled
def out_of_reach(car: Array, x: float, y: float, diagonal: float, seconds: float) -> bool:
    """Whether a point is too far for a contact in the coming frame; only the car's own speed counts."""
    dx, dy = x - car[X], y - car[Y]
    reach = (CAR_DIAGONAL + diagonal) / 2 + car[SPEED] * seconds
    return bool(math.sqrt(dot(dx, dy, dx, dy)) > reach)


@compiled
def collide(car: Array, other: Array, seconds: float) -> None:
    """Let two vehicles touch: a contact now marks both crashed, one in the coming frame leaves an impact."""
    if out_of_reach(car, other[X], other[Y], CAR_DIAGONAL, seconds):
        return
    a = corners(car[X], car[Y], car[HEADING], CAR_LENGTH, CAR_WIDTH)
    b = corners(other[X], other[Y], other[HEADING], CAR_LENGTH, CAR_WIDTH)
    move_x = car[SPEED] * math.cos(car[HEADING]) * seconds - other[SPEED] * math.cos(other[HEADING]) * seconds
    move_y = car[SPEED] * math.sin(car[HEADING]) * seconds - other[SPEED] * math.sin(other[HEADING]) * seconds
    now, soon, x, y = intersect(a, b, move_x, move_y)
    if soon:
        set_impact(car, 1.0, x / 2, y / 2)
        set_impact(other, 1.0, -x / 2, -y / 2)
    if now:
        car[CRASHED] = 1.0
        other[CRASHED] = 1.0


@compiled
def hit_obstacles(car: Array, obstacles: Array, seconds: float) -> None:
    """Let a vehicle touch the obstacles; their impact replaces that of a vehicle."""
    for index in range(obstacles.shape[0]):
        x, y = obstacles[index, 0], obstacles[index, 1]
        if out_of_reach(car, x, y, OBSTACLE_DIAGONAL, seconds):
            continue
        a = corners(car[X], car[Y], car[HEADING], CAR_LENGTH, CAR_WIDTH)
        b = corners(x, y, 0.0, OBSTACLE_SIZE, OBSTACLE_SIZE)
        move_x = car[SPEED] * math.cos(car[HEADING]) * seconds
        move_y = car[SPEED] * math.sin(car[HEADING]) * seconds
        now, soon, out_x, out_y = intersect(a, b, move_x, move_y)
        if soon:
            set_impact(car, 1.0, out_x, out_y)
        if now:
            car[CRASHED] = 1.0


# ------------------------------------------------------------------------------------------- the game


@compiled
def length_of(x: float, y: float) -> float:
    """Return the Euclidean length, m."""
    return math.sqrt(x * x + y * y)


@compiled
def gap_of(cars: Array) -> float:
    """Return the distance of the centres, m; inf when one has left."""
    if cars[0, PRESENT] == 0.0 or cars[1, PRESENT] == 0.0:
        return math.inf
    return length_of(cars[0, X] - cars[1, X], cars[0, Y] - cars[1, Y])


@compiled
def in_zone(car: Array, rules: Array) -> bool:
    """Whether a vehicle is where the gap counts."""
    if rules[SCENARIO] == MERGE:
        return bool(car[X] >= rules[ZONE])
    return bool(length_of(car[X], car[Y]) <= rules[ZONE])


@compiled
def past_finish(car: Array, lanes: Array, rules: Array) -> float:
    """Return how far past the finish line a vehicle is, m; -inf before it or on another road."""
    if rules[SCENARIO] == MERGE:
        past = car[X] - rules[FINISH]
        return past if past > 0.0 else -math.inf
    past = rules[FINISH] - car[Y]
    return past if past >= 0.0 and lanes[int(car[LANE]), ROAD] == rules[EXIT_ROAD] else -math.inf


@compiled
def advance_frame(cars: Array, obstacles: Array, lanes: Array, seconds: float) -> None:
    """Move the vehicles on the road by one frame, then look for contacts."""
    for index in range(2):
        if cars[index, PRESENT] != 0.0:
            drive(cars[index], lanes, seconds)
    if cars[0, PRESENT] != 0.0 and cars[1, PRESENT] != 0.0:
        collide(cars[0], cars[1], seconds)
    for index in range(2):
        if cars[index, PRESENT] != 0.0:
            hit_obstacles(cars[index], obstacles, seconds)


@compiled
def simulate(cars: Array, actions: Array, tables: Array) -> bool:
    """Drive one decision; return whether any frame had both vehicles in the zone closer than the gap."""
    _, speeds, obstacles, lanes, roads, routes, rules = tables
    for index in range(2):
        if cars[index, PRESENT] != 0.0:
            act(cars[index], actions[index] if cars[index, LIVE] != 0.0 else IDLE, speeds, lanes, roads, routes)
    too_close = False
    for _ in range(int(rules[FRAMES])):
        for index in range(2):
            if cars[index, PRESENT] != 0.0:
                act(cars[index], IDLE, speeds, lanes, roads, routes)
        advance_frame(cars, obstacles, lanes, rules[FRAME_SECONDS])
        if not too_close and in_zone(cars[0], rules) and in_zone(cars[1], rules):
            too_close = gap_of(cars) < rules[GAP]
    return too_close


@compiled
def rank_arrivals(cars: Array, lanes: Array, rules: Array) -> None:
    """Rank who crossed the line in this decision: further past it first, exact ties to the leader; they leave."""
    past = np.full(2, -math.inf)
    for index in range(2):
        if cars[index, LIVE] != 0.0 and cars[index, CRASHED] == 0.0:
            past[index] = past_finish(cars[index], lanes, rules)
    ranked = int(max(cars[0, RANK], cars[1, RANK]))
    for turn in range(2):
        index = turn if past[0] >= past[1] else 1 - turn
        if past[index] >= 0.0:
            ranked += 1
            cars[index, RANK] = ranked
            cars[index, PRESENT] = 0.0


@compiled
def judge(cars: Array, too_close: bool, rules: Array, reward: Array, cost: Array, terminated: Array) -> None:
    """Count the decision, and write each live agent's reward, cost and end."""
    decision = cars[0, DECISION] + 1.0
    for index in range(2):
        car = cars[index]
        car[DECISION] = decision
        if car[LIVE] == 0.0:
            continue
        arrived = car[RANK] > 0.0
        crashed = car[CRASHED] != 0.0
        reward[index] = BAND_REWARD if rules[BAND_LOW] <= car[SPEED] <= rules[BAND_HIGH] else 0.0
        if arrived:
            reward[index] += FIRST_REWARD if car[RANK] == 1.0 else SECOND_REWARD
            reward[index] += REMAINING_REWARD * (rules[HORIZON] - decision)
        cost[index, 0] = (COLLISION_COST if crashed else 0.0) + (GAP_COST if too_close else 0.0)
        terminated[index] = decision >= rules[HORIZON] or crashed or arrived
        car[LIVE] = 0.0 if terminated[index] else 1.0


@compiled
def observe(cars: Array, rules: Array, observation: Array, shared: Array) -> None:
    """Write both agents' observations, (2, 9), and the global state, (9,), float32."""
    seen = gap_of(cars) <= SIGHT
    for index in range(2):
        car = cars[index]
        here = car[PRESENT] != 0.0
        row = (
            car[X] if here else 0.0,
            car[Y] if here else 0.0,
            car[SPEED] * math.cos(car[HEADING]) if here else 0.0,
            car[SPEED] * math.sin(car[HEADING]) if here else 0.0,
        )
        for column in range(4):
            shared[4 * index + column] = row[column]
            observation[index, column] = row[column]
            observation[1 - index, 4 + column] = row[column] if seen else 0.0
    left = 1.0 - cars[0, DECISION] / rules[HORIZON]
    shared[8] = left
    observation[0, 8] = left
    observation[1, 8] = left


# ---------------------------------------------------------------------------------------------- spawns

LOW_32, HALF, WORD_SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(11)
PHILOX_M0, PHILOX_M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
PHILOX_W0, PHILOX_W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
ZERO, ONE = np.uint64(0), np.uint64(1)


@compiled
def multiply(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the high and the low word of a product of two uint64; no intermediate overflows."""
    a0, a1, b0, b1 = a & LOW_32, a >> HALF, b & LOW_32, b >> HALF
    low = a0 * b0
    cross = a1 * b0 + (low >> HALF)
    other = a0 * b1 + (cross & LOW_32)
    return a1 * b1 + (cross >> HALF) + (other >> HALF), (other << HALF) | (low & LOW_32)


@compiled
def add(a: Array, b: Array) -> Array:
    """Return the sum of two uint64 modulo 2**64; no intermediate overflows."""
    low = (a & LOW_32) + (b & LOW_32)
    return (((a >> HALF) + (b >> HALF) + (low >> HALF)) << HALF) | (low & LOW_32)


@compiled
def noise(stream: Array, seed: Array, episode: Array, agent: Array) -> tuple[float, float]:
    """Return two uniform draws in [-1, 1): those of `safemarl_bench.rng.generator` (Philox 4x64-10).

    Args:
        stream, seed, episode, agent: uint64, the key and the counters.
    """
    c0, c1, c2, c3, k0, k1 = ONE, episode, agent, ZERO, stream, seed
    for _ in range(10):
        high0, low0 = multiply(PHILOX_M0, c0)
        high1, low1 = multiply(PHILOX_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = add(k0, PHILOX_W0), add(k1, PHILOX_W1)
    first = -1.0 + 2.0 * (float(c0 >> WORD_SHIFT) * 2.0**-53)
    return first, -1.0 + 2.0 * (float(c1 >> WORD_SHIFT) * 2.0**-53)


@compiled
def spawn(cars: Array, key: Array, spawns: Array, speeds: Array, lanes: Array, routes: Array) -> None:
    """Start an episode: both vehicles on their lanes, with the noise of the key (stream, seed, episode)."""
    for index in range(2):
        car, given = cars[index], spawns[index]
        first, second = noise(key[0], key[1], key[2], np.uint64(index))
        along = given[SPAWN_POSITION] + given[NOISE_POSITION] * first
        lane = int(given[SPAWN_LANE])
        car[:] = 0.0
        car[X], car[Y] = position_at(lanes[lane], along, 0.0)
        car[HEADING] = heading_at(lanes[lane], along)
        car[SPEED] = given[SPAWN_SPEED] + given[NOISE_SPEED] * second
        car[TARGET_SPEED] = speeds[speed_index(car[SPEED], speeds)]
        car[LANE] = closest_lane(lanes, car[X], car[Y], car[HEADING], lane)
        car[TARGET_LANE] = car[LANE]
        car[PRESENT] = 1.0
        car[LIVE] = 1.0
        car[ROUTE] = car[LANE] if routes[int(car[LANE]), 0, 0] >= 0 else -1.0


# ---------------------------------------------------------------------------------------- entry points
# tables: (spawns, speeds, obstacles, lanes, roads, routes, rules).
# out: (observation (E, 2, 9) and shared (E, 9) float32, the same two of the decision's end, reward (E, 2) and
# cost (E, 2, 1) float64, terminated (E, 2) and over (E,) bool, crashed (E, 2) bool, arrival_rank (E, 2) int64,
# gap (E,) float64).


@compiled
def clear(k: int, out: Array) -> None:
    """Forget environment k's last decision."""
    _, _, _, _, reward, cost, terminated, _, _, _, _ = out
    for index in range(2):
        reward[k, index] = 0.0
        cost[k, index, 0] = 0.0
        terminated[k, index] = False


@compiled
def report(k: int, cars: Array, rules: Array, out: Array) -> None:
    """Write what environment k shows."""
    observation, shared, final_observation, final_shared, _, _, _, over, crashed, arrival_rank, gap = out
    observe(cars, rules, observation[k], shared[k])
    final_observation[k] = observation[k]
    final_shared[k] = shared[k]
    over[k] = cars[0, LIVE] == 0.0 and cars[1, LIVE] == 0.0
    gap[k] = gap_of(cars)
    for index in range(2):
        crashed[k, index] = cars[index, CRASHED] != 0.0
        arrival_rank[k, index] = int(cars[index, RANK])


@compiled
def reset_batch(state: Array, keys: Array, mask: Array, tables: Array, out: Array) -> None:
    """Start the episodes `keys`, (E, 3) uint64, where `mask`, (E,) bool, is true."""
    spawns, speeds, _, lanes, _, routes, rules = tables
    for k in range(state.shape[0]):
        if mask[k]:
            spawn(state[k], keys[k], spawns, speeds, lanes, routes)
            clear(k, out)
            report(k, state[k], rules, out)


@compiled
def report_batch(state: Array, tables: Array, out: Array) -> None:
    """Report every environment as it is."""
    for k in range(state.shape[0]):
        clear(k, out)
        report(k, state[k], tables[6], out)


@compiled
def step_batch(state: Array, keys: Array, actions: Array, stride: Array, tables: Array, out: Array) -> int:
    """Take one decision in every running environment.

    Args:
        actions: (E, 2) int64; those of done agents are ignored.
        stride: uint64; a finished environment goes on that many episodes further on; 0 leaves it finished.

    Returns:
        -1, or the flat index of a bad action; then nothing has moved.
    """
    spawns, speeds, _, lanes, _, routes, rules = tables
    for k in range(state.shape[0]):
        for index in range(2):
            if state[k, index, LIVE] != 0.0 and not 0 <= actions[k, index] < ACTIONS:
                return 2 * k + index
    for k in range(state.shape[0]):
        cars = state[k]
        clear(k, out)
        if cars[0, LIVE] != 0.0 or cars[1, LIVE] != 0.0:
            too_close = simulate(cars, actions[k], tables)
            rank_arrivals(cars, lanes, rules)
            judge(cars, too_close, rules, out[4][k], out[5][k], out[6][k])
        report(k, cars, rules, out)
        if stride != ZERO and out[7][k]:
            keys[k, 2] = keys[k, 2] + stride
            spawn(cars, keys[k], spawns, speeds, lanes, routes)
            observe(cars, rules, out[0][k], out[1][k])
    return -1
