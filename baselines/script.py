"""Script: a fixed sequence of actions, played with closed eyes. A learner that cannot beat it has learned no state.

The sequences stand in the suite's data file, in the table ``[agents.script]``. They are found by

    python -m safemarl_bench.baselines.script SUITE

which maximises the mean undiscounted return, leader's plus follower's, over a fixed batch of spawns
of the stream "search", and prints the table. Costs play no part: this is the best *return* that an
open-loop policy was found to reach, safe or not.

The search is a hill climb from the best constant joint actions. A move overwrites a block of
consecutive decisions of one agent by one action, sometimes two blocks at once; it is kept if the
mean return over the batch does not fall. A move that is behind on the first spawns is given up at
once, so that most moves cost a quarter of the batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pettingzoo
import tqdm

from safemarl_bench.contract import Agent, AgentContext, Arrays, Observation
from safemarl_bench.errors import ContractError, SafeMARLBenchError
from safemarl_bench.registry import SuiteSpec, get_suite, make
from safemarl_bench.rng import check_seed, generator

SPAWNS = 24
STAGES = (4, 8, 16, SPAWNS)
VALIDATION_SPAWNS = 100
CLIMBS = 3
BLOCKS = (1, 1, 2, 3, 4, 6, 10, 20)


@dataclasses.dataclass(frozen=True)
class ScriptConfig:
    """The action of decision k is entry k; after the last entry comes the neutral action."""

    leader: tuple[int, ...] = ()  # actions of every leader
    follower: tuple[int, ...] = ()  # actions of every follower


class Script(Agent):
    """Plays the sequences of its config."""

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    Config: ClassVar[type] = ScriptConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Check the sequences.

        Raises:
            ContractError: an action is not in its space.
        """
        super().__init__(context, config)
        self._actions: Arrays = {}
        for agent in context.agents:
            key = "leader" if agent in context.leader else "follower"
            sequence, space = getattr(config, key), context.action_spaces[agent]
            for action in sequence:
                if not isinstance(action, int) or not space.contains(action):
                    raise ContractError(f"config key {key!r} of Script must hold actions of {space}, got {action!r}")
            self._actions[agent] = np.array([*sequence, context.neutral_actions[agent]], np.int64)

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Return the actions of decision `observation.step`; see `Agent.act`."""
        return {
            agent: actions[np.minimum(observation.step, len(actions) - 1)] for agent, actions in self._actions.items()
        }


Sequences = np.ndarray
"""(2, T) int64: the actions of leaders and followers."""


class Search:
    """Hill climbing over open-loop sequences.

    Attributes:
        seed: of spawns and moves. budget: episodes to play. played: so far. bar: shows them.
    """

    def __init__(self, spec: SuiteSpec, game: pettingzoo.ParallelEnv[str, Any, Any], *, budget: int, seed: int) -> None:
        """Prepare a search on `game`, built from `spec`.

        Raises:
            ContractError: the actions are not discrete, or leaders (followers) differ in theirs.
        """
        self.spec, self.game, self.budget, self.seed = spec, game, budget, check_seed(seed)
        self.played = 0
        self.bar = tqdm.tqdm(total=budget + VALIDATION_SPAWNS, unit="episode", desc=f"script for {spec.name}")
        self.choices = [self._choices(agents) for agents in (spec.leader, spec.followers)]

    def _choices(self, agents: Sequence[str]) -> list[int]:
        spaces = [self.game.action_space(agent) for agent in agents]
        if any(space != spaces[0] for space in spaces) or not isinstance(spaces[0], gymnasium.spaces.Discrete):
            raise ContractError(f"a script needs one Discrete action space for {list(agents)}, got {spaces}")
        return [int(spaces[0].start) + index for index in range(int(spaces[0].n))]

    def play(self, sequences: Sequences, episode: int) -> tuple[float, int]:
        """Return (undiscounted return of all agents, decisions) of one search episode."""
        self.game.reset(seed=self.seed, options={"stream": "search", "episode": episode})
        total, step = 0.0, 0
        while self.game.agents:
            leader, follower = sequences[:, step].tolist()
            actions = {agent: leader if agent in self.spec.leader else follower for agent in self.game.agents}
            rewards = self.game.step(actions)[1]
            total += float(sum(rewards.values()))
            step += 1
        self.played += 1
        self.bar.update()
        return total, step

    def compare(self, sequences: Sequences, incumbent: np.ndarray) -> tuple[np.ndarray, int] | None:
        """Return (returns (SPAWNS,), longest episode) if their mean is at least the incumbent's, else None.

        Args:
            sequences: the candidate.
            incumbent: (SPAWNS,) returns to match, -inf for none.
        """
        results: list[tuple[float, int]] = []
        for stage in STAGES:
            results += [self.play(sequences, episode) for episode in range(len(results), stage)]
            if np.mean([result for result, _ in results]) < incumbent[:stage].mean():
                return None
        return np.array([result for result, _ in results]), max(length for _, length in results)

    def move(self, sequences: Sequences, length: int, rng: np.random.Generator) -> Sequences:
        """Return a copy with one block, or with chance 1/3 two, overwritten within the first `length` decisions."""
        changed = sequences.copy()
        for _ in range(1 + (rng.random() < 1 / 3)):
            role = int(rng.integers(2))
            start, block = int(rng.integers(length)), int(rng.choice(BLOCKS))
            changed[role, start : start + block] = rng.choice(self.choices[role])
        return changed

    def climb(self, start: Sequences, until: int, climb: int) -> tuple[np.ndarray, Sequences]:
        """Return (returns, sequences) reached from `start` once `until` episodes are played."""
        rng = generator("search", self.seed, climb)
        best = start
        reached = self.compare(start, np.full(SPAWNS, -np.inf))
        assert reached is not None  # nothing is below -inf
        returns, length = reached
        while self.played < until:
            candidate = self.move(best, length, rng)
            if np.array_equal(candidate[:, :length], best[:, :length]):
                continue
            reached = self.compare(candidate, returns)
            if reached is not None:
                best, (returns, length) = candidate, reached
                self.bar.set_postfix_str(f"climb {climb + 1}: {returns.mean():.2f}")
        return returns, best

    def run(self) -> tuple[float, Sequences]:
        """Return (mean return on the batch, sequences) of the best of `CLIMBS` climbs."""
        constants = [
            np.repeat(np.array([[row], [column]], np.int64), self.spec.horizon, axis=1)
            for row, column in itertools.product(*self.choices)
        ]
        scores = [np.mean([self.play(constant, k)[0] for k in range(STAGES[0])]) for constant in constants]
        starts = [constants[k] for k in np.argsort(scores, kind="stable")[::-1][:CLIMBS]]
        share = (self.budget - self.played) // len(starts)
        opening = self.played
        found = [self.climb(start, opening + share * (k + 1), k) for k, start in enumerate(starts)]
        returns, best = max(found, key=lambda pair: float(pair[0].mean()))
        return float(returns.mean()), best

    def validate(self, sequences: Sequences) -> float:
        """Return the mean return on `VALIDATION_SPAWNS` spawns that the search has not seen."""
        return float(np.mean([self.play(sequences, SPAWNS + k)[0] for k in range(VALIDATION_SPAWNS)]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Search for a suite's script and print its table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m safemarl_bench.baselines.script",
        description="Find the best open-loop action sequence of a suite and print the table for its data file.",
        epilog="example: python -m safemarl_bench.baselines.script merge --episodes 10000",
    )
    parser.add_argument("suite", help="a registered suite with discrete actions")
    parser.add_argument("--episodes", type=int, default=10000, help="search episodes to play (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of spawns and moves (default %(default)s)")
    options = parser.parse_args(arguments)
    try:
        spec = get_suite(options.suite)
        search = Search(spec, make(options.suite), budget=options.episodes, seed=options.seed)
        mean, best = search.run()
        fresh = search.validate(best)
        search.bar.close()
    except SafeMARLBenchError as error:
        print(error, file=sys.stderr)
        return 2
    print(
        f"[agents.script] # best of {options.episodes:,} search episodes, seed {options.seed}: "
        f"mean return {mean:.2f} on its {SPAWNS} spawns, {fresh:.2f} on {VALIDATION_SPAWNS} fresh ones"
    )
    print(f"leader = {best[0].tolist()}")
    print(f"follower = {best[1].tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
