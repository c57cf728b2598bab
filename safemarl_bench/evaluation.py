"""Greedy evaluation on the fixed held-out episodes that every agent is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from safemarl_bench.collection import Finished, Games
from safemarl_bench.contract import Agent
from safemarl_bench.rng import generator
from safemarl_bench.rollout import Infos, Rollout, calling, check_actions
from safemarl_bench.spot_check import Trace

STREAM = "evaluation"
EVALUATION_SEED = 0
SIDE_BY_SIDE = 100
"""Games of a batched simulator that are played at once."""

STATES_AT_ONCE = 2**13
"""States in which an agent is asked side by side for its actions, where a game shows all of them."""


class EpisodeTally:
    """Counts of one episode: returns, costs, what happened to whom.

    Attributes:
        returns: agent -> return, by the suite's criterion. costs: agent -> (K,) undiscounted cost.
        crashed, off_road: agent -> bool. arrival_rank: agent -> 0 (not arrived), 1, 2, ...
        length: decisions. longest_cost_run: most consecutive decisions in which some agent paid a cost.
        violating_steps: decisions in which some agent paid a cost.
    """

    def __init__(self, rollout: Rollout) -> None:
        """Start an empty tally for a game's agents."""
        spec = rollout.spec
        self._weight = spec.weight
        self.returns = dict.fromkeys(spec.roles, 0.0)
        self.costs = {agent: np.zeros(len(spec.cost_limits[agent])) for agent in spec.roles}
        self.crashed = dict.fromkeys(spec.roles, False)
        self.off_road = dict.fromkeys(spec.roles, False)
        self.arrival_rank = dict.fromkeys(spec.roles, 0)
        self.length = self.longest_cost_run = self.violating_steps = self._cost_run = 0

    def add(self, rewards: dict[str, np.ndarray], costs: dict[str, np.ndarray], infos: Infos) -> None:
        """Count one decision (E = 1)."""
        paid, weight = False, self._weight(self.length)
        for agent, reward in rewards.items():
            self.returns[agent] += weight * float(reward[0])
            self.costs[agent] += costs[agent][0]
            paid |= bool(costs[agent].any())
        for agent, info in infos.items():
            self.crashed[agent] |= bool(info.get("crashed", False))
            self.off_road[agent] |= bool(info.get("off_road", False))
            self.arrival_rank[agent] = int(info.get("arrival_rank", 0)) or self.arrival_rank[agent]
        self.length += 1
        self._cost_run = self._cost_run + 1 if paid else 0
        self.violating_steps += paid
        self.longest_cost_run = max(self.longest_cost_run, self._cost_run)


def play_episode(
    rollout: Rollout, agent: Agent, name: str, episode: int, *, trace: Trace | None = None
) -> EpisodeTally:
    """Play one held-out episode greedily.

    Args:
        rollout: the game.
        agent: the policy; name: what errors call it.
        episode: index into the held-out episodes, the same spawns for every agent and seed.
        trace: takes in what is seen.

    Raises:
        ContractError: the agent or the game broke its contract.
    """
    observation = rollout.reset(stream=STREAM, seed=EVALUATION_SEED, episode=episode)
    if agent.privileged:
        with calling(name, f"start_episode (evaluation episode {episode})", 0):
            agent.start_episode(STREAM, EVALUATION_SEED, episode)
    tally = EpisodeTally(rollout)
    if trace:
        trace.see(observation)
    over = False
    while not over:
        rng = generator("policy", agent.context.seed, tally.length, episode)
        with calling(name, f"act (evaluation episode {episode})", tally.length):
            actions = agent.act(observation, explore=False, rng=rng)
        transition, infos = rollout.step(actions, by=f"{name} (evaluation episode {episode})")
        tally.add(transition.rewards, transition.costs, infos)
        if trace:
            trace.add(transition, infos)
        observation = transition.next_observation
        over = bool(transition.episode_over[0])
    return tally


def evaluate(
    rollout: Rollout,
    agent: Agent,
    name: str,
    episodes: Iterable[int],
    *,
    after: Callable[[EpisodeTally], None],
    traces: Sequence[Trace] = (),
) -> dict[str, Any]:
    """Play held-out episodes and return the ``eval`` section of a run record, but for its spot check.

    Args:
        rollout: the game; agent: the policy; name: what errors call it.
        episodes: indices of the held-out episodes.
        after: called with every finished episode (progress).
        traces: of the episodes that they name they take in what is seen.

    Returns:
        lists over episodes: returns, costs, crashed, off_road, arrival_rank by agent; length, longest_cost_run. And
        what `exact_returns` says.
    """
    tallies = []
    traced = {trace.episode: trace for trace in traces}
    for episode in episodes:
        tallies.append(play_episode(rollout, agent, name, episode, trace=traced.get(episode)))
        after(tallies[-1])
    roles = rollout.spec.roles
    return exact_returns(rollout, agent, name) | {
        "stream": STREAM,
        "seed": EVALUATION_SEED,
        "episodes": len(tallies),
        "returns": {role: [tally.returns[role] for tally in tallies] for role in roles},
        "costs": {role: [tally.costs[role].tolist() for tally in tallies] for role in roles},
        "crashed": {role: [int(tally.crashed[role]) for tally in tallies] for role in roles},
        "off_road": {role: [int(tally.off_road[role]) for tally in tallies] for role in roles},
        "arrival_rank": {role: [tally.arrival_rank[role] for tally in tallies] for role in roles},
        "length": [tally.length for tally in tallies],
        "longest_cost_run": [tally.longest_cost_run for tally in tallies],
    }


def finished_episodes(games: Games, agent: Agent, name: str, episodes: int) -> Iterator[Finished]:
    """Yield the first episodes of `games`, played greedily, each when it is over.

    Args:
        games: at their beginning; a single one for a privileged agent. agent: the policy; name: what errors call it.
        episodes: how many.

    Raises:
        ContractError: the agent or the game broke its contract.
    """
    number, told, missing, what = 0, -1, episodes, f"{name} ({games.stream})"
    while missing:
        with calling(what, "act", number):
            if agent.privileged and games.episodes[0] != told:
                told = int(games.episodes[0])
                agent.start_episode(games.stream, games.seed, told)
            rng = generator("policy", agent.context.seed, number)
            actions = agent.act(games.observation, explore=False, rng=rng)
        _, finished = games.step(actions, by=what)
        counted = [one for one in finished if one.episode < episodes]
        yield from counted
        missing -= len(counted)
        number += 1


def evaluate_side_by_side(
    games: Games, rollout: Rollout, agent: Agent, name: str, episodes: int, *, after: Callable[[Finished], None]
) -> dict[str, Any]:
    """Return what `evaluate` does, of one operator's suite without constraints, with many episodes played at once.

    Args:
        games: on the held-out episodes, at their beginning. rollout, agent, name: as in `evaluate`.
        episodes: how many. after: called with every finished episode (progress).
    """
    done = []
    for one in finished_episodes(games, agent, name, episodes):
        done.append(one)
        after(one)
    done.sort()
    nothing = [0] * episodes
    roles = rollout.spec.roles
    return exact_returns(rollout, agent, name) | {
        "stream": STREAM,
        "seed": EVALUATION_SEED,
        "episodes": episodes,
        "returns": {role: [one.returns[role] for one in done] for role in roles},
        "costs": {role: [one.costs[role] for one in done] for role in roles},
        "crashed": {role: [int(one.crashed) for one in done] for role in roles},
        "off_road": dict.fromkeys(roles, nothing),
        "arrival_rank": dict.fromkeys(roles, nothing),
        "length": [one.length for one in done],
        "longest_cost_run": nothing,
    }


def exact_returns(rollout: Rollout, agent: Agent, name: str) -> dict[str, Any]:
    """Return ``{"exact_returns": agent -> expected return}`` where the game can tell that of a policy, else nothing.

    The game shows all its states (``all_states()``) and computes what always playing the agent's greedy actions in them
    is worth (``exact_value(actions)``); the agent's class says that its actions depend on nothing else (`stationary`).
    """
    if not (agent.stationary and hasattr(rollout.game, "exact_value")):
        return {}
    states, (role,) = rollout.game.all_states(), rollout.spec.roles
    parts = []
    for start in range(0, len(states.step), STATES_AT_ONCE):
        some = states.take(slice(start, start + STATES_AT_ONCE))
        with calling(name, "act (in all states)", 0):
            chosen = agent.act(some, explore=False, rng=generator("policy", agent.context.seed))
        parts.append(check_actions(chosen, rollout.spaces, len(some.step))[role])
    return {"exact_returns": {role: rollout.game.exact_value(np.concatenate(parts))}}
