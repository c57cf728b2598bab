"""Several small networks with layer normalisation as one: values, gradients and directional derivatives by hand.

Each hidden layer is linear, ReLU, then layer normalisation (Ba et al., 2016) without gain and bias
of its own: the linear layer that follows has them. As in `safemarl_bench.learning.ensemble`, C
perceptrons of equal shape cost one batched matrix product per layer and live in one flat vector.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from safemarl_bench.learning.ensemble import layer_views, parameter_count

EPSILON = 1e-5
"""Added to the variance of a layer's activations."""


class Pass(NamedTuple):
    """What a forward pass over B rows leaves for its derivatives.

    Attributes:
        inputs: of every linear layer, L tensors (C, B, n_l).
        rectified: of every hidden layer, after ReLU and before normalisation, L - 1 tensors (C, B, n_l).
        mean, inverse_deviation: of every hidden layer's activations, L - 1 tensors (C, B, 1).
        outputs: (C, B, n_L).
    """

    inputs: list[torch.Tensor]
    rectified: list[torch.Tensor]
    mean: list[torch.Tensor]
    inverse_deviation: list[torch.Tensor]
    outputs: torch.Tensor


class LayerNormEnsemble:
    """C multilayer perceptrons with ReLU and layer normalisation after each hidden layer.

    Attributes:
        members: C. widths: n_0 (inputs), hidden widths, n_L (outputs).
        parameters: (P,) float32; layer by layer the weights (C, n_l, n_{l+1}), then the biases (C, 1, n_{l+1}).
        gradient: (P,) float32, what `backward` wrote last.
    """

    def __init__(
        self,
        members: int,
        widths: tuple[int, ...],
        generator: torch.Generator,
        *,
        head_gain: float,
        constant_outputs: int = 0,
    ) -> None:
        """Draw orthogonal weights (gain sqrt 2 in hidden layers) and set the biases to 0.

        Args:
            members: C.
            widths: at least inputs and outputs.
            generator: the only source of randomness.
            head_gain: gain of the last layer; small for policies that start undecided.
            constant_outputs: so many of the outputs, the last ones, do not depend on the inputs: their weights stay 0.
        """
        self.members, self.widths = members, widths
        self._dependent = widths[-1] - constant_outputs
        self.parameters = torch.zeros(parameter_count(members, widths))
        self.gradient = torch.zeros_like(self.parameters)
        self._layers = layer_views(self.parameters, members, widths)
        self._gradient_layers = layer_views(self.gradient, members, widths)
        for layer, (weights, _) in enumerate(self._layers, start=1):
            gain = head_gain if layer == len(self._layers) else math.sqrt(2.0)
            for weight in weights:
                torch.nn.init.orthogonal_(weight, gain, generator=generator)
        self.head[0][..., self._dependent :] = 0.0

    @property
    def head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (C, n_{L-1}, n_L) and biases (C, 1, n_L) of the last layer, views of `parameters`."""
        return self._layers[-1]

    def forward(self, inputs: torch.Tensor) -> Pass:
        """Evaluate all networks.

        Args:
            inputs: (B, n_0), the same for all members, or (C, B, n_0).
        """
        trace = Pass([inputs.expand(self.members, *inputs.shape[-2:])], [], [], [], inputs)
        for weight, bias in self._layers[:-1]:
            rectified = torch.baddbmm(bias, trace.inputs[-1], weight).relu_()
            normalised, mean, inverse = _normalised(rectified)
            trace.inputs.append(normalised)
            trace.rectified.append(rectified)
            trace.mean.append(mean)
            trace.inverse_deviation.append(inverse)
        weight, bias = self._layers[-1]
        return trace._replace(outputs=torch.baddbmm(bias, trace.inputs[-1], weight))

    def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (C, B, n_L) for inputs (B, n_0) or (C, B, n_0)."""
        return self.forward(inputs).outputs

    def backward(self, trace: Pass, output_gradient: torch.Tensor) -> torch.Tensor:
        """Return J' u: the derivative of a loss by the parameters.

        Args:
            trace: what `forward` returned.
            output_gradient: u, (C, B, n_L), derivative of the loss by the outputs.

        Returns:
            (P,), in `gradient` (overwritten by the next call).
        """
        delta = output_gradient
        for layer in reversed(range(len(self._layers))):
            weight_gradient, bias_gradient = self._gradient_layers[layer]
            torch.bmm(trace.inputs[layer].mT, delta, out=weight_gradient)
            torch.sum(delta, 1, keepdim=True, out=bias_gradient)
            if layer:
                delta = torch.bmm(delta, self._layers[layer][0].mT)
                delta = _through_relu(trace, layer - 1, _through_norm(trace, layer - 1, delta))
        self._gradient_layers[-1][0][..., self._dependent :] = 0.0
        return self.gradient

    def tangent(self, trace: Pass, direction: torch.Tensor) -> torch.Tensor:
        """Return J v: how the outputs move, (C, B, n_L), as the parameters move along v.

        Args:
            trace: what `forward` returned.
            direction: v, (P,).
        """
        moved: torch.Tensor | None = None
        for layer, (weight_move, bias_move) in enumerate(layer_views(direction, self.members, self.widths)):
            if layer:
                assert moved is not None
                # The Jacobian of layer normalisation is symmetric: forwards as backwards.
                moved = _through_norm(trace, layer - 1, _through_relu(trace, layer - 1, moved))
            own = torch.baddbmm(bias_move, trace.inputs[layer], weight_move)
            moved = own if moved is None else torch.baddbmm(own, moved, self._layers[layer][0])
        assert moved is not None
        return moved

    def finite_members(self) -> torch.Tensor:
        """Return whether all parameters of each network are finite, (C,) bool."""
        finite = [view.isfinite().flatten(1).all(dim=1) for layer in self._layers for view in layer]
        return torch.stack(finite).all(dim=0)


def _normalised(rectified: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the layer normalisation, (C, B, n), means and inverse deviations, (C, B, 1).

    Simple passes, one after the other: torch's own kernel takes twice as long on one core.
    """
    mean = rectified.mean(dim=-1, keepdim=True)
    centred = rectified - mean
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    inverse = length.square_().div_(rectified.shape[-1]).add_(EPSILON).rsqrt_()
    return centred.mul_(inverse), mean, inverse


def _through_relu(trace: Pass, layer: int, vector: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.threshold_backward(vector, trace.rectified[layer], 0.0)  # type: ignore[no-any-return]


def _through_norm(trace: Pass, layer: int, vector: torch.Tensor) -> torch.Tensor:
    rectified, mean, inverse = trace.rectified[layer], trace.mean[layer], trace.inverse_deviation[layer]
    shape, wanted = rectified.shape[-1:], [True, False, False]
    result: torch.Tensor = torch.ops.aten.native_layer_norm_backward(
        vector, rectified, shape, mean, inverse, None, None, wanted
    )[0]
    return result


def clip_norm(gradient: torch.Tensor, limit: float) -> torch.Tensor:
    """Return a gradient (P,), in place, scaled down to Euclidean norm `limit` if it is longer."""
    return gradient.mul_((limit / (gradient.norm() + 1e-6)).clamp_(max=1.0))
