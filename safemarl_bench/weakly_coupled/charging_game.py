"""The entry points of the EV charging suites: the game of two operators, and the problem of one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from safemarl_bench.contract import Observation
from safemarl_bench.references import Reference
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.weakly_coupled import charging_operator, charging_reference
from safemarl_bench.weakly_coupled.charging import ChargingModel
from safemarl_bench.weakly_coupled.charging_core import BatchedCharging
from safemarl_bench.weakly_coupled.charging_exact import optimal_solution, policy_values, start_value
from safemarl_bench.weakly_coupled.charging_operator import BatchedOperator
from safemarl_bench.weakly_coupled.charging_policies import uniform
from safemarl_bench.weakly_coupled.core_env import CoreEnv, FeasibleActions, read_settings
from safemarl_bench.weakly_coupled.operator_env import OperatorEnv


def make(spec: SuiteSpec, *, backend: str = "arrays", **overrides: Any) -> ChargingGame:
    """Build the game of two operators.

    Args:
        spec: the suite; its ``[env]`` has `n_bays`, 2 to 5.
        backend: "arrays", the only one.
        overrides: values in place of the data file's.

    Raises:
        RegistryError: an unknown setting, or a number of bays out of range.
    """
    return ChargingGame(spec, read_settings(spec, overrides, ("n_bays",))["n_bays"])


def make_operator(spec: SuiteSpec, *, backend: str = "arrays", **overrides: Any) -> ChargingOperator:
    """Build the problem of one operator.

    Args:
        spec: the suite; its ``[env]`` has `preset`, "text" or "code", and `n_bays`, up to 5.
        backend: "arrays", the only one.
        overrides: values in place of the data file's.

    Raises:
        RegistryError: an unknown setting or preset, or a number of bays out of range.
    """
    return ChargingOperator(spec, ChargingModel(**read_settings(spec, overrides, ("preset", "n_bays"))))


def _state_space(n_bays: int) -> gymnasium.Space[Any]:
    return gymnasium.spaces.Box(0.0, 4.0, (1 + 2 * n_bays,), np.float32)


class ChargingGame(CoreEnv):
    """Two operators of one charging station; rules in `safemarl_bench.weakly_coupled.charging_core`.

    Observation of both and `state()`, float32: the price, then D and B of every bay. Infos of a live agent: cost (1,)
    float64, charged, how many of its own bays were.
    """

    def __init__(self, spec: SuiteSpec, n_bays: int) -> None:
        """Build the game; `spec` gives roles, horizon and limits."""
        shares = (n_bays - n_bays // 2, n_bays // 2) if type(n_bays) is int else (0, 0)
        super().__init__(
            spec,
            lambda num_envs: BatchedCharging(n_bays, spec.horizon, num_envs),
            _state_space(n_bays),
            [2**share for share in shares],
        )

    def optimum(self) -> float:
        """Return the best expected total return, undiscounted, over all policies that keep within the capacity.

        Wanting more than the capacity gains nothing: the surplus is cut. By dynamic programming, O(12^N 2^N) for each
        decision.
        """
        model = self.core.model
        return start_value(model, optimal_solution(model, steps=self.core.horizon, gamma=1.0).values)

    def _infos(self) -> dict[str, dict[str, Any]]:
        own = np.split(self._shown.charged[0], [self.core.shares[0]])
        return {
            agent: {"cost": self._shown.cost[0, k].copy(), "charged": int(own[k].sum())}
            for k, agent in enumerate(self.possible_agents)
        }


class ChargingOperator(OperatorEnv):
    """One operator of a charging station; rules in `safemarl_bench.weakly_coupled.charging_operator`.

    Observation and `state()`, float32: the price shown, then D and B of every bay.
    """

    def __init__(self, spec: SuiteSpec, model: ChargingModel) -> None:
        """Build the problem; `spec` gives the role and the horizon."""
        self.model = model
        super().__init__(
            spec,
            lambda num_envs: BatchedOperator(model, spec.horizon, num_envs),
            _state_space(model.n_bays),
            charging_operator.structure(model),
        )
        feasible = self.weakly_coupled.feasible
        (role,) = spec.roles
        self.action_spaces = {role: FeasibleActions(len(model.actions), lambda: feasible[self._shown.exogenous[0]])}

    def optimum(self) -> float:
        """Return the best expected return, discounted, of an episode."""
        solution = optimal_solution(self.model, steps=self.spec.horizon, gamma=self.spec.gamma)
        return start_value(self.model, solution.values)

    def random_value(self) -> float:
        """Return the expected return, discounted, of drawing every joint action from the feasible ones."""
        return start_value(
            self.model,
            policy_values(self.model, uniform(self.model), steps=self.spec.horizon, gamma=self.spec.gamma),
        )

    def duality(self) -> dict[str, dict[str, float]]:
        """Return the best value of an episode that never ends, discounted, and its Lagrangian bounds.

        Names are those of `reference`, of whose further values these are some.
        """
        best = start_value(self.model, optimal_solution(self.model).values)
        return {"discounted": {"optimum": best}, "Lagrangian bounds": charging_reference.bounds(self.model)}

    def reference(self) -> Reference:
        """Return exact values of the best, of random and of rule-bound play; see `charging_reference`."""
        return charging_reference.reference(self.model)

    def all_states(self) -> Observation:
        """Return every state, S = 3 * 12^N of them side by side, as it is seen at the first decision."""
        return self.observed(*charging_operator.all_states(self.model))

    def exact_value(self, actions: np.ndarray) -> float:
        """Return the expected discounted return of an episode in which `actions`, (S,) integers, are always played.

        Raises:
            ContractError: a wrong shape, or an action that is infeasible.
        """
        return charging_operator.exact_value(self.model, actions, steps=self.spec.horizon, gamma=self.spec.gamma)
