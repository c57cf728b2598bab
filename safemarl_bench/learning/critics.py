"""Temporal-difference learning of joint action values: targets, errors, losses, and the networks they train."""

from __future__ import annotations

import torch

from safemarl_bench.errors import ContractError
from safemarl_bench.learning.ensemble import Adam, Ensemble, soft_update


def td_targets(payoffs: torch.Tensor, bootstrap: torch.Tensor, continues: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return ``y = r + gamma * continues * Q_targ(s', a')``.

    Args:
        payoffs: (C, B) rewards or costs r.
        bootstrap: (C, B) values of the next pair at s'.
        continues: (C, B) bool, false where the owner's task ended: terminated, or done before.
        gamma: discount.
    """
    return payoffs + gamma * bootstrap.masked_fill(~continues, 0.0)


def td_errors(values: torch.Tensor, targets: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
    """Return ``Q(s, a) - y``, and 0 where the owner was done already; all (C, B)."""
    return (values - targets).masked_fill(~alive, 0.0)


def squared_losses(errors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return ``1/B sum_u w_u error_u^2`` of every critic, (C,); errors: (C, B), weights: (B,)."""
    return (errors.square() * weights).mean(dim=1)


def squared_losses_gradient(errors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the derivative of the sum of `squared_losses` by the values, ``2/B w_u error_u``, (C, B)."""
    return errors * (weights * (2.0 / errors.shape[1]))


class Critics:
    """C critics of the global state, each with one output per joint action, and their slow copies.

    Attributes:
        names: of the critics, C of them.
        online, target: the networks. optimiser: of `online`.
        updates: done so far.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        widths: tuple[int, ...],
        *,
        rate: float,
        rho: float,
        target_interval: int,
        generator: torch.Generator,
    ) -> None:
        """Build the networks, the slow copies equal to the fast ones.

        Args:
            names: one per critic.
            widths: inputs, hidden widths, m1 * m2.
            rate: of Adam.
            rho: share of the old target that a soft update keeps.
            target_interval: updates between two soft updates.
            generator: of the initial parameters.
        """
        self.names, self.rho, self.target_interval = names, rho, target_interval
        self.online = Ensemble(len(names), widths, generator)
        self.target = Ensemble(len(names), widths, generator)
        self.target.parameters.copy_(self.online.parameters)
        self.optimiser = Adam(self.online.parameters, rate)

    @property
    def updates(self) -> int:
        """Gradient steps done so far."""
        return self.optimiser.steps

    def descend(self, activations: list[torch.Tensor], pairs: torch.Tensor, gradient: torch.Tensor) -> None:
        """Do one optimiser step, and every `target_interval` of them move the target.

        Args:
            activations: of `online`, of B rows or more; the first B are those of the loss.
            pairs: (B,) int64, the joint actions whose values the loss is about.
            gradient: (C, B), derivative of the loss by those values.
        """
        shape = (*gradient.shape, self.online.widths[-1])
        output_gradient = torch.zeros(shape).scatter_(2, pairs.expand(shape[:2]).unsqueeze(2), gradient.unsqueeze(2))
        self.optimiser.step(self.online.backward(activations, output_gradient))
        if self.updates % self.target_interval == 0:
            soft_update(self.target.parameters, self.online.parameters, self.rho)

    def check_finite(self, losses: torch.Tensor | None = None) -> None:
        """Look for divergence.

        Args:
            losses: (C,), of the last update; the parameters are looked at in any case.

        Raises:
            ContractError: naming the loss or the parameters that are NaN or infinite.
        """
        suspects = {"parameters": self.online.finite_members()}
        if losses is not None:
            suspects = {"loss": losses.isfinite(), **suspects}
        for what, finite in suspects.items():
            bad = [name for name, good in zip(self.names, finite.tolist(), strict=True) if not good]
            if bad:
                culprits = " and ".join(bad)
                raise ContractError(
                    f"{what} of {culprits} must be finite, got NaN or inf at update {self.updates}; "
                    "try a lower learning_rate"
                )

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return the online networks, and with `training` the targets and Adam's moments too."""
        tensors = {"critics": self.online.parameters}
        if training:
            tensors["critics.target"] = self.target.parameters
            tensors |= self.optimiser.tensors("critics")
        return tensors
