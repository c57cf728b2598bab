"""Replay memories: a ring of rows in NumPy arrays, drawn from uniformly or by priority.

Prioritised replay: Schaul et al., ICLR 2016, proportional variant with stratified draws. A memory
holds no random state: every draw takes the generator it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from safemarl_bench.errors import CheckpointError

BLOCK = 64
"""Priorities summed together: the first search runs over sums of blocks, the second inside one block."""


class ReplayBuffer:
    """The newest `capacity` rows, drawn uniformly with replacement.

    Attributes:
        capacity: rows kept. size: rows held. cursor: where the next row goes.
        columns: name -> (capacity, ...) array; rows [0, size) are valid.
    """

    def __init__(self, capacity: int, columns: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
        """Reserve memory (the operating system hands it out as it is written to).

        Args:
            capacity: rows, >= 1.
            columns: name -> (shape of one row, dtype).
        """
        self.capacity = capacity
        self.size = self.cursor = 0
        self.columns: dict[str, np.ndarray] = {
            name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in columns.items()
        }

    def add(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Store n rows, over the oldest ones where the ring is full; return their slots, (n,) int64.

        Args:
            rows: name -> (n, ...) for every column, n <= capacity.
        """
        count = len(next(iter(rows.values())))
        end = self.cursor + count
        slots = np.arange(self.cursor, end)
        where: Any = slice(self.cursor, end)
        if end > self.capacity:
            slots = where = slots % self.capacity
        for name, column in self.columns.items():
            column[where] = rows[name]
        self.cursor = end % self.capacity
        self.size = min(self.size + count, self.capacity)
        return slots

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` slots, (count,) int64."""
        return rng.integers(self.size, size=count)

    def gather(self, slots: np.ndarray) -> dict[str, np.ndarray]:
        """Return name -> (n, ...) copies of the rows in `slots`, (n,)."""
        return {name: column.take(slots, axis=0) for name, column in self.columns.items()}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Return (arrays, counters): all that `restore` needs."""
        arrays = {f"replay.{name}": column[: self.size] for name, column in self.columns.items()}
        return arrays, {"replay_size": self.size, "replay_cursor": self.cursor}

    def restore(self, arrays: Mapping[str, np.ndarray], counters: Mapping[str, int]) -> None:
        """Take over what `state` returned.

        Raises:
            CheckpointError: a column is missing or of another shape.
        """
        self.size, self.cursor = int(counters["replay_size"]), int(counters["replay_cursor"])
        for name, column in self.columns.items():
            saved = arrays.get(f"replay.{name}")
            expected = (self.size, *column.shape[1:])
            if self.size > self.capacity or saved is None or saved.shape != expected or saved.dtype != column.dtype:
                got = "nothing" if saved is None else f"{saved.dtype} {saved.shape}"
                raise CheckpointError(f"replay column {name!r} must be {column.dtype} {expected}, got {got}")
            column[: self.size] = saved


class PrioritizedReplay(ReplayBuffer):
    """A replay memory that draws a row with probability p / sum p.

    Attributes:
        priorities: (blocks, BLOCK) float64, p of every slot, 0 where nothing is stored.
        block_sums: (blocks,) float64, recomputed (never updated by differences, which would drift).
        max_priority: the largest p so far; new rows get it, so that each is likely to be seen soon.
    """

    def __init__(self, capacity: int, columns: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
        """See `ReplayBuffer`."""
        super().__init__(capacity, columns)
        self.priorities = np.zeros((-(-capacity // BLOCK), BLOCK))
        self.block_sums = np.zeros(len(self.priorities))
        self.max_priority = 1.0

    def add(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Store rows with the largest priority so far; see `ReplayBuffer.add`."""
        slots = super().add(rows)
        self._set(slots, np.full(len(slots), self.max_priority))
        return slots

    def sample(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return `count` slots: one draw from each of `count` equal shares of the priority mass."""
        return self.find((np.arange(count) + rng.random(count)) / count)

    def find(self, quantiles: np.ndarray) -> np.ndarray:
        """Return the slots at quantiles of the priority distribution.

        Args:
            quantiles: (n,) in [0, 1).

        Returns:
            (n,) int64, always slots with p > 0.
        """
        mass = np.cumsum(self.block_sums)
        target = quantiles * mass[-1]
        # Rounding may push a target past the last stored row: the last block and row with mass take it.
        block = np.minimum(np.searchsorted(mass, target, side="right"), np.searchsorted(mass, mass[-1]))
        rest = np.maximum(target - (mass[block] - self.block_sums[block]), 0.0)
        inner = np.cumsum(self.priorities[block], axis=1)
        row = np.minimum((inner <= rest[:, None]).sum(1), (inner < inner[:, -1:]).sum(1))
        slots: np.ndarray = block * BLOCK + row
        return slots

    def weights(self, slots: np.ndarray, beta: float) -> np.ndarray:
        """Return importance weights ``((1/N) / P)^beta`` over their maximum in the batch.

        Args:
            slots: (B,).
            beta: in [0, 1]; 1 corrects the bias of the draw in full.

        Returns:
            (B,) float32 in (0, 1].
        """
        probability = self.priorities.ravel()[slots] / self.block_sums.sum()
        weights = (self.size * probability) ** -beta
        weights /= weights.max()
        return np.asarray(weights, np.float32)

    def update(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        """Set new priorities.

        Args:
            slots: (B,); where one occurs twice its last priority counts.
            priorities: (B,) > 0.
        """
        self.max_priority = max(self.max_priority, float(priorities.max()))
        self._set(slots, priorities)

    def _set(self, slots: np.ndarray, priorities: np.ndarray) -> None:
        self.priorities.ravel()[slots] = priorities
        blocks = slots // BLOCK
        self.block_sums[blocks] = self.priorities[blocks].sum(axis=1)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """See `ReplayBuffer.state`."""
        arrays, counters = super().state()
        arrays["replay_priorities"] = self.priorities.ravel()[: self.size]
        arrays["replay_max_priority"] = np.array([self.max_priority])
        return arrays, counters

    def restore(self, arrays: Mapping[str, np.ndarray], counters: Mapping[str, int]) -> None:
        """See `ReplayBuffer.restore`."""
        super().restore(arrays, counters)
        saved, largest = arrays.get("replay_priorities"), arrays.get("replay_max_priority")
        if saved is None or saved.shape != (self.size,) or largest is None or largest.shape != (1,):
            raise CheckpointError(f"replay priorities of shape ({self.size},) and their maximum are missing")
        self.priorities[:] = 0.0
        self.priorities.ravel()[: self.size] = saved
        self.block_sums = self.priorities.sum(axis=1)
        self.max_priority = float(largest[0])
