"""The deep Q learners of weakly coupled games: targets by hand, masks, the schedule of updates, exact resumption."""

import numpy as np
import pytest
import torch
from safemarl_bench.baselines.dqn import DQN, DoubleDQN
from safemarl_bench.baselines.otdqn import OTDQN, lower_bounds, tightened, upper_bounds
from safemarl_bench.baselines.wcdqn import WCDQN, penalty_gradient, subproblem_targets

from safemarl_bench.contract import Observation
from safemarl_bench.errors import CheckpointError, ContractError
from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_operator import all_states, exact_value
from safemarl_bench.weakly_coupled.deep_q import Batch, action_gradient, masked, td_targets

LEARNERS = [DQN, DoubleDQN, OTDQN, WCDQN]
SHORT = {"batch_size": 8, "burn_in": 60, "update_interval": 6, "target_interval": 24, "learning_rate": 0.01}
TEXT = ChargingModel("text", 2)


def tensors(agent):
    return {name: tensor.clone() for name, tensor in agent.tensors(training=True).items()}


def some_batch(agent, count=5, seed=0):
    rng = np.random.default_rng(seed)
    problem, n = agent.problem, len(agent.features.names)
    exogenous = rng.integers(problem.n_exogenous, size=count)
    return Batch(
        torch.from_numpy(rng.normal(size=(count, n)).astype(np.float32)),
        torch.from_numpy(rng.normal(size=(count, n)).astype(np.float32)),
        torch.from_numpy(exogenous),
        torch.from_numpy(rng.integers(problem.n_exogenous, size=count)),
        torch.from_numpy(problem.draw(exogenous, rng)),
        torch.from_numpy(rng.normal(size=(count, problem.n_subproblems)).astype(np.float32)),
        torch.tensor([1.0] * (count - 1) + [0.0]),
    )


def test_targets_are_what_a_hand_finds():
    rewards, later = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([10.0, 20.0])
    assert td_targets(rewards, later, torch.tensor([1.0, 0.0]), 0.9).tolist() == [12.0, -0.5]


def test_infeasible_actions_are_worth_nothing_and_only_the_action_taken_has_a_gradient():
    values, feasible = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[True, False, True]])
    assert masked(values, feasible).tolist() == [[1.0, -torch.inf, 2.0]]
    gradient = action_gradient(torch.tensor([3.0, -1.0]), torch.tensor([2, 0]), 3)
    assert gradient.tolist() == [[0.0, 0.0, 3.0], [-1.0, 0.0, 0.0]]


def test_the_next_value_is_the_targets_best_or_the_targets_at_the_online_best(make_agent):
    for agent_class in (DQN, DoubleDQN):
        agent = make_agent(agent_class, ChargingModel("code", 3))
        agent.network.online.parameters.normal_(generator=torch.Generator().manual_seed(1))
        batch = some_batch(agent)
        online, target = (
            net.outputs(batch.next_features)[0].numpy() for net in (agent.network.online, agent.network.target)
        )
        expected = []
        for k, w in enumerate(batch.next_exogenous.tolist()):
            able = np.flatnonzero(agent.problem.feasible[w])
            best = able[(target if agent_class is DQN else online)[k, able].argmax()]
            expected.append(target[k, best])
        np.testing.assert_array_equal(agent.later_values(batch).numpy(), np.array(expected))


def twin_of(network):
    layers = []
    for weight, bias in network._layers:
        layer = torch.nn.Linear(*weight.shape[1:])
        layer.weight.data, layer.bias.data = weight[0].T.clone(), bias[0, 0].clone()
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("agent_class", [DQN, DoubleDQN])
def test_an_update_is_the_step_that_torch_takes(make_agent, agent_class):
    agent = make_agent(agent_class, TEXT, hidden=[8, 6], learning_rate=0.01)
    batch = some_batch(agent)
    twin, widths = twin_of(agent.network.online), agent.network.online.widths
    optimiser = torch.optim.Adam(twin.parameters(), lr=0.01)
    targets = td_targets(batch.rewards, agent.later_values(batch), batch.continues, 0.9)
    loss = (twin(batch.features).gather(1, batch.actions[:, None])[:, 0] - targets).square().mean()
    loss.backward()
    optimiser.step()
    assert float(agent.update(np.arange(5), batch)["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    inputs = torch.randn(7, widths[0], generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(agent.network.online.outputs(inputs)[0], twin(inputs).detach(), atol=1e-5)


@pytest.mark.parametrize("agent_class", LEARNERS)
@pytest.mark.parametrize("preset", ["text", "code"])
def test_no_agent_ever_plays_an_infeasible_action(make_agent, play, agent_class, preset):
    model = ChargingModel(preset, 3)
    agent = make_agent(agent_class, model, **SHORT)
    play(model, 6, seed=1).train(agent, 60)  # asserts it while exploring
    seen, where = all_states(model)
    observation = Observation({"operator": seen}, seen, {}, np.zeros(len(seen)), where)
    actions = agent.act(observation, explore=False, rng=np.random.default_rng())["operator"]
    assert model.feasible[where.exogenous, actions].all()


@pytest.mark.parametrize("agent_class", LEARNERS)
def test_updates_and_copies_come_when_the_settings_say(make_agent, play, agent_class):
    agent, game = make_agent(agent_class, TEXT, **SHORT), play(TEXT, 6, seed=1)
    game.train(agent, 10)
    assert (agent.steps, agent.network.updates) == (60, 0)
    for decision in range(1, 13):
        before = agent.network.target.parameters.clone()
        game.train(agent, 1)
        assert agent.network.updates == decision
        copied = torch.equal(agent.network.target.parameters, agent.network.online.parameters)
        assert copied == (decision % 4 == 0)
        assert copied or torch.equal(agent.network.target.parameters, before)


def test_exploration_is_certain_in_the_burn_in_and_then_falls_on_a_line(make_agent):
    agent = make_agent(DQN, TEXT, epsilon_steps=400, **SHORT)
    for steps, epsilon in ((0, 1.0), (59, 1.0), (60, 1.0), (260, 0.525), (460, 0.05), (1000, 0.05)):
        agent.steps = steps
        assert agent.epsilon == pytest.approx(epsilon)
    short = make_agent(DQN, TEXT, {"training_steps": 20})
    assert (short.burn_in, short.capacity) == (30, 120)


@pytest.mark.parametrize("agent_class", LEARNERS)
def test_training_goes_on_from_a_checkpoint_bit_for_bit(make_agent, play, agent_class, tmp_path):
    config = SHORT | {"buffer_size": 200}
    through, game = make_agent(agent_class, TEXT, **config), play(TEXT, 6, seed=5)
    game.train(through, 120)
    first, game = make_agent(agent_class, TEXT, **config), play(TEXT, 6, seed=5)
    game.train(first, 63)
    first.save(tmp_path, training=True)
    second = make_agent(agent_class, TEXT, {"seed": 77}, **config)
    second.load(tmp_path)
    second.context = through.context
    game.train(second, 57)
    for (name, one), other in zip(tensors(through).items(), tensors(second).values(), strict=True):
        assert torch.equal(one, other), name
    for name, column in through.replay.columns.items():
        np.testing.assert_array_equal(column, second.replay.columns[name], err_msg=name)


@pytest.mark.parametrize("agent_class", LEARNERS)
def test_a_saved_policy_acts_as_the_agent_that_saved_it(make_agent, play, agent_class, tmp_path):
    agent = make_agent(agent_class, TEXT, **SHORT)
    play(TEXT, 6, seed=6).train(agent, 60)
    agent.save(tmp_path, training=False)
    copy = make_agent(agent_class, TEXT, {"seed": 8})
    copy.load(tmp_path)
    seen, where = all_states(TEXT)
    observation = Observation({"operator": seen}, seen, {}, np.zeros(len(seen)), where)
    one, other = (a.act(observation, explore=False, rng=np.random.default_rng())["operator"] for a in (agent, copy))
    np.testing.assert_array_equal(one, other)


def test_divergence_and_foreign_checkpoints_are_named(make_agent, play, tmp_path):
    agent = make_agent(DQN, TEXT, **SHORT | {"learning_rate": 1e30})
    with pytest.raises(ContractError, match="must be finite, got NaN or inf at update 100; try a lower learning rate"):
        play(TEXT, 6, seed=1).train(agent, 110)
    make_agent(DoubleDQN, TEXT).save(tmp_path, training=True)
    with pytest.raises(CheckpointError, match="is of agent 'DoubleDQN', not 'DQN'"):
        make_agent(DQN, TEXT).load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden", [], "must be integers of at least 1"),
        ("learning_rate", -1.0, "must not be negative"),
        ("batch_size", 0, "must be at least 1"),
        ("epsilon_end", 1.5, r"must be in \[0, 1\]"),
    ],
)
def test_bad_settings_are_named(make_agent, key, value, expected):
    with pytest.raises(ContractError, match=f"config key '{key}' {expected}"):
        make_agent(DQN, TEXT, **{key: value})


def test_bounds_of_optimality_tightening_are_what_a_hand_finds():
    rewards, later = np.array([[1.0, 2.0, 4.0]]), np.array([[8.0, 4.0, 100.0]])
    assert lower_bounds(rewards, later, np.array([[True, True, False]]), 0.5) == [5.0]  # 1 + 4, 1 + 1 + 1
    assert lower_bounds(rewards, later, np.array([[False, False, False]]), 0.5) == [-np.inf]
    rewards, values = np.array([[1.0, 3.0]]), np.array([[4.0, 5.0]])
    assert upper_bounds(rewards, values, np.array([[True, True]]), 0.5) == [6.0]  # (4 - 1) / 0.5, (5 - 3 - 0.5) / 0.25
    assert upper_bounds(rewards, values, np.array([[False, True]]), 0.5) == [6.0]
    assert upper_bounds(rewards, np.array([[4.0, 4.5]]), np.array([[True, True]]), 0.5) == [4.0]
    assert upper_bounds(rewards, values, np.array([[False, False]]), 0.5) == [np.inf]


def test_targets_are_tightened_where_a_bound_is_violated_by_more_than_the_margin():
    values = np.array([1.0, 1.0, 1.0, 1.0, 1.0])
    low = np.array([1.05, 2.0, -np.inf, 3.0, -np.inf])
    high = np.array([np.inf, 5.0, 0.5, -1.0, 0.95])
    mixed = tightened(np.full(5, 10.0), values, low, high, 0.1, 0.2)
    np.testing.assert_allclose(mixed, [10.0, 8.4, 8.1, 8.2, 10.0])


class Remembered:
    """Every decision in order, by game; what the bounds of one are, from the definition."""

    def __init__(self, agent, games):
        self.agent, self.games = agent, games

    def value(self, features, exogenous):
        network = self.agent.network.target
        values = network.outputs(torch.from_numpy(self.agent.features.normalise(features[None])))[0, 0].numpy()
        return values, self.agent.problem.feasible[exogenous]

    def best_after(self, t, k):
        if t.terminations["operator"][k]:
            return 0.0
        values, able = self.value(t.next_observation.state[k], t.next_observation.sub_problems.exogenous[k])
        return values[able].max()

    def bounds(self, k, at, oldest):
        episode = [at]
        while self.games[episode[0]].observation.step[k] > 0:
            episode.insert(0, episode[0] - 1)
        while not self.games[episode[-1]].episode_over[k] and episode[-1] + 1 < len(self.games):
            episode.append(episode[-1] + 1)
        reward = [float(self.games[n].sub_rewards[k].astype(np.float32).sum()) for n in range(len(self.games))]
        low, high, gamma = [], [], 0.9
        for last in (n for n in episode if n >= at):
            if last - at < 10 or self.games[last].episode_over[k]:
                earned = sum(gamma ** (n - at) * reward[n] for n in range(at, last + 1))
                low.append(earned + gamma ** (last - at + 1) * self.best_after(self.games[last], k))
        for first in (n for n in episode if max(at - 10, oldest) <= n < at):
            t = self.games[first]
            value = self.value(t.observation.state[k], 0)[0][t.actions["operator"][k]]
            earned = sum(gamma ** (n - first) * reward[n] for n in range(first, at))
            high.append((value - earned) / gamma ** (at - first))
        return max(low, default=-np.inf), min(high, default=np.inf)


def test_bounds_of_remembered_decisions_are_those_of_their_episodes(make_agent, play):
    agent = make_agent(OTDQN, TEXT, buffer_size=6 * 20 + 3, burn_in=10_000)
    agent.network.target.parameters.normal_(generator=torch.Generator().manual_seed(1))
    game, seen = play(TEXT, 6, seed=2, horizon=13), []
    for _ in range(45):
        t = game.step(agent)
        seen.append(t._replace(terminations={"operator": t.episode_over & (np.arange(6) % 2 == 0)}))
        agent.observe(seen[-1])
    assert agent.capacity == 120
    assert agent.replay.size == 120
    oracle, slots = Remembered(agent, seen), np.arange(120)
    low, high = agent.bounds(slots)
    for slot in slots:
        at = max(n for n in range(45) if (6 * n) % 120 == slot // 6 * 6)
        expected = oracle.bounds(slot % 6, at, oldest=25)
        assert (low[slot], high[slot]) == (pytest.approx(expected[0], abs=1e-4), pytest.approx(expected[1], abs=1e-4))


def test_the_penalty_pulls_q_down_where_it_exceeds_the_bound(make_agent):
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(4, 5, generator=rng, requires_grad=True)
    upper, feasible = torch.randn(4, 5, generator=rng), torch.rand(4, 5, generator=rng) < 0.7
    per_state = [(q[b] - upper[b]).clamp(min=0)[feasible[b]].square().mean() for b in range(4)]
    (10.0 * torch.stack(per_state).mean()).backward()
    np.testing.assert_allclose(penalty_gradient(q.detach(), upper, feasible, 10.0), q.grad, atol=1e-6)


def test_targets_of_sub_problems_are_what_a_hand_finds():
    found = subproblem_targets(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[1, 0]]),
        torch.tensor([0.0, 0.5]),
        torch.tensor([[[10.0, 20.0], [30.0, 40.0]]]),
        torch.tensor([0.9]),
    )
    np.testing.assert_allclose(found, [[[10.0, 20.0], [27.5, 38.0]]])


def slow_bound(agent, features, w, lams):
    """U at one observation, number by number."""
    problem, totals = agent.problem, []
    for lam in lams:
        worth = []
        for i in range(problem.n_subproblems):
            one_hot = [float(i == j) for j in range(problem.n_subproblems)]
            row = torch.tensor([[float(lam), *one_hot, float(features[0]), *features[1 + 2 * i : 3 + 2 * i].tolist()]])
            worth.append(agent.subnetwork.online.outputs(row)[0, 0].tolist())
        income = float(lam) * float(agent.earned[w])
        totals.append([income + sum(worth[i][use] for i, use in enumerate(uses)) for uses in problem.allocations])
    return np.min(totals, axis=0)


def test_the_bound_of_wcdqn_is_the_least_sum_over_sub_problems_and_acting_takes_it_into_account(make_agent, play):
    agent = make_agent(WCDQN, ChargingModel("text", 3))
    agent.network.online.parameters.normal_(generator=torch.Generator().manual_seed(1))
    agent.earned[:] = torch.tensor([0.3, -0.2, 0.1])
    observation = play(ChargingModel("text", 3), 6, seed=2).look()
    features = torch.from_numpy(agent.features.normalise(observation.state))
    exogenous = observation.sub_problems.exogenous
    found = agent.bounds(features, torch.from_numpy(exogenous)).numpy()
    q = agent.network.online.outputs(features)[0].numpy()
    chosen = agent.act(observation, explore=False, rng=np.random.default_rng())["operator"]
    for k, w in enumerate(exogenous):
        expected = slow_bound(agent, features[k], w, np.linspace(0.0, 1.5, 10))
        np.testing.assert_allclose(found[k], expected, atol=1e-5)
        able = np.flatnonzero(agent.problem.feasible[w])
        assert chosen[k] == able[np.minimum(q[k], found[k])[able].argmax()]


def test_what_the_resource_earns_is_learned_from_every_step(make_agent, play):
    agent = make_agent(WCDQN, TEXT, burn_in=10_000)
    transitions = play(TEXT, 6, seed=2).train(agent, 60)
    earned, met = [30.0] * 3, [0] * 3
    for t in transitions:
        before, after = (
            t.observation.sub_problems.exogenous.tolist(),
            t.next_observation.sub_problems.exogenous.tolist(),
        )
        for w, following in zip(before, after, strict=True):
            met[w] += 1
            earned[w] += met[w] ** -0.7 * ((3, 2, 1)[w] + 0.9 * earned[following] - earned[w])
    np.testing.assert_allclose(agent.earned, earned, rtol=1e-4)
    assert agent.met.tolist() == met


def test_an_update_of_wcdqn_is_the_step_that_torch_takes_on_both_losses(make_agent):
    agent = make_agent(WCDQN, TEXT, hidden=[8, 6], learning_rate=0.01, kappa_u=3.0, lam_samples=4)
    batch, gamma = some_batch(agent), 0.9
    agent.earned[:] = torch.tensor([0.3, -0.2, 0.1])
    main, sub = twin_of(agent.network.online), twin_of(agent.subnetwork.online)
    optimisers = [torch.optim.Adam(twin.parameters(), lr=0.01) for twin in (main, sub)]
    lam = agent._draw_multipliers()
    assert ((lam / 1.5 * 4).floor() == torch.arange(4)).all()
    uses = agent.allocations[batch.actions]
    values, later = (sub(agent.inputs(rows, lam)).view(5, 4, 2, 2) for rows in (batch.features, batch.next_features))
    y_sub = subproblem_targets(batch.rewards, uses, lam, later.detach().amax(3), gamma * batch.continues)
    loss_sub = (values.gather(3, uses[:, None, :, None].expand(5, 4, 2, 1))[..., 0] - y_sub).square().mean()
    bounds = [slow_bound(agent, x, w, lam) for x, w in zip(batch.features, batch.exogenous, strict=True)]
    q, feasible = main(batch.features), agent.feasible[batch.exogenous]
    excess = (q - torch.tensor(np.array(bounds), dtype=torch.float32)).clamp(min=0).square() * feasible
    y = masked(main(batch.next_features).detach(), agent.feasible[batch.next_exogenous]).amax(1)
    error = q.gather(1, batch.actions[:, None])[:, 0] - td_targets(batch.rewards, y, batch.continues, gamma)
    (error.square().mean() + 3.0 * (excess.sum(1) / feasible.sum(1)).mean()).backward()
    loss_sub.backward()
    for optimiser in optimisers:
        optimiser.step()
    losses = agent.update(np.arange(5), batch)
    assert float(losses["loss_sub"]) == pytest.approx(loss_sub.item(), rel=1e-4)
    for twin, network in ((main, agent.network), (sub, agent.subnetwork)):
        inputs = torch.randn(7, network.online.widths[0], generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(network.online.outputs(inputs)[0], twin(inputs).detach(), atol=1e-5)


def test_without_a_discount_below_one_there_is_no_bound(make_agent):
    with pytest.raises(ContractError, match="discount below 1"):
        make_agent(WCDQN, TEXT, {"gamma": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("agent_class", LEARNERS)
def test_every_learner_comes_close_to_the_optimum_of_two_bays(make_agent, play, agent_class):
    agent = make_agent(agent_class, TEXT, {"training_steps": 1500, "num_envs": 20}, burn_in=1000, learning_rate=1e-3)
    play(TEXT, 20, seed=1).train(agent, 1500)
    seen, where = all_states(TEXT)
    observation = Observation({"operator": seen}, seen, {}, np.zeros(len(seen)), where)
    actions = agent.act(observation, explore=False, rng=np.random.default_rng())["operator"]
    assert exact_value(TEXT, actions, steps=50, gamma=0.9) > 0.95 * 5.84668
