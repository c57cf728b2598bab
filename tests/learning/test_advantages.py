"""Advantages against the definition by returns of every length, over hand-made and random rollouts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safemarl_bench.learning.advantages import gae, mean_over, standardised


def lambda_return(rewards, next_values, bootstraps, gamma, lam):
    """The mixture of n-step returns of a stretch of decisions that end it, weights (1 - lam) lam^(n-1)."""
    total, length = 0.0, len(rewards)
    for n in range(1, length + 1):
        value = sum(gamma**k * rewards[k] for k in range(n)) + gamma**n * next_values[n - 1] * bootstraps[n - 1]
        total += value * (lam ** (n - 1) if n == length else (1.0 - lam) * lam ** (n - 1))
    return total


@settings(derandomize=True, deadline=None)
@given(
    ends=st.lists(st.sampled_from(["goes on", "terminated", "cut"]), min_size=1, max_size=12),
    gamma=st.sampled_from([1.0, 0.95, 0.5]),
    lam=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_advantages_are_lambda_returns_less_values(ends, gamma, lam, seed):
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.standard_normal((3, len(ends)))
    bootstraps = np.array([end != "terminated" for end in ends])
    carries = np.array([end == "goes on" for end in ends])
    values[1:][carries[:-1]] = next_values[:-1][carries[:-1]]  # the same state, seen from both sides
    columns = [torch.from_numpy(c)[:, None] for c in (rewards, values, next_values, bootstraps, carries)]
    advantages = gae(*columns, gamma=gamma, lam=lam)[:, 0].numpy()
    for t in range(len(ends)):
        # The stretch that starts at t runs to the agent's next end, or to the end of the rollout.
        stop = next((u for u in range(t, len(ends)) if not carries[u]), len(ends) - 1) + 1
        expected = lambda_return(rewards[t:stop], next_values[t:stop], bootstraps[t:stop], gamma, lam) - values[t]
        assert advantages[t] == pytest.approx(expected, abs=1e-9)


def test_games_and_payoffs_are_kept_apart():
    rng = torch.Generator().manual_seed(0)
    payoffs, values, next_values = (torch.randn(3, 5, 4, generator=rng) for _ in range(3))
    bootstraps, carries = (torch.rand(3, 5, 4, generator=rng) < 0.7 for _ in range(2))
    together = gae(payoffs, values, next_values, bootstraps, carries, gamma=0.9, lam=0.8)
    for c in range(3):
        for e in range(4):
            alone = [column[c, :, e : e + 1] for column in (payoffs, values, next_values, bootstraps, carries)]
            torch.testing.assert_close(together[c, :, e : e + 1], gae(*alone, gamma=0.9, lam=0.8))


def test_means_and_deviations_count_only_rows_with_weight():
    values, weights = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([1.0, 1.0, 0.0])
    assert float(mean_over(values, weights)) == 2.0
    assert standardised(values, weights)[:2].tolist() == pytest.approx([-1.0, 1.0])


def test_without_any_weight_the_mean_is_zero_and_nothing_is_nan():
    values, weights = torch.tensor([1.0, 3.0]), torch.zeros(2)
    assert float(mean_over(values, weights)) == 0.0
    assert standardised(values, weights).isfinite().all()
