"""Counter-based random numbers: every draw is a pure function of its key and counters.

Generator: Philox 4x64-10 (Salmon et al., SC 2011), as in `numpy.random.Philox`. The key is
(stream, seed); the counters say which draw it is (episode, step, agent, ...). Nothing depends on
the order of calls, on the number of environments or on the process, and nothing needs to be saved
to resume a run.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

from safemarl_bench.errors import SafeMARLBenchError, nearest

STREAMS = {
    name: number
    for number, name in enumerate(
        ("train", "evaluation", "explore", "init", "replay", "search", "policy", "validation", "instance"), start=1
    )
}
"""Named, disjoint streams. `train`, `validation` and `evaluation` are spawn noise, `instance` that of
random problems, the others belong to agents."""

MAX_SEED = 2**63 - 1


def check_seed(seed: int, what: str = "seed") -> int:
    """Return `seed` as an int in [0, 2**63 - 1].

    Raises:
        SafeMARLBenchError: it is not an integer in that range.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        value = -1
    if isinstance(seed, bool) or not 0 <= value <= MAX_SEED:
        raise SafeMARLBenchError(f"{what} must be an integer in [0, 2**63 - 1], got {seed!r}")
    return value


def stream_number(stream: str) -> int:
    """Return the number of a stream, the first word of the key.

    Raises:
        SafeMARLBenchError: unknown stream.
    """
    if stream not in STREAMS:
        raise SafeMARLBenchError(f"unknown random stream {stream!r}: {nearest(stream, STREAMS)}")
    return STREAMS[stream]


class _Key(ISeedSequence):
    """Hands `numpy.random.Philox` its key: given as ``key=`` it first asks the operating system for entropy."""

    def __init__(self, key: np.ndarray) -> None:
        self.key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """Return the key, (2,) uint64, which is what Philox asks for."""
        return self.key


@functools.lru_cache
def _key(number: int, seed: int) -> _Key:
    return _Key(np.array([number, seed], dtype=np.uint64))


def generator(stream: str, seed: int, *counters: int) -> np.random.Generator:
    """Return a generator that depends on (stream, seed, counters) and on nothing else.

    Args:
        stream: a name in `STREAMS`.
        seed: in [0, 2**63 - 1].
        counters: at most three, each in [0, 2**63 - 1]; the lowest counter word is left to the draws.

    Raises:
        SafeMARLBenchError: unknown stream, or a number out of range.
    """
    number = stream_number(stream)
    if len(counters) > 3:
        raise SafeMARLBenchError(f"at most three counters, got {len(counters)}")
    words = [check_seed(counter, "counter") for counter in counters]
    counter = np.array([0, *words, *[0] * (3 - len(words))], dtype=np.uint64)
    key: Any = _key(number, check_seed(seed))  # numpy's stubs forget ISeedSequence
    philox = np.random.Philox(key, counter=counter)
    return np.random.Generator(philox)


def draw_cells(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one uniformly drawn true cell per row, (E,) int64; mask: (E, M) bool with a true cell in every row."""
    counts = mask.sum(axis=1)
    nth = (rng.random(len(mask)) * counts).astype(np.int64)
    cells: np.ndarray = (mask.cumsum(axis=1) <= nth[:, None]).sum(axis=1)
    return cells
