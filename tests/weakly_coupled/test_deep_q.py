"""The deep Q learners of weakly coupled games: targets by hand, masks, the schedule of updates, exact resumption."""

import numpy as np
import pytest
import torch
from safemarl_bench.baselines.dqn import DQN, DoubleDQN, td_targets

from safemarl_bench.contract import Observation
from safemarl_bench.errors import CheckpointError, ContractError
from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_operator import all_states
from safemarl_bench.weakly_coupled.deep_q import Batch, action_gradient, masked

LEARNERS = [DQN, DoubleDQN]
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
    for agent_class in LEARNERS:
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


@pytest.mark.parametrize("agent_class", LEARNERS)
def test_an_update_is_the_step_that_torch_takes(make_agent, agent_class):
    agent = make_agent(agent_class, TEXT, hidden=[8, 6], learning_rate=0.01)
    batch = some_batch(agent)
    layers, widths = [], agent.network.online.widths
    for weight, bias in agent.network.online._layers:
        layer = torch.nn.Linear(*weight.shape[1:])
        layer.weight.data, layer.bias.data = weight[0].T.clone(), bias[0, 0].clone()
        layers += [layer, torch.nn.ReLU()]
    twin = torch.nn.Sequential(*layers[:-1])
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
