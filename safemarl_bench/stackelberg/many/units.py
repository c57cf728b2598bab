"""Tables of float64 as integers over a power of two, so that sums are exact; one pass to look, one to convert."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from safemarl_bench.stackelberg.many.compiled import compiled
from safemarl_bench.stackelberg.many.problem import BITS

INTEGERS = 2.0**53
"""Sums below this are exact in float64 already if the table holds integers."""


@compiled
def to_units(tables: Any, own: Any, units: Any, own_units: Any, exponents: Any) -> int:
    """Write tables in units of ``2**exponents`` and return 0; else return what is wrong.

    Tables of integers get exponent 0 if their sums over n stay below 2**53, others one for which these stay below
    2**BITS.

    Args:
        tables: (T, N, m1, m) float64. own: (m1,) float64, a term of the sums of the first.
        units: (T, m1, N, m), own_units: (m1,), exponents: (T,) int64, which are written.

    Returns:
        0; -1 if an entry is NaN or infinite; t + 1 if sums of table t overflow.
    """
    count, followers, rows, columns = tables.shape
    for t in range(count):
        largest, whole = 0.0, True
        for n in range(followers):
            for i in range(rows):
                for j in range(columns):
                    entry = tables[t, n, i, j]
                    if not math.isfinite(entry):
                        return -1
                    largest = max(largest, abs(entry))
                    whole &= entry == np.rint(entry)
        largest *= followers
        if t == 0:
            extra = 0.0
            for entry in own:
                if not math.isfinite(entry):
                    return -1
                extra = max(extra, abs(entry))
                whole &= entry == np.rint(entry)
            largest += extra
        if math.isinf(largest):
            return t + 1
        exponent = 0 if whole and largest < INTEGERS else math.frexp(largest)[1] - BITS
        half = -exponent // 2  # the whole power may be beyond float64
        first, second = 2.0**half, 2.0 ** (-exponent - half)
        exponents[t] = exponent
        for n in range(followers):
            for i in range(rows):
                for j in range(columns):
                    units[t, i, n, j] = np.int64(np.rint(tables[t, n, i, j] * first * second))
        if t == 0:
            for i in range(rows):
                own_units[i] = np.int64(np.rint(own[i] * first * second))
    return 0
