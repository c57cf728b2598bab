"""The numbers of a driving scenario, as its suite file gives them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

from safemarl_bench.errors import RegistryError, nearest
from safemarl_bench.suite_values import is_number

SIMULATION_HZ = 15
CHOICES = {"noise": ("uniform", "normal"), "observation": ("absolute", "frenet")}
"""Settings that are words, and the words."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The numbers of a scenario that its suite file gives; a value that cannot be used is a `RegistryError`.

    Attributes:
        spawn_position: agent -> metres along its spawn lane.
        spawn_speed: agent -> m/s.
        noise_position, noise_speed, noise_heading, noise_lateral: size of the spawn noise: m along the lane, m/s,
            rad, m to the right of the lane's centre.
        noise: "uniform", sizes are half-widths, or "normal", sizes are standard deviations.
        gap: centre distance below which a decision costs, m; 0 is never.
        zone: where the gap counts: merge, both at x >= zone; roundabout and intersection, both within `zone` of the
            centre, m.
        finish: the finish line: merge, x > finish; roundabout, y <= finish on the north exit road; intersection,
            `finish` past the centre in the direction of travel, m.
        speed_band: (low, high) true speed that is rewarded, m/s.
        target_speeds: what FASTER and SLOWER choose from, m/s, evenly spaced.
        speed_range: (low, high) to which speeds are clipped after every frame, m/s; None is upstream's own range.
        policy_frequency: decisions per second, a divisor of 15.
        observation: "absolute", the eight numbers of the global state, or "frenet", nine relative to the lane.
        arrival_rewards: what the first and the second to arrive get.
    """

    spawn_position: Mapping[str, float]
    spawn_speed: Mapping[str, float]
    noise_position: float
    noise_speed: float
    noise_heading: float = 0.0
    noise_lateral: float = 0.0
    noise: str = "uniform"
    gap: float = 0.0
    zone: float = 0.0
    finish: float = 0.0
    speed_band: tuple[float, float] = (0.0, 0.0)
    target_speeds: tuple[float, ...] = ()
    speed_range: tuple[float, float] | None = None
    policy_frequency: int = 1
    observation: str = "absolute"
    arrival_rewards: tuple[float, float] = (10.0, 5.0)

    def __post_init__(self) -> None:
        """Refuse here what would otherwise fail, or be misread, in the middle of an episode."""
        for key in ("gap", "zone", "finish"):
            self._require(key, "a finite number", is_number)
        for key in ("noise_position", "noise_speed", "noise_heading", "noise_lateral"):
            self._require(key, "a number that is not negative", lambda given: is_number(given) and given >= 0)
        for key in ("spawn_position", "spawn_speed"):
            self._require(key, "one number for each agent", _is_number_by_agent)
        # Upstream finds the target nearest to a speed by dividing, which is right on an even grid only.
        even = "two or more evenly spaced numbers, rising, or none"
        self._require("target_speeds", even, lambda given: given == () or _is_even(_steps(given)))
        ordered = "two numbers, low before high"
        self._require("speed_band", ordered, lambda given: given == (0.0, 0.0) or len(_steps(given)) == 1)
        self._require("speed_range", ordered, lambda given: given is None or len(_steps(given)) == 1)

    def _require(self, key: str, expected: str, holds: Callable[[Any], bool]) -> None:
        given = getattr(self, key)
        if not holds(given):
            raise RegistryError(f"{key} needs {expected}, got {given!r}")

    @classmethod
    def from_values(cls, values: Mapping[str, Any], needed: tuple[str, ...]) -> Settings:
        """Build settings from a suite file's table.

        Args:
            values: the table. needed: keys that its scenario cannot do without.

        Raises:
            RegistryError: a key is missing or unknown (with the nearest one), a word is none of its choices, or the
                policy frequency does not divide the simulation's.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for unknown in sorted(set(values) - set(fields)):
            raise RegistryError(f"driving suites have no setting {unknown!r}: {nearest(unknown, fields)}")
        always = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        missing = sorted((always | set(needed)) - set(values))
        if missing:
            raise RegistryError(f"a driving suite needs the settings {', '.join(missing)}")
        for key, words in CHOICES.items():
            if values.get(key, words[0]) not in words:
                raise RegistryError(f"unknown {key} {values[key]!r}: {nearest(str(values[key]), words)}")
        frequency = values.get("policy_frequency", 1)
        if not isinstance(frequency, int) or frequency < 1 or SIMULATION_HZ % frequency:
            raise RegistryError(f"policy_frequency must be a divisor of {SIMULATION_HZ}, got {frequency!r}")
        given: dict[str, Any] = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
        return cls(**given)


def _is_number_by_agent(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(is_number, value.values()))


def _steps(values: Any) -> list[float]:
    """Return the differences of neighbours in a rising tuple of numbers, [] for anything else."""
    if not isinstance(values, tuple) or not all(map(is_number, values)):
        return []
    steps = [high - low for low, high in itertools.pairwise(values)]
    return steps if all(step > 0 for step in steps) else []


def _is_even(steps: list[float]) -> bool:
    return bool(steps) and all(math.isclose(step, steps[0]) for step in steps)


@dataclasses.dataclass(frozen=True)
class Spawn:
    """Where and how fast one vehicle starts.

    Attributes:
        position: m along its lane. speed: m/s.
        heading: rad, relative to the lane. lateral: m to the right of the lane's centre.
    """

    position: float
    speed: float
    heading: float = 0.0
    lateral: float = 0.0
