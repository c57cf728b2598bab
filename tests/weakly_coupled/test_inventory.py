"""Inventory control: rules by hand from the paper's table, play against a plain loop, the bracket of the optimum."""

import math

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench.errors import ContractError, RegistryError, SafeMARLBenchError
from safemarl_bench.registry import get_agent, get_suite, make_context
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled import inventory, inventory_policies, inventory_program
from safemarl_bench.weakly_coupled.inventory import InventoryModel
from safemarl_bench.weakly_coupled.inventory_game import BatchedInventory
from safemarl_bench.weakly_coupled.time_multipliers import dual, least_bound

PAPER = {  # Table 1: R, M, mean demand, h, b, l
    1: (20, 5, 0.3, 0.1, 3.0, 30.1),
    2: (30, 5, 0.7, 0.2, 1.2, 3.3),
    3: (10, 5, 0.5, 0.05, 5.15, 10.05),
    4: (15, 5, 1.0, 0.3, 1.3, 3.9),
    5: (10, 5, 1.4, 0.2, 1.1, 3.7),
    6: (10, 5, 0.9, 0.5, 1.1, 3.6),
    7: (25, 5, 1.1, 0.3, 10.3, 40.3),
    8: (30, 5, 1.2, 0.4, 1.05, 4.5),
    9: (15, 5, 0.3, 0.15, 1.0, 12.55),
    10: (10, 5, 0.6, 0.12, 3.1, 44.1),
}


def by_hand(stocks, rate, use, demand):
    """Return (rewards, next stocks) of one decision, product by product."""
    rewards, after = [], []
    for k, (most, owed, _, h, b, lost) in enumerate(PAPER.values()):
        y = stocks[k] + 12 * rate * use[k] / (5.971 + use[k])
        cost = h * max(y, 0) + b * max(-y, 0) + lost * max(max(demand[k] - y, 0) - owed, 0)
        rewards.append(-cost)
        after.append(max(min(y - demand[k], most), -owed))
    return rewards, after


def test_joint_actions_are_all_ways_to_use_three_units_at_most():
    table = inventory.allocations()
    assert len({tuple(use) for use in table.tolist()}) == len(table) == math.comb(13, 3) == 286
    assert table.min() == 0
    assert table.sum(axis=1).max() == 3
    assert table[0].sum() == 0


def test_a_game_is_the_plain_loop_with_its_own_draws():
    core, rng = BatchedInventory(InventoryModel(3), 25, 4), np.random.default_rng(0)
    core.reset(seeds=7, episodes=np.arange(20, 24))
    for k in range(4):
        draws = generator("train", 7, 20 + k).random((26, 11))
        stocks, rate = [10.0] * 10, 0
        copy = BatchedInventory(InventoryModel(3), 25, 1)
        shown = copy.reset(seeds=7, episodes=20 + k)
        for t in range(25):
            assert shown.state[0] == pytest.approx([0.8 + 0.05 * rate, *stocks], abs=1e-5)
            assert shown.exogenous[0] == rate
            action = int(rng.integers(286))
            demand = []
            for u, (_, _, mean, *_) in zip(draws[t, 1:], PAPER.values(), strict=True):
                chance = below = math.exp(-mean)
                count = 0
                while u >= below:
                    count += 1
                    chance *= mean / count
                    below += chance
                demand.append(count)
            rewards, stocks = by_hand(stocks, 0.8 + 0.05 * rate, inventory.allocations()[action], demand)
            shown = copy.step(np.array([[action]]))
            assert shown.sub_rewards[0] == pytest.approx(rewards, abs=1e-9)
            assert shown.reward[0, 0] == pytest.approx(sum(rewards), abs=1e-9)
            assert shown.sub_states[0].tolist() == [round(x) + 5 for x in stocks]
            rate = int((core.model.moves[rate].cumsum()[:-1] <= draws[t + 1, 0]).sum())
        assert shown.over.all()
        assert shown.truncated.all()


def test_a_game_goes_on_from_its_state_and_one_that_is_over_stays():
    core = BatchedInventory(InventoryModel(), 25, 3)
    actions = np.array([[5], [100], [285]])
    for _ in range(10):
        core.step(actions)
    state = core.get_state()
    one = [core.step(actions) for _ in range(15)]
    end = core.step(actions)
    assert (end.reward == 0).all()
    assert (end.state == one[-1].state).all()
    assert not end.truncated.any()
    core.set_state(state)
    for shown in one:
        assert (core.step(actions).sub_rewards == shown.sub_rewards).all()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(0, 5, r"0\..4, got 5"), (1, 26, r"0\..25"), (2, 20.5, r"-5\..20"), (11, -5.1, r"-5\..10"), (3, np.nan, "nan")],
)
def test_a_state_out_of_range_is_refused_and_changes_nothing(column, value, message):
    core = BatchedInventory(InventoryModel(), 25, 2)
    before = core.get_state()
    wrong = before.copy()
    wrong[1, column] = value
    with pytest.raises(ContractError, match=rf"state\[1, {column}\] must be in .*{message}"):
        core.set_state(wrong)
    with pytest.raises(ContractError, match=r"state must be float64 of shape \(2, 12\)"):
        core.set_state(before[:1])
    assert (core.get_state() == before).all()


def test_rates_and_demands_have_the_stated_laws():
    core = BatchedInventory(InventoryModel(), 25, 4000)
    assert (core._rates[:, 0] == 0).all()
    means = core._demands.reshape(-1, 10).mean(axis=0)
    expected = np.array([row[2] for row in PAPER.values()])
    assert np.abs(means - expected).max() < 4 * np.sqrt(1.4 / (4000 * 26))
    assert core.model.moves.sum(axis=1) == pytest.approx(np.ones(5))
    assert not np.allclose(InventoryModel(1).moves, core.model.moves)


def test_the_bound_of_no_price_is_the_published_one():
    program = inventory_program.program(InventoryModel(), points=5)
    free, gradient = dual(program, np.zeros(25))
    assert free == pytest.approx(-177.3, abs=0.2), "the published figure is about -177"
    assert gradient[0] == pytest.approx(3.0), "nobody wants more at first: all stocks are 10"


def test_expected_rewards_of_the_program_are_means_of_the_simulator():
    core = BatchedInventory(InventoryModel(), 25, 20_000)
    action = 200
    shown = core.step(np.full((20_000, 1), action))
    stocks, edges = inventory_program.grid()
    rewards = inventory_program.program(InventoryModel()).rewards
    for i, use in enumerate(inventory.allocations()[action]):
        cell = int(np.flatnonzero(np.isclose(stocks[edges[i] : edges[i + 1]], 10.0))[0]) + edges[i]
        error = shown.sub_rewards[:, i].std() / np.sqrt(20_000)
        assert abs(shown.sub_rewards[:, i].mean() - rewards[0, use, cell]) <= 4 * error + 1e-9


@pytest.mark.slow
def test_the_bracket_is_the_published_one_and_a_finer_grid_changes_little(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = smb.reference("inventory")
    low, high = known.bounds
    assert low == known.heuristics["lagrangian_greedy"]
    assert low == pytest.approx(-257, abs=3)
    assert high == pytest.approx(-223, abs=1)
    assert known.random < known.heuristics["greedy"] < low
    finer = least_bound(inventory_program.program(InventoryModel(), points=20)).value
    assert finer == pytest.approx(high, abs=0.02)
    monkeypatch.setattr(inventory_policies, "least_bound", None)
    assert smb.reference("inventory") == known, "it is computed once"


def test_the_greedy_rule_has_the_least_expected_cost_of_this_decision():
    game, spec, agent_class = smb.make("inventory"), get_suite("inventory"), get_agent("greedy")
    agent = agent_class(make_context(spec, game, steps=0, seed=0, agent_class=agent_class), agent_class.Config())
    core = game.simulator(1)
    state = core.get_state()
    state[0, 0], state[0, 2:] = 3, [0.3, -2.0, 1.0, -4.5, 0.0, 2.0, -1.3, 3.0, 8.0, -5.0]
    shown = core.set_state(state)
    rule = core.rules()["greedy"]
    chosen = rule.play(_observation(shown))[0]
    chances = inventory.demand_chances()

    def expected(use):
        total = 0.0
        for k in range(10):
            for demand, chance in enumerate(chances[:, k]):
                one = np.zeros(10)
                one[k] = demand
                total += chance * by_hand(state[0, 2:], 0.95, use, one)[0][k]
        return total

    best = max(range(286), key=lambda a: expected(inventory.allocations()[a]))
    assert expected(inventory.allocations()[chosen]) == pytest.approx(
        expected(inventory.allocations()[best]), abs=0.05
    ), "but for what lies between two points of the grid"
    assert agent.stationary


def _observation(shown):
    from safemarl_bench.contract import Observation, SubProblems

    step = np.zeros(len(shown.state), np.int64)
    return Observation({}, shown.state, {}, step, SubProblems(shown.exogenous, shown.sub_states))


def test_settings_that_make_no_sense_are_named():
    with pytest.raises(SafeMARLBenchError, match="instance must be an integer"):
        smb.make("inventory", instance=-1)
    with pytest.raises(RegistryError, match="no setting 'instances': did you mean 'instance'"):
        smb.make("inventory", instances=1)
    core = BatchedInventory(InventoryModel(), 25, 1)
    with pytest.raises(ContractError, match=r"must be in 0\..285, got 286"):
        core.step(np.array([[286]]))
