"""Puts a stranger's package (tests/support/toy_suite) on the path, as an installed one would be."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "support"))
