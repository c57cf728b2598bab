"""The exception tree: every error this package raises on purpose derives from `SafeMARLBenchError`.

A message is one line that says what was given, what was expected and the nearest right thing;
the command line prints it as it is and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SafeMARLBenchError(Exception):
    """Base of all errors raised on purpose by safemarl_bench."""


class RegistryError(SafeMARLBenchError):
    """A name (suite, agent, budget, backend, config key) is unknown, taken, or its data file is malformed."""


class IncompatiblePair(SafeMARLBenchError):
    """The agent cannot run on the suite (for example a continuous agent on discrete actions)."""


class ContractError(SafeMARLBenchError):
    """A suite or an agent broke its contract (action out of range, cost of the wrong shape, an exception inside)."""


class RecordError(SafeMARLBenchError):
    """A run record cannot be read, was altered, or cannot be written."""


class CheckpointError(SafeMARLBenchError):
    """A checkpoint is missing, corrupt, or belongs to another cell."""


class SolveError(SafeMARLBenchError, ValueError):
    """The equilibrium core cannot answer: invalid input (shape, dtype, NaN, option), or a solver gave up."""


class InfeasibleState(SafeMARLBenchError):
    """No joint action satisfies the constraints and `fallback="raise"` was asked for."""


class InexactSolve(SafeMARLBenchError):
    """A backend returned a pair that its certificate rejects."""


class MissingDependency(SafeMARLBenchError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'merge'?``, or the list of what is known.

    Args:
        name: what was given.
        known: the valid names.
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    return "known: " + (", ".join(known) if known else "none")
