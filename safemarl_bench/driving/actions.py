"""What an agent may do in one decision, and what is said of anything else."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from safemarl_bench.errors import ContractError

META_ACTIONS = ("LANE_LEFT", "IDLE", "LANE_RIGHT", "FASTER", "SLOWER")


def action_space(continuous: bool) -> gymnasium.spaces.Discrete | gymnasium.spaces.Box:
    """Return the five meta-actions, or one number in [-1, 1] as a float32 vector of length 1."""
    if continuous:
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    return gymnasium.spaces.Discrete(len(META_ACTIONS))


def check_action(agent: str, action: Any, continuous: bool) -> int | np.ndarray:
    """Return an action in the form that the simulator takes: an int, or a float32 vector of length 1.

    Raises:
        ContractError: it is not in the action space.
    """
    return _check_number(agent, action) if continuous else _check_meta_action(agent, action)


def _check_meta_action(agent: str, action: Any) -> int:
    if not isinstance(action, int | np.integer) or isinstance(action, bool):
        raise ContractError(f"action of {agent!r} must be an integer, got {type(action).__name__} {action!r}")
    if not 0 <= action < len(META_ACTIONS):
        raise ContractError(f"action of {agent!r} must be in 0..{len(META_ACTIONS) - 1}, got {action}")
    return int(action)


def _check_number(agent: str, action: Any) -> np.ndarray:
    if not isinstance(action, np.ndarray) or action.dtype.kind != "f" or action.shape != (1,):
        kind = f"{action.dtype} of shape {action.shape}" if isinstance(action, np.ndarray) else type(action).__name__
        raise ContractError(f"action of {agent!r} must be a float array of shape (1,), got {kind} {action!r}")
    if not -1.0 <= action[0] <= 1.0:  # NaN too
        raise ContractError(f"action of {agent!r} must be in [-1, 1], got {action[0]}")
    return action.astype(np.float32)
