"""Compilation by numba where it is installed; without it the same source runs as plain Python, with equal results."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

numba: Any
try:
    numba = importlib.import_module("numba")
except ImportError:  # the extra "kernel" brings it
    numba = None

COMPILED = numba is not None and not numba.config.DISABLE_JIT
"""Whether this process runs machine code."""

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile a function at its first call, cached on disk."""
    return function if numba is None else cast(F, numba.njit(cache=True, error_model="numpy")(function))


def inlined(function: F) -> F:
    """Compile a function into its callers: calls that pass arrays cost more than what small functions do."""
    return (
        function if numba is None else cast(F, numba.njit(cache=True, error_model="numpy", forceinline=True)(function))
    )
