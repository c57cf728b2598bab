"""Suites and agents by name: data files and entry points, resolved only when they are used.

A suite is a TOML file. Packages that hold such files are announced in the entry-point group
``safemarl_bench.suites``; agents are announced in ``safemarl_bench.agents`` (name -> class), or given
as ``package.module:Class``. This package registers its own suites and agents in the same way.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pettingzoo

from safemarl_bench import suite_values
from safemarl_bench.contract import Agent, AgentContext, Features
from safemarl_bench.errors import IncompatiblePair, MissingDependency, RegistryError, SafeMARLBenchError, nearest

Game: TypeAlias = pettingzoo.ParallelEnv[str, Any, Any]
"""A game as `safemarl_bench.contract` describes it."""

SUITE_GROUP = "safemarl_bench.suites"
AGENT_GROUP = "safemarl_bench.agents"

_registered_suites: dict[str, Path] = {}
_registered_agents: dict[str, type[Agent]] = {}


@dataclasses.dataclass(frozen=True)
class SuiteSpec:
    """One suite, as its data file states it.

    Attributes:
        name, version: identity; the version is bumped by hand when the game's behaviour changes.
        title, source: for people.
        entry_point: ``module:function``, called as ``function(spec, backend=..., **overrides)``, returns the game.
        backends: names of the simulators that can run it: the default one first, the reference one, whose numbers
            decide, last. `safemarl_bench.spot_check` holds the others to it.
        action_kind: "discrete" or "continuous".
        leader, followers: agent names.
        gamma: discount. horizon: decisions until the time limit.
        constraints: K names; cost_limits: agent -> K undiscounted limits per episode.
        neutral_actions: agent -> action executed for it once it is done.
        env: keyword settings of the game.
        features: affine scale of every agent's observation and, without `state_features`, of the global state.
        budgets: name -> training decisions.
        agents: agent name -> tuned config values for this suite; a table in it, named as a budget, holds values for
            that budget alone. See `tuned`.
        certified: budget -> agent -> {"total_return": least mean return, "cost_ratio": largest mean cost / limit}.
        ranked: whether the suite counts on the leaderboard.
        state_features: affine scale of the global state; None is that of the observations.
        kind: "game", or "weakly_coupled" (see `safemarl_bench.contract`).
        criterion: "total", returns are sums of rewards, or "discounted", they are sums of ``gamma^t r_t``; everywhere:
            in training logs, validation, evaluation and scores.
        episodes: held-out episodes of an evaluation, unless a run says otherwise.
        board: name of the leaderboard that it counts on, where it is not its kind's; see `family`.
    """

    name: str
    version: int
    title: str
    source: str
    entry_point: str
    backends: tuple[str, ...]
    action_kind: str
    leader: tuple[str, ...]
    followers: tuple[str, ...]
    gamma: float
    horizon: int
    constraints: tuple[str, ...]
    cost_limits: Mapping[str, tuple[float, ...]]
    neutral_actions: Mapping[str, Any]
    env: Mapping[str, Any]
    features: Features
    budgets: Mapping[str, int]
    agents: Mapping[str, Mapping[str, Any]]
    certified: Mapping[str, Mapping[str, Mapping[str, float]]]
    ranked: bool = True
    state_features: Features | None = None
    kind: str = "game"
    criterion: str = "total"
    episodes: int = 100
    board: str = ""

    @property
    def family(self) -> str:
        """What a leaderboard compares: the suites of one `board`; by default games of an action kind, or a kind."""
        return self.board or (self.action_kind if self.kind == "game" else self.kind)

    @property
    def roles(self) -> tuple[str, ...]:
        """Agent names: leaders, then followers."""
        return self.leader + self.followers

    @property
    def unusual(self) -> dict[str, str]:
        """`kind` and `criterion` where they are not the usual ones: digests and records leave out those."""
        usual = {"kind": "game", "criterion": "total"}
        return {key: getattr(self, key) for key, value in usual.items() if getattr(self, key) != value}

    @property
    def reference_backend(self) -> str:
        """The backend whose numbers decide."""
        return self.backends[-1]

    @property
    def digest(self) -> str:
        """12 hex digits over everything that defines the game; titles, budgets and agent configs are left out."""
        left_out = {"title", "source", "entry_point", "backends", "budgets", "agents", "certified", "ranked"}
        if self.state_features is None:
            left_out.add("state_features")
        left_out |= {"kind", "criterion", "episodes", "board"}
        game = {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out} | self.unusual
        return hashlib.sha256(json.dumps(game, sort_keys=True).encode()).hexdigest()[:12]

    def weight(self, step: Any) -> Any:
        """Return what a reward after `step` decisions, an integer or an array of them, counts for in a return."""
        if self.criterion != "discounted":
            return 1.0
        if isinstance(step, int):
            return self.gamma**step
        return np.array([self.gamma**one for one in step.tolist()])  # NumPy's have other last bits on some processors

    def budget_steps(self, budget: str) -> int:
        """Return the training decisions of a budget.

        Raises:
            RegistryError: the suite has no budget of that name.
        """
        if budget not in self.budgets:
            raise RegistryError(f"suite {self.name} has no budget {budget!r}: {nearest(budget, self.budgets)}")
        return self.budgets[budget]

    def tuned(self, agent: str, budget: str) -> dict[str, Any]:
        """Return the config values that the suite gives an agent: those for all budgets, over them the budget's own."""
        given = self.agents.get(agent, {})
        common = {key: value for key, value in given.items() if not isinstance(value, Mapping)}
        return common | dict(given.get(budget, {}))

    def pick_backend(self, backend: str) -> str:
        """Return the name of one of the suite's backends; "auto" is the default one.

        Raises:
            RegistryError: the suite has no such backend.
        """
        if backend == "auto":
            return self.backends[0]
        if backend not in self.backends:
            raise RegistryError(f"suite {self.name} has no backend {backend!r}: {nearest(str(backend), self.backends)}")
        return backend


def read_suite(path: str | Path) -> SuiteSpec:
    """Read a suite's data file.

    Raises:
        RegistryError: it cannot be read, is no TOML, a key is missing or unknown, or a value makes no sense.
    """
    path = Path(path)
    try:
        spec = _parse_suite(tomllib.loads(path.read_text(encoding="utf-8")), path)
        for problem in suite_values.problems(spec):
            raise RegistryError(f"suite file {path}: {problem}")
    except (OSError, ValueError, TypeError, AttributeError) as error:  # ValueError: no TOML, no UTF-8
        raise RegistryError(f"suite file {path}: {error}") from error
    return spec


def _parse_suite(data: dict[str, Any], path: Path) -> SuiteSpec:
    suite = dict(data.pop("suite", {}))
    suite["env"] = data.pop("env", {})
    suite["budgets"] = data.pop("budgets", {})
    suite["agents"] = data.pop("agents", {})
    suite["certified"] = data.pop("certified", {})
    scales = {key: data.pop(key) for key in ("features", "state_features") if key in data}
    fields = {field.name for field in dataclasses.fields(SuiteSpec)} - {"features", "state_features"}
    for unknown in [*data, *(set(suite) - fields)]:
        raise RegistryError(f"suite file {path} has an unknown key {unknown!r}: {nearest(unknown, fields)}")
    missing = sorted(fields - set(suite) - {"ranked", "kind", "criterion", "episodes", "board"})
    missing += [f"{key} of {owner}" for owner, scale in {"features": {}, **scales}.items() for key in _lacking(scale)]
    if missing:
        raise RegistryError(f"suite file {path} lacks {', '.join(missing)}")
    for key in ("backends", "leader", "followers", "constraints"):
        suite[key] = tuple(suite[key]) if isinstance(suite[key], list) else (suite[key],)
    suite["cost_limits"] = {agent: tuple(float(x) for x in limits) for agent, limits in suite["cost_limits"].items()}
    suite.update({owner: _features(scale) for owner, scale in scales.items()})
    return SuiteSpec(**suite)


def _lacking(scale: Mapping[str, Any]) -> list[str]:
    """Return the keys that a table of `Features` must have and this one has not."""
    return [field.name for field in dataclasses.fields(Features) if field.name not in scale]


def _features(scale: Mapping[str, Any]) -> Features:
    return Features(**{key: tuple(value) for key, value in scale.items()})


@functools.cache
def _package_suites() -> dict[str, Path]:
    """Return name -> file for the data files of every package in the entry-point group."""
    found: dict[str, Path] = {}
    for entry in sorted(importlib.metadata.entry_points(group=SUITE_GROUP)):
        try:
            package = importlib.util.find_spec(entry.value)
        except ImportError as error:
            raise RegistryError(f"suite package {entry.value!r} (entry point {entry.name!r}): {error}") from error
        for folder in (package.submodule_search_locations or []) if package else []:
            for path in sorted(Path(folder).glob("*.toml")):
                if found.setdefault(path.stem, path) != path:
                    raise RegistryError(f"suite {path.stem!r} is registered twice: {found[path.stem]} and {path}")
    return found


def suite_names() -> list[str]:
    """Return the names of all registered suites, sorted."""
    return sorted({**_package_suites(), **_registered_suites})


def suite_path(name: str) -> Path:
    """Return the data file of a registered suite.

    Raises:
        RegistryError: unknown name.
    """
    paths = {**_package_suites(), **_registered_suites}
    if name not in paths:
        hint = nearest(name, paths)
        raise RegistryError(f"unknown suite {name!r}: {hint} (`safemarl-bench list` shows all)")
    return paths[name]


def get_suite(name: str) -> SuiteSpec:
    """Return a registered suite.

    Raises:
        RegistryError: unknown name, or a malformed data file.
    """
    return _read_registered(name, suite_path(name))


@functools.cache
def _read_registered(name: str, path: Path) -> SuiteSpec:
    spec = read_suite(path)
    if spec.name != name:
        raise RegistryError(f"suite file {path} names its suite {spec.name!r}; rename one of the two")
    return spec


def register_suite(path: str | Path) -> SuiteSpec:
    """Register a suite's data file for this process and return its spec.

    Raises:
        RegistryError: malformed file, or the name is taken.
    """
    path = Path(path).resolve()
    spec = read_suite(path)
    if spec.name != path.stem:
        raise RegistryError(f"suite file {path} names its suite {spec.name!r}; rename one of the two")
    if spec.name in suite_names():
        raise RegistryError(f"suite name {spec.name!r} is taken")
    _registered_suites[spec.name] = path
    return spec


def load_object(reference: str) -> Any:
    """Import ``module:attribute``, also from the current folder, as ``python -m`` would.

    Raises:
        RegistryError: malformed reference, no such module, no such attribute, or the module fails on import.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise RegistryError(f"{reference!r} is not of the form package.module:Name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: nothing in it hides an installed package
    try:
        module = importlib.import_module(module_name)
    except MissingDependency:
        raise
    except Exception as error:
        hint = "; is it installed, or in the current folder?" if isinstance(error, ModuleNotFoundError) else ""
        what = " ".join(str(error).split())
        raise RegistryError(f"cannot import {module_name!r} (from {reference!r}): {what}{hint}") from error
    if not hasattr(module, attribute):
        hint = nearest(attribute, (name for name in vars(module) if not name.startswith("_")))
        raise RegistryError(f"module {module_name!r} has no {attribute!r}: {hint}")
    return getattr(module, attribute)


@functools.cache
def _entry_point_agents() -> dict[str, str]:
    """Return name -> ``module:Class`` for the entry-point group."""
    found: dict[str, str] = {}
    for entry in sorted(importlib.metadata.entry_points(group=AGENT_GROUP)):
        if found.setdefault(entry.name, entry.value) != entry.value:
            raise RegistryError(f"agent {entry.name!r} is registered twice: {found[entry.name]} and {entry.value}")
    return found


def agent_names() -> list[str]:
    """Return the names of all registered agents, sorted."""
    return sorted({**_entry_point_agents(), **_registered_agents})


def check_agent_name(agent: str) -> None:
    """Raise `RegistryError` unless `agent` is registered or of the form ``package.module:Class``. Imports nothing."""
    if ":" not in agent and agent not in agent_names():
        hint = nearest(agent, agent_names())
        raise RegistryError(f"unknown agent {agent!r}: {hint} (`safemarl-bench list` shows all)")


def get_agent(agent: str) -> type[Agent]:
    """Return the class of a registered agent, or of ``package.module:Class``.

    Raises:
        RegistryError: unknown name, import failure, or the object is not a subclass of `Agent`.
    """
    check_agent_name(agent)
    if agent in _registered_agents:
        return _registered_agents[agent]
    found = load_object(_entry_point_agents().get(agent, agent))
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise RegistryError(f"{agent!r} is not a subclass of safemarl_bench.Agent")
    return found


def register_agent(name: str, agent_class: type[Agent]) -> None:
    """Register an agent class for this process.

    Raises:
        RegistryError: the name is taken, or the class is not an `Agent`.
    """
    if not (isinstance(agent_class, type) and issubclass(agent_class, Agent)):
        raise RegistryError(f"{agent_class!r} is not a subclass of safemarl_bench.Agent")
    if name in agent_names():
        raise RegistryError(f"agent name {name!r} is taken")
    _registered_agents[name] = agent_class


def incompatibility(spec: SuiteSpec, agent_class: type[Agent]) -> str:
    """Return why the agent cannot run on the suite, or ""."""
    if spec.kind not in agent_class.suite_kinds:
        able = " or ".join(suite_values.SUITE_KINDS[kind] for kind in agent_class.suite_kinds)
        return f"{agent_class.__name__} is for {able}, suite {spec.name} is {suite_values.SUITE_KINDS[spec.kind]}"
    if agent_class.pairs_only and (len(spec.leader), len(spec.followers)) != (1, 1):
        roles = f"{len(spec.leader)} leaders and {len(spec.followers)} followers"
        return f"{agent_class.__name__} plays one leader and one follower, suite {spec.name} has {roles}"
    if spec.action_kind not in agent_class.action_kinds:
        able = " or ".join(agent_class.action_kinds)
        return f"{agent_class.__name__} plays {able} actions, suite {spec.name} has {spec.action_kind} ones"
    if agent_class.needs_backend and agent_class.needs_backend not in spec.backends:
        return f"{agent_class.__name__} needs the backend {agent_class.needs_backend}, suite {spec.name} has none"
    for setting, values in agent_class.made_for.items():
        if spec.env.get(setting) not in values:
            able = " or ".join(str(value) for value in values if value is not None)
            given = spec.env.get(setting)
            return f"{agent_class.__name__} is made for {setting} {able}, suite {spec.name} has {given}"
    return ""


def check_pair(spec: SuiteSpec, agent_class: type[Agent]) -> None:
    """Raise `IncompatiblePair` with the reason unless the agent can run on the suite."""
    reason = incompatibility(spec, agent_class)
    if reason:
        raise IncompatiblePair(reason)


def make(suite: str, *, backend: str = "auto", **overrides: Any) -> Game:
    """Build the game of a suite.

    Args:
        suite: a registered name.
        backend: one of the suite's backends (driving: "kernel", "highway"); "auto" is its default.
        overrides: settings in place of the data file's ``[env]``, and ``render_mode``.

    Raises:
        RegistryError: unknown suite, backend or setting.
    """
    spec = get_suite(suite)
    game: Game = load_object(spec.entry_point)(spec, backend=spec.pick_backend(backend), **overrides)
    return game


def make_context(
    spec: SuiteSpec, game: Game, *, steps: int, seed: int, num_envs: int = 1, agent_class: type[Agent] = Agent
) -> AgentContext:
    """Return what an agent is told about a game.

    Args:
        spec: the suite; game: built from it.
        steps: training decisions of each game.
        num_envs: games played side by side in training.
        seed: in [0, 2**63 - 1].
        agent_class: whose context it is; the game's `simulator` is only for a privileged one.
    """
    return AgentContext(
        observation_spaces={agent: game.observation_space(agent) for agent in spec.roles},
        action_spaces={agent: game.action_space(agent) for agent in spec.roles},
        state_space=game.state_space,
        leader=spec.leader,
        followers=spec.followers,
        cost_limits=spec.cost_limits,
        gamma=spec.gamma,
        horizon=spec.horizon,
        neutral_actions=spec.neutral_actions,
        observation_features=dict.fromkeys(spec.roles, spec.features),
        state_features=spec.state_features or spec.features,
        num_envs=num_envs,
        training_steps=steps,
        seed=seed,
        simulator=getattr(game, "simulator", None) if agent_class.privileged else None,
        weakly_coupled=getattr(game, "weakly_coupled", None),
    )


def list_suites() -> pd.DataFrame:
    """Return one row per registered suite, sorted: actions, horizon, limits, budgets, backends, rank, agents."""
    rows = []
    agents = {name: found for name, found in _all_agents().items() if not isinstance(found, str)}
    for name in suite_names():
        spec = get_suite(name)
        able = [agent for agent, agent_class in agents.items() if not incompatibility(spec, agent_class)]
        limits = " ".join(f"{agent}<={','.join(map(str, spec.cost_limits[agent]))}" for agent in spec.roles)
        budgets = " ".join(f"{budget}={steps}" for budget, steps in spec.budgets.items())
        ranked = "yes" if spec.ranked else "no"
        backends = " ".join(spec.backends)
        row = (f"{name}@{spec.version}", spec.action_kind, spec.horizon, limits, budgets, backends, ranked)
        rows.append((*row, " ".join(able)))
    columns = ["suite", "actions", "horizon", "cost limits", "training steps", "backends", "leaderboard", "agents"]
    return pd.DataFrame(rows, columns=columns)


def list_agents() -> pd.DataFrame:
    """Return one row per registered agent, sorted: what it is, the suites it runs on, and why not on the others."""
    rows = []
    for name, agent in _all_agents().items():
        if isinstance(agent, str):
            rows.append((name, "", "", "", agent))
            continue
        reasons = {suite: incompatibility(get_suite(suite), agent) for suite in suite_names()}
        kind = agent.privileged or ("learner" if agent.learns else "fixed")
        runs_on = " ".join(suite for suite, reason in reasons.items() if not reason)
        rows.append((name, agent.version, kind, runs_on, "; ".join(filter(None, reasons.values()))))
    return pd.DataFrame(rows, columns=["agent", "version", "kind", "runs on", "not on, because"])


def _all_agents() -> dict[str, type[Agent] | str]:
    """Return name -> class, or what is wrong with it: one broken package must not hide all the others."""
    found: dict[str, type[Agent] | str] = {}
    for name in agent_names():
        try:
            found[name] = get_agent(name)
        except SafeMARLBenchError as error:
            found[name] = str(error)
    return found
