"""Ad matching, E episodes side by side, behind PettingZoo's parallel API; the entry point of its suite.

Observation and `state()`, float32: the impression's type, one-hot, then the remaining ads of each advertiser. Every
joint action is feasible; one that serves an advertiser without ads left earns nothing. The clock is not shown.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from safemarl_bench.contract import Observation, SubProblems, WeaklyCoupled
from safemarl_bench.errors import ContractError
from safemarl_bench.references import Reference
from safemarl_bench.registry import SuiteSpec
from safemarl_bench.weakly_coupled import ads_exact, ads_policies
from safemarl_bench.weakly_coupled.ads import ADS, N_TYPES, AdModel, allocations
from safemarl_bench.weakly_coupled.batched_episodes import BatchedEpisodes, markov_chain
from safemarl_bench.weakly_coupled.core_env import read_settings
from safemarl_bench.weakly_coupled.operator_agent import Rule
from safemarl_bench.weakly_coupled.operator_env import OperatorEnv, OperatorStep, shown
from safemarl_bench.weakly_coupled.reference_cache import Values, digest, kept
from safemarl_bench.weakly_coupled.time_multipliers import least_bound

FORMAT = 3
"""Of the cache's files: bump it when a value changes although the instance does not."""


class BatchedAds(BatchedEpisodes):
    """E episodes of one instance."""

    def __init__(self, model: AdModel, horizon: int, num_envs: int) -> None:
        """Start an episode everywhere; see `BatchedEpisodes`."""
        self.check_num_envs(num_envs)
        self.model = model
        self._allocations = allocations()
        self._types = np.zeros((num_envs, horizon + 1), np.int64)
        self._remaining = np.zeros((num_envs, len(ADS)), np.int64)
        super().__init__(horizon, num_envs, 1)

    def _start(self, rows: np.ndarray, draws: np.ndarray) -> None:
        self._types[rows], self._remaining[rows] = markov_chain(draws[:, :, 0], self.model.moves), ADS

    @property
    def shown_type(self) -> np.ndarray:
        """(E,) int64, type of the impression."""
        shown: np.ndarray = self._types[self._games, self._clock]
        return shown

    def step(self, actions: np.ndarray) -> OperatorStep:
        """Take one decision in every episode.

        Args:
            actions: (E, 1) integers, 0 for nobody, i for advertiser i - 1.

        Raises:
            ContractError: a wrong shape or dtype, or an action out of range; nothing has moved.
        """
        self._check_actions(actions, (len(self._allocations),))
        running = self._clock < self.horizon
        use = self._allocations[actions[:, 0]] * running[:, None]
        served = np.minimum(use, self._remaining)
        gains = served * self.model.payments[:, self.shown_type].T
        self._remaining -= served
        self._clock += running
        return self._shown(gains, running, use)

    def _at_rest(self) -> OperatorStep:
        nothing = np.zeros(self._remaining.shape)
        return self._shown(nothing, np.zeros(self.num_envs, bool), nothing.astype(np.int64))

    def _shown(self, gains: np.ndarray, moved: np.ndarray, use: np.ndarray) -> OperatorStep:
        where = SubProblems(self.shown_type, self._remaining.copy())
        return shown(seen(*where), where, gains, use, over=self._clock >= self.horizon, moved=moved)

    def rules(self) -> dict[str, Rule]:
        """Return the rules that know the model, by name."""
        return ads_policies.rules(self.model)

    def get_state(self) -> np.ndarray:
        """Return a copy of where all episodes are, (E, 8) int64: type, clock, remaining ads."""
        return np.concatenate([self.shown_type[:, None], self._clock[:, None], self._remaining], axis=1)

    def set_state(self, state: np.ndarray) -> OperatorStep:
        """Put every episode where `get_state` was called; what is drawn later stays.

        Raises:
            ContractError: a wrong shape or dtype, or a number out of range; nothing has changed.
        """
        self._check_state(state, [N_TYPES - 1, self.horizon, *ADS])
        self._clock, self._remaining = state[:, 1].copy(), state[:, 2:].copy()
        self._types[self._games, self._clock] = state[:, 0]
        return self._at_rest()


def seen(types: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Return observations, (S, 11) float32, of types (S,) and remaining ads (S, 6)."""
    observations = np.zeros((len(types), N_TYPES + len(ADS)), np.float32)
    observations[np.arange(len(types)), types] = 1.0
    observations[:, N_TYPES:] = remaining
    return observations


def make(spec: SuiteSpec, *, backend: str = "arrays", **overrides: Any) -> AdMatching:
    """Build the problem.

    Args:
        spec: the suite; its ``[env]`` has `instance`, the number of the random instance.
        backend: "arrays", the only one.
        overrides: values in place of the data file's.

    Raises:
        RegistryError: an unknown setting. SafeMARLBenchError: a number out of range.
    """
    return AdMatching(spec, AdModel(**read_settings(spec, overrides, ("instance",))))


class AdMatching(OperatorEnv):
    """One operator who gives impressions to advertisers."""

    def __init__(self, spec: SuiteSpec, model: AdModel) -> None:
        """Build the problem; `spec` gives the role and the horizon."""
        self.model = model
        table = allocations()
        structure = WeaklyCoupled(
            allocations=table,
            feasible=np.ones((N_TYPES, len(table)), bool),
            capacity=np.ones(N_TYPES, np.int64),
            sub_states=tuple(x + 1 for x in ADS),
        )
        space = gymnasium.spaces.Box(0.0, float(max(ADS)), (N_TYPES + len(ADS),), np.float32)
        super().__init__(spec, lambda num_envs: BatchedAds(model, spec.horizon, num_envs), space, structure)

    def optimum(self) -> float:
        """Return the best expected return, discounted, of an episode; some seconds at the first call."""
        return self._values()["discounted"]["optimum"]

    def random_value(self) -> float:
        """Return the expected return, discounted, of uniformly random joint actions; likewise."""
        return self._values()["discounted"]["random"]

    def duality(self) -> Values:
        """Return the best value of an episode, discounted, and its Lagrangian bound; likewise."""
        values = self._values()
        return {
            "discounted": {"optimum": values["discounted"]["optimum"]},
            "Lagrangian bounds": values["Lagrangian bounds"],
        }

    def _values(self) -> Values:
        """Return exact values and bounds, kept on disk."""
        model, gamma = self.model, self.spec.gamma
        numbers = [FORMAT, model.moves.tolist(), model.payments.tolist(), gamma, self.spec.horizon, ADS]

        def compute() -> Values:
            actions = ads_exact.greedy_actions(model)
            bound = least_bound(ads_policies.program(model, gamma=gamma)).stated
            return {
                "discounted": {
                    "optimum": ads_exact.optimum(model, gamma=gamma),
                    "random": ads_exact.random_value(model, gamma=gamma),
                    "greedy": ads_exact.policy_value(model, actions, gamma=gamma),
                },
                "Lagrangian bounds": {"one multiplier by decision": bound},
            }

        return kept(f"ad_matching-{digest(numbers)}", compute)

    def reference(self) -> Reference:
        """Return exact values, discounted, of the best, of random and of greedy play; kept on disk."""
        more = self._values()
        values = more["discounted"]
        best = values["optimum"]
        source = "exact: dynamic programming over all states that an episode can reach"
        heuristics = {"greedy": values["greedy"]}
        return Reference(best, values["random"], heuristics, (best, best), source, self.duality())

    def all_states(self) -> Observation:
        """Return every state that an episode can decide in, 976,305 * 5 of them side by side."""
        points = ads_exact.lattice()
        types = np.tile(np.arange(N_TYPES), len(points.remaining))
        where = SubProblems(types, np.repeat(points.remaining, N_TYPES, axis=0))
        return self.observed(seen(*where), where)

    def exact_value(self, actions: np.ndarray) -> float:
        """Return the expected discounted return of an episode in which `actions`, as in `all_states`, are played.

        Raises:
            ContractError: a wrong shape, or a number that is no joint action.
        """
        count = len(ads_exact.lattice().remaining)
        if np.shape(actions) != (count * N_TYPES,):
            shape = np.shape(actions)
            raise ContractError(f"actions must be one for each of the {count * N_TYPES} states, got shape {shape}")
        return ads_exact.policy_value(self.model, np.asarray(actions).reshape(count, N_TYPES), gamma=self.spec.gamma)
