"""The running scale of value targets against numpy over all targets at once."""

import numpy as np
import torch

from safemarl_bench.learning.layer_norm import LayerNormEnsemble
from safemarl_bench.learning.normaliser import ValueNormaliser


def critics():
    return LayerNormEnsemble(2, (3, 8, 1), torch.Generator().manual_seed(0), head_gain=1.0)


def test_mean_and_deviation_are_those_of_all_targets_with_weight():
    rng, networks, normaliser = np.random.default_rng(0), critics(), ValueNormaliser(2)
    seen = [[], []]
    for scale in (1.0, 30.0, 5.0):
        targets, weights = rng.standard_normal((2, 40)) * scale + scale, rng.random((2, 40)) < 0.7
        normaliser.update(torch.from_numpy(targets).float(), torch.from_numpy(weights).float(), networks)
        for k in range(2):
            seen[k] += targets[k, weights[k]].tolist()
    for k in range(2):
        np.testing.assert_allclose(normaliser.mean[k], np.mean(seen[k]), rtol=1e-5)
        np.testing.assert_allclose(normaliser.deviation[k], np.std(seen[k]), rtol=1e-5)


def test_values_keep_their_meaning_when_the_scale_moves():
    networks, normaliser = critics(), ValueNormaliser(2)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    before = normaliser.denormalise(networks.outputs(inputs).squeeze(2))
    for offset in (5.0, -300.0):
        targets = offset + 7.0 * torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
        normaliser.update(targets, torch.ones(2, 50), networks)
        after = normaliser.denormalise(networks.outputs(inputs).squeeze(2))
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-3)


def test_normalising_and_denormalising_undo_each_other():
    normaliser = ValueNormaliser(2)
    normaliser.update(torch.tensor([[1.0, 5.0], [-40.0, 20.0]]), torch.ones(2, 2), critics())
    values = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(normaliser.denormalise(normaliser.normalise(values)), values)
    assert normaliser.normalise(torch.tensor([[5.0], [-40.0]])).flatten().tolist() == [1.0, -1.0]


def test_costs_that_were_always_the_same_have_deviation_one():
    normaliser = ValueNormaliser(2)
    normaliser.update(torch.zeros(2, 9), torch.ones(2, 9), critics())
    assert normaliser.deviation.tolist() == [1.0, 1.0]
    normaliser.update(torch.ones(2, 9), torch.zeros(2, 9), critics())  # nobody was alive
    assert normaliser.mean.tolist() == [0.0, 0.0]
