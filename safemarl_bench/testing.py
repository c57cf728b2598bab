"""Contract checks for suites and agents, ours and anyone's. Each raises `ContractError` at the first breach."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pettingzoo.test

from safemarl_bench.checkpoint import folder_digest
from safemarl_bench.contract import Agent, AgentContext, Observation, build_config
from safemarl_bench.errors import ContractError
from safemarl_bench.registry import Game, SuiteSpec, check_pair, get_agent, get_suite, make, make_context
from safemarl_bench.rng import generator
from safemarl_bench.rollout import Rollout, calling, check_actions
from safemarl_bench.training import check_metrics

CHECK_DECISIONS = 60


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ContractError(message)


def check_suite(env_or_name: str | Game) -> None:
    """Check that a registered suite, or a game of one, keeps the contract of `safemarl_bench.contract`.

    PettingZoo's own test; roles, limits and features that match the data file; the same space objects at each
    call; costs as float64 vectors for every live agent; observations and states inside their spaces; an end
    within the horizon; the same seed gives the same episode in any order; on the leaderboard, others differ.

    Args:
        env_or_name: a suite's name, which checks its game on every backend, or a game whose ``metadata["name"]`` is
            that name (``@version`` may follow).

    Raises:
        RegistryError: unknown suite. ContractError: the breach.
    """
    if isinstance(env_or_name, str):
        spec = get_suite(env_or_name)
        for backend in spec.backends:
            _check_game(spec, make(spec.name, backend=backend))
    else:
        _check_game(get_suite(str(env_or_name.metadata.get("name", "")).partition("@")[0]), env_or_name)


def _check_game(spec: SuiteSpec, game: Game) -> None:
    try:
        _check_statics(spec, game)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                pettingzoo.test.parallel_api_test(game, num_cycles=2 * spec.horizon)
            except AssertionError as error:
                raise ContractError(f"suite {spec.name} fails pettingzoo's parallel_api_test: {error}") from error
        traces = [_trace(spec, game, stream, episode) for stream, episode in _EPISODES]
        again = [_trace(spec, game, stream, episode) for stream, episode in reversed(_EPISODES)]
    finally:
        game.close()
    _require(traces == again[::-1], f"suite {spec.name}: the same (stream, seed, episode) gave another episode")
    varied = len({str(trace) for trace in traces}) > 1  # the same actions are played in all of them
    _require(varied or not spec.ranked, f"suite {spec.name}: nothing is random, every episode is the same")


_EPISODES = [("train", 0), ("train", 1), ("evaluation", 0)]


def _check_statics(spec: SuiteSpec, game: Game) -> None:
    name, roles = f"suite {spec.name}", {"leader": list(spec.leader), "followers": list(spec.followers)}
    given = game.metadata.get("roles")
    _require(given == roles, f"{name}: metadata['roles'] must be {roles}, got {given}")
    _require(sorted(game.possible_agents) == sorted(spec.roles), f"{name}: possible_agents must be {spec.roles}")
    sizes = {spec.name: game.state_space}
    for agent in spec.roles:
        limits = np.asarray(game.cost_limits[agent])
        _require(
            limits.tolist() == list(spec.cost_limits[agent]),
            f"{name}: cost_limits[{agent!r}] must be {spec.cost_limits[agent]}, got {limits}",
        )
        _require(len(limits) == len(spec.constraints), f"{name}: one limit per constraint for {agent!r}")
        for space in (game.observation_space, game.action_space):
            same = space(agent) is space(agent)
            _require(same, f"{name}: {space.__name__}({agent!r}) makes a new space at each call")
        kind = "discrete" if isinstance(game.action_space(agent), gymnasium.spaces.Discrete) else "continuous"
        _require(kind == spec.action_kind, f"{name}: actions of {agent!r} are {kind}, the data file says otherwise")
        _require(
            game.action_space(agent).contains(np.asarray(spec.neutral_actions[agent], game.action_space(agent).dtype)),
            f"{name}: the neutral action of {agent!r} is not in its action space",
        )
        sizes[agent] = game.observation_space(agent)
    for owner, space in sizes.items():
        features = (spec.state_features if owner == spec.name else None) or spec.features
        expected = (len(features.names),)
        _require(space.shape == expected, f"{name}: {owner} has shape {space.shape}, the features are {expected}")
        lengths = {len(features.names), len(features.center), len(features.scale)}
        _require(len(lengths) == 1, f"{name}: features need as many centers and scales as names")
        _require(min(features.scale) > 0, f"{name}: feature scales must be positive")
    for budget in ("smoke", "quick"):
        spec.budget_steps(budget)


def _trace(spec: SuiteSpec, game: Game, stream: str, episode: int) -> list[list[Any]]:
    """Play one random episode and return everything it showed, for comparison."""
    rollout = Rollout(spec, game)
    observation = rollout.reset(stream=stream, seed=3, episode=episode)
    rng = generator("policy", 0)
    trace: list[list[Any]] = [[observation.state.tolist()]]
    over = False
    while not over:
        _require(len(trace) <= spec.horizon, f"suite {spec.name}: an episode outlasts its horizon of {spec.horizon}")
        _check_inside(spec, game, observation)
        alive = list(game.agents)
        transition, infos = rollout.step(_random_actions(rollout, rng), by="random")
        for agent in alive:
            _require(agent in infos, f"suite {spec.name}: no infos for the live agent {agent!r}")
        for agent in set(spec.roles) - set(alive):
            idle = transition.rewards[agent][0] == 0 and not transition.costs[agent].any()
            _require(idle, f"suite {spec.name}: the done agent {agent!r} still gets a reward or a cost")
        observation, over = transition.next_observation, bool(transition.episode_over[0])
        trace.append(
            [
                observation.state.tolist(),
                [observation.by_agent[agent].tolist() for agent in spec.roles],
                [transition.rewards[agent].tolist() for agent in spec.roles],
                [transition.costs[agent].tolist() for agent in spec.roles],
            ]
        )
    return trace


def _random_actions(rollout: Rollout, rng: np.random.Generator) -> dict[str, np.ndarray]:
    where, actions = rollout.observation.sub_problems, {}
    if where is not None:
        (operator,) = rollout.spaces
        return {operator: rollout.game.weakly_coupled.draw(where.exogenous, rng)}
    for agent, space in rollout.spaces.items():
        if isinstance(space, gymnasium.spaces.Discrete):
            actions[agent] = rng.integers(space.start, space.start + space.n, size=1)
        else:
            box = rollout.game.action_space(agent)
            actions[agent] = rng.uniform(box.low, box.high)[None].astype(np.float32)
    return actions


def _check_inside(spec: SuiteSpec, game: Game, observation: Observation) -> None:
    _require(game.state_space.contains(observation.state[0]), f"suite {spec.name}: state() is outside state_space")
    for agent in game.agents:
        inside = game.observation_space(agent).contains(observation.by_agent[agent][0])
        _require(inside, f"suite {spec.name}: an observation of {agent!r} is outside its space")


def check_agent(agent: str | type[Agent], suite: str) -> None:
    """Check that an agent keeps the contract on a suite.

    Valid actions for one and for three games side by side, greedy actions that depend on nothing hidden and leave
    no trace in training, inputs left as they were, a few learning steps, and a checkpoint without pickles that
    gives the same policy back.

    Args:
        agent: a registered name, ``package.module:Class``, or a class.
        suite: a registered name.

    Raises:
        RegistryError, IncompatiblePair, ContractError: the breach.
    """
    spec = get_suite(suite)
    agent_class = get_agent(agent) if isinstance(agent, str) else agent
    name = agent if isinstance(agent, str) else agent.__name__
    check_pair(spec, agent_class)
    agent_class = agent_class.for_actions(spec.action_kind)
    game = make(suite)
    try:
        context = make_context(spec, game, steps=CHECK_DECISIONS, seed=1, agent_class=agent_class)
        config = build_config(agent_class, spec.tuned(name, "smoke"))
        with calling(name, "__init__", 0):
            learner, twin = agent_class(context, config), agent_class(context, config)
            fresh = agent_class(dataclasses.replace(context, seed=2), config)
        observations = _learn_a_little(name, learner, Rollout(spec, game))
        for observation in observations:
            _check_acting(name, learner, context, observation)
        _learn_a_little(name, twin, Rollout(spec, game), validated=True)
        same = _saved(name, learner) == _saved(name, twin)
        _require(same, f"agent {name!r}: a greedy act, as in validation, changes what is learned")
        _check_saving(name, learner, fresh, observations)
    finally:
        game.close()


def _saved(name: str, learner: Agent) -> tuple[str, int] | None:
    """Return the digest of all that resuming would need; None where nothing is saved."""
    with tempfile.TemporaryDirectory() as folder:
        with calling(name, "save", CHECK_DECISIONS):
            learner.save(Path(folder), training=True)
        return folder_digest(Path(folder)) if any(Path(folder).iterdir()) else None


def _learn_a_little(name: str, learner: Agent, rollout: Rollout, *, validated: bool = False) -> list[Observation]:
    """Train for `CHECK_DECISIONS`, if `validated` with greedy acts in between; return copies of what was observed."""
    episode = 0
    observation = _start(name, learner, rollout, episode)
    met = []
    for step in range(CHECK_DECISIONS):
        met.append(_batch(observation, 1))
        with calling(name, "act", step):
            actions = learner.act(observation, explore=True, rng=generator("explore", 1, step))
        _check_kept(name, met[-1], observation)
        transition, _ = rollout.step(actions, by=name)
        with calling(name, "observe", step):
            learner.observe(transition)
        with calling(name, "learn", step):
            check_metrics(learner.learn())
        observation = transition.next_observation
        if validated:
            _greedy(name, learner, observation)
            _greedy(name, learner, _batch(observation, 3))
        if transition.episode_over[0]:
            episode += 1
            observation = _start(name, learner, rollout, episode)
    return met


def _check_kept(name: str, before: Observation, after: Observation) -> None:
    kept = (before.state == after.state).all() and (before.step == after.step).all()
    for role, array in before.by_agent.items():
        kept &= (array == after.by_agent[role]).all() and (before.alive[role] == after.alive[role]).all()
    _require(kept, f"agent {name!r}: act changes the observation it is given")


def _start(name: str, agent: Agent, rollout: Rollout, episode: int) -> Observation:
    if agent.privileged:
        with calling(name, "start_episode", 0):
            agent.start_episode("train", 1, episode)
    return rollout.reset(stream="train", seed=1, episode=episode)


def _batch(observation: Observation, count: int) -> Observation:
    """Return `count` copies of a batch of one."""
    return observation.take(np.zeros(count, np.int64))


def _greedy(name: str, agent: Agent, observation: Observation) -> Any:
    before = _batch(observation, 1)
    with calling(name, "act", 0):
        actions = agent.act(observation, explore=False, rng=generator("policy", 1, 0))
    _check_kept(name, before, observation)
    return actions


def _check_acting(name: str, agent: Agent, context: AgentContext, observation: Observation) -> None:
    first = check_actions(_greedy(name, agent, observation), context.action_spaces, 1)
    again = check_actions(_greedy(name, agent, observation), context.action_spaces, 1)
    for role in context.agents:
        _require((first[role] == again[role]).all(), f"agent {name!r}: the same greedy call gave another action")
    check_actions(_greedy(name, agent, _batch(observation, 3)), context.action_spaces, 3)
    where, coupled = observation.sub_problems, context.weakly_coupled
    if where is not None and coupled is not None:
        feasible = coupled.feasible[where.exogenous, first[context.leader[0]]].all()
        _require(bool(feasible), f"agent {name!r}: a greedy action is infeasible")


def _check_saving(name: str, trained: Agent, fresh: Agent, observations: list[Observation]) -> None:
    """Check that `fresh`, of another seed, acts as `trained` does once it has loaded its checkpoint."""
    for training in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            with calling(name, "save", CHECK_DECISIONS):
                trained.save(Path(folder), training=training)
            foreign = sorted(
                path.name
                for path in Path(folder).rglob("*")
                if path.is_file() and path.suffix not in (".safetensors", ".json")
            )
            _require(not foreign, f"agent {name!r}: a checkpoint holds only .safetensors and .json, found {foreign}")
            if not any(Path(folder).iterdir()):
                continue
            with calling(name, "load", CHECK_DECISIONS):
                fresh.load(Path(folder))
        for observation in observations:
            first, again = _greedy(name, trained, observation), _greedy(name, fresh, observation)
            same = all((np.asarray(first[role]) == np.asarray(again[role])).all() for role in first)
            _require(same, f"agent {name!r}: after save and load it acts differently")
