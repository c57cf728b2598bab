"""The draws of many episodes at once: the same bits as a generator for each of them, in a fraction of the time.

Philox 4x64-10 (Salmon et al., *Parallel Random Numbers: As Easy as 1, 2, 3*, 2011) with key (stream, seed) and counter
(block, episode, 0, 0), compiled by numba where it is installed; otherwise the generators themselves draw.
"""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import numpy as np

from safemarl_bench.rng import MAX_SEED, check_seed, generator, stream_number
from safemarl_bench.stackelberg.many.compiled import COMPILED, compiled

MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
BUMPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
"""What is added to the two words of the key after every round."""

ROUNDS = 10
LOW, HALF, ZERO, ONE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(0), np.uint64(1)
SPARE, TO_UNIT = np.uint64(11), 2.0**-53
"""A draw from [0, 1) is the upper 53 bits of a word."""


def uniforms(stream: str, seeds: np.ndarray, episodes: np.ndarray, count: int) -> np.ndarray:
    """Return (n, count) float64 from [0, 1): row k is ``generator(stream, seeds[k], episodes[k]).random(count)``.

    Args:
        stream: a name in `safemarl_bench.rng.STREAMS`. seeds, episodes: (n,) integers in [0, 2**63 - 1].

    Raises:
        SafeMARLBenchError: an unknown stream, or a number out of range.
    """
    number = stream_number(stream)
    for values, what in ((seeds, "seed"), (episodes, "counter")):
        for wrong in values[(values < 0) | (values > MAX_SEED)]:
            check_seed(wrong, what)
    if COMPILED:
        draws = np.empty((len(seeds), count))
        _fill(draws, np.uint64(number), seeds.astype(np.uint64), episodes.astype(np.uint64))
        return draws
    rows = [generator(stream, seed, k).random(count) for seed, k in zip(seeds.tolist(), episodes.tolist(), strict=True)]
    return np.array(rows).reshape(-1, count)


@compiled
def _high(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return the upper 64 bits of a product."""
    low_a, high_a, low_b, high_b = a & LOW, a >> HALF, b & LOW, b >> HALF
    middle = high_a * low_b + ((low_a * low_b) >> HALF)
    other = low_a * high_b + (middle & LOW)
    return high_a * high_b + (middle >> HALF) + (other >> HALF)


@compiled
def _fill(draws: np.ndarray, number: np.uint64, seeds: np.ndarray, episodes: np.ndarray) -> None:
    """Write rows of `draws`, (n, count), four numbers from each block; blocks count from 1, as NumPy's."""
    count = draws.shape[1]
    for k in range(len(draws)):
        block = ZERO
        for first in range(0, count, 4):
            block += ONE
            a, b, c, d = block, episodes[k], ZERO, ZERO
            key, other = number, seeds[k]
            for _ in range(ROUNDS):
                up_a, up_c = _high(MULTIPLIERS[0], a), _high(MULTIPLIERS[1], c)
                a, b, c, d = up_c ^ b ^ key, MULTIPLIERS[1] * c, up_a ^ d ^ other, MULTIPLIERS[0] * a
                key, other = key + BUMPS[0], other + BUMPS[1]
            words = (a, b, c, d)
            for place in range(min(4, count - first)):
                draws[k, first + place] = np.float64(words[place] >> SPARE) * TO_UNIT
