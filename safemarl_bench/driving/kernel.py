"""The driving kernel: highway-env's vehicles and this package's game rules as scalar code over tables.

Compiled by numba where it is installed; without it the same source runs as plain Python, with the same bits.
Every formula keeps upstream's order of operations: a sum of two products is what an unfused dot product gives,
so nothing here may be rearranged, fused or vectorised. All compiled functions live in this one file, because
numba's cache does not notice edits in other modules.

Arrays (columns are the constants below): ``state`` (E, 2, STATE_WIDTH) float64, integers and flags stored as
floats; ``lanes`` (L, LANE_WIDTH) float64; ``clear`` (L, cells) float64 m, how far away the other lanes
are in each metre of a lane; ``roads`` (R, 4 + successors) int64; ``routes`` (L, steps, 2) int64;
``obstacles`` (O, 2) float64 m; ``spawns`` (2, SPAWN_WIDTH) float64; ``rules`` (RULES_WIDTH,) float64.
Vehicles are rows ``c`` of ``cars``, the state as (2 E, STATE_WIDTH); lanes are rows ``lane`` of the table: rows are
named by their number, because slices cost the compiled code reference counts. Built by `safemarl_bench.driving.tables`.
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
Polygon = tuple[tuple[float, float], ...]


# Without reference counts ("_nrt"), which calls that pass arrays would spend half of their time on: the caller of an
# entry point holds the arrays, and nothing here makes one.
OPTIONS = {"cache": True, "error_model": "numpy", "_nrt": False}


def compiled(function: F) -> F:
    """Compile a function, cached on disk; return it as it is where numba is not installed."""
    return function if numba is None else cast(F, numba.njit(**OPTIONS)(function))


def inlined(function: F) -> F:
    """Compile a function of the frame loop into its callers: calls that pass tables cost more than what they do."""
    return function if numba is None else cast(F, numba.njit(**OPTIONS, forceinline=True)(function))


# Columns of the state: one row per vehicle. Angles in rad, lanes as rows of the lane table.
X, Y, HEADING, SPEED, TARGET_SPEED, STEERING, ACCELERATION, IMPACT_X, IMPACT_Y = range(9)
LANE, TARGET_LANE, CRASHED, IMPACT, PRESENT, LIVE, OFF_ROAD, RANK, ROUTE, ROUTE_STEP, DECISION = range(9, 20)
STATE_WIDTH = 20

# Columns of the lane table. Circular lanes: X0, Y0 are the centre, PHASE the start phase, SIGN +1 clockwise.
KIND, X0, Y0, DIRECTION_X, DIRECTION_Y, LATERAL_X, LATERAL_Y, LANE_HEADING, LENGTH, WIDTH, FORBIDDEN = range(11)
AMPLITUDE, PULSATION, PHASE, RADIUS, SIGN, ROAD, NUMBER, STEEPNESS = range(11, 19)
LANE_WIDTH = 19
STRAIGHT, SINE, CIRCULAR = range(3)

# Columns of the road table; the successors follow, padded with -1.
FIRST_LANE, LANE_COUNT, FROM_NODE, TO_NODE, SUCCESSORS = range(5)

# Columns of the spawn table: lane, then metres along it, m/s, and the sizes of the noise, heading and lateral too.
SPAWN_LANE, SPAWN_POSITION, SPAWN_SPEED, NOISE_POSITION, NOISE_SPEED, NOISE_HEADING, NOISE_LATERAL = range(7)
SPAWN_WIDTH = 7

# The rules of the game; OFFICIAL, CLIPS, FRENET and NORMAL are flags.
SCENARIO, HORIZON, GAP, ZONE, FINISH, BAND_LOW, BAND_HIGH, FRAMES, FRAME_SECONDS, EXIT_ROAD = range(10)
FIRST_REWARD, SECOND_REWARD, SLOWEST, FASTEST, CLIPS, OFFICIAL, FRENET, NORMAL = range(10, 18)
RULES_WIDTH = 18
MERGE, ROUNDABOUT, INTERSECTION, RACETRACK = range(4)

LANE_LEFT, IDLE, LANE_RIGHT, FASTER, SLOWER = range(5)
ACTIONS = 5
BAND_REWARD, REMAINING_REWARD = 2.0, 5.0
CENTERING, STEERING_PENALTY = 4.0, 0.3
COLLISION_COST, GAP_COST = 5.0, 1.0
SIGHT = 200.0
"""The other vehicle is not observed beyond this distance, m."""
PREVIEWS = (5.0, 10.0, 15.0, 20.0)
"""How far ahead a lane's change of heading is observed, m."""

# The released code's rules.
CRASH_REWARD, CRASH_COST, ARRIVED_REWARD = -5.0, 5.0, 5.0
RACETRACK_CRASH_REWARD, RACETRACK_CRASH_COST, DEPARTURE_COST = -0.5, 1.0, 0.5

# Upstream's constants: metres, seconds, rad.
CAR_LENGTH, CAR_WIDTH, OBSTACLE_SIZE = 5.0, 2.0, 2.0
CAR_DIAGONAL, OBSTACLE_DIAGONAL = math.sqrt(29.0), math.sqrt(8.0)
# Upstream scales actions in the precision that they come in.
UNIT, SPAN = np.float32(1.0), np.float32(2.0)
ACCELERATION_LOW, ACCELERATION_SPAN = np.float32(-5.0), np.float32(10.0)
STEERING_LOW, STEERING_SPAN = np.float32(-math.pi / 4), np.float32(math.pi / 2)
GAIN_SPEED, GAIN_HEADING, GAIN_LATERAL, PURSUIT_SECONDS = 1 / 0.6, 1 / 0.2, 1 / 0.6, 0.5 * 0.2
TURN_LIMIT, STEERING_LIMIT = math.pi / 4, math.pi / 3

MARGIN = 1e-6
"""Rounding allowance of the lower bounds on a lane's distance, m."""


# ---------------------------------------------------------------------------------------------- lanes


@inlined
def dot(ax: float, ay: float, bx: float, by: float) -> float:
    """Return the dot product as BLAS accumulates it, from +0."""
    return 0.0 + ax * bx + ay * by


@inlined
def clip(value: float, low: float, high: float) -> float:
    """Return `value` limited to [low, high]."""
    return min(max(value, low), high)


@inlined
def wrap_to_pi(angle: float) -> float:
    """Return the angle in [-pi, pi), by floor modulo."""
    turned = angle + math.pi
    if turned < 0.0:
        turned = turned + 2 * math.pi if turned >= -2 * math.pi else turned % (2 * math.pi)
    elif turned >= 2 * math.pi:  # the difference is exact below 4 pi
        turned = turned - 2 * math.pi if turned < 4 * math.pi else turned % (2 * math.pi)
    return turned - math.pi


@inlined
def on_circle(lanes: Array, lane: int, angle: float, away: float) -> tuple[float, float]:
    """Return (longitudinal, lateral) on a circular lane of a point at polar coordinates about its centre, m."""
    phase, sign, radius = lanes[lane, PHASE], lanes[lane, SIGN], lanes[lane, RADIUS]
    phi = phase + wrap_to_pi(angle - phase)
    return sign * (phi - phase) * radius, sign * (radius - away)


@inlined
def local_coordinates(lanes: Array, lane: int, x: float, y: float) -> tuple[float, float]:
    """Return (longitudinal, lateral) of a point on lane `lane`, m; sine lanes measure along their axis."""
    dx, dy = x - lanes[lane, X0], y - lanes[lane, Y0]
    if lanes[lane, KIND] == CIRCULAR:
        return on_circle(lanes, lane, math.atan2(dy, dx), math.sqrt(dot(dx, dy, dx, dy)))
    along = dot(dx, dy, lanes[lane, DIRECTION_X], lanes[lane, DIRECTION_Y])
    lateral = dot(dx, dy, lanes[lane, LATERAL_X], lanes[lane, LATERAL_Y])
    if lanes[lane, KIND] == SINE:
        lateral = lateral - lanes[lane, AMPLITUDE] * math.sin(lanes[lane, PULSATION] * along + lanes[lane, PHASE])
    return along, lateral


@inlined
def heading_at(lanes: Array, lane: int, along: float) -> float:
    """Return a lane's heading at a longitudinal coordinate."""
    if lanes[lane, KIND] == CIRCULAR:
        phi = lanes[lane, SIGN] * along / lanes[lane, RADIUS] + lanes[lane, PHASE]
        return phi + math.pi / 2 * lanes[lane, SIGN]
    if lanes[lane, KIND] == SINE:
        turn = math.cos(lanes[lane, PULSATION] * along + lanes[lane, PHASE])
        return lanes[lane, LANE_HEADING] + math.atan(lanes[lane, AMPLITUDE] * lanes[lane, PULSATION] * turn)
    return lanes[lane, LANE_HEADING]


@compiled
def position_at(lanes: Array, lane: int, along: float, lateral: float) -> tuple[float, float]:
    """Return the point at coordinates of a lane, m."""
    if lanes[lane, KIND] == CIRCULAR:
        phi = lanes[lane, SIGN] * along / lanes[lane, RADIUS] + lanes[lane, PHASE]
        radius = lanes[lane, RADIUS] - lateral * lanes[lane, SIGN]
        return lanes[lane, X0] + radius * math.cos(phi), lanes[lane, Y0] + radius * math.sin(phi)
    if lanes[lane, KIND] == SINE:
        lateral = lateral + lanes[lane, AMPLITUDE] * math.sin(lanes[lane, PULSATION] * along + lanes[lane, PHASE])
    x = lanes[lane, X0] + along * lanes[lane, DIRECTION_X] + lateral * lanes[lane, LATERAL_X]
    y = lanes[lane, Y0] + along * lanes[lane, DIRECTION_Y] + lateral * lanes[lane, LATERAL_Y]
    return x, y


@compiled
def distance(lanes: Array, lane: int, x: float, y: float) -> float:
    """Return |lateral| + overshoot at either end, m."""
    along, lateral = local_coordinates(lanes, lane, x, y)
    return abs(lateral) + max(along - lanes[lane, LENGTH], 0.0) + max(0.0 - along, 0.0)


@inlined
def distance_with_heading(lanes: Array, lane: int, x: float, y: float, heading: float) -> float:
    """Return the distance plus the angle between the heading and the lane's."""
    along, lateral = local_coordinates(lanes, lane, x, y)
    return sum_with_heading(lanes, lane, along, lateral, heading)


@inlined
def sum_with_heading(lanes: Array, lane: int, along: float, lateral: float, heading: float) -> float:
    """Return |lateral| + overshoot + the angle between the heading and the lane's."""
    angle = abs(wrap_to_pi(heading - heading_at(lanes, lane, along)))
    return abs(lateral) + max(along - lanes[lane, LENGTH], 0.0) + max(0.0 - along, 0.0) + angle


@inlined
def lower_bound(lanes: Array, lane: int, x: float, y: float) -> float:
    """Return at most the distance to a straight or sine lane plus rounding, without trigonometry."""
    dx, dy = x - lanes[lane, X0], y - lanes[lane, Y0]
    along = dx * lanes[lane, DIRECTION_X] + dy * lanes[lane, DIRECTION_Y]
    lateral = abs(dx * lanes[lane, LATERAL_X] + dy * lanes[lane, LATERAL_Y]) - abs(lanes[lane, AMPLITUDE])
    return max(lateral, 0.0) + max(along - lanes[lane, LENGTH], 0.0) + max(-along, 0.0)


@inlined
def closest_lane(lanes: Array, clear: Array, x: float, y: float, heading: float, guess: int) -> int:
    """Return the first lane, in the network's order, at the smallest distance with heading.

    Circular lanes about one centre share their polar coordinates.

    Args:
        clear: how far away the others are at least: `safemarl_bench.driving.tables.clearances`.
        guess: any lane; the closer it is, the fewer lanes are measured.
    """
    along, lateral = local_coordinates(lanes, guess, x, y)
    best, shortest = guess, sum_with_heading(lanes, guess, along, lateral, heading)
    if 0.0 <= along < clear.shape[1] and shortest + lanes[guess, STEEPNESS] * abs(lateral) < clear[guess, int(along)]:
        return guess
    x0, y0, away, angle, known = math.inf, math.inf, 0.0, 0.0, False
    for lane in range(lanes.shape[0]):
        if lane == guess:
            continue
        if lanes[lane, KIND] == CIRCULAR:
            if lanes[lane, X0] != x0 or lanes[lane, Y0] != y0:
                x0, y0, known = lanes[lane, X0], lanes[lane, Y0], False
                away = math.sqrt(dot(x - x0, y - y0, x - x0, y - y0))
            if abs(lanes[lane, RADIUS] - away) - MARGIN > shortest:
                continue
            if not known:
                angle, known = math.atan2(y - y0, x - x0), True
            along, lateral = on_circle(lanes, lane, angle, away)
            total = sum_with_heading(lanes, lane, along, lateral, heading)
        elif lower_bound(lanes, lane, x, y) - MARGIN > shortest:
            continue
        else:
            total = distance_with_heading(lanes, lane, x, y, heading)
        if total < shortest or (total == shortest and lane < best):
            best, shortest = lane, total
    return best


# ------------------------------------------------------------------------------------------ following


@compiled
def entry_lane(lanes: Array, roads: Array, lane: int, road: int, wanted: int, x: float, y: float) -> tuple[int, float]:
    """Return the lane of `road` to enter from lane `lane`, and its distance from the point.

    Args:
        wanted: lane number that the route asks for, or -1.
    """
    first, count = roads[road, FIRST_LANE], roads[road, LANE_COUNT]
    if roads[int(lanes[lane, ROAD]), LANE_COUNT] == count:
        chosen = first + (wanted if wanted >= 0 else int(lanes[lane, NUMBER]))
        return chosen, distance(lanes, chosen, x, y)
    best, shortest = first, distance(lanes, first, x, y)
    for candidate in range(first + 1, first + count):
        away = distance(lanes, candidate, x, y)
        if away < shortest:
            best, shortest = candidate, away
    return best, shortest


@compiled
def next_lane(cars: Array, c: int, lanes: Array, roads: Array, routes: Array) -> int:
    """Return the lane that follows the target lane: along the route, else the closest; drops a finished route step."""
    lane = int(cars[c, TARGET_LANE])
    road = int(lanes[lane, ROAD])
    x, y = position_at(lanes, lane, local_coordinates(lanes, lane, cars[c, X], cars[c, Y])[0], 0.0)
    if cars[c, ROUTE] >= 0.0:
        route = int(cars[c, ROUTE])
        if routes[route, int(cars[c, ROUTE_STEP]), 0] == road:
            cars[c, ROUTE_STEP] += 1.0
        step = int(cars[c, ROUTE_STEP])
        following = routes[route, step, 0]
        if following >= 0 and roads[following, FROM_NODE] == roads[road, TO_NODE]:
            return entry_lane(lanes, roads, lane, following, routes[route, step, 1], x, y)[0]
    best, shortest = lane, math.inf
    for column in range(SUCCESSORS, roads.shape[1]):
        if roads[road, column] >= 0:
            candidate, away = entry_lane(lanes, roads, lane, roads[road, column], -1, x, y)
            if away < shortest:
                best, shortest = candidate, away
    return best


@compiled
def change_lane(cars: Array, c: int, side: int, lanes: Array, roads: Array) -> None:
    """Target the next lane on a side (-1 left, +1 right) of the target lane's road, where it can be reached."""
    target = int(cars[c, TARGET_LANE])
    road = int(lanes[target, ROAD])
    number = min(max(int(lanes[target, NUMBER]) + side, 0), roads[road, LANE_COUNT] - 1)
    lane = roads[road, FIRST_LANE] + number
    if lanes[lane, FORBIDDEN] != 0.0:
        return
    along, lateral = local_coordinates(lanes, lane, cars[c, X], cars[c, Y])
    if abs(lateral) <= 2 * lanes[lane, WIDTH] and 0.0 <= along < lanes[lane, LENGTH] + CAR_LENGTH:
        cars[c, TARGET_LANE] = lane


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


@inlined
def not_zero(value: float) -> float:
    """Return the value, at least 0.01 away from 0."""
    if abs(value) > 1e-2:
        return value
    return 1e-2 if value >= 0.0 else -1e-2


@inlined
def steering_of(heading: float, speed: float, ahead: float, lateral: float) -> float:
    """Return the steering angle that follows a lane's centre, rad.

    Args:
        ahead: the lane's heading a moment ahead. lateral: offset from its centre, m.
    """
    command = math.asin(clip(-GAIN_LATERAL * lateral / not_zero(speed), -1.0, 1.0))
    reference = ahead + clip(command, -TURN_LIMIT, TURN_LIMIT)
    rate = GAIN_HEADING * wrap_to_pi(reference - heading)
    slip = math.asin(clip(CAR_LENGTH / 2 / not_zero(speed) * rate, -1.0, 1.0))
    if slip == 0.0:
        return slip
    return clip(math.atan(2 * math.tan(slip)), -STEERING_LIMIT, STEERING_LIMIT)


@inlined
def follow_road(cars: Array, c: int, lanes: Array, roads: Array, routes: Array) -> tuple[float, float]:
    """Switch to the next lane near the end of the target lane; return the coordinates on the target lane, m."""
    lane = int(cars[c, TARGET_LANE])
    along, lateral = local_coordinates(lanes, lane, cars[c, X], cars[c, Y])
    if along > lanes[lane, LENGTH] - CAR_LENGTH / 2:
        lane = next_lane(cars, c, lanes, roads, routes)
        cars[c, TARGET_LANE] = lane
        return local_coordinates(lanes, lane, cars[c, X], cars[c, Y])
    return along, lateral


@compiled
def act(cars: Array, c: int, action: int, speeds: Array, lanes: Array, roads: Array, routes: Array) -> None:
    """Take a meta-action: set the target speed, follow the road, then change the target lane."""
    if action in (FASTER, SLOWER):
        index = speed_index(cars[c, SPEED], speeds) + (1 if action == FASTER else -1)
        cars[c, TARGET_SPEED] = speeds[min(max(index, 0), len(speeds) - 1)]
    follow_road(cars, c, lanes, roads, routes)
    if action == LANE_LEFT:
        change_lane(cars, c, -1, lanes, roads)
    elif action == LANE_RIGHT:
        change_lane(cars, c, 1, lanes, roads)


@inlined
def push(cars: Array, c: int, action: float, rules: Array) -> None:
    """Take a number in [-1, 1] as acceleration (intersection) or steering (racetrack) until the next decision."""
    share = np.float32(action) + UNIT
    cars[c, ACCELERATION], cars[c, STEERING] = 0.0, 0.0
    if rules[SCENARIO] == INTERSECTION:
        cars[c, ACCELERATION] = float(ACCELERATION_LOW + share * ACCELERATION_SPAN / SPAN)
    else:
        cars[c, STEERING] = float(STEERING_LOW + share * STEERING_SPAN / SPAN)


@inlined
def control(cars: Array, c: int, lanes: Array, roads: Array, routes: Array) -> None:
    """Follow the road, and set steering and acceleration for one frame; a crashed vehicle's are set by `drive`."""
    along, lateral = follow_road(cars, c, lanes, roads, routes)
    if cars[c, CRASHED] != 0.0:
        return
    speed = cars[c, SPEED]
    ahead = heading_at(lanes, int(cars[c, TARGET_LANE]), along + speed * PURSUIT_SECONDS)
    cars[c, STEERING] = steering_of(cars[c, HEADING], speed, ahead, lateral)
    cars[c, ACCELERATION] = GAIN_SPEED * (cars[c, TARGET_SPEED] - speed)


# ------------------------------------------------------------------------------- motion and collisions


@inlined
def limit_action(cars: Array, c: int, rules: Array) -> None:
    """Brake a crashed vehicle, straight on, and lead speeds back into their range."""
    speed = cars[c, SPEED]
    if cars[c, CRASHED] != 0.0:
        cars[c, STEERING] = 0.0
        cars[c, ACCELERATION] = -1.0 * speed
    if speed > rules[FASTEST]:
        cars[c, ACCELERATION] = min(cars[c, ACCELERATION], 1.0 * (rules[FASTEST] - speed))
    elif speed < rules[SLOWEST]:
        cars[c, ACCELERATION] = max(cars[c, ACCELERATION], 1.0 * (rules[SLOWEST] - speed))


@inlined
def drive(cars: Array, c: int, lanes: Array, clear: Array, rules: Array) -> None:
    """Move a vehicle for one frame: kinematic bicycle, pending impact, and the lane it is on."""
    limit_action(cars, c, rules)
    seconds = rules[FRAME_SECONDS]
    speed, heading = cars[c, SPEED], cars[c, HEADING]
    slip = cars[c, STEERING]
    if slip != 0.0:  # zeros pass unchanged
        slip = math.atan(1 / 2 * math.tan(slip))
    x = cars[c, X] + speed * math.cos(heading + slip) * seconds
    y = cars[c, Y] + speed * math.sin(heading + slip) * seconds
    if cars[c, IMPACT] != 0.0:
        x += cars[c, IMPACT_X]
        y += cars[c, IMPACT_Y]
        cars[c, CRASHED] = 1.0
        set_impact(cars, c, 0.0, 0.0, 0.0)
    heading = heading + speed * math.sin(slip) / (CAR_LENGTH / 2) * seconds
    cars[c, X], cars[c, Y], cars[c, HEADING] = x, y, heading
    speed = speed + cars[c, ACCELERATION] * seconds
    cars[c, SPEED] = clip(speed, rules[SLOWEST], rules[FASTEST]) if rules[CLIPS] != 0.0 else speed
    cars[c, LANE] = closest_lane(lanes, clear, x, y, heading, int(cars[c, LANE]))


@inlined
def set_impact(cars: Array, c: int, pending: float, x: float, y: float) -> None:
    """Note a displacement, m, for the next frame, or clear it."""
    cars[c, IMPACT] = pending
    cars[c, IMPACT_X] = x
    cars[c, IMPACT_Y] = y


@inlined
def placed(x: float, y: float, cos: float, sin: float, along: float, across: float) -> tuple[float, float]:
    """Return a point at an offset along and across a direction."""
    return cos * along + -sin * across + x, sin * along + cos * across + y


@compiled
def corners(x: float, y: float, heading: float, length: float, width: float) -> Polygon:
    """Return a rectangle's corners, m."""
    cos, sin = math.cos(heading), math.sin(heading)
    return (
        placed(x, y, cos, sin, -length / 2, -width / 2),
        placed(x, y, cos, sin, -length / 2, width / 2),
        placed(x, y, cos, sin, length / 2, width / 2),
        placed(x, y, cos, sin, length / 2, -width / 2),
    )


@compiled
def project(polygon: Polygon, x: float, y: float) -> tuple[float, float]:
    """Return the interval that a polygon covers on an axis."""
    low = high = dot(polygon[0][0], polygon[0][1], x, y)
    for index in range(1, 4):
        at = dot(polygon[index][0], polygon[index][1], x, y)
        low, high = min(low, at), max(high, at)
    return low, high


@compiled
def interval_distance(low_a: float, high_a: float, low_b: float, high_b: float) -> float:
    """Return the distance of two intervals, negative where they overlap."""
    return low_b - high_a if low_a < low_b else low_a - high_b


@compiled
def mean_difference(a: Polygon, b: Polygon, axis: int) -> float:
    """Return the difference of two polygons' centres along one coordinate."""
    mean_a = (a[0][axis] + a[1][axis] + a[2][axis] + a[3][axis]) / 4.0
    mean_b = (b[0][axis] + b[1][axis] + b[2][axis] + b[3][axis]) / 4.0
    return mean_a - mean_b


@compiled
def intersect(a: Polygon, b: Polygon, move_x: float, move_y: float) -> tuple[bool, bool, float, float]:
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


@inlined
def out_of_reach(cars: Array, c: int, x: float, y: float, diagonal: float, seconds: float) -> bool:
    """Whether a point is too far for a contact in the coming frame; only the car's own speed counts."""
    dx, dy = x - cars[c, X], y - cars[c, Y]
    reach = (CAR_DIAGONAL + diagonal) / 2 + cars[c, SPEED] * seconds
    return math.sqrt(dot(dx, dy, dx, dy)) > reach


@inlined
def velocity(cars: Array, c: int) -> tuple[float, float]:
    """Return a vehicle's velocity along its heading, m/s."""
    return cars[c, SPEED] * math.cos(cars[c, HEADING]), cars[c, SPEED] * math.sin(cars[c, HEADING])


@compiled
def collide(cars: Array, c: int, other: int, seconds: float) -> None:
    """Let two vehicles touch: a contact now marks both crashed, one in the coming frame leaves an impact."""
    if out_of_reach(cars, c, cars[other, X], cars[other, Y], CAR_DIAGONAL, seconds):
        return
    a = corners(cars[c, X], cars[c, Y], cars[c, HEADING], CAR_LENGTH, CAR_WIDTH)
    b = corners(cars[other, X], cars[other, Y], cars[other, HEADING], CAR_LENGTH, CAR_WIDTH)
    (vx, vy), (other_vx, other_vy) = velocity(cars, c), velocity(cars, other)
    move_x, move_y = vx * seconds - other_vx * seconds, vy * seconds - other_vy * seconds
    now, soon, x, y = intersect(a, b, move_x, move_y)
    if soon:
        set_impact(cars, c, 1.0, x / 2, y / 2)
        set_impact(cars, other, 1.0, -x / 2, -y / 2)
    if now:
        cars[c, CRASHED] = 1.0
        cars[other, CRASHED] = 1.0


@compiled
def hit_obstacles(cars: Array, c: int, obstacles: Array, seconds: float) -> None:
    """Let a vehicle touch the obstacles; their impact replaces that of a vehicle."""
    for index in range(obstacles.shape[0]):
        x, y = obstacles[index, 0], obstacles[index, 1]
        if out_of_reach(cars, c, x, y, OBSTACLE_DIAGONAL, seconds):
            continue
        a = corners(cars[c, X], cars[c, Y], cars[c, HEADING], CAR_LENGTH, CAR_WIDTH)
        b = corners(x, y, 0.0, OBSTACLE_SIZE, OBSTACLE_SIZE)
        vx, vy = velocity(cars, c)
        now, soon, out_x, out_y = intersect(a, b, vx * seconds, vy * seconds)
        if soon:
            set_impact(cars, c, 1.0, out_x, out_y)
        if now:
            cars[c, CRASHED] = 1.0


# ------------------------------------------------------------------------------------------- the game
# The vehicles of environment k are the rows c = 2 k (leader) and c + 1 (follower).


@inlined
def length_of(x: float, y: float) -> float:
    """Return the Euclidean length, m."""
    return math.sqrt(x * x + y * y)


@inlined
def gap_of(cars: Array, c: int) -> float:
    """Return the distance of the centres, m; inf when one has left."""
    if cars[c, PRESENT] == 0.0 or cars[c + 1, PRESENT] == 0.0:
        return math.inf
    return length_of(cars[c, X] - cars[c + 1, X], cars[c, Y] - cars[c + 1, Y])


@inlined
def in_zone(cars: Array, c: int, rules: Array) -> bool:
    """Whether a vehicle is where the gap counts."""
    if rules[SCENARIO] == MERGE:
        return cars[c, X] >= rules[ZONE]
    return length_of(cars[c, X], cars[c, Y]) <= rules[ZONE]


@compiled
def past_finish(cars: Array, c: int, lanes: Array, rules: Array) -> float:
    """Return how far past its finish line a vehicle is, m; -inf before it, on another road, or where there is none."""
    if rules[SCENARIO] == MERGE:
        past = cars[c, X] - rules[FINISH]
        return past if past > 0.0 else -math.inf
    if rules[SCENARIO] == ROUNDABOUT:
        past = rules[FINISH] - cars[c, Y]
        return past if past >= 0.0 and lanes[int(cars[c, LANE]), ROAD] == rules[EXIT_ROAD] else -math.inf
    if rules[SCENARIO] == INTERSECTION:
        past = (-cars[c, Y] if c % 2 == 0 else cars[c, X]) - rules[FINISH]
        return past if past >= 0.0 else -math.inf
    return -math.inf


@compiled
def is_off_road(cars: Array, c: int, lanes: Array) -> bool:
    """Whether a vehicle is off its closest lane."""
    lane = int(cars[c, LANE])
    along, lateral = local_coordinates(lanes, lane, cars[c, X], cars[c, Y])
    within = -CAR_LENGTH <= along < lanes[lane, LENGTH] + CAR_LENGTH
    return not (abs(lateral) <= lanes[lane, WIDTH] / 2 and within)


@inlined
def advance_frame(cars: Array, c: int, obstacles: Array, lanes: Array, clear: Array, rules: Array) -> None:
    """Move the vehicles on the road by one frame, then look for contacts."""
    for car in range(c, c + 2):
        if cars[car, PRESENT] != 0.0:
            drive(cars, car, lanes, clear, rules)
    if cars[c, PRESENT] != 0.0 and cars[c + 1, PRESENT] != 0.0:
        collide(cars, c, c + 1, rules[FRAME_SECONDS])
    for car in range(c, c + 2):
        if cars[car, PRESENT] != 0.0:
            hit_obstacles(cars, car, obstacles, rules[FRAME_SECONDS])


@inlined
def is_pushed(rules: Array) -> bool:
    """Whether actions are numbers, not meta-actions."""
    return rules[SCENARIO] == INTERSECTION or rules[SCENARIO] == RACETRACK


@compiled
def simulate(cars: Array, c: int, actions: Array, tables: Array) -> bool:
    """Drive one decision; return whether any frame had both vehicles in the zone closer than the gap."""
    _, speeds, obstacles, lanes, clear, roads, routes, rules = tables
    pushed = is_pushed(rules)
    for car in range(c, c + 2):
        if cars[car, PRESENT] == 0.0:
            continue
        action, live = actions[c // 2, car - c], cars[car, LIVE] != 0.0
        if pushed:
            push(cars, car, action if live else 0.0, rules)
        else:
            act(cars, car, int(action) if live else IDLE, speeds, lanes, roads, routes)
    too_close = False
    for _ in range(int(rules[FRAMES])):
        for car in range(c, c + 2):
            if not pushed and cars[car, PRESENT] != 0.0:
                control(cars, car, lanes, roads, routes)
        advance_frame(cars, c, obstacles, lanes, clear, rules)
        if rules[GAP] > 0.0 and not too_close and in_zone(cars, c, rules) and in_zone(cars, c + 1, rules):
            too_close = gap_of(cars, c) < rules[GAP]
    return too_close


@compiled
def note_departures(cars: Array, c: int, lanes: Array, rules: Array) -> None:
    """Note who left the road in this decision; a crash wins. Only vehicles that are not kept on a lane can leave it.

    The released code knows departures on the racetrack only, and of crashed vehicles too; nobody leaves the scene.
    """
    official = rules[OFFICIAL] != 0.0
    if not is_pushed(rules) or (official and rules[SCENARIO] != RACETRACK):
        return
    for car in range(c, c + 2):
        if cars[car, LIVE] != 0.0 and (official or cars[car, CRASHED] == 0.0) and is_off_road(cars, car, lanes):
            cars[car, OFF_ROAD] = 1.0
            if not official:
                cars[car, PRESENT] = 0.0


@inlined
def newly_past(cars: Array, c: int, lanes: Array, rules: Array) -> float:
    """Return how far past its finish line a vehicle is that may arrive in this decision, m; -inf for the others."""
    if cars[c, LIVE] == 0.0 or cars[c, CRASHED] != 0.0 or cars[c, OFF_ROAD] != 0.0 or cars[c, RANK] > 0.0:
        return -math.inf
    return past_finish(cars, c, lanes, rules)


@compiled
def rank_arrivals(cars: Array, c: int, lanes: Array, rules: Array) -> None:
    """Rank who crossed the line in this decision: further past it first, exact ties to the leader."""
    leader, follower = newly_past(cars, c, lanes, rules), newly_past(cars, c + 1, lanes, rules)
    rank = max(cars[c, RANK], cars[c + 1, RANK])
    for turn in range(2):
        leads = (turn == 0) == (leader >= follower)
        if (leader if leads else follower) >= 0.0:
            car = c if leads else c + 1
            rank += 1.0
            cars[car, RANK] = rank


@compiled
def driving_reward(cars: Array, c: int, action: float, lanes: Array, rules: Array) -> float:
    """Return a decision's reward, arrival and crash apart."""
    if rules[SCENARIO] == RACETRACK:
        if is_off_road(cars, c, lanes):
            return 0.0
        _, lateral = local_coordinates(lanes, int(cars[c, LANE]), cars[c, X], cars[c, Y])
        steered = abs(float(np.float32(action)))
        return (1.0 / (1.0 + CENTERING * (lateral * lateral)) - STEERING_PENALTY * steered + 1.0) / 2.0
    commanded = rules[OFFICIAL] != 0.0 and rules[SCENARIO] == MERGE
    speed = cars[c, TARGET_SPEED] if commanded else cars[c, SPEED]
    return BAND_REWARD if rules[BAND_LOW] <= speed <= rules[BAND_HIGH] else 0.0


@inlined
def arrival_reward(rank: float, rules: Array) -> float:
    """Return what an arrival pays by its order."""
    return rules[FIRST_REWARD] if rank == 1.0 else rules[SECOND_REWARD]


@compiled
def judge(cars: Array, k: int, actions: Array, too_close: bool, tables: Array, out: Array) -> None:
    """Write each live agent's reward, cost and end of environment k's decision; who arrived leaves the scene."""
    _, _, _, lanes, _, _, _, rules = tables
    _, _, _, _, reward, cost, terminated, truncated, _, _, _, _, _ = out
    rank_arrivals(cars, 2 * k, lanes, rules)
    decision = cars[2 * k, DECISION]
    time_is_up = decision >= rules[HORIZON]
    for index in range(2):
        c = 2 * k + index
        if cars[c, LIVE] == 0.0:
            continue
        arrived, ended = cars[c, RANK] > 0.0, cars[c, CRASHED] != 0.0 or cars[c, OFF_ROAD] != 0.0
        paid = driving_reward(cars, c, actions[k, index], lanes, rules)
        if arrived:
            paid += arrival_reward(cars[c, RANK], rules)
            paid += REMAINING_REWARD * (rules[HORIZON] - decision)
            cars[c, PRESENT] = 0.0
        reward[k, index] = paid
        cost[k, index, 0] = (COLLISION_COST if ended else 0.0) + (GAP_COST if too_close else 0.0)
        terminated[k, index] = ended or arrived or (time_is_up and rules[SCENARIO] != RACETRACK)
        truncated[k] = truncated[k] or (time_is_up and not terminated[k, index])
        cars[c, LIVE] = 0.0 if time_is_up or terminated[k, index] else 1.0


@inlined
def is_done(cars: Array, c: int) -> bool:
    """Whether a vehicle crashed, arrived or left the road."""
    return cars[c, CRASHED] != 0.0 or cars[c, RANK] > 0.0 or cars[c, OFF_ROAD] != 0.0


@compiled
def judge_official(cars: Array, k: int, actions: Array, tables: Array, out: Array) -> None:
    """Write rewards and costs as the released code has them; both vehicles drive on until both are done."""
    _, _, _, lanes, _, _, _, rules = tables
    _, _, _, _, reward, cost, terminated, _, _, _, _, _, _ = out
    first, racetrack = 2 * k, rules[SCENARIO] == RACETRACK
    ranks = (cars[first, RANK], cars[first + 1, RANK])
    rank_arrivals(cars, first, lanes, rules)
    over = cars[first, DECISION] >= rules[HORIZON] or (is_done(cars, first) and is_done(cars, first + 1))
    for index in range(2):
        c = first + index
        crashed, away = cars[c, CRASHED] != 0.0, racetrack and is_off_road(cars, c, lanes)
        paid = driving_reward(cars, c, actions[k, index], lanes, rules)
        if crashed and not away:
            paid += RACETRACK_CRASH_REWARD if racetrack else CRASH_REWARD
        if rules[SCENARIO] == ROUNDABOUT:
            paid += ARRIVED_REWARD if past_finish(cars, c, lanes, rules) >= 0.0 else 0.0
        elif cars[c, RANK] != ranks[index]:
            paid += arrival_reward(cars[c, RANK], rules)
        reward[k, index] = paid
        charged = RACETRACK_CRASH_COST if racetrack else CRASH_COST
        cost[k, index, 0] = (charged if crashed else 0.0) + (DEPARTURE_COST if away else 0.0)
        terminated[k, index] = over
        cars[c, LIVE] = 0.0 if over else 1.0


# -------------------------------------------------------------------------------------- observations


@compiled
def heading_ahead(lanes: Array, roads: Array, lane: int, along: float) -> float:
    """Return a closed track's heading `along` metres after the start of a lane, in that lane or those after it."""
    while along > lanes[lane, LENGTH]:
        along -= lanes[lane, LENGTH]
        lane = roads[roads[int(lanes[lane, ROAD]), SUCCESSORS], FIRST_LANE] + int(lanes[lane, NUMBER])
    return heading_at(lanes, lane, along)


@compiled
def observe_lane(cars: Array, c: int, seen: bool, lanes: Array, roads: Array, row: Array) -> None:
    """Write what a driver sees of its lane and of the other vehicle: `safemarl_bench.driving.frenet`.

    Args:
        seen: whether the other vehicle is. row: (2, n), the environment's observations.
    """
    own = row[c % 2]
    own[:] = 0.0
    heading = cars[c, HEADING]
    if cars[c, PRESENT] != 0.0:
        lane = int(cars[c, LANE])
        along, lateral = local_coordinates(lanes, lane, cars[c, X], cars[c, Y])
        here = heading_at(lanes, lane, along)
        own[0], own[1] = lateral, wrap_to_pi(heading - here)
        for index in range(4):
            own[2 + index] = wrap_to_pi(heading_ahead(lanes, roads, lane, along + PREVIEWS[index]) - here)
    if seen:
        other = c + 1 - 2 * (c % 2)
        dx, dy = cars[other, X] - cars[c, X], cars[other, Y] - cars[c, Y]
        cos, sin = math.cos(heading), math.sin(heading)
        own[6], own[7] = dx * cos + dy * sin, dy * cos - dx * sin
        own[8] = wrap_to_pi(cars[other, HEADING] - heading)


@compiled
def observe(cars: Array, k: int, tables: Array, observation: Array, shared: Array) -> None:
    """Write environment k's two observations and its global state; the clock where there is a ninth column for it."""
    _, _, _, lanes, _, roads, _, rules = tables
    seen = gap_of(cars, 2 * k) <= SIGHT
    left = 1.0 - cars[2 * k, DECISION] / rules[HORIZON]
    for index in range(2):
        c = 2 * k + index
        x, y, vx, vy = 0.0, 0.0, 0.0, 0.0
        if cars[c, PRESENT] != 0.0:
            x, y = cars[c, X], cars[c, Y]
            vx, vy = velocity(cars, c)
        row = (x, y, vx, vy)
        for column in range(4):
            shared[k, 4 * index + column] = row[column]
        if rules[FRENET] != 0.0:
            observe_lane(cars, c, seen, lanes, roads, observation[k])
            continue
        for column in range(4):
            observation[k, index, column] = row[column]
            observation[k, 1 - index, 4 + column] = row[column] if seen else 0.0
        if observation.shape[2] > 8:
            observation[k, index, 8] = left
    if shared.shape[1] > 8:
        shared[k, 8] = left


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


@inlined
def unit(word: Array) -> float:
    """Return a uniform draw in [0, 1) of a uint64."""
    return float(word >> WORD_SHIFT) * 2.0**-53


@compiled
def draw(stream: Array, seed: Array, episode: Array, agent: Array) -> tuple[float, float, float, float]:
    """Return the first four uniform draws in [0, 1) of `safemarl_bench.rng.generator` (Philox 4x64-10).

    Args:
        stream, seed, episode, agent: uint64, the key and the counters.
    """
    c0, c1, c2, c3, k0, k1 = ONE, episode, agent, ZERO, stream, seed
    for _ in range(10):
        high0, low0 = multiply(PHILOX_M0, c0)
        high1, low1 = multiply(PHILOX_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = add(k0, PHILOX_W0), add(k1, PHILOX_W1)
    return unit(c0), unit(c1), unit(c2), unit(c3)


@compiled
def normals(first: float, second: float) -> tuple[float, float]:
    """Return two standard normal draws of two uniform ones (Box and Muller)."""
    radius, angle = math.sqrt(-2.0 * math.log(1.0 - first)), 2 * math.pi * second
    return radius * math.cos(angle), radius * math.sin(angle)


@compiled
def noise(key: Array, agent: int, normal: bool) -> tuple[float, float, float, float]:
    """Return four draws, uniform in [-1, 1) or standard normal, of an episode and an agent.

    Args:
        key: (3,) uint64, stream, seed and episode.
    """
    a, b, c, d = draw(key[0], key[1], key[2], np.uint64(agent))
    if normal:
        (a, b), (c, d) = normals(a, b), normals(c, d)
        return a, b, c, d
    return -1.0 + 2.0 * a, -1.0 + 2.0 * b, -1.0 + 2.0 * c, -1.0 + 2.0 * d


@compiled
def spawn(cars: Array, k: int, keys: Array, tables: Array) -> None:
    """Start environment k's episode: both vehicles on their lanes, with the noise of its key."""
    spawns, speeds, _, lanes, clear, _, routes, rules = tables
    for index in range(2):
        c = 2 * k + index
        position, speed, turned, lateral = noise(keys[k], index, rules[NORMAL] != 0.0)
        along = spawns[index, SPAWN_POSITION] + spawns[index, NOISE_POSITION] * position
        lane = int(spawns[index, SPAWN_LANE])
        for column in range(STATE_WIDTH):
            cars[c, column] = 0.0
        x, y = position_at(lanes, lane, along, spawns[index, NOISE_LATERAL] * lateral)
        heading = heading_at(lanes, lane, along) + spawns[index, NOISE_HEADING] * turned
        cars[c, X], cars[c, Y], cars[c, HEADING] = x, y, heading
        cars[c, SPEED] = spawns[index, SPAWN_SPEED] + spawns[index, NOISE_SPEED] * speed
        lane = closest_lane(lanes, clear, x, y, heading, lane)
        cars[c, LANE], cars[c, TARGET_LANE], cars[c, ROUTE] = lane, lane, -1.0
        cars[c, PRESENT], cars[c, LIVE] = 1.0, 1.0
        if is_pushed(rules):
            continue
        cars[c, TARGET_SPEED] = speeds[speed_index(cars[c, SPEED], speeds)]
        if routes[lane, 0, 0] >= 0:
            cars[c, ROUTE] = lane


# ---------------------------------------------------------------------------------------- entry points
# cars: (2 E, STATE_WIDTH). keys: (E, 3) uint64, stream, seed and episode.
# tables: (spawns, speeds, obstacles, lanes, clear, roads, routes, rules).
# out: (observation (E, 2, n) and shared (E, m) float32, the same two of the decision's end, reward (E, 2) and cost
# (E, 2, 1) float64, terminated (E, 2), truncated (E,) and over (E,) bool, crashed and off_road (E, 2) bool,
# arrival_rank (E, 2) int64, gap (E,) float64).


@compiled
def clear(k: int, out: Array) -> None:
    """Forget the last decision of environment k."""
    _, _, _, _, reward, cost, terminated, truncated, _, _, _, _, _ = out
    truncated[k] = False
    for index in range(2):
        reward[k, index] = 0.0
        cost[k, index, 0] = 0.0
        terminated[k, index] = False


@compiled
def report(cars: Array, k: int, tables: Array, out: Array) -> None:
    """Write what environment k shows."""
    observation, shared, final_observation, final_shared, _, _, _, _, over, crashed, off_road, rank, gap = out
    observe(cars, k, tables, observation, shared)
    for column in range(shared.shape[1]):
        final_shared[k, column] = shared[k, column]
    for index in range(2):
        for column in range(observation.shape[2]):
            final_observation[k, index, column] = observation[k, index, column]
    over[k] = cars[2 * k, LIVE] == 0.0 and cars[2 * k + 1, LIVE] == 0.0
    gap[k] = gap_of(cars, 2 * k)
    for index in range(2):
        crashed[k, index] = cars[2 * k + index, CRASHED] != 0.0
        off_road[k, index] = cars[2 * k + index, OFF_ROAD] != 0.0
        rank[k, index] = int(cars[2 * k + index, RANK])


@compiled
def reset_batch(cars: Array, keys: Array, mask: Array, tables: Array, out: Array) -> None:
    """Start the episodes of the keys where `mask`, (E,) bool, is true."""
    for k in range(mask.shape[0]):
        if mask[k]:
            spawn(cars, k, keys, tables)
            clear(k, out)
            report(cars, k, tables, out)


@compiled
def report_batch(cars: Array, tables: Array, out: Array) -> None:
    """Report every environment as it is."""
    for k in range(cars.shape[0] // 2):
        clear(k, out)
        report(cars, k, tables, out)


@compiled
def is_playable(action: float, rules: Array) -> bool:
    """Whether an action is one of the meta-actions, or a number in [-1, 1]."""
    return -1.0 <= action <= 1.0 if is_pushed(rules) else 0.0 <= action < ACTIONS


@compiled
def step_batch(cars: Array, keys: Array, actions: Array, stride: Array, tables: Array, out: Array) -> int:
    """Take one decision in every running environment.

    Args:
        actions: (E, 2) float64, meta-actions or numbers in [-1, 1]; those of done agents are ignored.
        stride: uint64; a finished environment goes on that many episodes further on; 0 leaves it finished.

    Returns:
        -1, or the row of a bad action; then nothing has moved.
    """
    _, _, _, lanes, _, _, _, rules = tables
    for c in range(cars.shape[0]):
        if cars[c, LIVE] != 0.0 and not is_playable(actions[c // 2, c % 2], rules):
            return c
    observation, shared, _, _, _, _, _, _, over, _, _, _, _ = out
    for k in range(cars.shape[0] // 2):
        c = 2 * k
        clear(k, out)
        if cars[c, LIVE] != 0.0 or cars[c + 1, LIVE] != 0.0:
            too_close = simulate(cars, c, actions, tables)
            cars[c, DECISION] += 1.0
            cars[c + 1, DECISION] += 1.0
            note_departures(cars, c, lanes, rules)
            if rules[OFFICIAL] != 0.0:
                judge_official(cars, k, actions, tables, out)
            else:
                judge(cars, k, actions, too_close, tables, out)
        report(cars, k, tables, out)
        if stride != ZERO and over[k]:
            keys[k, 2] = keys[k, 2] + stride
            spawn(cars, k, keys, tables)
            observe(cars, k, tables, observation, shared)
    return -1
