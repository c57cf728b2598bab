"""Pytest plugin: ``pytest suites/ --agent=mip_pcsq`` trains, evaluates, records and prints a table.

It is imported in every pytest session of whoever installs this package, so it imports nothing heavy
until an option of ours is used or a test asks for one of our fixtures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from safemarl_bench.contract import Agent
    from safemarl_bench.record import RunRecord
    from safemarl_bench.runner import Cell

RECORD_PROPERTY = "safemarl_bench_record"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the suites."""
    group = parser.getgroup("safemarl-bench", "safe multi-agent RL suites (`pytest suites/ --agent=NAME`)")
    add = group.addoption
    add(
        "--agent",
        action="append",
        default=[],
        metavar="NAME",
        help="agent to run, repeatable: a registered name (`safemarl-bench list`) or package.module:Class",
    )
    add(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help="suite to run on, repeatable; default: every suite of the leaderboard",
    )
    add("--seeds", default="1", metavar="N|A:B", help="seeds 0..N-1, or A..B-1; default 1 (a verdict needs 5)")
    add("--budget", default="quick", metavar="NAME", help="training budget: smoke, quick (default) or full")
    add(
        "--episodes",
        type=int,
        default=None,
        metavar="N",
        help="held-out evaluation episodes; default the suite's, mostly 100 (20 at budget smoke); records meant to be "
        "published use 500",
    )
    add(
        "--evaluation-backend",
        default="auto",
        metavar="NAME",
        help="simulator to evaluate on; default the suite's first, its fastest, of which 20 episodes are checked on the"
        " last, its reference",
    )
    add("--results-dir", default="smb-results", metavar="DIR", help="where records go; default ./smb-results")
    add(
        "--reuse",
        choices=("never", "valid", "only"),
        default="never",
        help="use a record that exists for the same cell and versions: never, when there is one, or only (else skip)",
    )
    add("--assert-thresholds", action="store_true", help="fail a cell whose mean evaluation cost exceeds its limit")


@dataclasses.dataclass(frozen=True)
class CellName:
    """One parameter of the parametrised tests: names only, so that collection imports no agent."""

    suite: str
    agent: str
    seed: int

    def __str__(self) -> str:
        """Return the test id."""
        return f"{self.suite}-{self.agent}-{self.seed}"


def pytest_configure(config: pytest.Config) -> None:
    """Check our options, so that a wrong name is one line and no test failure."""
    if not config.option.agent:
        return
    from safemarl_bench.errors import SafeMARLBenchError

    try:
        _check_options(config.option)
    except SafeMARLBenchError as error:
        raise pytest.UsageError(str(error)) from error


def _check_options(option: Any) -> None:
    from safemarl_bench.errors import RecordError, RegistryError, SafeMARLBenchError, nearest
    from safemarl_bench.registry import get_agent, get_suite
    from safemarl_bench.runner import resolve_cell

    if option.episodes is not None and option.episodes < 1:
        raise SafeMARLBenchError(f"--episodes must be at least 1, got {option.episodes}")
    _seeds(option.seeds)
    suites = _suites(option)
    budgets = {budget for suite in suites for budget in get_suite(suite).budgets}
    backends = {"auto", *(backend for suite in suites for backend in get_suite(suite).backends)}
    for what, given, known in (
        ("budget", option.budget, budgets),
        ("evaluation backend", option.evaluation_backend, backends),
    ):
        if given not in known:
            raise RegistryError(f"unknown {what} {given!r}: {nearest(given, known)}")
    for agent in option.agent:
        for suite in suites:
            if not _misfit(suite, get_agent(agent), option):
                resolve_cell(suite, agent, budget=option.budget)
    results = Path(option.results_dir)
    existing = next(path for path in (results, *results.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise RecordError(f"--results-dir {results} cannot be written ({existing} is no writable folder)")


def _seeds(text: str) -> range:
    from safemarl_bench.errors import SafeMARLBenchError

    first, colon, last = text.partition(":")
    try:
        seeds = range(int(first), int(last)) if colon else range(int(first))
    except ValueError:
        seeds = range(0)
    if not 0 < len(seeds) <= 10_000 or seeds[0] < 0:
        raise SafeMARLBenchError(f"--seeds must be N (seeds 0..N-1) or A:B (seeds A..B-1), got {text!r}")
    return seeds


def _suites(option: Any) -> list[str]:
    from safemarl_bench.registry import get_suite, suite_names

    return sorted(set(option.suite)) or [suite for suite in suite_names() if get_suite(suite).ranked]


def _misfit(suite: str, agent_class: type[Agent], option: Any) -> str:
    """Return why a pair is skipped, or ""."""
    from safemarl_bench.registry import get_suite, incompatibility

    spec = get_suite(suite)
    reason = incompatibility(spec, agent_class)
    if not reason and option.budget not in spec.budgets:
        reason = f"suite {suite} has no budget {option.budget!r}"
    if not reason and option.evaluation_backend not in ("auto", *spec.backends):
        reason = f"suite {suite} has no backend {option.evaluation_backend!r}"
    return reason


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for a cell one parameter per (suite, agent, seed), sorted."""
    if "smb_cell_name" not in metafunc.fixturenames:
        return
    metafunc.parametrize("smb_cell_name", _cells(metafunc.config.option), ids=str, scope="session")


def _cells(option: Any) -> list[Any]:
    if not option.agent:
        skip = pytest.mark.skip(reason="no agent given: pytest suites/ --agent=NAME (`safemarl-bench list` shows all)")
        return [pytest.param("no-agent", marks=skip)]
    from safemarl_bench.registry import get_agent

    cells = []
    for suite in _suites(option):
        for agent in sorted(set(option.agent)):
            agent_class = get_agent(agent)
            reason = _misfit(suite, agent_class, option)
            seeds = _seeds(option.seeds)[:1] if agent_class.deterministic or reason else _seeds(option.seeds)
            marks = [pytest.mark.skip(reason=reason)] if reason else []
            cells += [pytest.param(CellName(suite, agent, seed), marks=marks) for seed in seeds]
    return cells


@pytest.fixture(scope="session")
def smb_cell(smb_cell_name: CellName, pytestconfig: pytest.Config) -> Cell:
    """The (suite, agent, seed) to run, at the budget of the command line."""
    from safemarl_bench.runner import resolve_cell

    option = pytestconfig.option
    return resolve_cell(
        smb_cell_name.suite,
        smb_cell_name.agent,
        seed=smb_cell_name.seed,
        budget=option.budget,
        episodes=option.episodes,
        evaluation_backend=option.evaluation_backend,
    )


@pytest.fixture(scope="session")
def smb_results_dir(pytestconfig: pytest.Config) -> Path:
    """Where records go."""
    return Path(pytestconfig.option.results_dir)


@pytest.fixture(scope="session")
def _smb_run_record(smb_cell: Cell, smb_results_dir: Path, pytestconfig: pytest.Config) -> RunRecord:
    from safemarl_bench.errors import SafeMARLBenchError
    from safemarl_bench.runner import find_record, run_cell

    reuse = pytestconfig.option.reuse
    try:
        record = find_record(smb_cell, smb_results_dir) if reuse != "never" else None
        if record is None and reuse != "only":
            with _terminal(pytestconfig):
                record = run_cell(smb_cell, smb_results_dir)
        problem = ""
    except SafeMARLBenchError as error:
        record, problem = None, str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    if record is None:
        pytest.skip(f"no record of {smb_cell.label} in {smb_results_dir} (--reuse only)")
    return record


@pytest.fixture
def smb_record(_smb_run_record: RunRecord, record_property: Any) -> RunRecord:
    """The cell's run record: trained and evaluated once per session, written to the results directory."""
    record_property(RECORD_PROPERTY, _smb_run_record.relative_path)
    return _smb_run_record


@contextlib.contextmanager
def _terminal(config: pytest.Config) -> Iterator[None]:
    """Let progress through to the terminal while a cell runs."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None or hasattr(config, "workerinput"):
        yield
        return
    with capture.global_and_fixture_disabled():
        print()
        yield


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of one cell in one worker, which then trains it once."""
    if not config.option.agent:
        return None
    from xdist.scheduler import LoadScopeScheduling

    class CellScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.rpartition("[")[2]

    return CellScheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print one table of what was run, and rebuild the leaderboard of the results directory."""
    if not config.option.agent:
        return
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", [])]
    paths = sorted({value for key, value in properties if key == RECORD_PROPERTY})
    unfinished = sorted(Path(config.option.results_dir).glob("in_progress/*/step-*/trainer.json"))
    if unfinished:
        terminalreporter.section("safemarl-bench")
        terminalreporter.write_line(
            f"{len(unfinished)} unfinished runs in {unfinished[0].parents[2]}; the same command resumes them"
        )
    if not paths:
        return
    from safemarl_bench.errors import SafeMARLBenchError
    from safemarl_bench.leaderboard import write_leaderboard
    from safemarl_bench.summary import results_table

    results = Path(config.option.results_dir)
    terminalreporter.section("safemarl-bench")
    try:
        terminalreporter.write_line(results_table([results / path for path in paths]))
        page, *_ = write_leaderboard(results)
        terminalreporter.write_line(f"\nleaderboard: {page}")
    except SafeMARLBenchError as error:
        terminalreporter.write_line(f"no leaderboard: {error}", red=True)
