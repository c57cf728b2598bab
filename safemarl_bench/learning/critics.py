"""Temporal-difference learning of joint action values: targets, errors, losses.

A batch is a few hundred numbers: NumPy takes a fraction of the time that torch needs to dispatch them.
"""

from __future__ import annotations

import numpy as np
import torch


def td_targets(payoffs: torch.Tensor, bootstrap: torch.Tensor, continues: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return ``y = r + gamma * continues * Q_targ(s', a')``.

    Args:
        payoffs: (C, B) rewards or costs r.
        bootstrap: (C, B) values of the next pair at s'.
        continues: (C, B) bool, false where the owner's task ended: terminated, or done before.
        gamma: discount.
    """
    return torch.from_numpy(payoffs.numpy() + gamma * _where(continues, bootstrap.numpy()))


def td_errors(values: torch.Tensor, targets: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """Return ``Q(s, a) - y``, and 0 where the owner was done already; all (C, B)."""
    return torch.from_numpy(_where(alive, values.numpy() - targets.numpy()))


def _where(mask: torch.Tensor, numbers: np.ndarray) -> np.ndarray:
    """Return the numbers, and 0 where the mask is false, whatever stands there."""
    return np.ascontiguousarray(np.where(mask.numpy(), numbers, numbers.dtype.type(0)))


def squared_losses(errors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``1/B sum_u w_u error_u^2`` of every critic, (C,); errors: (C, B), weights: (B,)."""
    return (errors.square() * weights).mean(dim=1)


def squared_losses_gradient(errors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the derivative of the sum of `squared_losses` by the values, ``2/B w_u error_u``, (C, B)."""
    return torch.from_numpy(errors.numpy() * (weights.numpy() * (2.0 / errors.shape[1])))
