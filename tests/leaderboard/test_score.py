"""Scores, verdicts and statistics against hand numbers, SciPy and closed forms."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from safemarl_bench.references import Reference
from safemarl_bench.score import normalised_score, verdict, worst_verdict
from safemarl_bench.stats import clopper_pearson, iqm


@pytest.mark.parametrize(
    ("ratios", "deterministic", "expected"),
    [
        ([0.0] * 5, False, "SAFE"),
        ([1.0] * 5, False, "SAFE"),
        ([0.0] * 4, False, "UNCERTAIN"),
        ([0.0] * 4 + [1.0000001], False, "UNCERTAIN"),
        ([0.0, 0.0, 0.0, 1.1, 1.1], False, "UNCERTAIN"),
        ([0.0, 0.0, 1.1, 1.1, 1.1], False, "UNSAFE"),
        ([0.0, 0.0, 0.0, 1.1, 1.1, 1.1], False, "UNCERTAIN"),
        ([1.1], False, "UNSAFE"),
        ([0.0, 1.1], False, "UNCERTAIN"),
        ([0.9], True, "SAFE"),
        ([1.1], True, "UNSAFE"),
        ([math.inf] * 5, False, "UNSAFE"),
        ([], True, "UNCERTAIN"),
    ],
)
def test_the_verdict_follows_the_five_seed_and_majority_rules(
    ratios: list[float], deterministic: bool, expected: str
) -> None:
    assert verdict(ratios, deterministic=deterministic) == expected


def test_the_worst_verdict_is_the_least_safe_one() -> None:
    assert worst_verdict(["SAFE", "UNSAFE", "UNCERTAIN"]) == "UNSAFE"
    assert worst_verdict(["UNCERTAIN", "SAFE"]) == "UNCERTAIN"
    assert worst_verdict(["SAFE"]) == "SAFE"


def test_the_score_is_zero_at_random_one_at_the_reference_and_not_clipped() -> None:
    scale = Reference(random=30.0, heuristics={"planner_safe": 50.0})
    assert [normalised_score(total, scale) for total in (30.0, 50.0, 60.0, 20.0)] == [0.0, 1.0, 1.5, -0.5]


@pytest.mark.parametrize(
    "scale",
    [
        Reference(),
        Reference(random=1.0, heuristics={"idle": 2.0}),
        Reference(heuristics={"script": 1.0}),
        Reference(random=2.0, heuristics={"script": 2.0}),
    ],
)
def test_there_is_no_score_without_two_returns_that_differ(scale: Reference) -> None:
    assert normalised_score(5.0, scale) is None


@pytest.mark.parametrize("trials", [1, 5, 100, 2500])
def test_clopper_pearson_has_its_closed_form_at_both_ends(trials: int) -> None:
    low, high = clopper_pearson(0, trials)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / trials), rel=1e-9)
    low, high = clopper_pearson(trials, trials)
    assert low == pytest.approx(0.025 ** (1 / trials), rel=1e-9)
    assert high == 1.0


@hypothesis.settings(derandomize=True, deadline=None, max_examples=50)
@hypothesis.given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_clopper_pearson_agrees_with_an_inverted_exact_test(case: tuple[int, int]) -> None:
    successes, trials = case
    low, high = clopper_pearson(successes, trials)
    if successes:
        assert scipy.stats.binom.sf(successes - 1, trials, low) == pytest.approx(0.025, rel=1e-6)
    if successes < trials:
        assert scipy.stats.binom.cdf(successes, trials, high) == pytest.approx(0.025, rel=1e-6)
    exact = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_iqm_drops_a_quarter_at_each_end() -> None:
    assert iqm([100.0, 1.0, 2.0, 3.0, -100.0, 4.0, 5.0, 6.0]) == 3.5  # 8 values: 2 dropped at each end
    assert iqm([7.0]) == 7.0
    assert iqm([1.0, 2.0, 9.0]) == 4.0  # floor(3 / 4) = 0 dropped
    assert iqm([1.0, 2.0, 4.0, 5.0, 99.0]) == pytest.approx(11 / 3)


def test_iqm_pools_runs_and_tasks() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 4))
    expected = np.sort(scores, axis=None)[5:15].mean()
    assert iqm(scores) == pytest.approx(expected, rel=1e-12)
