"""The game of two operators: rules by hand, play against the exact optimum, and the batch against single games."""

import functools
import math

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench.collection import BatchedGames, make_games
from safemarl_bench.contract import Observation
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
from safemarl_bench.runner import build_agent, resolve_cell
from safemarl_bench.weakly_coupled.charging import BAY_STATES, ChargingModel
from safemarl_bench.weakly_coupled.charging_core import BatchedCharging
from safemarl_bench.weakly_coupled.charging_exact import optimal_solution, policy_values, start_value
from safemarl_bench.weakly_coupled.charging_policies import HEURISTICS, uniform

SUITE = "ev_charging-game"
HORIZON = 50


def placed(price, *cars, clock=3):
    """A core of one game with these (D, B) in its bays."""
    core = BatchedCharging(len(cars), HORIZON, 1)
    core.set_state(np.array([[price, clock, *(BAY_STATES.index(car) for car in cars)]]))
    return core


@pytest.mark.parametrize(
    ("price", "leader", "follower", "charged", "cost"),
    [
        (0, 0b11, 1, [1, 1, 1], 0.0),  # three chargers: all
        (1, 0b11, 1, [0, 1, 1], 1.0),  # two: laxities 2, 0, 1
        (1, 0b10, 1, [1, 0, 1], 0.0),  # within capacity: what is wanted
        (2, 0b11, 0, [0, 1, 0], 1.0),  # one charger: the leader's own two are too many
        (2, 0b00, 0, [0, 0, 0], 0.0),
    ],
)
def test_the_most_urgent_charges_are_kept_and_both_pay_for_a_surplus(price, leader, follower, charged, cost):
    core = placed(price, (4, 2), (1, 1), (3, 2))
    step = core.step(np.array([[leader, follower]]))
    assert step.charged[0].tolist() == [bool(bay) for bay in charged]
    tariff = (0.2, 0.5, 0.8)[price]
    first = sum((1 - tariff) * bay for bay in charged[:2]) - 0.2 * (1 - charged[1]) ** 2
    assert step.reward[0].tolist() == pytest.approx([first, (1 - tariff) * charged[2]])
    assert step.cost[0].tolist() == [[cost], [cost]]


def test_a_bay_that_needs_nothing_comes_last_and_ties_go_to_the_lower_bay():
    step = placed(2, (2, 0), (3, 1), (3, 1)).step(np.array([[0b11, 1]]))
    assert step.charged[0].tolist() == [False, True, False]
    assert placed(1, (2, 0), (1, 0), (3, 0)).step(np.array([[0b11, 1]])).charged[0].tolist() == [True, True, False]


def test_cars_count_down_and_leave_whether_charged_or_not():
    core = placed(0, (4, 2), (2, 1), (1, 2))
    core.step(np.array([[0b10, 0]]))
    assert [BAY_STATES[bay] for bay in core.get_state()[0, 2:4]] == [(3, 1), (1, 1)]


def exact_returns(episodes, act):
    """Return undiscounted total returns and costs of many games, (E,) each; act(state) -> joint actions."""
    core = BatchedCharging(3, HORIZON, episodes)
    core.reset(seeds=7)
    returns, costs = np.zeros(episodes), np.zeros(episodes)
    for _ in range(HORIZON):
        joint = act(core.get_state())
        step = core.step(np.stack([joint // 2, joint % 2], axis=1))
        returns += step.reward.sum(axis=1)
        costs += step.cost[:, 0, 0]
    assert step.over.all()
    return returns, costs


def assert_mean(values, expected):
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))


def test_the_games_returns_under_the_best_policy_are_those_of_the_dynamic_program():
    model = ChargingModel("text", 3)
    best = optimal_solution(model, steps=None).actions
    returns, costs = exact_returns(1500, lambda state: best[tuple(state[:, [0, 2, 3, 4]].T)])
    assert_mean(returns, start_value(model, policy_values(model, best, steps=HORIZON, gamma=1.0)))
    assert costs.max() == 0


def test_the_games_returns_under_uniform_feasible_play_are_those_of_the_dynamic_program():
    model, rng = ChargingModel("text", 3), np.random.default_rng(0)
    ranks = np.cumsum(uniform(model), axis=1)

    def act(state):
        return (rng.random((len(state), 1)) >= ranks[state[:, 0], :-1]).sum(axis=1)

    returns, costs = exact_returns(1500, act)
    assert_mean(returns, start_value(model, policy_values(model, uniform(model), steps=HORIZON, gamma=1.0)))
    assert costs.max() == 0


def test_a_batch_plays_what_single_games_play():
    rng, cores = np.random.default_rng(1), [BatchedCharging(3, HORIZON, size) for size in (4, 1, 1, 1, 1)]
    whole, *single = cores
    whole.reset(seeds=5, episodes=np.array([3, 0, 9, 3]), stream="evaluation")
    for core, episode in zip(single, (3, 0, 9, 3), strict=True):
        core.reset(seeds=5, episodes=episode, stream="evaluation")
    for _ in range(HORIZON):
        actions = np.stack([rng.integers(4, size=4), rng.integers(2, size=4)], axis=1)
        shown = whole.step(actions)
        for k, core in enumerate(single):
            alone = core.step(actions[k : k + 1])
            assert all(np.array_equal(one[k], other[0]) for one, other in zip(shown, alone, strict=True))


def test_a_finished_game_stays_as_it_is_until_it_is_reset():
    core = placed(0, (4, 2), (2, 1), (2, 1), clock=HORIZON - 1)
    last, after = (core.step(np.array([[3, 1]])) for _ in range(2))
    assert (last.over[0], last.truncated[0], after.over[0], after.truncated[0]) == (True, True, True, False)
    np.testing.assert_array_equal(last.state, after.state)
    assert not after.reward.any()
    assert not after.cost.any()


def test_training_games_are_batched_and_resume_in_mid_episode():
    make = functools.partial(smb.make, SUITE)
    games, again = (make_games(smb.get_suite(SUITE), make(), make, 3, 0) for _ in range(2))
    assert isinstance(games, BatchedGames)
    rng = np.random.default_rng(0)
    for step in range(70):
        if step == 60:
            again.restore(games.save())
        actions = {"leader": rng.integers(4, size=3), "follower": rng.integers(2, size=3)}
        transition, finished = games.step(actions, by="test")
        if step >= 60:
            other, also = again.step(actions, by="test")
            np.testing.assert_array_equal(transition.next_observation.state, other.next_observation.state)
            np.testing.assert_array_equal(transition.rewards["leader"], other.rewards["leader"])
            assert finished == also


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([[4, 0]]), r"action 0 in game 0 must be in 0\.\.3, got 4"),
        (np.array([[0, -1]]), r"action 1 in game 0 must be in 0\.\.1, got -1"),
        (np.zeros((2, 2), int), r"integers of shape \(1, 2\), got int64 \(2, 2\)"),
        (np.zeros((1, 2)), r"integers of shape \(1, 2\), got float64"),
        ([[0, 0]], "got list"),
    ],
)
def test_bad_actions_are_refused_and_move_nothing(actions, message):
    core = placed(0, (4, 2), (2, 1), (1, 2))
    before = core.get_state()
    with pytest.raises(ContractError, match=message):
        core.step(actions)
    np.testing.assert_array_equal(core.get_state(), before)


def test_bad_keys_states_and_settings_are_refused():
    core = BatchedCharging(3, HORIZON, 2)
    for given in ({"mask": np.ones(3, bool)}, {"seeds": np.zeros(3, int)}, {"seeds": -1}, {"stream": "tests"}):
        with pytest.raises(SafeMARLBenchError):
            core.reset(**given)
    with pytest.raises(ContractError, match=r"state\[0, 2\] must be in 0\.\.11, got 12"):
        core.set_state(np.array([[0, 0, 12, 0, 0]] * 2))
    with pytest.raises(ContractError, match=r"int64 of shape \(2, 5\)"):
        core.set_state(np.zeros((2, 4), np.int64))
    with pytest.raises(RegistryError, match=r"n_bays must be an integer in 1\.\.5, got 9"):
        smb.make(SUITE, n_bays=9)
    with pytest.raises(RegistryError, match="n_bays must be at least 2, one for each operator, got 1"):
        smb.make(SUITE, n_bays=1)
    with pytest.raises(RegistryError, match="no setting 'bays': did you mean 'n_bays'"):
        smb.make(SUITE, bays=3)
    with pytest.raises(RegistryError, match="draws nothing"):
        smb.make(SUITE, render_mode="human")
    with pytest.raises(SafeMARLBenchError, match="num_envs must be at least 1, got 0"):
        BatchedCharging(3, HORIZON, 0)


def test_the_game_refuses_steps_without_an_episode_and_foreign_actions():
    game = smb.make(SUITE)
    with pytest.raises(ContractError, match="call reset first"):
        game.step({"leader": 0, "follower": 0})
    game.reset(seed=0)
    with pytest.raises(ContractError, match="action of 'leader' must be in Discrete"):
        game.step({"leader": 4, "follower": 0})
    with pytest.raises(ContractError, match="one action for each live agent"):
        game.step({"leader": 0})


def test_the_games_optimum_is_the_undiscounted_one_of_fifty_decisions():
    assert smb.make(SUITE).optimum() == pytest.approx(41.6084, rel=5e-6)


def test_edf_keeps_the_capacity_and_plays_as_its_table_says():
    model = ChargingModel("text", 3)
    table = HEURISTICS["edf"](model)
    agent = build_agent(resolve_cell(SUITE, "edf", budget="smoke"), smb.make(SUITE))
    core, none = BatchedCharging(3, HORIZON, 200), np.random.default_rng(0)
    shown = core.reset(seeds=3)
    for _ in range(HORIZON):
        state = core.get_state()
        alive = dict.fromkeys(("leader", "follower"), np.ones(200, bool))
        seen = Observation({"leader": shown.obs[:, 0], "follower": shown.obs[:, 1]}, shown.state, alive, state[:, 1])
        actions = agent.act(seen, explore=False, rng=none)
        np.testing.assert_array_equal(
            actions["leader"] * 2 + actions["follower"], table[tuple(state[:, [0, 2, 3, 4]].T)]
        )
        shown = core.step(np.stack([actions["leader"], actions["follower"]], axis=1))
        assert not shown.cost.any()
