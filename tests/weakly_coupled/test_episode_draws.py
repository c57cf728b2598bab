"""Draws of many episodes are those of one generator each, bit for bit."""

import numpy as np
import pytest

from safemarl_bench.errors import SafeMARLBenchError
from safemarl_bench.rng import MAX_SEED, STREAMS, generator
from safemarl_bench.weakly_coupled import episode_draws
from safemarl_bench.weakly_coupled.episode_draws import uniforms


@pytest.fixture(params=["compiled", "generators"])
def way(request, monkeypatch):
    if request.param == "generators":
        monkeypatch.setattr(episode_draws, "COMPILED", False)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("count", [1, 4, 203])
def test_each_row_is_what_its_own_generator_draws(stream, count):
    rng = np.random.default_rng(count)
    seeds, episodes = (np.array([0, 1, MAX_SEED, *rng.integers(MAX_SEED, size=40)]) for _ in range(2))
    drawn = uniforms(stream, seeds, episodes, count)
    expected = [generator(stream, int(seed), int(k)).random(count) for seed, k in zip(seeds, episodes, strict=True)]
    assert drawn.tolist() == np.array(expected).tolist()


@pytest.mark.usefixtures("way")
def test_no_episodes_have_no_draws():
    nothing = np.zeros(0, np.int64)
    assert uniforms("train", nothing, nothing, 7).shape == (0, 7)


@pytest.mark.usefixtures("way")
def test_unsigned_numbers_are_as_good():
    numbers = np.arange(3)
    assert (uniforms("train", numbers, numbers, 5) == uniforms("train", numbers.astype(np.uint32), numbers, 5)).all()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("stream", "seed", "episode", "message"),
    [
        ("trian", 0, 0, "unknown random stream 'trian': did you mean 'train'"),
        ("train", -1, 0, "seed must be an integer in"),
        ("train", 0, -3, r"counter must be an integer in .* got .*-3"),
        ("train", 0, 2**63, "counter must be an integer in"),
    ],
)
def test_bad_keys_are_named(stream, seed, episode, message):
    with pytest.raises(SafeMARLBenchError, match=message):
        uniforms(stream, np.array([seed]), np.array([episode], np.uint64 if episode > 0 else np.int64), 4)
