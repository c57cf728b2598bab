"""One board: the rows of agents that can be compared, in the two orders of safety and reward."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safemarl_bench.score import VERDICTS, SuiteScore, Verdict, worst_verdict
from safemarl_bench.stats import clopper_pearson, iqm


@dataclasses.dataclass(frozen=True)
class Entry:
    """One agent (variant) on one suite at one budget.

    Attributes:
        suite, suite_version: of the game as it was played; game_digest also tells overrides apart.
        family: what a board compares, see `SuiteSpec.family`.
        agent: name, and what sets it apart from the main variant. kind: "learner", "fixed", "planner", "oracle".
        budget: name of the training budget. learns: whether it spends that budget.
        score: what it reached.
        reason: why it cannot be ranked ("stale: ...", "modified game: ...", "unregistered suite"), or "".
    """

    suite: str
    suite_version: int
    game_digest: str
    family: str
    agent: str
    kind: str
    budget: str
    learns: bool
    score: SuiteScore
    reason: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One agent on a board.

    Attributes:
        rank: from 1, or None where `reason` says why it is not ranked.
        agent, kind: see `Entry`.
        scores: suite -> score, for the suites of the board that count.
        reason: why it is not ranked, or "".
    """

    rank: int | None
    agent: str
    kind: str
    scores: Mapping[str, SuiteScore]
    reason: str

    @property
    def verdict(self) -> Verdict | None:
        """The worst verdict over suites; None where no suite counts."""
        return worst_verdict([score.verdict for score in self.scores.values()]) if self.scores else None

    def count(self, verdict: Verdict) -> int:
        """Return the number of suites with a verdict."""
        return sum(score.verdict == verdict for score in self.scores.values())

    @property
    def cost_ratio(self) -> float | None:
        """IQM of the cost ratios over suites and seeds."""
        ratios = [ratio for score in self.scores.values() for ratio in score.cost_ratios]
        return iqm(ratios) if ratios else None

    @property
    def score(self) -> float | None:
        """IQM of the normalised scores over suites and seeds; None unless every suite has a reference."""
        if not self.scores or not all(score.scores for score in self.scores.values()):
            return None
        return iqm([value for score in self.scores.values() for value in score.scores])

    @property
    def provisional(self) -> bool:
        """Whether a suite's score is normalised by a provisional reference."""
        return any(score.provisional for score in self.scores.values())

    @property
    def enough_seeds(self) -> bool:
        """Whether every suite has seeds enough for the verdict SAFE."""
        return all(score.enough_seeds for score in self.scores.values())

    @property
    def seeds(self) -> tuple[int, int]:
        """Feasible seeds k and all seeds n, over suites."""
        scores = self.scores.values()
        return sum(score.feasible_seeds for score in scores), sum(score.seeds for score in scores)

    @property
    def crash_rate(self) -> tuple[float, float, float] | None:
        """Crash rate over all evaluation episodes, with its Clopper-Pearson 95 % interval (rate, low, high)."""
        crashes = sum(score.crashes for score in self.scores.values())
        episodes = sum(score.episodes for score in self.scores.values())
        return (crashes / episodes, *clopper_pearson(crashes, episodes)) if episodes else None

    @property
    def training_violations(self) -> float | None:
        """Violating steps per 1,000 training steps, mean over suites."""
        rates = [score.training_violations for score in self.scores.values()]
        trained = [rate for rate in rates if rate is not None]
        return math.fsum(trained) / len(trained) if trained else None


@dataclasses.dataclass(frozen=True)
class Board:
    """The agents that can be compared: one family of suites, one budget, the full set of suites.

    Attributes:
        suites: names of all registered suites of the family.
        safety, reward: the same agents in two orders, unranked ones last.
    """

    family: str
    budget: str
    suites: tuple[str, ...]
    safety: tuple[Row, ...]
    reward: tuple[Row, ...]


def ranked(rows: Sequence[Row], order: Callable[[Row], tuple[Any, ...] | None]) -> tuple[Row, ...]:
    """Sort and number the rows; those that have a reason, or no place in the order, follow unranked by name."""
    places = [(place, row) for row in rows if not row.reason and (place := order(row)) is not None]
    places.sort(key=lambda item: (*item[0], item[1].agent))
    numbered = [dataclasses.replace(row, rank=rank) for rank, (_, row) in enumerate(places, start=1)]
    names = {row.agent for row in numbered}
    rest = [row if row.reason else dataclasses.replace(row, reason="no reference return") for row in rows]
    return (*numbered, *(row for row in rest if row.agent not in names))


def safety_order(row: Row) -> tuple[Any, ...]:
    """Most SAFE suites, then fewest UNSAFE ones, then the lowest cost ratio."""
    return -row.count("SAFE"), row.count("UNSAFE"), round(row.cost_ratio or 0.0, 3)


def reward_order(row: Row) -> tuple[Any, ...] | None:
    """SAFE, then UNCERTAIN, then UNSAFE, by the worst verdict; in each group the highest score first."""
    if row.verdict is None or row.score is None:
        return None
    return VERDICTS.index(row.verdict), -round(row.score, 3)
