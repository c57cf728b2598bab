"""Lane follower: each vehicle steers to the centre of its lane, by its offset, its heading error and the bend ahead.

    a = clip(-0.5 lateral - 1.6 heading_error + 0.5 bend, -1, 1)

with the offset in m (right is positive), the heading error in rad, and the lane's change of heading within 5 m in rad.
The suite `racetrack` does not show these numbers, so they are read off the simulator, and the agent says that it is a
planner; it plans nothing: it is the reference for what steering by the lane alone reaches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.driving.planned import PlannedAgent

GAIN_LATERAL, GAIN_HEADING, GAIN_BEND = -0.5, -1.6, 0.5
N_FRENET = 9


def steer(lateral: np.ndarray, heading_error: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Return steering actions in [-1, 1], float32, of the shape of the arguments: m, rad, rad."""
    action = GAIN_LATERAL * lateral + GAIN_HEADING * heading_error + GAIN_BEND * bend
    steering: np.ndarray = np.clip(action, -1.0, 1.0).astype(np.float32)
    return steering


def lane_numbers(core: BatchedDriving) -> np.ndarray:
    """Return lateral offset, heading error and bend of both vehicles of the first environment, (3, 2); m, rad, rad."""
    cars, rows = core.get_state()[0], np.zeros((2, N_FRENET))
    for car in range(2):
        kernel.observe_lane(cars, car, False, core.tables.lanes, core.tables.roads, rows)
    return rows[:, :3].T


class LaneFollower(PlannedAgent):
    """Both vehicles follow the lanes they are on."""

    action_kinds: ClassVar[tuple[str, ...]] = ("continuous",)
    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {"scenario": ("racetrack",)}

    def plan_actions(self) -> np.ndarray:
        """Follow the lanes in the simulator until the episode is over; see `PlannedAgent.plan_actions`."""
        actions, over = [], False
        while not over:
            actions.append(steer(*lane_numbers(self.simulator)))
            over = bool(self.simulator.step(actions[-1][None]).over[0])
        return np.array(actions)
