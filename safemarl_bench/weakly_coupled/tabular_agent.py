"""The agent around the tables of `safemarl_bench.weakly_coupled.tabular`: acting, learning, checkpoints."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from safemarl_bench.checkpoint import read_checkpoint, write_checkpoint
from safemarl_bench.contract import AgentContext, Arrays, Observation, Transition, WeaklyCoupled
from safemarl_bench.errors import CheckpointError, ContractError
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled import tables, tabular
from safemarl_bench.weakly_coupled.operator_agent import OperatorAgent
from safemarl_bench.weakly_coupled.tables import JointTable, SubTables

MAX_RATES = 2**20
"""Visits from which on a rate falls no further."""

RANDOM_VALUES = 65_537
"""Random first values are a table of so many, a prime, that states and actions run through."""

METRIC_INTERVAL = 100
"""Decisions between two reports."""

COLUMNS = ("states", "values", "visits", "seen")


@dataclasses.dataclass(frozen=True)
class TabularConfig:
    """What every tabular learner can set."""

    num_envs: int = 10  # E, games played side by side in training
    alpha_exponent: float = 0.4  # of the learning rate 1 / visits^r
    epsilon_exponent: float = 0.4  # of the chance of exploring, 1 / visits^e
    official: bool = False  # quirks of the paper and its code: all first values drawn from U(0, 1)

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ContractError: an exponent outside [0, 1].
        """
        for name in ("alpha_exponent", "epsilon_exponent"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ContractError(f"config key {name!r} must be in [0, 1], got {getattr(self, name)}")


class TabularAgent(OperatorAgent):
    """A learner of a joint table, cut to bounds by the tables of sub-problems where a subclass has some."""

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Start with an empty table.

        Raises:
            ContractError: the game is not weakly coupled.
        """
        super().__init__(context, config)
        problem = self.problem
        self.coupling = tables.Coupling(
            allocations=problem.allocations.astype(np.int64),
            feasible=problem.feasible,
            capacity=problem.capacity.astype(np.float64),
            radix=np.array(problem.sub_states),
            gamma=np.array([context.gamma]),
        )
        self.table = tables.empty_table(problem.n_actions, self.initial_values())
        self.tables = self.subproblem_tables(problem)
        self.rates = self._rates()
        self.decisions = self.cuts = 0
        self._work = np.empty((1 + problem.n_subproblems, len(self.tables.multipliers)))
        self._moves: tables.Moves | None = None

    def initial_values(self) -> np.ndarray:
        """Return first values of the table, see `JointTable.initial`."""
        if not self.config.official:
            return np.zeros(1)
        return generator("init", self.context.seed).random(RANDOM_VALUES)

    @abstractmethod
    def subproblem_tables(self, problem: WeaklyCoupled) -> SubTables:
        """Return the tables of the sub-problems."""

    @abstractmethod
    def exponents(self) -> tuple[float, float, float]:
        """Return the exponents of alpha, beta and eta; see `tables.Rates`."""

    def _rates(self) -> tables.Rates:
        count = min(MAX_RATES, self.context.training_steps * self.context.num_envs + 1)
        return tables.Rates(*(tables.polynomial_rates(count, exponent) for exponent in self.exponents()))

    def greedy(self, exogenous: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the actions that look best, and how often each state was learned from, (E,) int64 each.

        Args:
            exogenous: (E,) int64. states: (E, N) int64.
        """
        actions, seen = np.empty_like(exogenous), np.empty_like(exogenous)
        tabular.greedy(self.coupling, self.table, self.tables, exogenous, states, actions, seen, self._work)
        return actions, seen

    def bounds(self, exogenous: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Return Q^lam*(s, a), (E, A) float64: infinite at infeasible actions, and without sub-problems.

        Args:
            exogenous: (E,) int64. states: (E, N) int64.
        """
        found = np.empty((len(exogenous), self.table.values.shape[1]))
        tabular.bounds(self.coupling, self.tables, exogenous, states, found, self._work)
        return found

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Play greedily, or with chance 1 / nu(s)^e any feasible action; see `Agent.act`."""
        shown = self.where(observation)
        actions, seen = self.greedy(shown.exogenous, shown.states)
        if explore:
            curious = rng.random(len(actions)) < (seen + 1.0) ** -self.config.epsilon_exponent
            actions = np.where(curious, self.problem.draw(shown.exogenous, rng), actions)
        return {self.operator: actions}

    def observe(self, transition: Transition) -> None:
        """Keep E transitions for `learn`."""
        before, after = self.where(transition.observation), self.where(transition.next_observation)
        assert transition.sub_rewards is not None
        self._moves = tables.Moves(
            exogenous=before.exogenous,
            states=before.states,
            actions=transition.actions[self.operator],
            rewards=transition.sub_rewards,
            next_exogenous=after.exogenous,
            next_states=after.states,
            continues=~transition.terminations[self.operator],
        )

    def learn(self) -> dict[str, float]:
        """Learn from the last transitions; return metrics by name at every 100th decision, else nothing."""
        if self._moves is None:
            return {}
        self.decisions += 1
        self.table = tabular.with_room(self.table, len(self._moves.actions))
        self.cuts += tabular.learn(self.coupling, self.table, self.tables, self.rates, self._moves, self._work)
        self._moves = None
        return {} if self.decisions % METRIC_INTERVAL else self.metrics()

    def metrics(self) -> dict[str, float]:
        """Return what to report: how many joint states were met."""
        return {"states_met": float(self.table.used[0])}

    def _arrays(self, *, training: bool) -> dict[str, np.ndarray]:
        """Return what a checkpoint holds beside the rows of the table, by name."""
        names = ("values", "earned", "visits", "met") if training else ("values", "earned")
        arrays = {f"sub_{name}": getattr(self.tables, name) for name in names}
        return arrays | {"initial": self.table.initial}

    def _choices(self, numbers: np.ndarray) -> np.ndarray:
        """Return the greedy actions, (S,) int16, in joint states given by their numbers, (S,) int64."""
        parts, rest = np.empty((len(numbers), self.problem.n_subproblems), np.int64), numbers.copy()
        for i, size in reversed(list(enumerate(self.problem.sub_states))):
            rest, parts[:, i] = np.divmod(rest, size)
        return self.greedy(rest, parts)[0].astype(np.int16)

    def save(self, path: Path, *, training: bool) -> None:
        """Write the tables; to act, of the joint table only what is chosen in each state. See `Agent.save`."""
        used = int(self.table.used[0])
        if training:
            rows = {name: getattr(self.table, name)[:used] for name in COLUMNS}
        else:
            numbers = self.table.states[:used]
            rows = {"states": numbers, "choices": self._choices(numbers)}
        meta = {"agent": type(self).__name__, "training": training, "decisions": self.decisions, "cuts": self.cuts}
        write_checkpoint(path, "agent", rows | self._arrays(training=training), meta)

    def load(self, path: Path) -> None:
        """Read the tables; see `Agent.load`.

        Raises:
            CheckpointError: they cannot be read, or are another agent's or another game's.
        """
        arrays, meta = read_checkpoint(path, "agent")
        if meta.get("agent") != type(self).__name__:
            raise CheckpointError(f"checkpoint {path} is of agent {meta.get('agent')!r}, not {type(self).__name__!r}")
        own = self._arrays(training=meta["training"])
        shapes = {name: array.shape for name, array in own.items()}
        used, actions = len(arrays["states"]) if "states" in arrays else 0, self.problem.n_actions
        shapes |= {"states": (used,)} | ({"values": (used, actions)} if meta["training"] else {"choices": (used,)})
        for name, shape in shapes.items():
            if name not in arrays or arrays[name].shape != shape:
                got = "nothing" if name not in arrays else f"shape {arrays[name].shape}"
                raise CheckpointError(f"checkpoint {path}: {name!r} must have shape {shape}, got {got}")
        for name, array in own.items():
            array[:] = arrays[name]
        rows = {name: arrays[name] for name in COLUMNS if name in arrays}
        if not meta["training"]:
            rows["values"] = np.full((used, actions), -np.inf)
            rows["values"][np.arange(used), arrays["choices"]] = 0.0
        empty: JointTable = tables.empty_table(actions, self.table.initial, max(1024, used))
        self.table = tabular.filled(empty, rows)
        self.decisions, self.cuts = meta["decisions"], meta["cuts"]
