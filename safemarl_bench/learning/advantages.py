"""Generalised advantage estimation (Schulman et al., 2016) over rollouts in which agents end, and are cut, apart."""

from __future__ import annotations

import torch


def gae(
    payoffs: torch.Tensor,
    values: torch.Tensor,
    next_values: torch.Tensor,
    bootstraps: torch.Tensor,
    carries: torch.Tensor,
    *,
    gamma: float,
    lam: float,
) -> torch.Tensor:
    """Return advantages ``A_t = delta_t + gamma lam carries_t A_{t+1}`` with A = 0 after the last decision.

    ``delta_t = r_t + gamma bootstraps_t V(s_t') - V(s_t)``. Where the clock cut an agent's task its value goes on
    (bootstraps) but the next row is of another episode (no carry); where the task ended neither holds.

    Args:
        payoffs: (..., T, E) rewards or costs r.
        values, next_values: (..., T, E) of the states before and after each decision.
        bootstraps, carries: (..., T, E) bool.
        gamma: discount. lam: in [0, 1].
    """
    advantages = payoffs + gamma * next_values.masked_fill(~bootstraps, 0.0) - values
    decay = gamma * lam * carries.to(advantages.dtype)
    for t in reversed(range(advantages.shape[-2] - 1)):
        advantages[..., t, :].addcmul_(decay[..., t, :], advantages[..., t + 1, :])
    return advantages


def mean_over(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted mean over the last axis, 0 where all weights are 0; both (..., B)."""
    return (values * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1e-8)


def standardised(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return values (..., B) less their weighted mean, over their weighted standard deviation."""
    centred = values - mean_over(values, weights).unsqueeze(-1)
    return centred / (mean_over(centred.square(), weights).sqrt().unsqueeze(-1) + 1e-8)
