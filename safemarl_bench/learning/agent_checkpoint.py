"""What all learners' checkpoints have in common: whose they are, and tensors that must fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from safemarl_bench.checkpoint import read_checkpoint, write_checkpoint
from safemarl_bench.errors import CheckpointError

CHECKPOINT_NAME = "agent"


class HasTensors(Protocol):
    """A learner that names its tensors."""

    def tensors(self, *, training: bool) -> dict[str, torch.Tensor]:
        """Return, by name, the tensors that a checkpoint holds."""


class HasState(Protocol):
    """A memory of transitions."""

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Return (arrays, counters) that its restoring needs."""


def write_agent(
    path: Path, agent: HasTensors, memory: HasState, counters: Mapping[str, int], *, training: bool
) -> None:
    """Write a checkpoint of an agent: its tensors and counters, and with `training` its memory."""
    arrays = {name: tensor.numpy() for name, tensor in agent.tensors(training=training).items()}
    remembered, filled = memory.state() if training else ({}, {})
    meta = {"agent": type(agent).__name__, "training": training, "counters": {**counters, **filled}}
    write_checkpoint(path, CHECKPOINT_NAME, arrays | remembered, meta)


def read_agent(path: Path, agent: HasTensors) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays and meta of a checkpoint that fits an agent.

    Raises:
        CheckpointError: it cannot be read, or is of another agent, game or network width.
    """
    arrays, meta = read_checkpoint(path, CHECKPOINT_NAME)
    if meta.get("agent") != type(agent).__name__:
        raise CheckpointError(f"checkpoint {path} is of agent {meta.get('agent')!r}, not {type(agent).__name__!r}")
    for name, tensor in agent.tensors(training=meta["training"]).items():
        saved = arrays.get(name)
        if saved is None or saved.shape != tuple(tensor.shape):
            got = "nothing" if saved is None else f"shape {saved.shape}"
            raise CheckpointError(f"checkpoint {path}: {name!r} must have shape {tuple(tensor.shape)}, got {got}")
    return arrays, meta


def copy_into(tensors: Mapping[str, torch.Tensor], arrays: Mapping[str, np.ndarray]) -> None:
    """Give tensors the values of the arrays of their names."""
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(arrays[name]))
