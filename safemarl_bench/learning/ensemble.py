"""Several small networks as one: batched matrix products over one flat parameter vector.

C perceptrons of equal shape are evaluated by one `torch.baddbmm` per layer, differentiated by hand
(cheaper than autograd at this size, where calls cost more than arithmetic) and moved by one Adam
step on the flat vector.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from safemarl_bench.errors import ContractError

Layers = list[tuple[torch.Tensor, torch.Tensor]]


def layer_views(flat: torch.Tensor, members: int, widths: tuple[int, ...]) -> Layers:
    """Return the weights (C, n_l, n_{l+1}) and biases (C, 1, n_{l+1}) of every layer, views of (P,) parameters."""
    views, start = [], 0
    for fan_in, fan_out in pairwise(widths):
        middle = start + members * fan_in * fan_out
        end = middle + members * fan_out
        views.append((flat[start:middle].view(members, fan_in, fan_out), flat[middle:end].view(members, 1, fan_out)))
        start = end
    return views


def parameter_count(members: int, widths: tuple[int, ...]) -> int:
    """Return P, the parameters of C perceptrons."""
    return sum(members * (fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))


class Ensemble:
    """C multilayer perceptrons with ReLU between their layers.

    Attributes:
        members: C. widths: n_0 (inputs), hidden widths, n_L (outputs).
        parameters: (P,) float32; layer by layer the weights (C, n_l, n_{l+1}), then the biases (C, 1, n_{l+1}).
        gradient: (P,) float32, what `backward` wrote last.
    """

    def __init__(self, members: int, widths: tuple[int, ...], generator: torch.Generator) -> None:
        """Draw all parameters from U(-1/sqrt(n_l), 1/sqrt(n_l)), torch's default for linear layers.

        Args:
            members: C.
            widths: at least inputs and outputs.
            generator: the only source of randomness.
        """
        self.members, self.widths = members, widths
        self.parameters = torch.empty(parameter_count(members, widths))
        self.gradient = torch.zeros_like(self.parameters)
        self._layers = layer_views(self.parameters, members, widths)
        self._gradient_layers = layer_views(self.gradient, members, widths)
        for weight, bias in self._layers:
            bound = 1.0 / math.sqrt(weight.shape[1])
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the activations of every layer: the inputs first, the outputs last.

        Args:
            inputs: (B, n_0), the same for all members, or (C, B, n_0).

        Returns:
            tensors (C, B, n_l), l = 0..L.
        """
        activations = [inputs.expand(self.members, *inputs.shape[-2:])]
        for weight, bias in self._layers[:-1]:
            activations.append(torch.baddbmm(bias, activations[-1], weight).relu_())
        weight, bias = self._layers[-1]
        activations.append(torch.baddbmm(bias, activations[-1], weight))
        return activations

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (C, B, n_L) for inputs (B, n_0) or (C, B, n_0)."""
        return self.forward(inputs)[-1]

    def backward(self, activations: list[torch.Tensor], output_gradient: torch.Tensor) -> torch.Tensor:
        """Backpropagate a gradient through the first rows of a forward pass.

        Args:
            activations: what `forward` returned, of B rows or more.
            output_gradient: (C, B, n_L), derivative of the loss by the first B rows of the outputs.

        Returns:
            (P,) the derivative by the parameters, in `gradient` (overwritten by the next call).
        """
        rows = output_gradient.shape[1]
        delta = output_gradient
        for layer in reversed(range(len(self._layers))):
            below = activations[layer][:, :rows]
            weight_gradient, bias_gradient = self._gradient_layers[layer]
            torch.bmm(below.mT, delta, out=weight_gradient)
            torch.sum(delta, 1, keepdim=True, out=bias_gradient)
            if layer:
                delta = torch.bmm(delta, self._layers[layer][0].mT).mul_(below.sign())  # ReLU: 0 or 1
        return self.gradient

    def input_gradient(self, activations: list[torch.Tensor], output_gradient: torch.Tensor) -> torch.Tensor:
        """Return the derivative by the first rows of the inputs, (C, B, n_0): a vector-Jacobian product.

        Args:
            activations: what `forward` returned, of B rows or more.
            output_gradient: (C, B, n_L), derivative by the first B rows of the outputs.
        """
        rows = output_gradient.shape[1]
        delta = torch.bmm(output_gradient, self._layers[-1][0].mT)
        for layer in reversed(range(len(self._layers) - 1)):
            delta = torch.bmm(delta.mul_(activations[layer + 1][:, :rows].sign()), self._layers[layer][0].mT)
        return delta

    def finite_members(self) -> torch.Tensor:
        """Return whether all parameters of each network are finite, (C,) bool."""
        finite = [view.isfinite().flatten(1).all(dim=1) for layer in self._layers for view in layer]
        return torch.stack(finite).all(dim=0)


class Adam:
    """Adam (Kingma & Ba, 2015) on one flat vector, with the arithmetic of `torch.optim.Adam`.

    Attributes:
        mean, square: (P,) float32, the moments. steps: done so far.
    """

    def __init__(
        self, parameters: torch.Tensor, rate: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        """Start with zero moments.

        Args:
            parameters: (P,), changed in place by `step`.
            rate: learning rate.
        """
        self.parameters, self.rate, self.betas, self.eps = parameters, rate, betas, eps
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self.steps = 0

    def step(self, gradient: torch.Tensor) -> None:
        """Move the parameters against `gradient`, (P,)."""
        self.steps += 1
        beta_mean, beta_square = self.betas
        self.mean.lerp_(gradient, 1.0 - beta_mean)
        self.square.mul_(beta_square).addcmul_(gradient, gradient, value=1.0 - beta_square)
        correction = math.sqrt(1.0 - beta_square**self.steps)
        denominator = self.square.sqrt().div_(correction).add_(self.eps)
        self.parameters.addcdiv_(self.mean, denominator, value=-self.rate / (1.0 - beta_mean**self.steps))

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the moments, named for a checkpoint."""
        return {f"{prefix}.adam_mean": self.mean, f"{prefix}.adam_square": self.square}


def soft_update(target: torch.Tensor, online: torch.Tensor, rho: float) -> None:
    """``target <- rho * target + (1 - rho) * online``, in place: rho is the share of the old target."""
    target.lerp_(online, 1.0 - rho)


class TrainedEnsemble:
    """An ensemble, its optimiser and its slow copy.

    Attributes:
        prefix: of its tensors in a checkpoint. names: of the C members.
        online, target: the networks. optimiser: of `online`.
        updates: done so far.
    """

    def __init__(
        self,
        prefix: str,
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
            prefix: what a checkpoint calls it.
            names: one per member.
            widths: inputs, hidden widths, outputs.
            rate: of Adam.
            rho: share of the old target that a soft update keeps.
            target_interval: updates between two soft updates.
            generator: of the initial parameters.
        """
        self.prefix, self.names, self.rho, self.target_interval = prefix, names, rho, target_interval
        self.online = Ensemble(len(names), widths, generator)
        self.target = Ensemble(len(names), widths, generator)
        self.target.parameters.copy_(self.online.parameters)
        self.optimiser = Adam(self.online.parameters, rate)

    @property
    def updates(self) -> int:
        """Gradient steps done so far."""
        return self.optimiser.steps

    def descend(self, gradient: torch.Tensor) -> None:
        """Do one optimiser step against `gradient`, (P,), and every `target_interval` of them move the target."""
        self.optimiser.step(gradient)
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
                    "try a lower learning rate"
                )

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return the online networks, and with `training` the targets and Adam's moments too."""
        tensors = {self.prefix: self.online.parameters}
        if training:
            tensors[f"{self.prefix}.target"] = self.target.parameters
            tensors |= self.optimiser.tensors(self.prefix)
        return tensors
