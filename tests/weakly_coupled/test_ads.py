"""Ad matching: rules by hand, the dynamic program against a plain recursion, play against exact values."""

import functools
import itertools

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench.contract import Observation, SubProblems
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
from safemarl_bench.weakly_coupled import ads_exact, ads_policies
from safemarl_bench.weakly_coupled.ads import ADS, AdModel, allocations, greedy
from safemarl_bench.weakly_coupled.ads_game import BatchedAds
from safemarl_bench.weakly_coupled.time_multipliers import least_bound

GAMMA, HORIZON = 0.99, 30


def recursion(model, ads, horizon, choose):
    """Value at the start, by the definition; `choose` turns {action: worth}, type and remaining ads into a value."""

    @functools.cache
    def value(t, kind, remaining):
        if t == horizon:
            return 0.0

        def later(left):
            return GAMMA * sum(p * value(t + 1, e, left) for e, p in enumerate(model.moves[kind]))

        worth = {0: later(remaining)}
        for i, x in enumerate(remaining):
            left = tuple(y - (j == i and x > 0) for j, y in enumerate(remaining))
            worth[1 + i] = (model.payments[i, kind] if x > 0 else 0.0) + later(left)
        return choose(worth, kind, remaining)

    return np.mean([value(0, kind, ads) for kind in range(5)])


@pytest.mark.parametrize(("ads", "horizon"), [((2, 1), 4), ((1, 0, 2), 3), ((3, 3), 3), ((1,), 5)])
@pytest.mark.parametrize("instance", [0, 7])
def test_the_dynamic_program_is_the_plain_recursion(ads, horizon, instance):
    model, points = AdModel(instance), ads_exact.lattice(ads, horizon)
    best = recursion(model, ads, horizon, lambda worth, *_: max(worth.values()))
    assert ads_exact.optimum(model, points=points) == pytest.approx(best, abs=1e-12)
    drawn = recursion(model, ads, horizon, lambda worth, *_: np.mean(list(worth.values())))
    assert ads_exact.random_value(model, points=points) == pytest.approx(drawn, abs=1e-12)
    rng = np.random.default_rng(instance)
    policy = rng.integers(0, 1 + len(ads), (len(points.remaining), 5))
    place = {tuple(x): k for k, x in enumerate(points.remaining.tolist())}
    followed = recursion(model, ads, horizon, lambda worth, kind, left: worth[policy[place[left], kind]])
    assert ads_exact.policy_value(model, policy, points=points) == pytest.approx(followed, abs=1e-12)


def test_the_lattice_holds_each_vector_once_in_the_order_of_ads_used():
    points = ads_exact.lattice((2, 1, 3), 4)
    vectors = [x for x in itertools.product(range(3), range(2), range(4)) if 6 - sum(x) < 4]
    assert sorted(map(tuple, points.remaining.tolist())) == vectors
    used = 6 - points.remaining.sum(axis=1)
    assert (np.diff(used) >= 0).all()
    assert points.reach.tolist() == [(used <= t).sum() for t in range(5)]


def test_the_bound_is_above_the_optimum_and_the_rule_that_has_its_prices_is_below():
    model, points = AdModel(0), ads_exact.lattice()
    finite = ads_policies.program(model)
    bound, best = least_bound(finite), ads_exact.optimum(model, points=points)
    assert best < bound.value < 1.05 * best
    rules, core, returns = ads_policies.rules(model), BatchedAds(model, HORIZON, 2000), {}
    assert rules["greedy"].stationary
    assert not rules["lagrangian_greedy"].stationary
    for name, rule in rules.items():
        shown, total = core.reset(stream="evaluation"), np.zeros(2000)
        for t in range(HORIZON):
            where = SubProblems(shown.exogenous, shown.sub_states)
            actions = rule.play(Observation({}, shown.state, {}, np.full(2000, t), where))
            shown = core.step(actions[:, None])
            total += GAMMA**t * shown.reward[:, 0]
        returns[name] = total.mean()
        assert total.mean() < best + 4 * total.std() / np.sqrt(len(total))
    assert min(returns.values()) > 0.98 * best


@pytest.mark.slow
def test_the_reference_is_exact_greedy_is_almost_best_and_play_agrees(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(ads_exact.lattice().remaining) == 976_305
    known = smb.reference("ad_matching")
    greedy_value = known.heuristics["greedy"]
    assert 0.991 * known.optimum < greedy_value <= known.optimum
    monkeypatch.setattr(ads_exact, "_backward", None)
    assert smb.reference("ad_matching") == known, "it is computed once"

    model, core = AdModel(0), BatchedAds(AdModel(0), HORIZON, 4000)
    shown, returns = core.reset(stream="evaluation"), np.zeros(4000)
    for t in range(HORIZON):
        shown = core.step(greedy(model, shown.exogenous, shown.sub_states)[:, None])
        returns += GAMMA**t * shown.reward[:, 0]
    assert abs(returns.mean() - greedy_value) < 4 * returns.std() / np.sqrt(len(returns))
    assert shown.over.all()


def test_an_impression_pays_while_ads_last():
    core = BatchedAds(AdModel(3), HORIZON, 1)
    core.set_state(np.array([[2, 5, 1, 0, 3, 0, 0, 9]]))
    pays = core.model.payments[:, 2]
    step = core.step(np.array([[1]]))
    assert step.sub_rewards[0].tolist() == [pays[0], 0, 0, 0, 0, 0]
    assert step.sub_states[0].tolist() == [0, 0, 3, 0, 0, 9]
    assert core.step(np.array([[1]])).reward[0, 0] == 0.0  # its last ad is gone
    assert core.step(np.array([[0]])).sub_states[0].tolist() == [0, 0, 3, 0, 0, 9]


def test_each_of_many_episodes_is_a_single_one():
    rng = np.random.default_rng(1)
    plan = rng.integers(0, 7, (HORIZON, 4))

    def play(core, episodes, columns):
        core.reset(episodes=episodes)
        return sum(core.step(plan[t, columns, None]).reward[:, 0] for t in range(HORIZON))

    together = play(BatchedAds(AdModel(0), HORIZON, 4), np.arange(4), [0, 1, 2, 3])
    alone = [play(BatchedAds(AdModel(0), HORIZON, 1), np.array([k]), [k])[0] for k in range(4)]
    assert together.tolist() == alone


def test_instances_differ_and_are_the_same_for_all():
    assert (AdModel(4).payments == AdModel(4).payments).all()
    assert (AdModel(4).payments != AdModel(5).payments).any()
    assert AdModel(4).moves.sum(axis=1) == pytest.approx(np.ones(5))
    assert ((AdModel(4).payments >= 1) & (AdModel(4).payments <= 4)).all()
    assert smb.make("ad_matching", instance=4).model == AdModel(4)


def test_greedy_serves_who_pays_most_and_nobody_once_all_is_gone():
    model = AdModel(0)
    left = np.array([ADS, [0] * 6])
    actions = greedy(model, np.array([3, 3]), left)
    assert actions.tolist() == [1 + model.payments[:, 3].argmax(), 0]
    assert (allocations().sum(axis=1) <= 1).all()


def test_bad_input_is_named():
    with pytest.raises(SafeMARLBenchError, match="instance must be an integer"):
        smb.make("ad_matching", instance=-1)
    with pytest.raises(RegistryError, match="no setting 'instanc': did you mean 'instance'"):
        smb.make("ad_matching", instanc=1)
    with pytest.raises(ContractError, match=r"must be in 0\.\.6, got 7"):
        BatchedAds(AdModel(0), HORIZON, 1).step(np.array([[7]]))
    points = ads_exact.lattice((1, 1), 2)
    with pytest.raises(ContractError, match=r"integers in 0\.\.2 of shape \(3, 5\)"):
        ads_exact.policy_value(AdModel(0), np.full((3, 5), 3), points=points)
