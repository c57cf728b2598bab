"""One cell, from names to a record: build, train (resumably), evaluate, write once.

A cell is (suite, agent, config, seed, budget). Work in progress lives in
``<results>/in_progress/<cell key>`` and is removed when the record is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import tqdm

from safemarl_bench import validation
from safemarl_bench.canonical_json import canonical, sha256
from safemarl_bench.checkpoint import folder_digest
from safemarl_bench.collection import Finished, Games, make_games
from safemarl_bench.contract import Agent, build_config
from safemarl_bench.errors import CheckpointError, RecordError, RegistryError, SafeMARLBenchError
from safemarl_bench.evaluation import EVALUATION_SEED, SIDE_BY_SIDE, EpisodeTally, evaluate, evaluate_side_by_side
from safemarl_bench.evaluation import STREAM as EVALUATION_STREAM
from safemarl_bench.provenance import code_state, distribution_of, machine, package_versions
from safemarl_bench.record import RunRecord, load_records, read_record, write_record
from safemarl_bench.record_content import SPOT_CHECK_EPISODES, summarise_evaluation
from safemarl_bench.registry import Game, SuiteSpec, check_pair, get_agent, get_suite, make, make_context
from safemarl_bench.rng import check_seed
from safemarl_bench.rollout import Rollout, calling
from safemarl_bench.spot_check import Trace, require_pin, spot_check
from safemarl_bench.training import Interrupted, Trainer

DEFAULT_RESULTS = "smb-results"
SMOKE_EPISODES = 20
SMOKE_VALIDATION_EPISODES = 5


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is to be run; everything that decides the result, and nothing else.

    Attributes:
        spec: the suite. agent: registered name or ``package.module:Class``. agent_class: resolved.
        config: an instance of the agent's Config. seed: in [0, 2**63 - 1].
        budget: name of the training budget. episodes: held-out episodes to evaluate on.
        backend, evaluation_backend: names of the simulators to train and to evaluate on.
    """

    spec: SuiteSpec
    agent: str
    agent_class: type[Agent]
    config: Any
    seed: int
    budget: str
    episodes: int
    backend: str
    evaluation_backend: str

    @property
    def needs_spot_check(self) -> bool:
        """Whether evaluation runs on another backend than the reference, and so must be checked on it."""
        return self.evaluation_backend != self.spec.reference_backend

    @property
    def num_envs(self) -> int:
        """Games that the agent is trained on side by side."""
        return int(getattr(self.config, "num_envs", 1))

    @property
    def steps(self) -> int:
        """Training decisions of all games: the budget's whole rounds, or 0 for an agent that does not learn."""
        budget = self.spec.budget_steps(self.budget)
        return budget - budget % self.num_envs if self.agent_class.learns else 0

    @property
    def validation_episodes(self) -> int:
        """Episodes that a policy is validated on."""
        return SMOKE_VALIDATION_EPISODES if self.budget == "smoke" else validation.EPISODES

    @property
    def label(self) -> str:
        """Short readable name, the one pytest shows: ``merge-csq-0``."""
        return f"{self.spec.name}-{self.agent}-{self.seed}"

    def section(self) -> dict[str, Any]:
        """Return the ``cell`` section of a run record."""
        spec, agent = self.spec, self.agent_class
        return {
            "suite": spec.name,
            "suite_version": spec.version,
            "suite_digest": spec.digest,
            "game": {
                "action_kind": spec.action_kind,
                "leader": list(spec.leader),
                "followers": list(spec.followers),
                "horizon": spec.horizon,
                "gamma": spec.gamma,
                "constraints": list(spec.constraints),
                "cost_limits": {role: list(limits) for role, limits in spec.cost_limits.items()},
                "overrides": {},
            }
            | spec.unusual,
            "agent": self.agent,
            "agent_version": agent.version,
            "agent_traits": {
                "learns": agent.learns,
                "deterministic": agent.deterministic,
                "privileged": agent.privileged,
            },
            "distribution": distribution_of(agent),
            "config": dataclasses.asdict(self.config),
            "seed": self.seed,
            "budget": self.budget,
            "training_steps": self.steps,
            "evaluation_episodes": self.episodes,
            "backend": {"train": self.backend, "evaluation": self.evaluation_backend},
        }


def resolve_cell(
    suite: str,
    agent: str,
    *,
    seed: int = 0,
    budget: str = "quick",
    episodes: int | None = None,
    config: Mapping[str, Any] | None = None,
    backend: str = "auto",
    evaluation_backend: str = "auto",
) -> Cell:
    """Turn names into a cell.

    Args:
        suite, agent: registered names, or ``package.module:Class`` for the agent.
        seed: training seed.
        budget: a budget of the suite.
        episodes: held-out evaluation episodes; default the suite's, 100 or more, at budget smoke 20.
        config: values in place of the suite's tuned config and the agent's defaults.
        backend, evaluation_backend: of the suite's backends those to train and to evaluate on; "auto" is the
            suite's default one, for either. An evaluation on another than the suite's reference is checked on it.

    Raises:
        RegistryError: an unknown suite, agent, budget, config key or backend. IncompatiblePair: they do not fit.
    """
    spec, agent_class = get_suite(suite), get_agent(agent)
    check_pair(spec, agent_class)
    agent_class = agent_class.for_actions(spec.action_kind)
    spec.budget_steps(budget)
    if episodes is None:
        episodes = SMOKE_EPISODES if budget == "smoke" else spec.episodes
    if not isinstance(episodes, int) or episodes < 1:
        raise SafeMARLBenchError(f"evaluation episodes must be an integer of at least 1, got {episodes!r}")
    if not isinstance(agent_class.version, str) or not isinstance(agent_class.action_kinds, tuple):
        raise RegistryError(f"agent {agent!r}: version must be text and action_kinds a tuple of text")
    built = build_config(agent_class, {**spec.tuned(agent, budget), **(config or {})})
    _check_num_envs(getattr(built, "num_envs", 1), budget, spec.budget_steps(budget))
    return Cell(
        spec,
        agent,
        agent_class,
        built,
        check_seed(seed),
        budget,
        episodes,
        spec.pick_backend(backend),
        spec.pick_backend(evaluation_backend),
    )


def _check_num_envs(num_envs: Any, budget: str, steps: int) -> None:
    if type(num_envs) is not int or not 1 <= num_envs <= steps:
        raise RegistryError(
            f"config key 'num_envs' must be an integer in 1..{steps} (the decisions of budget {budget}), "
            f"got {num_envs!r}"
        )


def run(
    suite: str,
    agent: str,
    *,
    seed: int = 0,
    budget: str = "quick",
    results_dir: str | Path | None = None,
    episodes: int | None = None,
    config: Mapping[str, Any] | None = None,
    backend: str = "auto",
    evaluation_backend: str = "auto",
    progress: bool = True,
) -> RunRecord:
    """Train and evaluate one agent on one suite and write the record; resumes what was interrupted.

    Args:
        suite, agent, seed, budget, episodes, config, backend, evaluation_backend: see `resolve_cell`.
        results_dir: where records go; default ``./smb-results``.
        progress: show a progress bar on stderr.

    Returns:
        The record, written to ``results_dir`` (a no-op when the same one is there already).

    Raises:
        SafeMARLBenchError: with one clear line; see the subclasses.
        Interrupted: after Ctrl-C; the same call resumes.
    """
    cell = resolve_cell(
        suite,
        agent,
        seed=seed,
        budget=budget,
        episodes=episodes,
        config=config,
        backend=backend,
        evaluation_backend=evaluation_backend,
    )
    return run_cell(cell, results_dir or DEFAULT_RESULTS, progress=progress)


def run_cell(cell: Cell, results_dir: str | Path, *, progress: bool = True) -> RunRecord:
    """Run a resolved cell; see `run`."""
    if cell.needs_spot_check:
        require_pin(cell.spec)
    results = Path(results_dir)
    work = results / "in_progress" / cell_key(cell)
    lock = filelock.FileLock(work.with_suffix(".lock"), timeout=0)
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        work.mkdir(exist_ok=True)
    except filelock.Timeout:
        raise RecordError(f"{cell.label} is being run by another process in {results}; wait for it") from None
    except OSError as error:
        raise RecordError(f"results directory {results} cannot be written: {error.strerror or error}") from error
    try:
        record = _run_locked(cell, results, work, progress)
        Path(lock.lock_file).unlink(missing_ok=True)
        return record
    except Interrupted:
        raise
    except KeyboardInterrupt:
        saved = "from its last checkpoint" if list(work.glob("step-*/trainer.json")) else "anew: nothing was saved yet"
        raise Interrupted(f"{cell.label} was cut off; the same command starts it {saved}") from None
    finally:
        lock.release()


def cell_key(cell: Cell) -> str:
    """Return 16 hex digits that name a cell together with the package versions."""
    return _key(canonical(cell.section(), "cell"), package_versions())


def _key(section: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    return sha256({"cell": section, "versions": versions})[:16]


def _run_locked(cell: Cell, results: Path, work: Path, progress: bool) -> RunRecord:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with _games(cell) as (game, evaluation_game):
        agent = build_agent(cell, game)
        another = functools.partial(make, cell.spec.name, backend=cell.backend)
        games = make_games(cell.spec, game, another, cell.num_envs, cell.seed)
        play = functools.partial(_play, cell, evaluation_game, agent)
        validate = functools.partial(play, validation.STREAM, validation.SEED, cell.validation_episodes)
        trainer = Trainer(games, agent, cell.agent, cell.steps, work, validate)
        policy, chosen = trainer.policy_folder(0), None
        if cell.steps:
            _train(cell, trainer, progress)
            final = play(EVALUATION_STREAM, EVALUATION_SEED, cell.episodes, trainer.step)
            policy, chosen = _choose(cell, trainer, final)
        else:
            trainer.save_policy()
        evaluation = _evaluate(cell, Rollout(cell.spec, evaluation_game), agent, progress)
    record = RunRecord(
        cell=cell.section(),
        versions=package_versions(),
        provenance={
            **code_state(),
            **machine(),
            "started": started,
            "wall_seconds": round(trainer.seconds(), 2),
        },
        train=trainer.log.section(),
        validation=chosen,
        eval=evaluation,
        checkpoint=_keep_policy(policy, results, cell),
    )
    path, _ = write_record(record, results)
    shutil.rmtree(work)
    return read_record(path)


@contextlib.contextmanager
def _games(cell: Cell) -> Iterator[tuple[Game, Game]]:
    """Yield the game to train on, and the one to validate and evaluate on: a training episode waits meanwhile."""
    with contextlib.ExitStack() as stack:
        games = []
        for backend in (cell.backend, cell.evaluation_backend):
            games.append(make(cell.spec.name, backend=backend))
            stack.callback(games[-1].close)
        yield games[0], games[1]


def build_agent(cell: Cell, game: Game) -> Agent:
    """Return the cell's agent, untrained, for a game of the cell's suite. Torch is held to one thread."""
    with calling(cell.agent, "__init__", 0):
        context = make_context(
            cell.spec,
            game,
            steps=cell.steps // cell.num_envs,
            seed=cell.seed,
            num_envs=cell.num_envs,
            agent_class=cell.agent_class,
        )
        agent = cell.agent_class(context, cell.config)
    if "torch" in sys.modules:  # more threads change the order of sums, and with it the record
        sys.modules["torch"].set_num_threads(1)
    return agent


def _bar(cell: Cell, what: str, total: int, initial: int, unit: str, progress: bool) -> Any:
    live = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total,
        initial=initial,
        desc=f"{cell.label} {what}",
        unit=f" {unit}",
        disable=not progress,
        mininterval=0.2 if live else 20.0,
        dynamic_ncols=live,
        leave=not live,
    )


def _train(cell: Cell, trainer: Trainer, progress: bool) -> None:
    resumed = trainer.resume()
    if resumed and progress:
        tqdm.tqdm.write(f"{cell.label}: resuming at decision {trainer.step:,} of {cell.steps:,}", file=sys.stderr)
    with _bar(cell, "training", cell.steps, trainer.step, "decisions", progress) as bar:
        try:
            trainer.run(bar)
        except Interrupted as stop:
            raise Interrupted(f"{cell.label} {stop}; the same command resumes it from {trainer.folder}") from None


def _play(cell: Cell, game: Game, agent: Agent, stream: str, seed: int, episodes: int, step: int) -> validation.Outcome:
    """Return what the agent does in the first episodes of a stream."""
    return validation.play(_greedy_games(cell, game, agent, stream, seed, episodes), agent, cell.agent, episodes, step)


def _greedy_games(cell: Cell, game: Game, agent: Agent, stream: str, seed: int, episodes: int) -> Games:
    """Return games to play greedily: many for an agent that trains in many, of a batched simulator; else one."""
    batched = hasattr(cell.config, "num_envs") and hasattr(game, "core") and not agent.privileged
    num_envs = min(SIDE_BY_SIDE, episodes) if batched else 1
    return make_games(cell.spec, game, lambda: game, num_envs, seed, stream=stream)


def _choose(cell: Cell, trainer: Trainer, final: validation.Outcome) -> tuple[Path, dict[str, Any]]:
    """Give the agent its best policy; return where that is kept, and the ``validation`` section of the record."""
    outcomes = trainer.outcomes
    kept = validation.best(outcomes, cell.spec.cost_limits)
    folder = trainer.policy_folder(outcomes[kept].step)
    with calling(cell.agent, "load", trainer.step):
        trainer.agent.load(folder)
    return folder, validation.section(outcomes, kept, final)


def _evaluate(cell: Cell, rollout: Rollout, agent: Agent, progress: bool) -> dict[str, Any]:
    """Return the ``eval`` section of the record, its spot check included."""
    collisions = 0
    # Held-out episodes are independent draws: the first ones are as good a sample as any, and nobody chose them.
    checked = range(min(SPOT_CHECK_EPISODES, cell.episodes) if cell.needs_spot_check else 0)
    traces = [Trace(episode) for episode in checked]
    with _bar(cell, "evaluation", cell.episodes, 0, "episodes", progress) as bar:

        def after(one: EpisodeTally | Finished) -> None:
            nonlocal collisions
            collisions += any(one.crashed.values()) if isinstance(one.crashed, dict) else one.crashed
            bar.set_postfix_str(f"return {sum(one.returns.values()):.1f}, collisions {collisions}", refresh=False)
            bar.update(1)

        if cell.spec.kind == "weakly_coupled" and not traces:
            held_out = (EVALUATION_STREAM, EVALUATION_SEED, cell.episodes)
            games = _greedy_games(cell, rollout.game, agent, *held_out)
            evaluation = evaluate_side_by_side(games, rollout, agent, cell.agent, cell.episodes, after=after)
        else:
            evaluation = evaluate(rollout, agent, cell.agent, range(cell.episodes), after=after, traces=traces)
    evaluation["spot_check"] = None
    if traces:
        if progress:
            what = f"{cell.label}: playing {len(traces)} episodes again on {cell.spec.reference_backend}"
            tqdm.tqdm.write(what, file=sys.stderr)
        evaluation["spot_check"] = spot_check(
            cell.spec, traces, stream=evaluation["stream"], seed=evaluation["seed"], backend=cell.evaluation_backend
        )
    return summarise_evaluation(evaluation)


def _keep_policy(policy: Path, results: Path, cell: Cell) -> dict[str, Any]:
    """Move the policy to ``results/checkpoints`` under its hash; return the ``checkpoint`` section of the record."""
    if not policy.is_dir() or not any(policy.iterdir()):
        return {"sha256": None, "bytes": 0}
    digest, size = folder_digest(policy)
    kept = results / "checkpoints" / digest[:16]
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists() and folder_digest(kept)[0] != digest:
            shutil.rmtree(kept)
        if not kept.exists():
            policy.rename(kept)
    except OSError as error:
        raise CheckpointError(f"cannot keep checkpoint {kept}: {error.strerror or error}") from error
    return {"sha256": digest, "bytes": size}


def find_record(cell: Cell, results_dir: str | Path) -> RunRecord | None:
    """Return the newest record of the cell made with the installed package versions, or None."""
    if not Path(results_dir).is_dir():
        return None
    wanted = cell_key(cell)
    same = [record for record in load_records(results_dir) if _key(record.cell, record.versions) == wanted]
    return max(same, key=lambda record: record.provenance.get("started", ""), default=None)


def load_agent(source: RunRecord | str | Path, results_dir: str | Path | None = None) -> Agent:
    """Return the trained agent of a record, ready to act.

    Args:
        source: a record, or the path of its file (then `results_dir` is known from it).
        results_dir: the folder that holds ``checkpoints/``; default ``./smb-results``.

    Raises:
        RecordError: the record cannot be read. CheckpointError: its checkpoint is missing or altered.
    """
    if isinstance(source, RunRecord):
        record, results = source, Path(results_dir or DEFAULT_RESULTS)
    else:
        folders = Path(source).resolve().parents  # <results>/runs/<suite>/<agent>/<file>
        record, results = read_record(source), Path(results_dir or folders[min(3, len(folders) - 1)])
    cell = resolve_cell(
        record.suite,
        record.agent,
        seed=record.seed,
        budget=record.budget,
        episodes=int(record.cell["evaluation_episodes"]),
        config=record.cell["config"],
        backend=record.cell["backend"]["train"],
        evaluation_backend=record.cell["backend"]["evaluation"],
    )
    game = make(record.suite, backend=cell.backend)
    try:
        agent = build_agent(cell, game)
    finally:
        game.close()
    wanted = record.checkpoint["sha256"]
    if wanted:
        folder = results / "checkpoints" / wanted[:16]
        if folder_digest(folder)[0] != wanted:
            raise CheckpointError(f"checkpoint {folder} was altered since its record was written")
        with calling(record.agent, "load", 0):
            agent.load(folder)
    return agent
