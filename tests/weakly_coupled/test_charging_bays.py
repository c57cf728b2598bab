"""One bay that pays for the charger: weak duality, the linear program of the bound, and the Whittle index."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_bays import (
    bay_action_values,
    capacity_values,
    lagrangian_bound,
    lagrangian_value,
    solve_bay,
    whittle_index,
)
from safemarl_bench.weakly_coupled.charging_exact import (
    action_values,
    optimal_solution,
    start_value,
    stationary_solution,
)

MULTIPLIERS = st.tuples(*[st.floats(0.0, 2.0)] * 3)


@pytest.mark.parametrize("preset", ["text", "code"])
@settings(max_examples=25, deadline=None)
@given(lam=MULTIPLIERS)
def test_the_relaxed_values_bound_the_optimal_ones_in_every_state_and_for_every_feasible_action(preset, lam):
    model, lam = ChargingModel(preset, 2), np.array(lam)
    optimal = stationary_solution(model).values
    bays = solve_bay(model, lam)
    later = np.linalg.solve(np.eye(3) - 0.9 * np.array([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]), np.eye(3))
    chargers = later @ (lam * np.array(model.rules.capacity))
    for action, worth in action_values(model, optimal, 0.9, first=False):
        first, second = model.actions[action]
        relaxed = chargers[:, None, None] + bays[:, first, :, None] + bays[:, second, None, :]
        feasible = model.feasible[:, action]
        assert (relaxed[feasible] >= worth[feasible] - 1e-9).all()


@pytest.mark.parametrize("preset", ["text", "code"])
@settings(max_examples=25, deadline=None)
@given(lam=MULTIPLIERS)
def test_every_multiplier_bounds_the_optimum_and_none_is_below_the_linear_programs(preset, lam):
    model = ChargingModel(preset, 3)
    value = lagrangian_value(model, np.array(lam))
    assert value >= start_value(model, optimal_solution(model).values) - 1e-9
    assert value >= lagrangian_bound(model, by_price=True).value - 1e-9


@pytest.mark.parametrize(("preset", "n_bays"), [("text", 3), ("text", 5), ("code", 2), ("code", 4)])
def test_the_linear_program_with_one_multiplier_finds_what_a_line_search_finds(preset, n_bays):
    model = ChargingModel(preset, n_bays)
    bound = lagrangian_bound(model, by_price=False)
    assert (bound.lam == bound.lam[0]).all()
    low = 0.0 if preset == "text" else -2.0
    search = minimize_scalar(
        lambda lam: lagrangian_value(model, np.full(3, lam)),
        bounds=(low, 2.0),
        method="bounded",
        options={"xatol": 1e-7},
    )
    assert bound.value == pytest.approx(search.fun, abs=1e-5)
    assert lagrangian_bound(model, by_price=True).value <= bound.value + 1e-9


def test_the_duality_bound_of_three_bays_is_what_another_program_found():
    assert lagrangian_bound(ChargingModel("text", 3), by_price=False).value == pytest.approx(8.932, abs=5e-4)


@pytest.mark.parametrize("preset", ["text", "code"])
def test_policy_iteration_solves_the_bays_optimality_equation(preset):
    model = ChargingModel(preset, 2)
    lam = np.random.default_rng(0).uniform(-1, 2, (7, 3))
    found = solve_bay(model, lam)
    np.testing.assert_allclose(bay_action_values(model, lam, found.max(axis=-2)), found, atol=1e-10)
    np.testing.assert_array_equal(solve_bay(model, lam[3]), found[3])


def test_what_the_chargers_earn_is_the_discounted_sum_over_the_prices_shown():
    moves, lam = np.array([[0.4, 0.3, 0.3], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]), np.array([0.3, 0.1, 0.7])
    for preset, capacity, shown_twice in (("text", (3, 2, 1), False), ("code", (2, 2, 1), True)):
        law, total = np.eye(3), np.zeros(3)
        for step in range(400):
            total += 0.9**step * law @ (lam * np.array(capacity))
            law = law if shown_twice and step == 0 else law @ moves
        np.testing.assert_allclose(capacity_values(ChargingModel(preset, 2), lam), total)


@pytest.mark.parametrize("preset", ["text", "code"])
def test_at_its_whittle_index_a_bay_is_indifferent_and_charging_ever_less_attractive(preset):
    model = ChargingModel(preset, 2)
    index = whittle_index(model)
    price, state = np.indices((3, 12))
    for shift, sign in ((-0.05, 1), (0.0, 0), (0.05, -1)):
        worth = solve_bay(model, np.repeat((index + shift)[..., None], 3, axis=-1))
        gain = worth[price, state, price, 1, state] - worth[price, state, price, 0, state]
        assert (np.sign(np.round(gain, 8)) == sign).all()
