"""The kernel gives highway-env's trajectories, bit for bit, in processes where highway-env is pinned."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts import answer_of

from safemarl_bench import pin
from safemarl_bench.errors import SafeMARLBenchError

SCRIPT = Path(__file__).with_name("kernel_conformance.py")
GAP_SUITES = ("merge", "roundabout", "intersection")
DEFAULT = (*GAP_SUITES, "racetrack", "racetrack-frenet")
OFFICIAL = ("merge-official", "roundabout-official", "intersection-official", "racetrack-official")


def counts_of(mode: str, suite: str, first: int, episodes: int, **variables: str) -> dict[str, int]:
    counts: dict[str, int] = answer_of(SCRIPT, mode, suite, first, episodes, **variables)
    return counts


def check_events(suite: str, counts: dict[str, int], least: int) -> None:
    """Require that what can happen in a suite happened often."""
    events = ["crashes", "departures"] if "racetrack" in suite else ["crashes", "arrivals"]
    events += ["gap_costs"] if suite in GAP_SUITES else []
    events += ["truncations"] if suite in ("racetrack", "racetrack-frenet") else []
    assert min(counts[event] for event in events) >= least, counts


def check_random_episodes(suite: str, first: int, episodes: int) -> None:
    counts = counts_of("random", suite, first, episodes, **pin.PIN)
    assert counts["episodes"] == episodes
    check_events(suite, counts, episodes // 5)


def check_scripts(suite: str) -> None:
    counts = counts_of("scripted", suite, 0, 5, **pin.PIN)
    events = ["crashes", "departures" if "racetrack" in suite else "arrivals"]
    events += ["arrivals_in_one_decision"] if suite in GAP_SUITES else []
    assert min(counts[event] for event in events) >= 1, counts


def check_placed_episodes(suite: str, first: int, episodes: int) -> None:
    counts = counts_of("placed", suite, first, episodes, **pin.PIN)
    assert counts["episodes"] == episodes
    assert counts["crashes"] >= episodes // 3
    assert counts["departures" if "racetrack" in suite else "arrivals"] >= episodes // 10


@pytest.mark.parametrize("suite", DEFAULT)
def test_200_random_episodes_are_equal_in_every_bit(suite: str) -> None:
    check_random_episodes(suite, 0, 200)


@pytest.mark.parametrize("suite", [*GAP_SUITES, "racetrack"])
def test_scripts_that_brake_race_and_weave_are_equal_in_every_bit(suite: str) -> None:
    check_scripts(suite)


@pytest.mark.parametrize("suite", [*GAP_SUITES, "racetrack"])
def test_vehicles_put_anywhere_head_on_or_across_are_equal_in_every_bit(suite: str) -> None:
    check_placed_episodes(suite, 0, 150)


@pytest.mark.slow
@pytest.mark.parametrize("suite", OFFICIAL)
def test_the_released_codes_rules_are_equal_in_every_bit(suite: str) -> None:
    check_random_episodes(suite, 0, 200)
    check_scripts(suite)
    check_placed_episodes(suite, 0, 150)


@pytest.mark.parametrize("suite", [*GAP_SUITES, "racetrack"])
def test_without_the_pin_one_decision_from_the_same_state_differs_by_rounding_only(suite: str) -> None:
    counts = counts_of("resynchronised", suite, 0, 40)
    assert counts["decisions"] > 400


@pytest.mark.parametrize("suite", [*DEFAULT, "merge-official", "racetrack-official"])
def test_the_parallel_api_shows_the_same_on_both_backends(suite: str) -> None:
    episodes = 12 if "racetrack" in suite else 40
    check_events(suite, counts_of("viewed", suite, 0, episodes, **pin.PIN), 4)


@pytest.mark.parametrize("network", ["merge", "roundabout", "intersection", "racetrack"])
def test_lanes_of_every_kind_are_upstreams_in_every_bit(network: str) -> None:
    counts = counts_of("lanes", network, 0, 600, **pin.PIN)
    assert counts["lanes found closest"] >= 8


@pytest.mark.thousands
@pytest.mark.parametrize("suite", [*DEFAULT, *OFFICIAL])
def test_1000_episodes_of_every_kind_are_equal_in_every_bit(suite: str) -> None:
    check_random_episodes(suite, 1000, 1000)
    assert counts_of("scripted", suite, 100, 40, **pin.PIN)["episodes"] >= 40 * 7
    check_placed_episodes(suite, 1000, 1000)
    assert counts_of("resynchronised", suite, 1000, 300)["episodes"] == 300


def test_a_process_without_the_pin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin, "pin_faults", lambda: ["np.tan differs from libm"])
    with pytest.raises(SafeMARLBenchError, match=r'np\.tan differs from libm.*OPENBLAS_CORETYPE="Sandybridge"'):
        pin.require_pin()


def test_the_pin_check_notices_a_last_bit_in_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one(value: Any) -> Any:
        return np.nextafter(np.tan(value), 9.0)

    shifted = [(name, off_by_one if name == "tan" else fast, plain) for name, fast, plain in pin.FUNCTIONS]
    monkeypatch.setattr(pin, "FUNCTIONS", tuple(shifted))
    assert "np.tan differs from libm" in pin.pin_faults()


def test_the_pin_check_notices_fused_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def fused(a: Any, b: Any) -> Any:
        return float(sum(Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)))

    monkeypatch.setattr(np, "dot", fused)
    assert "np.dot fuses multiplications with additions" in pin.pin_faults()
