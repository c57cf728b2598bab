"""Running scale of value targets; critics predict standardised values, and keep their meaning when the scale moves.

Source: van Hasselt et al., *Learning values across many orders of magnitude* (Pop-Art), 2016.
"""

from __future__ import annotations

import torch

from safemarl_bench.learning.layer_norm import LayerNormEnsemble


class ValueNormaliser:
    """Mean and standard deviation of the targets of C critics, over all that was seen so far.

    Attributes:
        moments: (C, 3) float64: how many targets, their mean, and the sum of squared distances from it.
    """

    def __init__(self, members: int) -> None:
        """Start with mean 0 and deviation 1."""
        self.moments = torch.zeros(members, 3, dtype=torch.float64)

    @property
    def mean(self) -> torch.Tensor:
        """(C,) float32."""
        return self.moments[:, 1].float()

    @property
    def deviation(self) -> torch.Tensor:
        """(C,) float32; 1 until two different targets were seen."""
        count, _, squares = self.moments.unbind(1)
        deviation = (squares / count.clamp(min=1.0)).sqrt()
        return torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)).float()

    def normalise(self, values: torch.Tensor) -> torch.Tensor:
        """Return values (C, B) in standard units."""
        return (values - self.mean[:, None]) / self.deviation[:, None]

    def denormalise(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return a critic's outputs (C, B) in the units of the targets."""
        return outputs * self.deviation[:, None] + self.mean[:, None]

    def update(self, targets: torch.Tensor, weights: torch.Tensor, critics: LayerNormEnsemble) -> None:
        """Take in new targets, and rescale the heads of the critics so that their denormalised values stay.

        Args:
            targets: (C, B). weights: (C, B), 1 where a target counts and 0 where it does not.
            critics: C networks with one output each.
        """
        mean, deviation = self.mean, self.deviation
        self._merge(targets.double(), weights.double())
        weight, bias = critics.head
        scale = (deviation / self.deviation)[:, None, None]
        shift = ((mean - self.mean) / self.deviation)[:, None, None]
        weight.mul_(scale)
        bias.mul_(scale).add_(shift)

    def _merge(self, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """Chan's parallel update of count, mean and squares."""
        count, mean, squares = self.moments.unbind(1)
        new_count = weights.sum(dim=1)
        new_mean = (targets * weights).sum(dim=1) / new_count.clamp(min=1.0)
        new_squares = ((targets - new_mean[:, None]).square() * weights).sum(dim=1)
        total = (count + new_count).clamp(min=1.0)
        apart = new_mean - mean
        squares = squares + new_squares + apart.square() * count * new_count / total
        self.moments.copy_(torch.stack((count + new_count, mean + apart * new_count / total, squares), dim=1))
