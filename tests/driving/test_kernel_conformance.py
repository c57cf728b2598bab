"""The kernel gives highway-env's trajectories, bit for bit, in processes where highway-env is pinned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safemarl_bench.driving import pin
from safemarl_bench.errors import SafeMARLBenchError

SUITES = ("merge", "roundabout")
SCRIPT = Path(__file__).with_name("kernel_conformance.py")


def run(mode: str, suite: str, first: int, episodes: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the comparison in a process of its own, without the pin unless it is among the variables."""
    environment = {key: value for key, value in os.environ.items() if key not in pin.PIN}
    return subprocess.run(
        [sys.executable, str(SCRIPT), mode, suite, str(first), str(episodes)],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def counts_of(*arguments: Any, **variables: str) -> dict[str, int]:
    process = run(*arguments, **variables)
    assert process.returncode == 0, process.stderr[-2000:]
    counts: dict[str, int] = json.loads(process.stdout)
    return counts


@pytest.mark.parametrize("suite", SUITES)
def test_200_random_episodes_are_equal_in_every_bit(suite: str) -> None:
    counts = counts_of("random", suite, 0, 200, **pin.PIN)
    assert counts["episodes"] == 200
    assert counts["decisions"] > 2000
    assert min(counts["crashes"], counts["arrivals"], counts["gap_costs"]) >= 40


@pytest.mark.parametrize("suite", SUITES)
def test_scripts_that_brake_race_and_weave_are_equal_in_every_bit(suite: str) -> None:
    counts = counts_of("scripted", suite, 0, 5, **pin.PIN)
    assert min(counts["crashes"], counts["arrivals"]) >= 20
    assert counts["arrivals_in_one_decision"] >= 1


@pytest.mark.parametrize("suite", SUITES)
def test_vehicles_put_anywhere_head_on_or_across_are_equal_in_every_bit(suite: str) -> None:
    counts = counts_of("placed", suite, 0, 150, **pin.PIN)
    assert counts["episodes"] == 150
    assert counts["crashes"] >= 100
    assert counts["arrivals_in_one_decision"] >= 1


@pytest.mark.parametrize("suite", SUITES)
def test_without_the_pin_one_decision_from_the_same_state_differs_by_rounding_only(suite: str) -> None:
    counts = counts_of("resynchronised", suite, 0, 40)
    assert counts["decisions"] > 400


@pytest.mark.parametrize("suite", SUITES)
def test_the_parallel_api_shows_the_same_on_both_backends(suite: str) -> None:
    counts = counts_of("viewed", suite, 0, 40, **pin.PIN)
    assert min(counts["crashes"], counts["arrivals"]) >= 5


@pytest.mark.parametrize("network", ["merge", "roundabout", "intersection", "racetrack"])
def test_lanes_of_every_kind_are_upstreams_in_every_bit(network: str) -> None:
    counts = counts_of("lanes", network, 0, 600, **pin.PIN)
    assert counts["lanes found closest"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_many_episodes_of_every_kind_are_equal_in_every_bit(suite: str) -> None:
    assert counts_of("random", suite, 1000, 1000, **pin.PIN)["episodes"] == 1000
    assert counts_of("scripted", suite, 100, 40, **pin.PIN)["episodes"] == 40 * 9
    assert counts_of("placed", suite, 1000, 1000, **pin.PIN)["episodes"] == 1000
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
