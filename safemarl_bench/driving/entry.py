"""The entry point of the driving suites' data files."""

from __future__ import annotations

from typing import Any

from safemarl_bench.driving.game import RENDER_MODES, DrivingGame
from safemarl_bench.driving.official import OFFICIAL
from safemarl_bench.driving.scenario import SCENARIOS, TwoVehicles
from safemarl_bench.driving.settings import Settings
from safemarl_bench.errors import RegistryError, nearest
from safemarl_bench.registry import SuiteSpec

PROFILES = ("default", "official")


def make(spec: SuiteSpec, *, backend: str = "highway", render_mode: str | None = None, **overrides: Any) -> DrivingGame:
    """Build the game of a driving suite (the entry point of its data file).

    The file's ``[env]`` names a scenario and, for the rules of `safemarl_bench.driving.official`,
    ``profile = "official"``; the rest are `Settings`.

    Args:
        spec: the suite.
        backend: "highway", upstream highway-env, or "kernel", the same game on `safemarl_bench.driving.kernel`.
        render_mode: None, "rgb_array" or "human".
        overrides: values in place of the `Settings` that the data file gives; what the file names as observation
            stays.

    Raises:
        RegistryError: an unknown setting, name or render mode, or a spawn that is not given for each agent.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise RegistryError(f"unknown render mode {render_mode!r}: {nearest(str(render_mode), RENDER_MODES)}")
    scene = scene_of(spec, render_mode, **overrides)
    if backend == "kernel":
        from safemarl_bench.driving.kernel_game import KernelGame  # loads numba, which the other backend does not need

        return KernelGame(spec, scene)
    game = OFFICIAL[spec.env["scenario"]] if is_official(spec) else DrivingGame
    return game(spec, scene)


def is_official(spec: SuiteSpec) -> bool:
    """Whether a suite keeps the rules of the released code."""
    return spec.env.get("profile") == "official"


def scene_of(spec: SuiteSpec, render_mode: str | None = None, **overrides: Any) -> TwoVehicles:
    """Build a suite's scene: road and vehicles, without rewards or costs.

    Args:
        spec: the suite.
        render_mode: see `make`.
        overrides: values in place of the `Settings` that the data file gives.

    Raises:
        RegistryError: an unknown setting or name, or a spawn that is not given for each agent.
    """
    values = dict(spec.env)
    name, profile = values.pop("scenario", None), values.pop("profile", "default")
    for what, given, known in (("scenario", name, SCENARIOS), ("profile", profile, PROFILES)):
        if given not in known:
            raise RegistryError(f"suite {spec.name}: unknown {what} {given!r}: {nearest(str(given), known)}")
    for unknown in sorted(set(overrides) - (set(values) - {"observation"})):
        raise RegistryError(f"suite {spec.name} has no setting {unknown!r}: {nearest(unknown, values)}")
    settings = Settings.from_values({**values, **overrides}, SCENARIOS[name].NEEDS)
    _check_settings(spec, name, settings)
    return SCENARIOS[name](settings, render_mode)


def _check_settings(spec: SuiteSpec, scenario: str, settings: Settings) -> None:
    for key in ("spawn_position", "spawn_speed"):
        given = getattr(settings, key)
        if set(given) != set(spec.roles):
            raise RegistryError(f"{key} needs one number for each of {', '.join(spec.roles)}, got {given!r}")
    if settings.observation == "frenet" and scenario != "racetrack":
        raise RegistryError(f"observation 'frenet' needs a closed track, scenario 'racetrack', got {scenario!r}")
