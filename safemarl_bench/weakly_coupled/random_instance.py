"""Problems whose laws are drawn at random, once per instance, from its number alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from safemarl_bench.rng import check_seed


@dataclasses.dataclass(frozen=True)
class RandomInstance:
    """One instance.

    Attributes:
        instance: k >= 0, which all agents share.
    """

    instance: int = 0

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            SafeMARLBenchError: it is no integer in [0, 2^63 - 1].
        """
        check_seed(self.instance, "instance")


def random_chain(rng: np.random.Generator, states: int, largest: float) -> np.ndarray:
    """Return the chances of the next state by the one now, (W, W): rows Dirichlet(alpha), each alpha U(1, largest)."""
    alpha = rng.uniform(1.0, largest, (states, states))
    return np.stack([rng.dirichlet(row) for row in alpha])
