"""Several small networks as one: batched matrix products over one flat parameter vector.

C perceptrons of equal shape are evaluated and differentiated by hand, layer by layer, and moved by one Adam
step on the flat vector: cheaper than autograd at this size, where calls cost more than arithmetic. Where
numba is installed the layers are one compiled call (`safemarl_bench.learning.passes`), as far as it adds up in the
order of torch's products, so that with it and without it the bits are the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from safemarl_bench.errors import ContractError
from safemarl_bench.stackelberg.many.compiled import COMPILED

if COMPILED:
    from safemarl_bench.learning import passes

LEAST, MOST = 12, 192
"""Rows and columns of the products that torch adds up term by term: below it goes other ways, above it takes parts."""

_DENORMAL = 5e-324
_NOTHING = np.empty(0, np.float32)

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


def compiled_layers(widths: tuple[int, ...]) -> int:
    """Return how many of the layers, from the first one on, have a size that is compiled."""
    if not COMPILED or not 4 <= widths[0] <= MOST:
        return 0
    sizes = [LEAST <= width <= MOST for width in widths[1:]]
    return len(sizes) if all(sizes) else len(sizes) - 1 if all(sizes[:-1]) else 0


class Activations(NamedTuple):
    """What a forward pass over B rows leaves for its derivatives.

    Attributes:
        inputs: (B, n_0) or (C, B, n_0).
        compiled: (C * B * (n_1 + n_2 + ...),) float32, what layers make of them, as far as they are compiled.
        others: what the other layers make of them, (C, B, n_l) each.
        outputs: of the last layer, (C, B, n_L).
    """

    inputs: torch.Tensor
    compiled: np.ndarray
    others: list[torch.Tensor]
    outputs: torch.Tensor


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
        self._numbers, self._slopes = self.parameters.numpy(), self.gradient.numpy()
        self._widths = np.array(widths)
        self._compiled = compiled_layers(widths) if self.parameters.dtype == torch.float32 else 0
        self._totals = [sum(widths[1 : layer + 1]) for layer in range(len(widths))]
        for weight, bias in self._layers:
            bound = 1.0 / math.sqrt(weight.shape[1])
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)

    def forward(self, inputs: torch.Tensor) -> Activations:
        """Evaluate all networks.

        Args:
            inputs: (B, n_0), the same for all members, or (C, B, n_0).
        """
        others: list[torch.Tensor] = []
        rows, depth = inputs.shape[-2], self._compiled_depth(inputs.shape)
        if depth:
            compiled = np.empty(self.members * rows * self._totals[depth], np.float32)
            passes.forward(
                self._numbers, self.members, self._widths[: depth + 1], _flat(inputs), _distance(inputs), rows,
                compiled, depth < len(self._layers),
            )  # fmt: skip
            last = compiled[self.members * rows * self._totals[depth - 1] :]
            below = torch.from_numpy(last.reshape(self.members, rows, -1))
        else:
            compiled, below = _NOTHING, inputs.expand(self.members, *inputs.shape[-2:])
        for weight, bias in self._layers[depth:]:
            below = torch.baddbmm(bias, below, weight)
            others.append(below.relu_() if weight is not self._layers[-1][0] else below)
        return Activations(inputs, compiled, others, below)

    def _compiled_depth(self, shape: tuple[int, ...]) -> int:
        """Return how many layers are compiled for inputs of a shape; what torch refuses is left to torch."""
        rows, width = shape[-2:]
        if not LEAST <= rows <= MOST or width != self.widths[0]:
            return 0
        return self._compiled if len(shape) == 2 or shape == (self.members, rows, width) else 0

    def _layer(self, activations: Activations, layer: int) -> torch.Tensor:
        """Return what a layer made of the inputs, (C, B, n_l); layer 0 are they themselves."""
        inputs, rows = activations.inputs, activations.inputs.shape[-2]
        if layer == 0:
            return inputs.expand(self.members, *inputs.shape[-2:])
        depth = self._compiled if len(activations.compiled) else 0
        if layer > depth:
            return activations.others[layer - depth - 1]
        start, end = (self.members * rows * self._totals[number] for number in (layer - 1, layer))
        return torch.from_numpy(activations.compiled[start:end].reshape(self.members, rows, -1))

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (C, B, n_L) for inputs (B, n_0) or (C, B, n_0)."""
        return self.forward(inputs).outputs

    def backward(self, activations: Activations, output_gradient: torch.Tensor) -> torch.Tensor:
        """Backpropagate a gradient through the first rows of a forward pass.

        Args:
            activations: what `forward` returned, of B rows or more.
            output_gradient: (C, B, n_L), derivative of the loss by the first B rows of the outputs.

        Returns:
            (P,) the derivative by the parameters, in `gradient` (overwritten by the next call).

        Raises:
            ContractError: `output_gradient` has another shape.
        """
        rows = output_gradient.shape[1]
        self._check(activations, output_gradient.shape, (self.members, rows, self.widths[-1]))
        depth = self._compiled if len(activations.compiled) and rows >= LEAST else 0
        delta = output_gradient
        for layer in reversed(range(depth, len(self._layers))):
            below = self._layer(activations, layer)[:, :rows]
            weight_gradient, bias_gradient = self._gradient_layers[layer]
            torch.bmm(below.mT, delta, out=weight_gradient)
            torch.sum(delta, 1, keepdim=True, out=bias_gradient)
            if layer:
                delta = torch.bmm(delta, self._layers[layer][0].mT).mul_(below.sign())  # ReLU: 0 or 1
        if depth:
            inputs, seen = activations.inputs, activations.inputs.shape[-2]
            passes.backward(
                self._numbers, self.members, self._widths[: depth + 1], _flat(inputs), _distance(inputs), seen,
                activations.compiled[: self.members * seen * self._totals[depth]], _flat(delta), rows, self._slopes,
            )  # fmt: skip
        return self.gradient

    def backward_at(self, activations: Activations, cells: np.ndarray, gradient: np.ndarray) -> torch.Tensor:
        """Backpropagate a gradient by one output for each of the first rows; see `backward`.

        Args:
            cells: (B,) int64, the outputs. gradient: (C, B) float32.

        Raises:
            ContractError: `gradient` has another shape. IndexError or RuntimeError: there is no such output.
        """
        rows, last, seen = len(cells), len(self._layers) - 1, activations.inputs.shape[-2]
        self._check(activations, gradient.shape, (self.members, rows))
        if not len(activations.compiled) or rows < LEAST or self._compiled <= last or not last:
            output_gradient = torch.zeros(*gradient.shape, self.widths[-1])
            where = torch.from_numpy(cells).expand(gradient.shape)[:, :, None]
            output_gradient.scatter_(2, where, torch.from_numpy(gradient)[:, :, None])
            return self.backward(activations, output_gradient)
        inputs = activations.inputs
        passes.backward_at(
            self._numbers, self.members, self._widths, _flat(inputs), _distance(inputs), seen, activations.compiled,
            cells, gradient.reshape(-1), rows, self._slopes,
        )  # fmt: skip
        return self.gradient

    def _check(self, activations: Activations, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        seen = activations.inputs.shape[-2]
        if shape != expected or expected[1] > seen:
            raise ContractError(
                f"a gradient must have the shape {expected}, of {seen} rows at most, got {tuple(shape)}"
            )

    def input_gradient(self, activations: Activations, output_gradient: torch.Tensor) -> torch.Tensor:
        """Return the derivative by the first rows of the inputs, (C, B, n_0): a vector-Jacobian product.

        Args:
            activations: what `forward` returned, of B rows or more.
            output_gradient: (C, B, n_L), derivative by the first B rows of the outputs.
        """
        rows = output_gradient.shape[1]
        delta = torch.bmm(output_gradient, self._layers[-1][0].mT)
        for layer in reversed(range(len(self._layers) - 1)):
            rectified = self._layer(activations, layer + 1)[:, :rows]
            delta = torch.bmm(delta.mul_(rectified.sign()), self._layers[layer][0].mT)
        return delta

    def finite_members(self) -> torch.Tensor:
        """Return whether all parameters of each network are finite, (C,) bool."""
        finite = [view.isfinite().flatten(1).all(dim=1) for layer in self._layers for view in layer]
        return torch.stack(finite).all(dim=0)


def _flat(tensor: torch.Tensor) -> np.ndarray:
    """Return the numbers of a tensor, one after the other."""
    return np.ascontiguousarray(tensor.numpy(), np.float32).reshape(-1)


def _distance(inputs: torch.Tensor) -> int:
    """Return how far the next member's inputs are in `_flat`: 0 where they share them."""
    return 0 if inputs.dim() == 2 else inputs.shape[1] * inputs.shape[2]


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Let this thread take denormal numbers for 0.

    A moment that nothing adds to decays to one, never to 0: rounding gives 0.9 of the smallest few back as they were.
    Many processors take a hundred times as long over each.
    """
    already = _DENORMAL * 1.0 == 0.0  # torch does not tell
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)


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
        self._root = torch.empty_like(parameters)
        self._compiled = COMPILED and parameters.dtype == torch.float32
        self._arrays = [tensor.numpy() for tensor in (parameters, self.mean, self.square, self._root)]
        self.steps = 0

    @denormals_as_zero()
    def step(self, gradient: torch.Tensor) -> None:
        """Move the parameters against `gradient`, (P,); see `denormals_as_zero`."""
        self.steps += 1
        beta_mean, beta_square = self.betas
        correction = math.sqrt(1.0 - beta_square**self.steps)
        rate = -self.rate / (1.0 - beta_mean**self.steps)
        if self._compiled:
            parameters, mean, square, root = self._arrays
            least = (1e-9 * self.eps * math.sqrt(1.0 - beta_square)) ** 2
            passes.move_moments(gradient.numpy(), mean, square, root, beta_mean, beta_square, least)
            self._root.sqrt_()
            passes.move_parameters(parameters, mean, root, correction, self.eps, rate)
            return
        self.mean.lerp_(gradient, 1.0 - beta_mean)
        self.square.mul_(beta_square).addcmul_(gradient, gradient, value=1.0 - beta_square)
        denominator = torch.sqrt(self.square, out=self._root).div_(correction).add_(self.eps)
        self.parameters.addcdiv_(self.mean, denominator, value=rate)

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
