"""Runs a test's script in a process of its own, because NumPy reads its pin when it is first imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safemarl_bench import pin


def answer_of(script: Path, *arguments: object, **variables: str) -> Any:
    """Return what a script prints, JSON; it imports from where this process does, and is pinned only by `variables`."""
    environment = {key: value for key, value in os.environ.items() if key not in pin.PIN}
    process = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)
