"""Q-learning and weakly coupled Q-learning: tables against a slow oracle, the bound against exact values."""

import itertools

import numpy as np
import pytest
from safemarl_bench.baselines.ql import QL
from safemarl_bench.baselines.wcql import WCQL, multiplier_grid

from safemarl_bench.errors import CheckpointError, ContractError
from safemarl_bench.rng import generator
from safemarl_bench.testing import check_agent
from safemarl_bench.weakly_coupled import tables, tabular
from safemarl_bench.weakly_coupled.charging import PRICE_MOVES, ChargingModel
from safemarl_bench.weakly_coupled.charging_bays import solve_bay
from safemarl_bench.weakly_coupled.charging_exact import action_values, stationary_solution

SMALL = {"lam_count": 7, "reward_bound": 0.8}
BY_PRICE = {"lam_by_exogenous": True, "lam_levels": 3, "lam_max": 1.0}


class Oracle:
    """Equations (7) to (11) with dictionaries, one number at a time."""

    def __init__(self, agent, multipliers=((),), initial=lambda w, s, a: 0.0):
        self.problem, self.gamma = agent.context.weakly_coupled, agent.context.gamma
        self.multipliers, self.initial = multipliers, initial
        self.q, self.visits, self.sub, self.sub_visits, self.met = {}, {}, {}, {}, [0] * 3
        self.earned = {}

    def start_bounds(self, reward_bound):
        states = itertools.product(range(self.problem.n_subproblems), range(3), range(12), range(2))
        for i, w, s, a in states:
            for number, lam in enumerate(self.multipliers):
                self.sub[i, w, s, a, number] = reward_bound / (1 - self.gamma) - lam[w] * a
        top = int(self.problem.capacity.max()) / (1 - self.gamma)
        groups = {tuple(lam[w] for lam in self.multipliers) for w in range(3)}
        self.by_price = len(groups) > 1
        self.earned = {(w, v): top for w in range(3) for v in (range(3) if self.by_price else (0,))}

    def bound(self, w, s, a):
        if not self.sub:
            return float("inf")
        totals = []
        for number, lam in enumerate(self.multipliers):
            total = sum(lam[v] * self.earned[w, v] for v in range(3)) if self.by_price else lam[0] * self.earned[w, 0]
            for i, use in enumerate(self.problem.allocations[a]):
                total += self.sub[i, w, s[i], use, number]
            totals.append(total)
        return min(totals)

    def projected(self, w, s, a):
        return min(self.q.get((w, s, a), self.initial(w, s, a)), self.bound(w, s, a))

    def feasible(self, w):
        return np.flatnonzero(self.problem.feasible[w]).tolist()

    def learn(self, w, s, a, rewards, w2, s2):
        use, rate = self.problem.allocations[a], lambda n: float(n + 1) ** -0.4
        if self.sub:
            for i in range(len(s)):
                key = (i, w, s[i], int(use[i]))
                for number, lam in enumerate(self.multipliers):
                    later = max(self.sub[i, w2, s2[i], b, number] for b in range(2))
                    target = rewards[i] - lam[w] * use[i] + self.gamma * later
                    step = float(self.sub_visits.get(key, 0) + 1) ** -0.7
                    self.sub[(*key, number)] += step * (target - self.sub[(*key, number)])
                self.sub_visits[key] = self.sub_visits.get(key, 0) + 1
            for v in range(3) if self.by_price else (0,):
                now = self.problem.capacity[w] if v == w or not self.by_price else 0
                target = now + self.gamma * self.earned[w2, v]
                self.earned[w, v] += float(self.met[w] + 1) ** -0.7 * (target - self.earned[w, v])
            self.met[w] += 1
        target = sum(rewards) + self.gamma * max(self.projected(w2, s2, b) for b in self.feasible(w2))
        old = self.q.get((w, s, a), self.initial(w, s, a))
        self.q[w, s, a] = old + rate(self.visits.get((w, s, a), 0)) * (target - old)
        self.visits[w, s, a] = self.visits.get((w, s, a), 0) + 1
        for b in self.feasible(w):
            self.q[w, s, b] = self.projected(w, s, b)

    def learn_all(self, transitions):
        for t in transitions:
            before, after = t.observation.sub_problems, t.next_observation.sub_problems
            for k, action in enumerate(t.actions["operator"].tolist()):
                self.learn(
                    int(before.exogenous[k]),
                    tuple(before.states[k].tolist()),
                    action,
                    t.sub_rewards[k].tolist(),
                    int(after.exogenous[k]),
                    tuple(after.states[k].tolist()),
                )


def row_of(agent, w, s):
    number = w
    for state in s:
        number = number * 12 + state
    return int(np.flatnonzero(agent.table.states[: int(agent.table.used[0])] == number)[0])


@pytest.mark.parametrize("preset", ["text", "code"])
def test_q_learning_fills_the_table_that_a_dictionary_gets(make_agent, play, preset):
    model = ChargingModel(preset, 2)
    agent = make_agent(QL, model)
    transitions = play(model, 6, seed=1).train(agent, 120)
    oracle = Oracle(agent)
    oracle.learn_all(transitions)
    assert len({key[:2] for key in oracle.q}) == agent.table.used[0] > 100
    for (w, s, a), value in oracle.q.items():
        assert agent.table.values[row_of(agent, w, s), a] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("config", [SMALL, SMALL | BY_PRICE], ids=["one multiplier", "one for each price"])
@pytest.mark.parametrize("preset", ["text", "code"])
def test_weakly_coupled_q_learning_fills_the_tables_that_dictionaries_get(make_agent, play, preset, config):
    model = ChargingModel(preset, 2)
    agent = make_agent(WCQL, model, **config)
    transitions = play(model, 6, seed=1).train(agent, 120)
    grid, group = multiplier_grid(agent.config, 3)
    oracle = Oracle(agent, grid[:, group].tolist(), initial=lambda w, s, a: 2 * 0.8 / (1 - 0.9))
    oracle.start_bounds(0.8)
    oracle.learn_all(transitions)
    for (i, w, s, a, number), value in oracle.sub.items():
        assert agent.tables.values[i, w, s, a, number] == pytest.approx(value, abs=1e-11)
    for key, value in oracle.earned.items():
        assert agent.tables.earned[key] == pytest.approx(value, abs=1e-11)
    for (w, s, a), value in oracle.q.items():
        assert agent.table.values[row_of(agent, w, s), a] == pytest.approx(value, abs=1e-11)
    seen = np.array([(w, *s) for w, s, _ in oracle.q])
    for (w, *s), bound in zip(seen.tolist(), agent.bounds(seen[:, 0], seen[:, 1:]), strict=True):
        assert np.isinf(bound[~model.feasible[w]]).all()
        for a in oracle.feasible(w):
            assert bound[a] == pytest.approx(oracle.bound(w, tuple(s), a), abs=1e-11)


def test_cuts_are_counted_where_the_bound_is_below_what_was_learned(make_agent, play):
    model = ChargingModel("text", 2)
    agent = make_agent(WCQL, model, lam_count=3)
    play(model, 6, seed=1).train(agent, 100)
    assert agent.cuts > 0
    assert agent.metrics()["cuts"] == agent.cuts / 600


@pytest.mark.parametrize("agent_class", [QL, WCQL])
def test_without_numba_the_same_source_gives_the_same_tables(make_agent, play, agent_class, monkeypatch):
    model = ChargingModel("text", 2)
    tables = []
    for plain in (False, True):
        if plain:
            for name, function in list(vars(tabular).items()):
                if hasattr(function, "py_func"):
                    monkeypatch.setattr(tabular, name, function.py_func)
        agent = make_agent(agent_class, model)
        play(model, 6, seed=2).train(agent, 40)
        tables.append((agent.table, agent.tables))
    for compiled, interpreted in zip(*tables, strict=True):
        for name, one, other in zip(compiled._fields, compiled, interpreted, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def exact_action_values(model):
    """Return Q* at every decision but the first, (A, 3, 12, ..., 12), and where an action is feasible."""
    after = stationary_solution(model).values
    values = np.stack([worth for _, worth in action_values(model, after, 0.9, first=False)])
    feasible = np.broadcast_to(model.feasible.T.reshape(len(values), 3, *[1] * model.n_bays), values.shape)
    return values, feasible


def all_states(model):
    grid = np.indices((3, *[12] * model.n_bays)).reshape(1 + model.n_bays, -1).T
    return np.ascontiguousarray(grid[:, 0]), np.ascontiguousarray(grid[:, 1:])


@pytest.mark.parametrize("config", [{}, BY_PRICE], ids=["one multiplier", "one for each price"])
@pytest.mark.parametrize(("preset", "n_bays"), [("text", 2), ("code", 2), ("text", 3)])
def test_the_bound_of_exact_sub_values_is_nowhere_below_the_optimum(make_agent, preset, n_bays, config):
    model = ChargingModel(preset, n_bays)
    agent = make_agent(WCQL, model, **config)
    lam = agent.tables.multipliers[:, agent.tables.group]
    bay = np.moveaxis(solve_bay(model, lam), 0, -1)  # (3, 2, 12, L)
    agent.tables.values[:] = bay.transpose(0, 2, 1, 3)
    later = np.linalg.inv(np.eye(3) - 0.9 * PRICE_MOVES)
    by_group = np.zeros((3, agent.tables.multipliers.shape[1]))
    by_group[np.arange(3), agent.tables.group] = model.rules.capacity
    agent.tables.earned[:] = later @ by_group
    exact, feasible = exact_action_values(model)
    bounds = agent.bounds(*all_states(model)).T.reshape(exact.shape)
    assert (bounds[feasible] >= exact[feasible] - 1e-7).all()
    assert (bounds[feasible] - exact[feasible]).min() < 0.5


@pytest.mark.parametrize("config", [{}, BY_PRICE], ids=["one multiplier", "one for each price"])
@pytest.mark.parametrize(("preset", "n_bays"), [("text", 3), ("code", 2)])
def test_the_bound_holds_at_the_first_step(make_agent, preset, n_bays, config):
    model = ChargingModel(preset, n_bays)
    agent = make_agent(WCQL, model, **config)
    exact, feasible = exact_action_values(model)
    bounds = agent.bounds(*all_states(model)).T.reshape(exact.shape)
    assert (bounds[feasible] >= exact[feasible]).all()


def test_the_official_start_is_below_the_optimum_almost_everywhere(make_agent):
    model = ChargingModel("code", 3)
    agent = make_agent(WCQL, model, official=True)
    assert agent.tables.multipliers[[0, 1, -1], 0].tolist() == [0.0, 0.01, 10.0]
    exact, feasible = exact_action_values(model)
    bounds = agent.bounds(*all_states(model)).T.reshape(exact.shape)
    assert (bounds[feasible] < exact[feasible]).mean() > 0.99


@pytest.mark.parametrize("agent_class", [QL, WCQL])
def test_what_an_untried_action_starts_with_is_the_same_whenever_its_state_is_first_met(make_agent, play, agent_class):
    model = ChargingModel("text", 2)
    early, late = (make_agent(agent_class, model, official=True) for _ in range(2))
    play(model, 6, seed=3).train(late, 30)
    number = tabular.state_number(early.coupling.radix, 2, np.array([3, 4]))
    first = early.table.initial[(number * 4 + np.arange(4)) % len(early.table.initial)]
    assert len(set(first.tolist())) == 4
    np.testing.assert_array_equal(early.table.initial, late.table.initial)
    np.testing.assert_array_equal(early.table.initial, generator("init", 4).random(65_537))


@pytest.mark.parametrize("agent_class", [QL, WCQL])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(make_agent, play, agent_class, tmp_path):
    model, halves = ChargingModel("code", 3), {"changes": {"num_envs": 6}, "official": True}
    through, game = make_agent(agent_class, model, **halves), play(model, 6, seed=5)
    game.train(through, 260)
    first, game = make_agent(agent_class, model, **halves), play(model, 6, seed=5)
    game.train(first, 130)
    first.save(tmp_path / "half", training=True)
    second = make_agent(agent_class, model, **halves)
    second.load(tmp_path / "half")
    game.train(second, 130)
    used = int(through.table.used[0])
    assert used == second.table.used[0] > 600
    for name in ("states", "values", "visits", "seen"):
        np.testing.assert_array_equal(getattr(through.table, name)[:used], getattr(second.table, name)[:used])
    for name in through.tables._fields:
        np.testing.assert_array_equal(getattr(through.tables, name), getattr(second.tables, name))
    assert (through.cuts, through.decisions) == (second.cuts, second.decisions)


@pytest.mark.parametrize("agent_class", [QL, WCQL])
def test_a_saved_policy_acts_as_the_agent_that_saved_it(make_agent, play, agent_class, tmp_path):
    model = ChargingModel("text", 3)
    agent = make_agent(agent_class, model)
    play(model, 6, seed=6).train(agent, 200)
    agent.save(tmp_path / "policy", training=False)
    copy = make_agent(agent_class, model)
    copy.load(tmp_path / "policy")
    np.testing.assert_array_equal(agent.greedy(*all_states(model))[0], copy.greedy(*all_states(model))[0])


def test_a_checkpoint_of_another_agent_or_game_is_refused(make_agent, tmp_path):
    make_agent(QL, ChargingModel("text", 2)).save(tmp_path, training=True)
    with pytest.raises(CheckpointError, match="is of agent 'QL', not 'WCQL'"):
        make_agent(WCQL, ChargingModel("text", 2)).load(tmp_path)
    with pytest.raises(CheckpointError, match="'values' must have shape"):
        make_agent(QL, ChargingModel("text", 3)).load(tmp_path)


def test_a_table_that_grows_finds_every_state_again():
    numbers = np.random.default_rng(0).permutation(10**14 + np.arange(0, 4 * 10**7, 9973))[:3000]
    table = tables.empty_table(2, np.zeros(1), rows=4)
    for start in range(0, len(numbers), 100):
        table = tabular.with_room(table, 100)
        for number in numbers[start : start + 100]:
            table.values[tabular._row(table, number)] = number % 97
    assert table.used[0] == len(numbers)
    for number in numbers:
        assert table.values[tabular._row(table, number), 0] == number % 97
    assert table.used[0] == len(numbers)


def test_exploring_draws_every_feasible_action_alike_at_a_first_visit(make_agent, play):
    model = ChargingModel("text", 3)
    agent = make_agent(QL, model)
    observation = play(model, 6000, seed=0).look()
    chosen = agent.act(observation, explore=True, rng=generator("explore", 0))["operator"]
    for price in range(3):
        counts = np.bincount(chosen[observation.sub_problems.exogenous == price], minlength=8)
        assert (counts[~model.feasible[price]] == 0).all()
        expected = counts.sum() / model.feasible[price].sum()
        assert (np.abs(counts[model.feasible[price]] - expected) < 5 * expected**0.5).all()


def test_a_reward_above_its_bound_is_named(make_agent, play):
    model = ChargingModel("text", 2)
    with pytest.raises(ContractError, match=r"'reward_bound' must be .*, got 0.5 and a reward of 0.8"):
        play(model, 6, seed=1).train(make_agent(WCQL, model, reward_bound=0.5), 50)


def test_bad_settings_are_named(make_agent):
    model = ChargingModel("text", 2)
    with pytest.raises(ContractError, match="not weakly coupled"):
        make_agent(QL, model, {"weakly_coupled": None})
    for key, value, expected in (
        ("alpha_exponent", 1.5, r"in \[0, 1\]"),
        ("beta_exponent", -0.1, r"in \[0, 1\]"),
        ("lam_max", -1.0, "not be negative"),
        ("lam_count", 0, "at least 1"),
    ):
        with pytest.raises(ContractError, match=f"config key '{key}' must .*{expected}, got {value}"):
            make_agent(WCQL, model, **{key: value})
    with pytest.raises(ContractError, match="more than 100,000,000 cells: set a smaller lam_count"):
        make_agent(WCQL, model, lam_by_exogenous=True, lam_levels=200)
    with pytest.raises(ContractError, match="discount below 1"):
        make_agent(WCQL, model, {"gamma": 1.0})


def test_a_greedy_action_that_is_infeasible_is_a_breach_of_the_contract():
    class Idler(QL):
        def act(self, observation, *, explore, rng):
            actions = super().act(observation, explore=explore, rng=rng)
            return actions if explore else {self.operator: np.zeros_like(actions[self.operator])}

    with pytest.raises(ContractError, match="a greedy action is infeasible"):
        check_agent(Idler, "ev_charging-code")
