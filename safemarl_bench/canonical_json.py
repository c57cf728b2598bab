"""One text for one value: the JSON form that records are stored and hashed in."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from safemarl_bench.errors import RecordError


def canonical(value: Any, where: str) -> Any:
    """Return a deep copy of `value` in plain JSON types.

    NumPy values become Python's, tuples lists, and whole floats (below 2**53) ints, which are shorter and
    compare equal. The form is a fixed point: reading back what `dump` wrote gives it again, bit for bit.

    Args:
        value: dicts with string keys, sequences, arrays, strings, numbers, booleans, None.
        where: the value's name, for errors.

    Raises:
        RecordError: a number is not finite, or JSON has no such type.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise RecordError(f"{where} has a key that is not a string")
        return {key: canonical(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item, where) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RecordError(f"{where} holds {value}, a record holds finite numbers only")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if value is None or isinstance(value, str | int):
        return value
    raise RecordError(f"{where} holds a {type(value).__name__}, which JSON cannot store")


def dump(value: Any) -> str:
    """Return compact JSON with sorted keys, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(value: Any) -> str:
    """Return the sha256 (64 hex digits) of `dump` of a canonical value."""
    return hashlib.sha256(dump(value).encode()).hexdigest()
