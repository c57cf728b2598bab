"""What the problems of one operator share: what a decision shows, and the game around a core that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from safemarl_bench.contract import Observation, SubProblems, WeaklyCoupled
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.weakly_coupled.core_env import CoreEnv


class OperatorStep(NamedTuple):
    """What one decision shows of E episodes; the caller may keep the arrays.

    Attributes:
        obs: (E, 1, n) float32. state: (E, n) float32, likewise. final_obs, final_state: the same.
        reward: (E, 1) float64. cost: (E, 1, 0) float64: the resource constraint is a mask.
        terminated: (E, 1) bool, false. truncated, over: (E,) bool, whether this decision's clock ended the episode;
            whether it is over.
        exogenous: (E,) int64, number of the exogenous state. sub_states: (E, N) int64, of each sub-problem's.
        sub_rewards: (E, N) float64. resource_use: (E, N) int64.
    """

    obs: np.ndarray
    state: np.ndarray
    final_obs: np.ndarray
    final_state: np.ndarray
    reward: np.ndarray
    cost: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    over: np.ndarray
    exogenous: np.ndarray
    sub_states: np.ndarray
    sub_rewards: np.ndarray
    resource_use: np.ndarray


def shown(
    state: np.ndarray, where: SubProblems, gains: np.ndarray, use: np.ndarray, *, over: np.ndarray, moved: np.ndarray
) -> OperatorStep:
    """Return what a decision shows.

    Args:
        state: (E, n) float32, observations. where: the exogenous and the sub-problems' states; arrays of its own.
        gains: (E, N) float64, sub-rewards. use: (E, N) int64, of the resource.
        over: (E,) bool, whether episodes are over. moved: (E,) bool, whether this decision counted.
    """
    obs, count = state[:, None], len(state)
    return OperatorStep(
        obs=obs,
        state=state,
        final_obs=obs,
        final_state=state,
        reward=gains.sum(axis=1, keepdims=True),
        cost=np.zeros((count, 1, 0)),
        terminated=np.zeros((count, 1), bool),
        truncated=over & moved,
        over=over,
        exogenous=where.exogenous,
        sub_states=where.states,
        sub_rewards=gains,
        resource_use=use,
    )


class OperatorEnv(CoreEnv):
    """One operator, behind PettingZoo's parallel API.

    Infos, see `safemarl_bench.contract`: cost (0,), exogenous, sub_states, feasible, capacity, sub_rewards,
    resource_use.
    """

    def __init__(
        self,
        spec: SuiteSpec,
        simulator: Callable[[int], Any],
        state_space: gymnasium.Space[Any],
        structure: WeaklyCoupled,
    ) -> None:
        """Build the problem; arguments as in `CoreEnv`, and how it falls apart into sub-problems."""
        self.weakly_coupled = structure
        super().__init__(spec, simulator, state_space, [structure.n_actions])

    def observed(self, seen: np.ndarray, where: SubProblems) -> Observation:
        """Return S states side by side, as at the first decision; seen: (S, n) float32. where: of these states."""
        (role,) = self.possible_agents
        count = len(seen)
        return Observation({role: seen}, seen, {role: np.ones(count, bool)}, np.zeros(count, np.int64), where)

    def _infos(self) -> dict[str, dict[str, Any]]:
        step, structure = self._shown, self.weakly_coupled
        exogenous = int(step.exogenous[0])
        info = {
            "cost": np.zeros(0),
            "exogenous": exogenous,
            "sub_states": step.sub_states[0].copy(),
            "sub_rewards": step.sub_rewards[0].copy(),
            "resource_use": step.resource_use[0].copy(),
            "feasible": structure.feasible[exogenous].copy(),
            "capacity": int(structure.capacity[exogenous]),
        }
        return dict.fromkeys(self.possible_agents, info)
