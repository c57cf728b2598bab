"""Random numbers are a pure function of stream, seed and counters."""

import numpy as np
import pytest

from safemarl_bench.errors import SafeMARLBenchError
from safemarl_bench.rng import MAX_SEED, STREAMS, generator

MASK = 2**64 - 1


def philox(counter, key):
    """Philox 4x64-10 (Salmon et al., 2011) in plain integers: the independent oracle."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high = [0xD2E7470EE14C6C93 * c[0] >> 64, 0xCA5A826395121157 * c[2] >> 64]
        low = [0xD2E7470EE14C6C93 * c[0] & MASK, 0xCA5A826395121157 * c[2] & MASK]
        c = [high[1] ^ c[1] ^ k[0], low[1], high[0] ^ c[3] ^ k[1], low[0]]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("seed", "counters"), [(0, ()), (7, (3,)), (MAX_SEED, (1, 2, MAX_SEED))])
def test_draws_equal_the_published_algorithm(stream, seed, counters):
    words = [*counters, 0, 0, 0][:3]
    block = philox((1, *words), (STREAMS[stream], seed))  # NumPy counts up before its first block
    expected = [(word >> 11) * 2.0**-53 for word in block]
    assert generator(stream, seed, *counters).random(4).tolist() == expected


def test_streams_seeds_and_counters_all_matter():
    draws = [
        generator(stream, seed, *counters).random()
        for stream in STREAMS
        for seed in (0, 1)
        for counters in ((), (1,), (0, 1), (0, 0, 1))
    ]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, "3", None, True])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(SafeMARLBenchError, match="must be an integer in"):
        generator("train", seed)


def test_an_unknown_stream_is_refused():
    with pytest.raises(SafeMARLBenchError, match="unknown random stream 'trian': did you mean 'train'"):
        generator("trian", 0)


def test_a_numpy_integer_is_a_seed():
    assert generator("train", np.int64(5)).random() == generator("train", 5).random()
