"""Table 2 of *Weakly Coupled Deep Q-Networks* again: Q-learning and WCQL on EV charging, 2 to 5 bays, exactly valued.

``python -m safemarl_bench.weakly_coupled.table2`` trains every learner on the preset "code", values its greedy policy
by dynamic programming (50 decisions, discounted, from the first states of an episode), and writes table2.csv, one row
per run, and table2.md. A run whose row is there is not done again, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from safemarl_bench import registry
from safemarl_bench.collection import make_games
from safemarl_bench.contract import build_config
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled.charging import GAMMA, HORIZON, ChargingModel
from safemarl_bench.weakly_coupled.charging_exact import (
    action_values,
    optimal_solution,
    policy_values,
    start_value,
    stationary_solution,
)
from safemarl_bench.weakly_coupled.charging_operator import all_states, exact_value
from safemarl_bench.weakly_coupled.charging_policies import uniform
from safemarl_bench.weakly_coupled.tabular_agent import TabularAgent

PUBLISHED = {"ql": {2: 5.39, 3: 6.70, 4: 5.20, 5: 3.26}, "wcql": {2: 5.35, 3: 7.14, 4: 6.28, 5: 4.66}}
"""What the paper prints, by agent and number of bays."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ql": ("ql", {}),
    "wcql": ("wcql", {}),
    "wcql by price": ("wcql", {"lam_by_exogenous": True}),
    "ql official": ("ql", {"official": True}),
    "wcql official": ("wcql", {"official": True}),
}
"""Name -> agent and its config."""

SIDE_BY_SIDE = 50
LARGEST_CHECKED = 4
"""Bays up to which the learned bound is compared with the optimal value of every pair."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One row of table2.csv.

    Attributes:
        variant: in `VARIANTS`. version: of the agent. n_bays, seed, episodes: what was run.
        value: of the greedy policy. optimum, random: of the best and of the uniform policy; all three exact.
        violated: share of the feasible pairs whose learned bound is below their optimal value; NaN where not known.
    """

    variant: str
    version: str
    n_bays: int
    seed: int
    episodes: int
    value: float
    optimum: float
    random: float
    violated: float

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        """What a run is told by."""
        return self.variant, self.version, self.n_bays, self.seed, self.episodes


def train(variant: str, n_bays: int, seed: int, episodes: int) -> TabularAgent:
    """Return a learner of `VARIANTS` after so many episodes of the preset "code"."""
    name, config = VARIANTS[variant]
    agent_class, spec = registry.get_agent(name), registry.get_suite("ev_charging-code")
    envs = min(SIDE_BY_SIDE, episodes)
    game = registry.make(spec.name, n_bays=n_bays)
    steps = episodes * HORIZON // envs
    context = registry.make_context(spec, game, steps=steps, seed=seed, num_envs=envs, agent_class=agent_class)
    agent = agent_class(context, build_config(agent_class, {**config, "num_envs": envs}))
    assert isinstance(agent, TabularAgent)
    games = make_games(spec, game, lambda: game, envs, seed)
    for step in range(steps):
        actions = agent.act(games.observation, explore=True, rng=generator("explore", seed, step))
        agent.observe(games.step(actions, by=variant)[0])
        agent.learn()
    return agent


@functools.cache
def references(n_bays: int) -> tuple[float, float]:
    """Return the values of the best and of the uniform policy."""
    model = ChargingModel("code", n_bays)
    best = start_value(model, optimal_solution(model, steps=HORIZON).values)
    return best, start_value(model, policy_values(model, uniform(model), steps=HORIZON))


@functools.cache
def optimal_values(n_bays: int) -> np.ndarray:
    """Return Q* at every decision but the first, (S, A) float64, states as in `all_states`."""
    model = ChargingModel("code", n_bays)
    after = stationary_solution(model).values
    return np.stack([worth.ravel() for _, worth in action_values(model, after, GAMMA, first=False)], axis=1)


def violated_share(agent: TabularAgent, n_bays: int) -> float:
    """Return at which share of the feasible pairs the learned bound is below Q*; NaN without a bound or an optimum."""
    if not len(agent.tables.multipliers) or n_bays > LARGEST_CHECKED:
        return float("nan")
    model = ChargingModel("code", n_bays)
    where = all_states(model)[1]
    feasible = model.feasible[where.exogenous]
    below = agent.bounds(where.exogenous, where.states) < optimal_values(n_bays)
    return float(below[feasible].mean())


def run(variant: str, n_bays: int, seed: int, episodes: int) -> Run:
    """Train a learner and value what it learned."""
    agent, model = train(variant, n_bays, seed, episodes), ChargingModel("code", n_bays)
    where = all_states(model)[1]
    actions, _ = agent.greedy(where.exogenous, where.states)
    value = exact_value(model, actions, steps=HORIZON, gamma=GAMMA)
    share = violated_share(agent, n_bays)
    return Run(variant, agent.version, n_bays, seed, episodes, value, *references(n_bays), share)


def read(path: Path) -> list[Run]:
    """Return the rows of a table2.csv, none where there is no such file."""
    if not path.is_file():
        return []
    fields = dataclasses.fields(Run)
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields}
    with path.open(newline="", encoding="utf-8") as file:
        return [Run(**{name: kinds[name](text) for name, text in row.items()}) for row in csv.DictReader(file)]


def write(path: Path, runs: Iterable[Run]) -> None:
    """Write table2.csv, rows sorted by what they are told by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Run)], lineterminator="\n")
        writer.writeheader()
        for one in sorted(runs, key=lambda one: (one.n_bays, list(VARIANTS).index(one.variant), one.seed)):
            writer.writerow(dataclasses.asdict(one))
    temporary.replace(path)


def page(runs: Sequence[Run]) -> str:
    """Return table2.md."""
    lines = [HEAD]
    for n_bays in sorted({one.n_bays for one in runs}):
        for variant in VARIANTS:
            chosen = [one for one in runs if (one.n_bays, one.variant) == (n_bays, variant)]
            if chosen:
                lines.append(_row(chosen, PUBLISHED.get(variant, {}).get(n_bays)))
    return "\n".join(lines) + "\n"


def _row(runs: Sequence[Run], published: float | None) -> str:
    values = np.array([one.value for one in runs])
    optimum, random = runs[0].optimum, runs[0].random
    spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else ""
    score, violated = (values.mean() - random) / (optimum - random), np.mean([one.violated for one in runs])
    cells = (
        str(runs[0].n_bays),
        runs[0].variant,
        f"{runs[0].episodes:,} x {len(runs)}",
        f"{values.mean():.3f}{spread}",
        f"{optimum:.3f}",
        f"{optimum - values.mean():.3f}",
        f"{score:.3f}",
        "" if np.isnan(violated) else f"{100 * violated:.1f} %",
        "" if published is None else f"{published:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


HEAD = """# Table 2 of Weakly Coupled Deep Q-Networks, valued exactly

EV charging, preset `code`, written by `python -m safemarl_bench.weakly_coupled.table2` from [table2.csv](table2.csv).

- **Value**: exact expected return of the greedy policy after training, 50 decisions, discounted by 0.9, from the first
  states of an episode; mean and standard deviation over seeds. **Optimum**: the best policy's, exact too. **Regret**:
  optimum less value. **Score**: 0 is the uniformly random policy, 1 the optimum.
- **Below Q\\***: share of all feasible pairs (state, joint action) whose learned bound Q^lam* is below the optimal
  value Q*, that is, is no bound, after training. At the first step it is 0 %, but for `official`.
- **Published**: the paper's Table 2. Its numbers are discounted returns over 50 decisions on five fixed cost paths,
  which are cheap ones: 5.39 for two bays and 7.14 for three lie above the true optima, 5.137 and 7.009 (5.162 and 7.044
  for episodes without end), which no policy can exceed on average. They compare two learners on these paths, not with
  what is possible, and are not to be compared with the values beside them.
- `official` has the paper's and its code's quirks: random first values (no bound to start with) and multipliers up to
  10. `by price`: one multiplier for each price, 6 levels each.
- 300,000 decisions meet a part of the joint states: 51,000 of 62,208 for four bays, 194,000 of 746,496 for five. Of a
  state that was never met Q-learning knows nothing and plays its first feasible action, which may be worse than a
  random one; WCQL plays what the bound says, which knows every state of every bay. For that its joint table has to
  start above the bound: random first values in [0, 1) lie below it, hardly anything is cut, and `wcql official` learns
  what `ql official` does.

| bays | learner | episodes x seeds | value | optimum | regret | score | below Q* | published |
|---|---|---|---|---|---|---|---|---|"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, with a progress bar, and write both files."""
    parser = argparse.ArgumentParser(prog="python -m safemarl_bench.weakly_coupled.table2", description=__doc__)
    parser.add_argument("--bays", type=int, nargs="+", default=[2, 3, 4, 5], help="numbers of bays; default 2 3 4 5")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each, seeds 0..N-1; default 5")
    parser.add_argument("--episodes", type=int, default=6000, help="of training; default 6000, the paper's")
    parser.add_argument("--out", type=Path, default=Path("results/reproduction"), help="default results/reproduction")
    options = parser.parse_args(arguments)
    path = options.out / "table2.csv"
    cells = [
        (variant, n_bays, seed, options.episodes)
        for n_bays in options.bays
        for variant in options.variants
        for seed in range(options.seeds)
    ]
    with tqdm.tqdm(cells, unit="run") as bar:
        for cell in bar:
            bar.set_postfix_str(f"{cell[0]}, {cell[1]} bays, seed {cell[2]}")
            version = registry.get_agent(VARIANTS[cell[0]][0]).version
            if (cell[0], version, *cell[1:]) not in {one.key for one in read(path)}:
                done = run(*cell)
                write(path, [*read(path), done])
    (options.out / "table2.md").write_text(page(read(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
