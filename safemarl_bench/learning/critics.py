"""Temporal-difference learning of joint action values: errors, losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from safemarl_bench.stackelberg.many.compiled import compiled


def td_errors(
    values: np.ndarray,
    bootstrap: np.ndarray,
    payoffs: np.ndarray,
    continues: np.ndarray,
    alive: np.ndarray,
    owner: np.ndarray,
    gamma: float,
) -> np.ndarray:
    """Return ``Q(s, a) - y`` with ``y = r + gamma * continues * Q_targ(s', a')``, 0 where the owner was done; (C, B).

    Args:
        values, bootstrap: (C, B) float, Q(s, a) and Q_targ of the next pair at s'.
        payoffs: (C, B) float, rewards or costs r.
        continues: (2, B) bool, false where leader's or follower's task ended: terminated, or done before.
        alive: (2, B) bool, whether they took part in the decision.
        owner: (C,) int64, 0 or 1: whose value each critic is.
        gamma: discount.
    """
    errors = np.empty(values.shape, values.dtype)
    _write_errors(values, bootstrap, payoffs, continues, alive, owner, values.dtype.type(gamma), errors)
    return errors


@compiled
def _write_errors(
    values: Any, bootstrap: Any, payoffs: Any, continues: Any, alive: Any, owner: Any, gamma: Any, errors: Any
) -> None:
    for c in range(values.shape[0]):
        role = owner[c]
        for b in range(values.shape[1]):
            target = payoffs[c, b]
            if continues[role, b]:
                target = payoffs[c, b] + gamma * bootstrap[c, b]
            errors[c, b] = values[c, b] - target if alive[role, b] else 0.0


def squared_losses(errors: np.ndarray, weights: np.ndarray) -> torch.Tensor:
    """Return ``1/B sum_u w_u error_u^2`` of every critic, (C,); errors: (C, B), weights: (B,)."""
    return (torch.from_numpy(errors).square() * torch.from_numpy(weights)).mean(dim=1)


def squared_losses_gradient(errors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the derivative of the sum of `squared_losses` by the values, ``2/B w_u error_u``, (C, B)."""
    return errors * (weights * np.float32(2.0 / errors.shape[1]))
