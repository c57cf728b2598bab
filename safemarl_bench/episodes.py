"""Which episode a reset starts: the reading of seed and options that all games of this package share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from safemarl_bench.errors import ContractError, nearest
from safemarl_bench.rng import check_seed

GAME_STREAMS = ("train", "validation", "evaluation", "search")
"""The random streams that an episode may come from; the others are the agents' own."""


class Episode(NamedTuple):
    """The key of an episode: everything random in it is a function of these three."""

    stream: str
    seed: int
    number: int

    @property
    def following(self) -> Episode:
        """The next episode of the same seed and stream."""
        return self._replace(number=self.number + 1)


def read_reset(seed: int | None, options: Mapping[str, Any] | None, following: Episode) -> Episode:
    """Return the episode that a reset asks for.

    Args:
        seed: None goes on to the episode `following`.
        options: "stream" ("train" by default with a seed) and "episode" (0 by default with a seed); others are
            ignored, as PettingZoo asks.

    Raises:
        ContractError: an unknown stream. SafeMARLBenchError: a number out of range.
    """
    given = dict(options or {})
    stream, first, number = following if seed is None else Episode("train", check_seed(seed), 0)
    stream, number = given.get("stream", stream), check_seed(given.get("episode", number), "episode")
    if stream not in GAME_STREAMS:
        raise ContractError(f"unknown spawn stream {stream!r}: {nearest(str(stream), GAME_STREAMS)}")
    return Episode(stream, first, number)
