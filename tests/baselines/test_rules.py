"""Rules as agents: those of EV charging against the tables they are named after, exact values next to the optimum."""

import numpy as np
import pytest

import safemarl_bench as smb
from safemarl_bench.errors import ContractError
from safemarl_bench.evaluation import exact_returns
from safemarl_bench.registry import get_agent, get_suite, incompatibility, make_context
from safemarl_bench.rollout import Rollout
from safemarl_bench.weakly_coupled.charging_policies import HEURISTICS

RULES = ("greedy", "llf", "whittle", "lagrangian_greedy")


def built(name, suite):
    game, spec, agent_class = smb.make(suite), get_suite(suite), get_agent(name)
    context = make_context(spec, game, steps=0, seed=0, agent_class=agent_class)
    return Rollout(spec, game), agent_class(context, agent_class.Config())


@pytest.mark.parametrize("suite", ["ev_charging-2", "ev_charging-code"])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_plays_its_table(name, suite):
    rollout, agent = built(name, suite)
    observation = rollout.game.all_states()
    where = observation.sub_problems
    actions = agent.act(observation, explore=False, rng=np.random.default_rng(0))["operator"]
    assert (actions == HEURISTICS[name](rollout.game.model)[(where.exogenous, *where.states.T)]).all()


@pytest.mark.parametrize("suite", ["ev_charging-2", "ev_charging-code"])
def test_no_rule_beats_the_optimum_and_the_stationary_one_almost_reaches_it(suite):
    values = {}
    for name in (*RULES, "edf", "optimum"):
        rollout, agent = built(name, suite)
        values[name] = exact_returns(rollout, agent, name)["exact_returns"]["operator"]
    best = rollout.game.optimum()
    assert max(values.values()) <= best + 1e-12
    assert values["optimum"] > 0.999 * best
    assert values["optimum"] == max(values.values())


def test_rules_are_for_one_operator():
    reason = incompatibility(get_suite("ev_charging-game"), get_agent("whittle"))
    assert reason.startswith(
        "Whittle is for a weakly coupled problem of one operator, suite ev_charging-game is a game"
    )


def test_suites_without_a_rule_say_so():
    reason = incompatibility(get_suite("ad_matching"), get_agent("whittle"))
    assert reason == "Whittle is made for preset text or code, suite ad_matching has None"
    game, spec, agent_class = smb.make("ad_matching"), get_suite("ad_matching"), get_agent("whittle")
    context = make_context(spec, game, steps=0, seed=0, agent_class=agent_class)
    with pytest.raises(ContractError, match="no rule 'whittle': known: greedy, lagrangian_greedy"):
        agent_class(context, agent_class.Config())


@pytest.mark.parametrize("name", ["greedy", "lagrangian_greedy"])
def test_a_rule_of_ad_matching_plays_what_the_simulator_says(name):
    rollout, agent = built(name, "ad_matching")
    observation = rollout.reset(stream="evaluation", seed=0, episode=3)
    rule = rollout.game.simulator(1).rules()[name]
    for _ in range(30):
        action = agent.act(observation, explore=False, rng=np.random.default_rng(0))
        assert action["operator"] == rule.play(observation)
        observation = rollout.step(action, by=name)[0].next_observation
    assert ("exact_returns" in exact_returns(rollout, agent, name)) == (name == "greedy")
