"""The problem of one operator: rules by hand, play against exact values, and the batch against single episodes."""

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench.errors import ContractError, RegistryError
from safemarl_bench.registry import get_agent, get_suite, make_context
from safemarl_bench.weakly_coupled.charging import BAY_STATES, ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import policy_values, start_value
from safemarl_bench.weakly_coupled.charging_operator import BatchedOperator, all_states, exact_value
from safemarl_bench.weakly_coupled.charging_policies import HEURISTICS, uniform

HORIZON, GAMMA = 50, 0.9
BOTH = pytest.mark.parametrize("preset", ["text", "code"])


def placed(preset, price, *cars, clock=0):
    """One episode with these (D, B) in its bays, at its first decision."""
    core = BatchedOperator(ChargingModel(preset, len(cars)), HORIZON, 1)
    shown = core.set_state(np.array([[price, clock, *(BAY_STATES.index(car) for car in cars)]]))
    return core, shown


def play(core, policy, episodes, stream="evaluation"):
    """Discounted returns, (E,), of a table of joint actions, or of a function of what is shown."""
    shown = core.reset(stream=stream, episodes=episodes)
    returns = np.zeros(core.num_envs)
    for t in range(HORIZON):
        actions = policy(shown) if callable(policy) else policy[shown.exogenous, *shown.sub_states.T]
        shown = core.step(actions[:, None])
        returns += GAMMA**t * shown.reward[:, 0]
    assert shown.over.all()
    assert shown.truncated.all()
    return returns


def test_charged_cars_pay_the_shown_price_and_lose_a_unit():
    core, shown = placed("text", 1, (4, 2), (1, 2), (2, 0))
    assert shown.obs[0, 0].tolist() == [0.5, 4, 2, 1, 2, 2, 0]
    step = core.step(np.array([[0b110]]))
    assert step.sub_rewards[0].tolist() == pytest.approx([0.5, 0.5 - 0.2, 0.0])
    assert step.reward[0, 0] == pytest.approx(0.8)
    assert step.resource_use[0].tolist() == [1, 1, 0]
    assert [BAY_STATES[bay] for bay in step.sub_states[0, [0, 2]]] == [(3, 1), (1, 0)]


def test_code_shows_the_price_of_the_period_before():
    model = ChargingModel("code", 2)
    core = BatchedOperator(model, HORIZON, 64)
    shown = core.reset()
    paid, seen = [], [shown.exogenous]
    for _ in range(6):
        paid.append(core.paid_price.copy())
        shown = core.step(np.where(shown.exogenous == 2, 1, 3)[:, None])
        seen.append(shown.exogenous)
    assert (paid[0] == seen[0]).all()
    for t in range(1, 6):
        assert (seen[t] == paid[t - 1]).all()
        assert (paid[t] != seen[t]).any()


@pytest.mark.parametrize(
    ("preset", "price", "action", "able"),
    [("text", 2, 0b011, r"\[0, 1, 2, 4\]"), ("text", 1, 0b111, r"\[0, 1, .*6\]"), ("code", 2, 0b000, r"\[1, 2, 4\]")],
)
def test_an_infeasible_joint_action_is_an_error_and_moves_nothing(preset, price, action, able):
    core, _ = placed(preset, price, (4, 2), (1, 2), (2, 1))
    before = core.get_state()
    with pytest.raises(ContractError, match=f"action {action} in episode 0 is infeasible.*{able}"):
        core.step(np.array([[action]]))
    assert (core.get_state() == before).all()


@BOTH
@pytest.mark.parametrize("name", ["edf", "greedy"])
def test_mean_discounted_returns_are_the_exact_values(preset, name):
    model = ChargingModel(preset, 3)
    policy = HEURISTICS[name](model)
    returns = play(BatchedOperator(model, HORIZON, 2000), policy, np.arange(2000))
    exact = start_value(model, policy_values(model, policy, steps=HORIZON))
    assert abs(returns.mean() - exact) < 4 * returns.std() / np.sqrt(len(returns))


def test_uniform_feasible_play_earns_what_is_known():
    model = ChargingModel("text", 3)
    rng = np.random.default_rng(0)
    problem = smb.make("ev_charging").weakly_coupled
    core = BatchedOperator(model, HORIZON, 2000)
    returns = play(core, lambda shown: problem.draw(shown.exogenous, rng), np.arange(2000))
    assert start_value(model, policy_values(model, uniform(model), steps=HORIZON)) == pytest.approx(3.04065, abs=1e-5)
    assert abs(returns.mean() - 3.04065) < 4 * returns.std() / np.sqrt(len(returns))


@BOTH
def test_each_of_many_episodes_is_a_single_one(preset):
    model = ChargingModel(preset, 2)
    policy = HEURISTICS["llf"](model)
    together = play(BatchedOperator(model, HORIZON, 5), policy, np.arange(3, 8))
    alone = [play(BatchedOperator(model, HORIZON, 1), policy, np.array([k]))[0] for k in range(3, 8)]
    assert together.tolist() == alone


@BOTH
def test_a_table_read_off_all_states_has_the_exact_value_of_the_policy(preset):
    model = ChargingModel(preset, 2)
    policy = HEURISTICS["whittle"](model)
    seen, where = all_states(model)
    assert len(seen) == 3 * 12**2
    actions = policy[(where.exogenous, *where.states.T)]
    assert exact_value(model, actions, steps=HORIZON, gamma=GAMMA) == start_value(
        model, policy_values(model, policy, steps=HORIZON)
    )
    with pytest.raises(ContractError, match="infeasible"):
        exact_value(model, np.full(len(seen), 3), steps=HORIZON, gamma=GAMMA)
    with pytest.raises(ContractError, match="432"):
        exact_value(model, actions[:-1], steps=HORIZON, gamma=GAMMA)


@pytest.mark.parametrize("suite", ["ev_charging", "ev_charging-code", "ev_charging-2"])
def test_edf_the_agent_plays_edf_the_table(suite):
    game, spec = smb.make(suite), get_suite(suite)
    agent_class = get_agent("edf")
    agent = agent_class(make_context(spec, game, steps=0, seed=0), agent_class.Config())
    observation = game.all_states()
    actions = agent.act(observation, explore=False, rng=np.random.default_rng(0))["operator"]
    where = observation.sub_problems
    assert (actions == HEURISTICS["edf"](game.model)[(where.exogenous, *where.states.T)]).all()


def test_infos_hold_what_weakly_coupled_agents_need():
    game = smb.make("ev_charging")
    _, infos = game.reset(seed=0)
    _, rewards, _, _, infos = game.step({"operator": 0b001})
    info = infos["operator"]
    assert set(info) == {
        "cost", "exogenous", "sub_states", "sub_rewards", "resource_use", "feasible", "capacity"
    }  # fmt: skip
    assert info["resource_use"].tolist() == [0, 0, 1]
    assert rewards["operator"] == pytest.approx(info["sub_rewards"].sum())
    assert info["capacity"] == {0: 3, 1: 2, 2: 1}[info["exogenous"]]
    assert game.action_space("operator").sample() in np.flatnonzero(info["feasible"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"preset": "txt"}, "unknown preset 'txt': did you mean 'text'"),
        ({"n_bays": 6}, "n_bays must be an integer in 1..5, got 6"),
        ({"preset": "code", "n_bays": 1}, "n_bays must be an integer in 2..5, got 1"),
        ({"bays": 3}, "no setting 'bays': did you mean 'n_bays'"),
        ({"render_mode": "human"}, "draws nothing"),
    ],
)
def test_bad_settings_are_named(overrides, message):
    with pytest.raises(RegistryError, match=message):
        smb.make("ev_charging", **overrides)
