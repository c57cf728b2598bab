"""The dynamic programs of EV charging against known optima, a program written from the definition, and play."""

import functools
import itertools
import math

import numpy as np
import pytest

from safemarl_bench.errors import ContractError, RegistryError
from safemarl_bench.weakly_coupled import charging
from safemarl_bench.weakly_coupled.charging import BAY_STATES, ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import (
    optimal_solution,
    policy_values,
    start_value,
    stationary_solution,
)
from safemarl_bench.weakly_coupled.charging_policies import HEURISTICS, uniform

CRITERIA = ((None, 0.9), (50, 0.9), (50, 1.0))

# By another dynamic program: discounted for ever, discounted over 50 decisions, undiscounted over 50 decisions.
OPTIMA = {
    ("code", 2): (5.16174, 5.13743, 24.0368),
    ("code", 3): (7.04404, 7.00936, 34.0843),
    ("text", 2): (5.87493, 5.84668, 28.3257),
    ("text", 3): (8.60198, 8.56014, 41.6084),
}
PRICES = (0.2, 0.5, 0.8)
CHAIN = {0.2: (0.4, 0.3, 0.3), 0.5: (0.2, 0.5, 0.3), 0.8: (0.6, 0.2, 0.2)}
CAPACITY = {"text": {0.2: 3, 0.5: 2, 0.8: 1}, "code": {0.2: 2, 0.5: 2, 0.8: 1}}
ARRIVALS = [((0, 0), 0.3), *(((d, b), 0.0875) for d in (1, 2, 3, 4) for b in (1, 2))]


@pytest.mark.parametrize(("preset", "n_bays"), OPTIMA)
def test_the_optimum_is_what_another_program_found(preset, n_bays):
    model = ChargingModel(preset, n_bays)
    for (steps, gamma), expected in zip(CRITERIA, OPTIMA[preset, n_bays], strict=True):
        found = start_value(model, optimal_solution(model, steps=steps, gamma=gamma).values)
        assert found == pytest.approx(expected, rel=5e-6)


def test_uniform_play_is_worth_what_another_program_found():
    model = ChargingModel("text", 3)
    found = [start_value(model, policy_values(model, uniform(model), steps=t, gamma=g)) for t, g in CRITERIA]
    assert found == pytest.approx([3.05563, 3.04065, 14.6797], rel=5e-6)


def reward(price, car, charge):
    periods, units = car
    if units == 0:
        return 0.0
    return (1 - price) * charge - (0.2 * (units - charge) ** 2 if periods == 1 else 0.0)


def followers(car, charge):
    periods, units = car
    return ARRIVALS if periods <= 1 else [((periods - 1, max(units - charge, 0)), 1.0)]


def allowed(preset, price, charges):
    if preset == "code":
        return sum(charges) == CAPACITY[preset][price]
    return sum(charges) <= CAPACITY[preset][price]


def plain_optimum(preset, gamma, steps):
    """Return a function of (price, cars) at the first decision: the definition, state by state."""

    def after(price, cars, charges, left):
        outcomes = itertools.product(*(followers(car, charge) for car, charge in zip(cars, charges, strict=True)))
        return sum(math.prod(p for _, p in way) * value(price, tuple(car for car, _ in way), left) for way in outcomes)

    def worth(price, cars, charges, left, first):
        def paid(at):
            return sum(reward(at, car, charge) for car, charge in zip(cars, charges, strict=True))

        chances = list(zip(PRICES, CHAIN[price], strict=True))
        if preset == "text":
            return paid(price) + gamma * sum(p * after(c, cars, charges, left - 1) for c, p in chances)
        if first:
            return paid(price) + gamma * after(price, cars, charges, left - 1)
        return sum(p * (paid(c) + gamma * after(c, cars, charges, left - 1)) for c, p in chances)

    @functools.cache
    def value(price, cars, left, first=False):
        if left == 0:
            return 0.0
        actions = [a for a in itertools.product((0, 1), repeat=len(cars)) if allowed(preset, price, a)]
        return max(worth(price, cars, charges, left, first) for charges in actions)

    return lambda price, cars: value(price, cars, steps, True)


@pytest.mark.parametrize(("preset", "gamma", "steps"), [("text", 0.9, 3), ("code", 0.7, 3), ("code", 1.0, 1)])
def test_every_state_has_the_value_that_the_definition_gives(preset, gamma, steps):
    model = ChargingModel(preset, 2)
    values = optimal_solution(model, steps=steps, gamma=gamma).values
    plain = plain_optimum(preset, gamma, steps)
    for (w, price), (i, car), (j, other) in itertools.product(enumerate(PRICES), *[list(enumerate(BAY_STATES))] * 2):
        assert values[w, i, j] == pytest.approx(plain(price, (car, other)), abs=1e-12)


@pytest.mark.parametrize(("preset", "n_bays"), [("text", 1), ("text", 3), ("code", 2)])
def test_following_the_best_actions_gives_the_best_values(preset, n_bays):
    model = ChargingModel(preset, n_bays)
    optimal, stationary = optimal_solution(model), stationary_solution(model)
    gap = optimal.values - policy_values(model, stationary.actions)
    # Where the price lags, the first decision may have another best action than the later ones.
    assert gap.min() > -1e-8
    assert gap[optimal.actions == stationary.actions].max() < 1e-8
    assert preset == "code" or gap.max() < 1e-8


@pytest.mark.parametrize("preset", ["text", "code"])
def test_values_do_not_depend_on_which_bay_is_which(preset):
    values = optimal_solution(ChargingModel(preset, 3)).values
    for order in itertools.permutations((1, 2, 3)):
        np.testing.assert_allclose(values.transpose(0, *order), values, atol=1e-8)


@pytest.mark.parametrize("preset", ["text", "code"])
def test_heuristics_are_feasible_and_worth_less_than_the_optimum_but_more_than_uniform_play(preset):
    model = ChargingModel(preset, 3)
    best = start_value(model, optimal_solution(model).values)
    least = start_value(model, policy_values(model, uniform(model)))
    values = {name: start_value(model, policy_values(model, rule(model))) for name, rule in HEURISTICS.items()}
    assert all(least < value < best for value in values.values()), values
    if preset == "code":
        assert values["edf"] > 0.99 * best


@pytest.mark.parametrize("name", HEURISTICS)
@pytest.mark.parametrize("preset", ["text", "code"])
def test_no_heuristic_but_whittle_leaves_a_charger_idle_that_a_car_needs(preset, name):
    model = ChargingModel(preset, 3)
    policy = HEURISTICS[name](model)
    need = (np.array([units for _, units in BAY_STATES]) > 0)[np.indices((12, 12, 12))]
    for price, capacity in enumerate(model.rules.capacity):
        charged = np.moveaxis(model.actions[policy[price]], -1, 0)
        useful = (charged.astype(bool) & need).sum(axis=0)
        wanted = np.minimum(need.sum(axis=0), capacity)
        assert (useful == wanted).all() or (name == "whittle" and (useful <= wanted).all())


def test_edf_charges_the_car_that_leaves_first_and_of_two_the_one_that_needs_more():
    model = ChargingModel("text", 3)
    state = [BAY_STATES.index(car) for car in ((3, 2), (1, 1), (1, 2))]
    chosen = [model.actions[HEURISTICS["edf"](model)[price, *state]].tolist() for price in range(3)]
    assert chosen == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


def play(preset, policy, episodes, rng):
    """Return discounted 50-step returns, (episodes,), of play by the definition alone."""
    totals = np.zeros(episodes)
    cars = [car for car, _ in ARRIVALS]
    chances = [p for _, p in ARRIVALS]
    for episode in range(episodes):
        shown = paid = int(rng.integers(3))
        bays = [cars[1 + k] for k in rng.integers(8, size=3)]
        for step in range(50):
            if step and preset == "code":
                paid = int(rng.choice(3, p=CHAIN[PRICES[shown]]))
            charges = ChargingModel(preset, 3).actions[policy[shown, *(BAY_STATES.index(car) for car in bays)]]
            totals[episode] += 0.9**step * sum(reward(PRICES[paid], c, a) for c, a in zip(bays, charges, strict=True))
            moved = []
            for car, charge in zip(bays, charges, strict=True):
                new = followers(car, charge)
                moved.append(new[0][0] if len(new) == 1 else cars[rng.choice(9, p=chances)])
            bays = moved
            if preset == "code":
                shown = paid
            else:
                shown = paid = int(rng.choice(3, p=CHAIN[PRICES[shown]]))
    return totals


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["text", "code"])
def test_play_returns_what_policy_evaluation_says(preset):
    model = ChargingModel(preset, 3)
    policy = HEURISTICS["greedy"](model)
    returns = play(preset, policy, 600, np.random.default_rng(0))
    exact = start_value(model, policy_values(model, policy, steps=50))
    assert abs(returns.mean() - exact) < 4 * returns.std() / math.sqrt(len(returns))


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (np.zeros((3, 12), int), r"integers of shape \(3, 12, 12\) or floats of shape \(3, 4\), got int64 of shape"),
        (
            np.full((3, 12, 12), 3),
            r"infeasible joint actions, the first at \(2, 0, 0\): 3; expected one of \[0, 1, 2\]",
        ),
        (np.full((3, 12, 12), -1), r"432 infeasible joint actions, the first at \(0, 0, 0\): -1"),
        (np.full((3, 4), 0.3), r"must sum to 1 at each price, got \[1\.2 1\.2 1\.2\]"),
        (np.full((3, 4), 0.25), "plays joint action 3, infeasible at price 2"),
    ],
)
def test_a_bad_policy_is_refused_with_what_is_wrong(policy, message):
    with pytest.raises(ContractError, match=message):
        policy_values(ChargingModel("text", 2), policy)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "txt"}, "unknown preset 'txt': did you mean .*'text'"),
        ({"n_bays": 6}, r"n_bays must be an integer in 1\.\.5, got 6"),
        ({"n_bays": 2.0}, r"n_bays must be an integer in 1\.\.5, got 2\.0"),
        ({"preset": "code", "n_bays": 1}, r"n_bays must be an integer in 2\.\.5, got 1"),
    ],
)
def test_a_bad_instance_is_refused(given, message):
    with pytest.raises(RegistryError, match=message):
        ChargingModel(**given)


def test_all_laws_sum_to_one():
    for law in (charging.PRICE_MOVES, charging.bay_moves(), charging.arrivals(), charging.first_bays()):
        np.testing.assert_allclose(law.sum(axis=-1), 1.0)


@pytest.mark.slow
def test_five_bays_are_solved_and_lie_between_edf_and_the_bound():
    model = ChargingModel("code", 5)
    values = optimal_solution(model).values
    edf = policy_values(model, HEURISTICS["edf"](model))
    assert values.shape == (3, 12, 12, 12, 12, 12)
    assert 0 < start_value(model, values) - start_value(model, edf) < 0.02 * start_value(model, values)
