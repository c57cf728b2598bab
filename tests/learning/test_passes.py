"""Compiled passes against sums written out term by term, against torch's own way, and against autograd's twin of it."""

import platform

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from safemarl_bench.errors import ContractError
from safemarl_bench.learning import ensemble as ensembles
from safemarl_bench.learning.ensemble import LEAST, MOST, Adam, Ensemble, compiled_layers

passes = pytest.importorskip("safemarl_bench.learning.passes", reason="numba is not installed")

SIZES = [
    (4, (9, 64, 64, 64, 25), 64, 128),  # critics of joint actions: columns left over beside whole blocks
    (1, (14, 64, 32, 36), 32, 32),  # more than a whole vector of columns, and some
    (2, (5, 12, 13), 12, 15),  # the smallest ones, rows left over
    (3, (192, 17), 192, 192),  # one layer, the largest sums
    (2, (4, 20, 31, 8), 37, 40),  # a head too narrow to be compiled
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def in_order(a, b):
    """Return a @ b, each product fused into the sum of those before; 64 digits of mantissa stand in for exact ones."""
    total = np.zeros((len(a), b.shape[1]), np.float32)
    for k in range(a.shape[1]):
        exact = total.astype(np.longdouble) + a[:, k : k + 1].astype(np.longdouble) * b[k].astype(np.longdouble)
        total = exact.astype(np.float32)
    return total


def uncompiled(network):
    """Return the same network, evaluated by torch."""
    twin = Ensemble(network.members, network.widths, seeded())
    twin.parameters.copy_(network.parameters)
    twin._compiled = 0
    return twin


@given(
    rows=st.integers(1, 11),
    inner=st.integers(1, 20),
    columns=st.integers(1, 80),
    turned=st.booleans(),
    low=st.sampled_from([0.0, -0.5, -np.inf]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_a_product_is_the_sum_of_its_terms_in_order_and_nothing_else_is_written(
    rows, inner, columns, turned, low, seed
):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((rows, inner), (inner, columns + 3)))
    bias = rng.standard_normal(columns + 1).astype(np.float32)
    left, a_row, a_inner = (a.T.copy(), 1, rows) if turned else (a, inner, 1)
    shifted = np.concatenate(([np.float32(7.0)] * 5, left.ravel()))
    out = np.full(rows * columns + 16, 99.0, np.float32)
    panel, block = np.empty((inner + 1, passes.WIDE), np.float32), np.empty((rows, passes.WIDE), np.float32)
    passes.multiply(
        shifted, 5, a_row, a_inner, b.ravel(), 2, columns + 3, bias, 1, low, out[: rows * columns], rows, inner,
        columns, panel, block,
    )  # fmt: skip
    expected = np.maximum(in_order(a, b[:, 2 : columns + 2]) + bias[1:], np.float32(low))
    np.testing.assert_array_equal(out[: rows * columns].reshape(rows, columns), expected)
    assert (out[rows * columns :] == 99.0).all()


@pytest.mark.parametrize(("members", "widths", "rows", "seen"), SIZES)
@pytest.mark.parametrize("own_inputs", [False, True])
def test_with_and_without_numba_passes_agree(members, widths, rows, seen, own_inputs):
    network = Ensemble(members, widths, seeded())
    assert network._compiled == (len(widths) - 1 if widths[-1] >= LEAST else len(widths) - 2)
    twin = uncompiled(network)
    inputs = torch.randn(*([members] if own_inputs else []), seen, widths[0], generator=seeded(1))
    outcome, expected = network.forward(inputs), twin.forward(inputs)
    gradient = torch.randn(members, rows, widths[-1], generator=seeded(2))
    pairs = [
        (outcome.outputs, expected.outputs),
        (network.backward(outcome, gradient).clone(), twin.backward(expected, gradient)),
        (network.input_gradient(outcome, gradient), twin.input_gradient(expected, gradient)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    ones = np.ones((LEAST, MOST), np.float32), np.ones((MOST, LEAST), np.float32)
    rng = np.random.default_rng(0)
    a, b = (one * rng.standard_normal(one.shape).astype(np.float32) for one in ones)
    if not np.array_equal(torch.from_numpy(a) @ torch.from_numpy(b), in_order(a, b)):
        pytest.skip("torch's products add up in another order here: close is all that can be asked")
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("members", "widths", "rows", "seen"), SIZES)
@pytest.mark.parametrize("of", ["compiled", "torch"])
def test_a_gradient_by_one_output_per_row_is_the_one_with_zeros_elsewhere(members, widths, rows, seen, of):
    network = Ensemble(members, widths, seeded())
    network = network if of == "compiled" else uncompiled(network)
    activations = network.forward(torch.randn(seen, widths[0], generator=seeded(1)))
    cells = torch.randint(widths[-1], (rows,), generator=seeded(2))
    slopes = torch.randn(members, rows, generator=seeded(3))
    dense = torch.zeros(members, rows, widths[-1])
    for row, cell in enumerate(cells.tolist()):
        dense[:, row, cell] = slopes[:, row]
    ours = network.backward_at(activations, cells.numpy(), slopes.numpy()).clone()
    assert torch.equal(ours, network.backward(activations, dense))


def test_what_is_compiled():
    assert compiled_layers((4, LEAST, MOST)) == 2
    assert compiled_layers((4, LEAST, LEAST - 1)) == 1
    assert compiled_layers((3, 64, 64)) == 0
    assert compiled_layers((9, LEAST - 1, 64)) == 0
    assert compiled_layers((9, MOST + 1, 64)) == 0
    assert compiled_layers((9, 64, MOST + 1)) == 1
    assert compiled_layers((9, LEAST - 1)) == 0


@pytest.mark.parametrize("rows", [1, LEAST - 1, MOST + 1])
def test_other_numbers_of_rows_go_torchs_way(rows):
    network = Ensemble(2, (5, 16, 14), seeded())
    inputs = torch.randn(rows, 5, generator=seeded(1))
    activations = network.forward(inputs)
    assert not len(activations.compiled)
    assert torch.equal(activations.outputs, uncompiled(network).outputs(inputs))


def test_double_precision_goes_torchs_way():
    torch.set_default_dtype(torch.float64)
    try:
        network = Ensemble(2, (5, 16, 14), seeded())
        parameters = torch.zeros(100)
        Adam(parameters, 0.1).step(torch.ones(100))
        outputs = network.outputs(torch.randn(20, 5, generator=seeded(1)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert outputs.dtype == parameters.dtype == torch.float64
    torch.testing.assert_close(parameters, torch.full_like(parameters, -0.1))


def test_nan_is_passed_on():
    network = Ensemble(2, (5, 16, 14), seeded())
    network.parameters[0] = float("nan")  # a weight of the first member
    outputs = network.outputs(torch.ones(20, 5))
    assert outputs[0].isnan().all()
    assert outputs[1].isfinite().all()


def test_adam_takes_the_very_steps_that_it_takes_without_numba(monkeypatch):
    ours, theirs = (torch.randn(1003, generator=seeded()) for _ in range(2))
    compiled = Adam(ours, 3e-3)
    monkeypatch.setattr(ensembles, "COMPILED", False)
    plain = Adam(theirs, 3e-3)
    generator = seeded(5)
    for step in range(300):
        gradient = torch.randn(1003, generator=generator) * 10.0 ** (step % 7 - 3)
        gradient[:100] = 0.0  # moments of 0, denormal ones, and small ones
        gradient[100:200] *= 1e-20
        gradient[200:300] *= 1e-15
        compiled.step(gradient)
        plain.step(gradient)
    tolerance = 0.0 if platform.machine() == "x86_64" else 1e-6  # torch fuses products elsewhere as its compiler likes
    for name in ("parameters", "mean", "square"):
        torch.testing.assert_close(getattr(compiled, name), getattr(plain, name), rtol=tolerance, atol=0.0)


def test_wrong_shapes_and_cells_are_refused():
    network = Ensemble(2, (5, 16, 14), seeded())
    for shape in ((20, 6), (3, 20, 5)):
        with pytest.raises(RuntimeError, match="size"):
            network.forward(torch.zeros(shape))
    activations = network.forward(torch.zeros(20, 5))
    for shape in ((2, 21, 14), (3, 20, 14), (2, 20, 13)):
        with pytest.raises(ContractError, match=r"must have the shape \(2, 2[01], 14\), of 20 rows at most"):
            network.backward(activations, torch.zeros(shape))
    for slopes in ((2, 21), (2, 19), (3, 20)):
        with pytest.raises(ContractError, match=r"must have the shape \(2, 20\)"):
            network.backward_at(activations, np.zeros(20, np.int64), np.zeros(slopes, np.float32))
    for cell in (-1, 14):
        with pytest.raises(IndexError, match="numbers of outputs"):
            network.backward_at(activations, np.full(20, cell), np.zeros((2, 20), np.float32))
