"""The hand-written networks with layer normalisation against torch's own modules and automatic differentiation."""

from itertools import pairwise

import pytest
import torch

from safemarl_bench.learning.layer_norm import LayerNormEnsemble, clip_norm

WIDTHS = (5, 16, 8, 6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ensemble(members=3, head_gain=1.0):
    networks = LayerNormEnsemble(members, WIDTHS, seeded(), head_gain=head_gain)
    networks.parameters += 0.1 * torch.randn(len(networks.parameters), generator=seeded(1))  # biases too
    return networks


def reference(flat, member, members):
    """The outputs of one member as a function of (parameters, inputs), out of torch.nn.functional, in float64."""
    start, layers = 0, []
    for fan_in, fan_out in pairwise(WIDTHS):
        middle = start + members * fan_in * fan_out
        end = middle + members * fan_out
        weight = flat[start:middle].reshape(members, fan_in, fan_out)[member]
        layers.append((weight.T, flat[middle:end].reshape(members, fan_out)[member]))
        start = end
    assert start == len(flat)

    def evaluate(x):
        for weight, bias in layers[:-1]:
            x = torch.relu(torch.nn.functional.linear(x, weight, bias))
            x = torch.nn.functional.layer_norm(x, x.shape[-1:])
        return torch.nn.functional.linear(x, *layers[-1])

    return evaluate


def all_outputs(flat, inputs, members=3):
    return torch.stack([reference(flat, k, members)(inputs[k]) for k in range(members)])


@pytest.mark.parametrize("members", [1, 4])
def test_every_member_is_the_perceptron_of_its_own_parameters(members):
    networks = ensemble(members)
    inputs = torch.randn(7, 5, generator=seeded(2))
    outputs = networks.outputs(inputs)
    assert outputs.shape == (members, 7, 6)
    for member in range(members):
        expected = reference(networks.parameters.double(), member, members)(inputs.double())
        torch.testing.assert_close(outputs[member].double(), expected, rtol=1e-4, atol=1e-5)


def test_backward_equals_autograd():
    networks = ensemble()
    inputs = torch.randn(3, 7, 5, generator=seeded(2))
    output_gradient = torch.randn(3, 7, 6, generator=seeded(3))
    flat = networks.parameters.double().requires_grad_()
    (all_outputs(flat, inputs.double()) * output_gradient.double()).sum().backward()
    gradient = networks.backward(networks.forward(inputs), output_gradient)
    torch.testing.assert_close(gradient.double(), flat.grad, rtol=1e-4, atol=1e-5)


def test_the_tangent_equals_forward_differentiation():
    networks = ensemble()
    inputs = torch.randn(3, 7, 5, generator=seeded(2))
    direction = torch.randn(len(networks.parameters), generator=seeded(3))
    _, expected = torch.autograd.functional.jvp(
        lambda flat: all_outputs(flat, inputs.double()), networks.parameters.double(), direction.double()
    )
    tangent = networks.tangent(networks.forward(inputs), direction)
    torch.testing.assert_close(tangent.double(), expected, rtol=1e-4, atol=1e-4)


def test_weights_start_orthogonal_with_their_gains_and_biases_at_zero():
    networks = LayerNormEnsemble(2, WIDTHS, seeded(), head_gain=0.01)
    start = 0
    for layer, (fan_in, fan_out) in enumerate(pairwise(WIDTHS)):
        middle = start + 2 * fan_in * fan_out
        end = middle + 2 * fan_out
        gain = 0.01 if layer == 2 else 2**0.5
        for weight in networks.parameters[start:middle].view(2, fan_in, fan_out):
            gram = weight @ weight.T if fan_in <= fan_out else weight.T @ weight
            torch.testing.assert_close(gram, gain**2 * torch.eye(min(fan_in, fan_out)), rtol=1e-4, atol=1e-5)
        assert not networks.parameters[middle:end].any()
        start = end


def test_constant_outputs_are_biases_alone_and_stay_so():
    networks = LayerNormEnsemble(2, WIDTHS, seeded(), head_gain=1.0, constant_outputs=2)
    inputs, rates = torch.randn(9, 5, generator=seeded(1)), torch.randn(2, 9, 6, generator=seeded(2))
    before = networks.outputs(inputs)
    networks.parameters -= 0.1 * networks.backward(networks.forward(inputs), rates)
    after = networks.outputs(inputs)
    assert not before[..., 4:].any()
    torch.testing.assert_close(after[..., 4:], (-0.1 * rates[..., 4:].sum(1, keepdim=True)).expand(2, 9, 2))
    assert (after[..., :4].std(dim=1) > 0.1).all()


def test_the_initial_networks_depend_on_the_generator_alone():
    first, again, other = (LayerNormEnsemble(1, WIDTHS, seeded(k), head_gain=1.0).parameters for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_long_gradients_are_shortened_and_short_ones_kept():
    assert clip_norm(torch.tensor([30.0, 40.0]), 10.0).tolist() == pytest.approx([6.0, 8.0])
    assert clip_norm(torch.tensor([3.0, 4.0]), 10.0).tolist() == [3.0, 4.0]


def test_a_member_with_a_parameter_that_is_not_finite_is_found():
    networks = ensemble()
    networks.head[1][1, 0, 2] = float("nan")
    assert networks.finite_members().tolist() == [True, False, True]
