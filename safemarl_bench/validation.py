"""Which of the policies that a training passes through is its result: the best one on validation episodes.

The policies of a safe learner flicker: one that keeps its limits may be followed by one that does not. So from half
of training on, at ten points, the policy of that moment plays the same validation episodes, which are neither
training nor evaluation ones. The best one becomes the run's result, the same rule for every agent; the record also
says what the last one reaches, and what each one did here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from safemarl_bench.collection import Games
from safemarl_bench.contract import Agent
from safemarl_bench.evaluation import finished_episodes
from safemarl_bench.record_content import cost_ratio

STREAM, SEED = "validation", 0
POINTS = 10
EPISODES = 100


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a policy did in some episodes.

    Attributes:
        step: training decisions behind it. episodes: how many it played.
        returns: role -> mean undiscounted return. costs: role -> (K,) mean undiscounted costs.
        collisions: episodes with a crash.
    """

    step: int
    episodes: int
    returns: dict[str, float]
    costs: dict[str, list[float]]
    collisions: int


def validation_steps(total: int) -> list[int]:
    """Return after how many training decisions, out of `total`, a policy is validated: from half to all."""
    return sorted({round(point) for point in np.linspace(total / 2, total, POINTS)}) if total else []


def play(games: Games, agent: Agent, name: str, episodes: int, step: int) -> Outcome:
    """Play the first episodes of `games` greedily.

    Args:
        games: at their beginning; a single one for a privileged agent. agent: the policy; name: what errors call it.
        episodes: how many. step: training decisions behind the policy.

    Raises:
        ContractError: the agent or the game broke its contract.
    """
    done = sorted(finished_episodes(games, agent, name, episodes))
    roles = games.spec.roles
    return Outcome(
        step=step,
        episodes=episodes,
        returns={role: float(np.mean([one.returns[role] for one in done])) for role in roles},
        costs={role: np.mean([one.costs[role] for one in done], axis=0).tolist() for role in roles},
        collisions=sum(one.crashed for one in done),
    )


def best(outcomes: Sequence[Outcome], limits: Mapping[str, Sequence[float]]) -> int:
    """Return the index of the policy to keep: of those within all limits the highest total return, later ones first.

    Where none is within them: the lowest cost ratio, later ones first.
    """

    def merit(index: int) -> tuple[Any, ...]:
        outcome = outcomes[index]
        cost = cost_ratio(outcome.costs, limits)
        return (cost <= 1.0, sum(outcome.returns.values()) if cost <= 1.0 else -cost, index)

    return max(range(len(outcomes)), key=merit)


def section(outcomes: Sequence[Outcome], kept: int, final: Outcome) -> dict[str, Any]:
    """Return the ``validation`` section of a run record: all points, the one kept, the last policy's evaluation."""
    first = outcomes[0]
    return {
        "episodes": first.episodes,
        "steps": [outcome.step for outcome in outcomes],
        "returns": {role: [outcome.returns[role] for outcome in outcomes] for role in first.returns},
        "costs": {role: [outcome.costs[role] for outcome in outcomes] for role in first.costs},
        "collisions": [outcome.collisions for outcome in outcomes],
        "kept": kept,
        "final": dataclasses.asdict(final),
    }
