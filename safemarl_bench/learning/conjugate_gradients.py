"""Conjugate gradients (Hestenes & Stiefel, 1952): linear equations by products with the matrix alone."""

from __future__ import annotations

from collections.abc import Callable

import torch


def conjugate_gradients(
    product: Callable[[torch.Tensor], torch.Tensor], right: torch.Tensor, steps: int, *, tolerance: float = 1e-10
) -> torch.Tensor:
    """Return an approximate solution x of ``A x = right``, A symmetric and positive definite, from x = 0.

    Args:
        product: v -> A v, (n,) each.
        right: (n,).
        steps: at most; n of them give the exact solution, but for rounding.
        tolerance: stop once the squared norm of the residual, relative to that of `right`, is below it.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square = right.clone(), right.dot(right)
    goal = tolerance * square
    for _ in range(steps):
        if square <= goal:
            break
        image = product(direction)
        length = square / direction.dot(image)
        solution += length * direction
        residual -= length * image
        before, square = square, residual.dot(residual)
        direction = residual + square / before * direction
    return solution
