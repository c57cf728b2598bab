"""Reference values that take long to compute, kept on disk.

One JSON file per problem in ``$XDG_CACHE_HOME/safemarl_bench`` (by default ``~/.cache``), named by a digest of all that
the values depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Values = dict[str, dict[str, float]]
"""What a value is of -> policy -> value."""


def digest(numbers: Any) -> str:
    """Return 16 hex digits over numbers, text and lists of them."""
    return hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:16]


def kept(name: str, compute: Callable[[], Values]) -> Values:
    """Return the values kept under a name, computed at the first call."""
    path = _folder() / f"{name}.json"
    if path.is_file():
        values: Values = json.loads(path.read_text(encoding="utf-8"))
        return values
    values = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values), encoding="utf-8")
    temporary.replace(path)  # whoever reads meanwhile finds all of it or nothing
    return values


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "safemarl_bench"
