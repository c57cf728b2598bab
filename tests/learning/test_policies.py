"""Policies against torch.distributions."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from safemarl_bench.errors import ContractError
from safemarl_bench.learning.policies import HEAD_GAIN, Categorical, Gaussian, policy_of

BOX = gymnasium.spaces.Box(np.array([-1.0, 0.1], np.float32), np.array([1.0, 0.7], np.float32))
POLICIES = {
    "categorical": Categorical(gymnasium.spaces.Discrete(4, start=2)),
    "gaussian": Gaussian(BOX, initial_deviation=0.5),
}


def distribution(name, outputs):
    if name == "categorical":
        return TorchCategorical(logits=outputs)
    return Independent(Normal(outputs[:, :2], 0.5 * outputs[:, 2:].exp()), 1)


def outputs_of(name, count, seed=0):
    return torch.randn(count, POLICIES[name].width, generator=torch.Generator().manual_seed(seed)).double()


def drawn_of(name, outputs):
    return torch.from_numpy(POLICIES[name].sample(outputs, np.random.default_rng(0)))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_log_probabilities_entropies_and_divergences_are_those_of_torch(name):
    policy, old, new = POLICIES[name], outputs_of(name, 50), outputs_of(name, 50, seed=1)
    drawn = drawn_of(name, old)
    torch.testing.assert_close(policy.log_prob(new, drawn), distribution(name, new).log_prob(drawn))
    torch.testing.assert_close(policy.entropy(new), distribution(name, new).entropy())
    expected = kl_divergence(distribution(name, old), distribution(name, new))
    torch.testing.assert_close(policy.kl(old, new), expected)
    assert (expected > 0).all()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_fisher_matrix_is_the_hessian_of_the_divergence(name):
    outputs, vector = outputs_of(name, 1), outputs_of(name, 1, seed=1)

    def divergence(new):
        return kl_divergence(distribution(name, outputs), distribution(name, new)).sum()

    n = POLICIES[name].width
    hessian = torch.autograd.functional.hessian(divergence, outputs.clone()).reshape(n, n)
    torch.testing.assert_close(POLICIES[name].fisher(outputs, vector)[0], hessian @ vector[0])


def test_categorical_samples_follow_the_probabilities():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().expand(20_000, 4)
    drawn = POLICIES["categorical"].sample(logits, np.random.default_rng(0))
    frequencies = np.bincount(drawn, minlength=4) / 20_000
    assert np.abs(frequencies - [0.1, 0.2, 0.3, 0.4]).max() < 0.015  # four standard deviations


def test_gaussian_samples_have_their_mean_and_deviation():
    outputs = torch.tensor([0.3, -0.2, np.log(0.4), np.log(2.0)]).expand(20_000, 4)
    drawn = POLICIES["gaussian"].sample(outputs, np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx([0.3, -0.2], abs=0.03)
    assert drawn.std(axis=0) == pytest.approx([0.2, 1.0], rel=0.03)


def test_actions_are_numbered_from_the_start_of_the_space_and_clipped_into_the_box():
    assert POLICIES["categorical"].executed(np.array([0, 3])).tolist() == [2, 5]
    executed = POLICIES["gaussian"].executed(np.array([[-9, 0], [0, 9], [1, -1]], np.float32))
    assert executed.dtype == np.float32
    np.testing.assert_allclose(executed, [[-1, 0.4], [0, 0.7], [1, 0.1]], rtol=1e-6)
    assert (executed >= BOX.low).all()
    assert (executed <= BOX.high).all()


def test_the_mode_is_the_likeliest_action():
    assert POLICIES["categorical"].mode(torch.tensor([[0.0, 3.0, 1.0, 3.0]])).tolist() == [1]
    assert POLICIES["gaussian"].mode(torch.tensor([[0.5, -2.0, 9.0, 9.0]])).tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_an_actor_starts_nearly_undecided(name):
    actor = POLICIES[name].actor(3, (64, 64), torch.Generator().manual_seed(0))
    outputs = actor.outputs(torch.randn(100, 3, generator=torch.Generator().manual_seed(1)))[0]
    assert outputs.shape == (100, POLICIES[name].width)
    assert 0 < outputs.abs().max() < 20 * HEAD_GAIN


@pytest.mark.parametrize(
    "space",
    [
        gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, (2, 2), np.float32),
        gymnasium.spaces.MultiBinary(3),
    ],
)
def test_other_spaces_are_refused(space):
    with pytest.raises(ContractError, match="need"):
        policy_of(space, 0.5)
