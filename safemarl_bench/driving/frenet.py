"""What a driver sees of the lane: offset, heading error, the bends ahead, and the other vehicle from its own seat."""

from __future__ import annotations

import math
from typing import Any

from highway_env.road.road import LaneIndex, RoadNetwork
from highway_env.utils import wrap_to_pi

PREVIEWS = (5.0, 10.0, 15.0, 20.0)
"""How far ahead the lane's change of heading is observed, m."""


def lane_numbers(vehicle: Any) -> list[float]:
    """Return six numbers: lateral offset [m, right is positive], heading error [rad], and the previews [rad]."""
    lane, network = vehicle.lane, vehicle.road.network
    along, lateral = lane.local_coordinates(vehicle.position)
    here = lane.heading_at(along)
    ahead = [heading_ahead(network, vehicle.lane_index, along + distance) for distance in PREVIEWS]
    return [float(lateral), wrap_to_pi(vehicle.heading - here), *(wrap_to_pi(heading - here) for heading in ahead)]


def heading_ahead(network: RoadNetwork, index: LaneIndex, along: float) -> float:
    """Return the heading of a closed track `along` metres after the start of a lane, in that lane or those after it.

    Args:
        network: in which one road leads on from each node. index: of the lane. along: m.
    """
    lane = network.get_lane(index)
    while along > lane.length:
        along -= lane.length
        (end,) = network.graph[index[1]]
        index = (index[1], end, index[2])
        lane = network.get_lane(index)
    return float(lane.heading_at(along))


def relative_numbers(vehicle: Any, other: Any) -> list[float]:
    """Return the other's position ahead and to the right [m], and its heading [rad], all relative to the vehicle."""
    dx, dy = (other.position - vehicle.position).tolist()
    cos, sin = math.cos(vehicle.heading), math.sin(vehicle.heading)
    return [dx * cos + dy * sin, dy * cos - dx * sin, wrap_to_pi(other.heading - vehicle.heading)]
