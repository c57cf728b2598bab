"""The hand-written ensemble and optimiser against torch's own modules, autograd and Adam."""

from itertools import pairwise

import pytest
import torch

from safemarl_bench.learning import ensemble as ensembles
from safemarl_bench.learning.ensemble import Adam, Ensemble, soft_update
from safemarl_bench.learning.schedules import linear

WIDTHS = (5, 16, 8, 6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def reference(ensemble, member):
    """The same perceptron out of torch.nn, in float64."""
    layers, start = [], 0
    for fan_in, fan_out in pairwise(ensemble.widths):
        middle = start + ensemble.members * fan_in * fan_out
        end = middle + ensemble.members * fan_out
        linear_layer = torch.nn.Linear(fan_in, fan_out, dtype=torch.float64)
        weight = ensemble.parameters[start:middle].view(ensemble.members, fan_in, fan_out)[member]
        linear_layer.weight.data.copy_(weight.T)
        linear_layer.bias.data.copy_(ensemble.parameters[middle:end].view(ensemble.members, fan_out)[member])
        layers += [linear_layer, torch.nn.ReLU()]
        start = end
    assert start == len(ensemble.parameters)
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("members", [1, 4])
def test_every_member_is_the_perceptron_of_its_own_parameters(members):
    ensemble = Ensemble(members, WIDTHS, seeded())
    inputs = torch.randn(7, 5, generator=seeded(1))
    outputs = ensemble.outputs(inputs)
    assert outputs.shape == (members, 7, 6)
    for member in range(members):
        expected = reference(ensemble, member)(inputs.double())
        torch.testing.assert_close(outputs[member].double(), expected, rtol=1e-5, atol=1e-6)


def test_members_may_have_inputs_of_their_own():
    ensemble = Ensemble(2, WIDTHS, seeded())
    inputs = torch.randn(2, 7, 5, generator=seeded(1))
    outputs = ensemble.outputs(inputs)
    for member in range(2):
        torch.testing.assert_close(outputs[member], ensemble.outputs(inputs[member])[member])


@pytest.mark.parametrize("extra_rows", [0, 9])
def test_backward_equals_autograd_and_looks_only_at_the_first_rows(extra_rows):
    ensemble = Ensemble(3, WIDTHS, seeded())
    inputs = torch.randn(7 + extra_rows, 5, generator=seeded(1))
    output_gradient = torch.randn(3, 7, 6, generator=seeded(2))
    gradient = ensemble.backward(ensemble.forward(inputs), output_gradient)
    expected = []
    for member in range(3):
        network = reference(ensemble, member)
        network(inputs[:7].double()).backward(output_gradient[member].double())
        expected.append([(layer.weight.grad.T, layer.bias.grad) for layer in network[::2]])
    flat = [
        torch.stack([expected[member][layer][kind] for member in range(3)]).flatten()
        for layer in range(3)
        for kind in range(2)
    ]
    torch.testing.assert_close(gradient.double(), torch.cat(flat), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("extra_rows", [0, 9])
@pytest.mark.parametrize("widths", [WIDTHS, (5, 6)], ids=["deep", "linear"])
def test_the_gradient_by_the_first_inputs_equals_autograd(widths, extra_rows):
    ensemble = Ensemble(3, widths, seeded())
    inputs = torch.randn(7 + extra_rows, 5, generator=seeded(1))
    output_gradient = torch.randn(3, 7, 6, generator=seeded(2))
    gradient = ensemble.input_gradient(ensemble.forward(inputs), output_gradient)
    for member in range(3):
        seen = inputs[:7].double().requires_grad_()
        reference(ensemble, member)(seen).backward(output_gradient[member].double())
        torch.testing.assert_close(gradient[member].double(), seen.grad, rtol=1e-4, atol=1e-6)


def test_initial_parameters_depend_on_the_generator_alone_and_keep_their_bounds():
    first, again, other = (Ensemble(4, WIDTHS, seeded(seed)).parameters for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    last = first[-4 * 6 :]  # biases of the output layer, fan-in 8
    assert last.abs().max() <= 8**-0.5
    assert last.abs().max() > 0.8 * 8**-0.5


def test_adam_takes_the_steps_of_torchs_adam():
    ours = torch.randn(500, generator=seeded())
    theirs = torch.nn.Parameter(ours.clone())
    optimiser, oracle = Adam(ours, 3e-3), torch.optim.Adam([theirs], lr=3e-3)
    generator = seeded(5)
    for step in range(200):
        gradient = torch.randn(500, generator=generator) * 10.0 ** (step % 7 - 3)
        theirs.grad = gradient.clone()
        optimiser.step(gradient)
        oracle.step()
        torch.testing.assert_close(ours, theirs.data, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("already", [True, False])
def test_moments_of_what_no_longer_learns_end_at_zero_and_other_arithmetic_keeps_denormal_numbers(
    compiled, already, monkeypatch
):
    monkeypatch.setattr(ensembles, "COMPILED", compiled and ensembles.COMPILED)
    parameters, moved = torch.ones(64), torch.full((64,), 1e-3)
    optimiser = Adam(parameters, 3e-3, betas=(0.9, 0.9))
    torch.set_flush_denormal(already)
    try:
        for _ in range(2000):
            optimiser.step(moved)
            moved = torch.zeros(64)
        flushed = (torch.tensor(1e-40) * 1.0).item() == 0.0
    finally:
        torch.set_flush_denormal(False)
    assert not optimiser.mean.any()
    assert not optimiser.square.any()
    assert parameters.isfinite().all()
    assert flushed == already


def test_the_first_adam_step_is_the_learning_rate_against_the_gradients_sign():
    parameters = torch.tensor([1.0, 1.0])
    Adam(parameters, 0.1).step(torch.tensor([4.0, -0.5]))
    assert parameters.tolist() == pytest.approx([0.9, 1.1])


def test_rho_is_the_share_of_the_old_target():
    target, online = torch.tensor([10.0]), torch.tensor([20.0])
    soft_update(target, online, rho=0.9)
    assert target.item() == pytest.approx(11.0)


def test_a_member_with_nan_is_found():
    ensemble = Ensemble(3, WIDTHS, seeded())
    assert ensemble.finite_members().tolist() == [True, True, True]
    ensemble.parameters[-1] = float("nan")  # output bias of the last member
    assert ensemble.finite_members().tolist() == [True, True, False]


def test_linear_schedules_end_where_they_should():
    assert [linear(0.1, 0.05, step, 100) for step in (0, 50, 100, 1000)] == pytest.approx([0.1, 0.075, 0.05, 0.05])
    assert linear(0.1, 0.05, 0, 0) == 0.05
