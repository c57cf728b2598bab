"""Forward and backward passes of several small perceptrons of equal shape, and Adam, compiled by numba.

A layer of 64 numbers is a few microseconds of arithmetic: an update written as calls to a tensor library spends most
of its time between them. Here a whole pass is one call. In its matrix products blocks of results stay in vector
registers while their sums run, in order of the summed index, each product fused into its addition: results depend
neither on block sizes nor on the rows beside one nor on the width of a vector.

Everything is a flat float32 array and where in it something starts. Parameters are laid out as `Ensemble` describes;
activations are those of layer 1, then 2, ..., each (C, B, n_l). Lengths and shapes are the caller's to check.
"""

# mypy: disable-error-code="no-any-return, no-untyped-call, call-arg"
from __future__ import annotations

from typing import Any

import numpy as np

from safemarl_bench.stackelberg import lanes
from safemarl_bench.stackelberg.lanes import fma, larger, store
from safemarl_bench.stackelberg.lanes import load_wide as load
from safemarl_bench.stackelberg.lanes import splat_wide as splat
from safemarl_bench.stackelberg.lanes import spread_wide as spread
from safemarl_bench.stackelberg.many.compiled import compiled

TALL, WIDE = 4, lanes.WIDE // 4
"""Rows and columns of a block of results, whose sums take 8 registers."""

GROUP, CHAINS = 16, 4
"""How `torch.sum` adds rows: 16 of them before their sum joins the others', narrow columns in 4 interleaved chains."""


@compiled
def _multiply_wide(
    a: Any, ia: int, a_row: int, a_inner: int, b: Any, ib: int, b_row: int, bias: Any, at_bias: int, low: float,
    out: Any, io: int, out_row: int, rows: int, inner: int,
) -> None:  # fmt: skip
    """Write WIDE columns of a matrix product.

    ``out[io + i * out_row + j]`` becomes the sum over k < inner of
    ``a[ia + i * a_row + k * a_inner] * b[ib + k * b_row + j]``, then plus ``bias[at_bias + j]``, and at least `low`.
    """
    whole, more, least = rows - rows % TALL, load(bias, at_bias), splat(bias, low)
    for i in range(0, whole, TALL):
        s0, s1, s2, s3 = splat(b, 0.0), splat(b, 0.0), splat(b, 0.0), splat(b, 0.0)
        for k in range(inner):
            at, row = ia + i * a_row + k * a_inner, load(b, ib + k * b_row)
            s0, s1 = fma(spread(a, at), row, s0), fma(spread(a, at + a_row), row, s1)
            s2, s3 = fma(spread(a, at + 2 * a_row), row, s2), fma(spread(a, at + 3 * a_row), row, s3)
        to = io + i * out_row
        store(out, to, larger(least, s0 + more))
        store(out, to + out_row, larger(least, s1 + more))
        store(out, to + 2 * out_row, larger(least, s2 + more))
        store(out, to + 3 * out_row, larger(least, s3 + more))
    for i in range(whole, rows):
        total = splat(b, 0.0)
        for k in range(inner):
            total = fma(spread(a, ia + i * a_row + k * a_inner), load(b, ib + k * b_row), total)
        store(out, io + i * out_row, larger(least, total + more))


@compiled
def multiply(
    a: Any, ia: int, a_row: int, a_inner: int, b: Any, ib: int, b_row: int, bias: Any, at_bias: int, low: float,
    out: Any, rows: int, inner: int, columns: int, panel: Any, block: Any,
) -> None:  # fmt: skip
    """Write a matrix product; ``x_row`` and ``a_inner`` are the distances to the next row, or term.

    Args:
        bias: its `columns` numbers from `at_bias` on are added to every row. low: what is then below becomes this.
        out: (rows * columns,).
        panel: (inner + 1, WIDE) or more rows, and block: (rows, WIDE) or more, room to work in.
    """
    whole = columns - columns % WIDE
    for j in range(0, whole, WIDE):
        _multiply_wide(
            a, ia, a_row, a_inner, b, ib + j, b_row, bias, at_bias + j, low, out, j, columns, rows, inner
        )  # fmt: skip
    if whole < columns:
        panel[: inner + 1] = 0.0  # what happens to be there may be denormal, hence slow
        for k in range(inner):
            for j in range(whole, columns):
                panel[k, j - whole] = b[ib + k * b_row + j]
        for j in range(whole, columns):
            panel[inner, j - whole] = bias[at_bias + j]
        padded, results = panel.reshape(panel.size), block.reshape(block.size)
        _multiply_wide(
            a, ia, a_row, a_inner, padded, 0, WIDE, padded, inner * WIDE, low, results, 0, WIDE, rows, inner
        )  # fmt: skip
        for i in range(rows):
            for j in range(whole, columns):
                out[i * columns + j] = block[i, j - whole]


@compiled
def forward(
    parameters: Any, members: int, widths: Any, inputs: Any, distance: int, rows: int, activations: Any, hidden: bool
) -> None:  # fmt: skip
    """Write the activations of layers 1 to L.

    Args:
        parameters: (P,). members: C. widths: (L + 1,) int64.
        inputs: (B * n_0,), or with `distance` B * n_0 between members instead of 0, (C * B * n_0,).
        rows: B.
        activations: (C * B * sum of n_1 to n_L,).
        hidden: whether layer L is one as well: those end with a ReLU.
    """
    panel, block = np.empty((widths.max() + 1, WIDE), np.float32), np.empty((rows, WIDE), np.float32)
    below, at, above, start, last = inputs, 0, 0, 0, len(widths) - 2
    for layer in range(last + 1):
        n, m = widths[layer], widths[layer + 1]
        biases, low = start + members * n * m, 0.0 if hidden or layer < last else -np.inf
        for c in range(members):
            here = above + c * rows * m
            multiply(
                below, at + c * distance, n, 1, parameters, start + c * n * m, m, parameters, biases + c * m, low,
                activations[here : here + rows * m], rows, n, m, panel, block,
            )  # fmt: skip
        below, at, distance = activations, above, rows * m
        above += members * rows * m
        start = biases + members * m


@compiled
def backward(
    parameters: Any, members: int, widths: Any, inputs: Any, distance: int, seen: int, activations: Any,
    output_gradient: Any, rows: int, gradient: Any,
) -> None:  # fmt: skip
    """Write the derivative by the parameters.

    Args:
        parameters, members, widths, inputs, distance, activations: as of `forward`, of `seen` rows.
        output_gradient: (C * B * n_L,), derivative by what layer L adds up for the first B rows, before any ReLU.
        rows: B. gradient: (P,).
    """
    widest = widths.max()
    longest = max(widest, rows)
    panel, block = np.empty((longest + 1, WIDE), np.float32), np.empty((longest, WIDE), np.float32)
    nothing = np.zeros(widest, np.float32)
    turned = np.empty(widest * widest, np.float32)
    sums = np.empty((CHAINS + 1, widest), np.float32)
    delta, following = output_gradient, np.empty(members * rows * widest, np.float32)
    spare = np.empty(members * rows * widest, np.float32)
    end, above = 0, len(activations)
    for layer in range(len(widths) - 1):
        end += members * (widths[layer] + 1) * widths[layer + 1]
    for layer in range(len(widths) - 2, -1, -1):
        n, m = widths[layer], widths[layer + 1]
        above -= members * seen * m
        biases = end - members * m
        end = biases - members * n * m
        below, at, apart = (activations, above - members * seen * n, seen * n) if layer else (inputs, 0, distance)
        for c in range(members):
            here, weights = c * rows * m, end + c * n * m
            out = gradient[weights : weights + n * m]
            multiply(below, at + c * apart, 1, n, delta, here, m, nothing, 0, -np.inf, out, n, rows, m, panel, block)
            bias = gradient[biases + c * m : biases + (c + 1) * m]
            add_rows(delta[here : here + rows * m].reshape(rows, m), bias, sums)
            if layer:
                transpose(parameters[weights : weights + n * m].reshape(n, m), turned[: n * m].reshape(m, n))
                out = following[c * rows * n : (c + 1) * rows * n]
                multiply(delta, here, m, 1, turned, 0, n, nothing, 0, -np.inf, out, rows, m, n, panel, block)
                rectified = activations[at + c * apart : at + c * apart + rows * n]
                for i in range(rows * n):
                    out[i] *= np.float32(0.0) if rectified[i] <= np.float32(0.0) else np.float32(1.0)
        delta, following, spare = following, spare, following


@compiled
def backward_at(
    parameters: Any, members: int, widths: Any, inputs: Any, distance: int, seen: int, activations: Any, cells: Any,
    slopes: Any, rows: int, gradient: Any,
) -> None:  # fmt: skip
    """Write the derivative by the parameters where only one output of each row counts.

    Args:
        parameters, members, widths, inputs, distance, seen, activations, rows, gradient: as of `backward`, L > 1.
        cells: (B,), the outputs. slopes: (C * B,), derivatives by them.
    """
    n, m = widths[-2], widths[-1]
    turned, summed, dense = np.empty((m, n), np.float32), np.empty((m, n), np.float32), np.empty((rows, m), np.float32)
    sums, delta = np.empty((CHAINS + 1, m), np.float32), np.empty(members * rows * n, np.float32)
    biases = len(parameters) - members * m
    below = len(activations) - members * seen * (m + n)
    for c in range(members):
        weights = biases - (members - c) * n * m
        transpose(parameters[weights : weights + n * m].reshape(n, m), turned)
        summed[:], dense[:] = 0.0, 0.0
        for b in range(rows):
            cell, slope = cells[b], slopes[c * rows + b]
            if not 0 <= cell < m:
                raise IndexError("cells must be numbers of outputs")
            start = below + (c * seen + b) * n
            rectified, out = activations[start : start + n], delta[(c * rows + b) * n : (c * rows + b + 1) * n]
            dense[b, cell] = slope
            for i in range(n):
                summed[cell, i] = fma(rectified[i], slope, summed[cell, i])
                passed = np.float32(0.0) if rectified[i] <= np.float32(0.0) else np.float32(1.0)
                out[i] = slope * turned[cell, i] * passed
        transpose(summed, gradient[weights : weights + n * m].reshape(n, m))
        add_rows(dense, gradient[biases + c * m : biases + (c + 1) * m], sums)
    hidden = activations[: len(activations) - members * seen * m]
    backward(parameters, members, widths[:-1], inputs, distance, seen, hidden, delta, rows, gradient)


@compiled
def transpose(a: Any, out: Any) -> None:
    """Write the transpose of (n, m), (m, n)."""
    rows, columns = a.shape
    for j in range(columns):
        for i in range(rows):
            out[j, i] = a[i, j]


@compiled
def add_rows(a: Any, out: Any, sums: Any) -> None:
    """Write the sum of the rows of (B, n), (n,), adding in the order of `torch.sum`; sums: (CHAINS + 1, n), to work in.

    Whole vectors of columns are one chain each; the columns left over are CHAINS of them, of every CHAINS-th row.
    """
    rows, columns = a.shape
    whole = columns - columns % 32
    _add_chain(a, 0, 1, rows, 0, whole, out, sums[CHAINS])
    for chain in range(CHAINS if whole < columns else 0):
        _add_chain(a, chain, CHAINS, rows - rows % CHAINS, whole, columns, sums[chain], sums[CHAINS])
    for j in range(whole, columns):
        for i in range(rows - rows % CHAINS, rows):
            sums[0, j] += a[i, j]
        out[j] = ((sums[0, j] + sums[1, j]) + sums[2, j]) + sums[3, j]


@compiled
def _add_chain(a: Any, first: int, step: int, end: int, start: int, stop: int, out: Any, group: Any) -> None:
    """Write into columns start to stop the sum of rows first, first + step, ... below end, GROUP of them at a time."""
    for j in range(start, stop):
        out[j] = 0.0
    for head in range(first, end, GROUP * step):
        for j in range(start, stop):
            group[j] = 0.0
        for i in range(head, min(head + GROUP * step, end), step):
            for j in range(start, stop):
                group[j] += a[i, j]
        for j in range(start, stop):
            out[j] += group[j]


@compiled
def move_moments(
    gradient: Any, mean: Any, square: Any, raised: Any, keep_mean: float, keep_square: float, least: float
) -> None:
    """Do the first part of a step of Adam; see `ensemble.Adam`. All arrays (P,).

    Args:
        raised: becomes the second moment, but at least `least`: torch takes ten times as long over roots of 0 and of
            what is next to it, and beside `eps` they do not count.
    """
    fresh_mean, fresh_square = np.float32(1.0 - keep_mean), np.float32(1.0 - keep_square)
    keep, floor = np.float32(keep_square), np.float32(least)
    for i in range(len(gradient)):
        slope = gradient[i]
        mean[i] = fma(fresh_mean, slope - mean[i], mean[i])
        moment = fma(fresh_square * slope, slope, square[i] * keep)
        square[i] = moment
        raised[i] = floor if moment < floor else moment


@compiled
def move_parameters(parameters: Any, mean: Any, root: Any, correction: float, eps: float, step: float) -> None:
    """Do the rest: add ``step * mean / (root / correction + eps)``; root (P,) is that of the raised second moment."""
    scale, floor, rate = np.float32(correction), np.float32(eps), np.float32(step)
    for i in range(len(parameters)):
        parameters[i] += rate * mean[i] / (root[i] / scale + floor)
