"""Fourier features against their definition, and that learners see them."""

import functools
import math

import numpy as np
import pytest
import tqdm

import safemarl_bench as smb
from safemarl_bench import runner
from safemarl_bench.collection import make_games
from safemarl_bench.contract import Features
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import Encoding
from safemarl_bench.training import Trainer

FEATURES = Features(("a", "b"), (1.0, -2.0), (2.0, 4.0))


def test_without_octaves_the_normalised_features_are_all():
    encoding = Encoding(FEATURES)
    raw = np.array([[3.0, 2.0], [1.0, -2.0]], np.float32)
    assert encoding.width == 2
    assert (encoding.encode(raw) == FEATURES.normalise(raw)).all()


@pytest.mark.parametrize("octaves", [1, 3])
def test_every_octave_adds_a_sine_and_a_cosine_of_each_feature(octaves):
    encoding = Encoding(FEATURES, octaves)
    raw = np.random.default_rng(0).uniform(-5, 5, (4, 7, 2)).astype(np.float32)
    found = encoding.encode(raw)
    assert found.shape == (4, 7, encoding.width)
    assert found.dtype == np.float32
    for where in np.ndindex(4, 7):
        x = [(raw[where][0] - 1.0) / 2.0, (raw[where][1] + 2.0) / 4.0]
        expected = [*x]
        for k in range(octaves):
            expected += [math.sin(math.pi * 2**k * one) for one in x] + [math.cos(math.pi * 2**k * one) for one in x]
        assert found[where] == pytest.approx(expected, abs=1e-5)


PAIRS = [("merge", "csq"), ("merge", "bi_ac"), ("intersection", "cs_maddpg"), ("intersection", "mappo_l")]


@pytest.mark.parametrize(("suite", "agent"), PAIRS)
def test_a_learner_with_octaves_trains_wider_networks(suite, agent, tmp_path):
    sizes = {}
    for octaves in (0, 2):
        cell = runner.resolve_cell(suite, agent, budget="smoke", config={"octaves": octaves, "num_envs": 4})
        game = smb.make(suite)
        learner = runner.build_agent(cell, game)
        games = make_games(cell.spec, game, functools.partial(smb.make, suite), 4, 0)
        Trainer(games, learner, agent, 200, tmp_path / str(octaves)).run(tqdm.tqdm(disable=True))
        tensors = learner.tensors(training=False)
        sizes[octaves] = {name: tensor.numel() for name, tensor in tensors.items() if "lam" not in name}
    assert sizes[0].keys() == sizes[2].keys()
    assert all(sizes[2][name] > sizes[0][name] for name in sizes[0])


def test_octaves_are_a_count():
    with pytest.raises(ContractError, match=r"'octaves' must be in 0\.\.16, got -1"):
        runner.resolve_cell("merge", "csq", config={"octaves": -1})
    with pytest.raises(ContractError, match=r"'octaves' must be in 0\.\.16, got 17"):
        runner.resolve_cell("merge", "mappo_l", config={"octaves": 17})
