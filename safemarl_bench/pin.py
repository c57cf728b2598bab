"""The pin: NumPy's plain libm functions and unfused dot products, in which a simulator has one answer.

NumPy chooses vectorised transcendental functions and OpenBLAS fused dot products by the processor, so
highway-env differs in last bits between machines. The environment variables switch both off; NumPy reads
them when it is first imported. ``python -m safemarl_bench.pin`` says whether they are in force.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np

from safemarl_bench.errors import SafeMARLBenchError

PIN = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Sandybridge",
}
"""Environment variables to set before NumPy is imported."""

FUNCTIONS: tuple[tuple[str, Callable[[float], float], Callable[[float], float]], ...] = (
    ("tan", np.tan, math.tan),
    ("sin", np.sin, math.sin),
    ("cos", np.cos, math.cos),
    ("arctan", np.arctan, math.atan),
    ("arcsin", np.arcsin, math.asin),
)


def pin_faults() -> list[str]:
    """Return what shows that the pin is not in force, on fixed values; an empty list if nothing does."""
    values = [(2 * index + 1) / 4001 for index in range(2000)]
    faults = [
        f"np.{name} differs from libm"
        for name, fast, plain in FUNCTIONS
        if any(float(fast(np.float64(value))) != plain(value) for value in values)
    ]
    pairs = [(values[index], values[-1 - index], values[index // 2], values[index // 3]) for index in range(2000)]
    if any(float(np.dot(np.array([a, b]), np.array([c, d]))) != 0.0 + a * c + b * d for a, b, c, d in pairs):
        faults.append("np.dot fuses multiplications with additions")
    matrix = np.array([[values[700], -values[1300]], [values[1300], values[700]]])
    columns = np.array(values[: 4 * 2]).reshape(2, 4)
    unfused = [[row[0] * columns[0, j] + row[1] * columns[1, j] for j in range(4)] for row in matrix]
    if (matrix @ columns).tolist() != unfused:
        faults.append("matrix products fuse multiplications with additions")
    return faults


def require_pin() -> None:
    """Raise unless the pin is in force.

    Raises:
        SafeMARLBenchError: what differs, and the variables to set.
    """
    faults = pin_faults()
    if faults:
        setting = " ".join(f'{key}="{value}"' for key, value in PIN.items())
        raise SafeMARLBenchError(
            f"NumPy is not pinned in this process ({'; '.join(faults)}): start Python with {setting}"
        )


if __name__ == "__main__":
    sys.exit("; ".join(pin_faults()) or 0)
