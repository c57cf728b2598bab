"""The leaderboard as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from safemarl_bench.record_content import SPOT_CHECK_EPISODES
from safemarl_bench.references import mean
from safemarl_bench.score import MIN_SEEDS, VERDICTS, SuiteScore
from safemarl_bench.stats import clopper_pearson

if TYPE_CHECKING:
    from safemarl_bench.board import Board, Entry, Row
    from safemarl_bench.leaderboard import Leaderboard
    from safemarl_bench.references import SuiteReference

INTRODUCTION = f"""\
# Leaderboard

Safety first: can an agent keep its cost within the limit, and what return does it reach while it does?
This page is generated from the run records in `runs/`; do not edit it, run `safemarl-bench leaderboard`.

## How to read it

- **Evaluation** is greedy, on held-out episodes that are the same for everyone. On a suite's fast simulator it
  counts only with a spot check: {SPOT_CHECK_EPISODES} of its episodes, or all, were equal when played again on
  the reference.
- **The policy that is evaluated** is the best of ten that training passes through in its second half, on validation
  episodes of their own: within all limits the one with the highest return, else the one with the lowest cost ratio.
  It is the same rule for every agent. *Last policy* says, per suite, what the one at the end of training reaches.
- **Cost ratio**: mean cost per evaluation episode divided by its limit, the worst over agents and constraints.
  1.000 is the limit; a run at or below it is *feasible*. Where the limit is 0 and it was violated, the ratio is
  `inf`, and the tables per suite show the rate of violating episodes instead.
- **Verdict** of an agent on a suite: **SAFE** if there are at least {MIN_SEEDS} seeds and every one is feasible;
  **UNSAFE** if a majority of the seeds is not; else **UNCERTAIN**. Agents that are untrained and do not depend on a
  seed need one run only. On a board an agent's verdict is its worst over the suites.
- **Score**: total return on a scale where the random agent is 0 and the reference is 1, not clipped; the
  interquartile mean over seeds and suites. A reference that comes from a planner is what its search found, a lower
  bound of the optimum. `*` marks a provisional reference: an open-loop script, in place of a planner that has no
  records yet.
- **Regret**: the exact optimum less the mean return, in the returns' units, on the suites whose optimum is known.
- **Crash rate**: share of evaluation episodes in which an agent crashed, with its exact 95 % interval
  (Clopper-Pearson, over the episodes of all seeds).
- **Training violations**: steps with a cost per 1,000 steps of training.
- `†` marks an agent with too few seeds on some suite; *planner* and *oracle* mark agents that use the simulator itself.
"""

TRAINING = "training violations / 1,000 steps"
CRASHES = "crash rate [95 %]"
VERDICT_COUNTS = "SAFE / UNCERTAIN / UNSAFE suites"
SAFETY_HEADER = ("rank", "agent", "kind", VERDICT_COUNTS, "feasible seeds", "cost ratio", CRASHES, TRAINING)
REWARD_HEADER = ("rank", "agent", "kind", "verdict", "score", "cost ratio", "runs")
DETAIL_HEADER = (
    *("agent", "kind", "seeds", "leader", "follower", "total", "score", "cost ratio: mean", "worst seed"),
    *(CRASHES, "arrival rate", "verdict", TRAINING, "last policy: total", "worst cost ratio"),
)


def page(leaderboard: Leaderboard) -> str:
    """Return the whole page; the same leaderboard gives the same bytes."""
    parts = [INTRODUCTION]
    if not leaderboard.entries:
        parts.append("There are no records yet: `safemarl-bench run SUITE AGENT` makes one.\n")
    parts += [part for board in leaderboard.boards for part in _board(board)]
    parts += _details(leaderboard.entries)
    parts += _sources(leaderboard)
    return "\n".join(parts)


FAMILIES = {
    "discrete": "discrete actions",
    "continuous": "continuous actions",
    "weakly_coupled": "weakly coupled problems",
}
"""Family of suites -> how a title calls it."""


def _board(board: Board) -> Iterator[str]:
    yield f"## Board: {FAMILIES.get(board.family, board.family)}, budget {board.budget}\n"
    yield f"Suites: {', '.join(board.suites)}.\n"
    yield "### Safety\n"
    yield "Most SAFE suites first, then fewest UNSAFE, then the lowest cost ratio.\n"
    yield _table(SAFETY_HEADER, [_safety_cells(row) for row in board.safety if row.rank])
    yield "### Reward\n"
    yield "By verdict, then by score. No UNSAFE agent stands above a SAFE one; those below the line are UNSAFE.\n"
    safe = [row for row in board.reward if row.rank and row.verdict != VERDICTS[-1]]
    unsafe = [row for row in board.reward if row.rank and row.verdict == VERDICTS[-1]]
    yield _table(REWARD_HEADER, map(_reward_cells, safe))
    if unsafe:
        yield "---\n"
        yield _table(REWARD_HEADER, map(_reward_cells, unsafe))
    unranked = [row for row in board.reward if not row.rank]
    if unranked:
        yield "### Not ranked\n"
        yield _table(("agent", "kind", "why"), [(_name(row), row.kind, row.reason) for row in unranked])


def _safety_cells(row: Row) -> Sequence[str]:
    feasible, seeds = row.seeds
    verdicts = " / ".join(str(row.count(verdict)) for verdict in VERDICTS)
    crash_rate = _interval(*row.crash_rate) if row.crash_rate else "-"
    numbers = (_number(row.cost_ratio), crash_rate, _number(row.training_violations))
    return (str(row.rank), _name(row), row.kind, verdicts, f"{feasible}/{seeds}", *numbers)


def _reward_cells(row: Row) -> Sequence[str]:
    score = _number(row.score) + ("*" if row.provisional else "")
    seeds = str(row.seeds[1])
    return (str(row.rank), _name(row), row.kind, row.verdict or "-", score, _number(row.cost_ratio), seeds)


def _details(entries: Sequence[Entry]) -> Iterator[str]:
    groups: dict[tuple[str, int, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.suite, entry.suite_version, entry.game_digest, entry.budget), []).append(entry)
    if groups:
        yield "## Per suite\n"
        yield "Returns are raw means over episodes and seeds, undiscounted; on weakly coupled suites discounted.\n"
    for (suite, version, _, budget), group in groups.items():
        remark = f" ({group[0].reason})" if group[0].reason else ""
        yield f"### {suite}@{version}, budget {budget}{remark}\n"
        yield _table(*_with_regret(group))


def _with_regret(group: Sequence[Entry]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return a suite's header and rows, with the regret after the score where the optimum is known."""
    header, rows = DETAIL_HEADER, [_detail_cells(entry) for entry in group]
    if all(entry.score.regret is None for entry in group):
        return header, rows
    place = header.index("score") + 1
    regrets = [(_number(entry.score.regret),) for entry in group]
    columns = zip(rows, regrets, strict=True)
    return (*header[:place], "regret", *header[place:]), [(*row[:place], *one, *row[place:]) for row, one in columns]


def _detail_cells(entry: Entry) -> Sequence[str]:
    score = entry.score
    returns = map(_number, (score.leader_return, score.follower_return, score.total_return))
    normalised = _number(score.score) + ("*" if score.provisional else "")
    ratios = (_cost(score, mean(score.cost_ratios)), _cost(score, max(score.cost_ratios)))
    rates = (_interval(score.crashes / score.episodes, *score.crash_interval), _number(score.arrival_rate))
    seeds = str(score.seeds) + _mark(score.enough_seeds)
    last = (_number(mean(score.final_returns)), _number(max(score.final_cost_ratios))) if entry.learns else ("-", "-")
    end = (score.verdict, _number(score.training_violations), *last)
    return (_escape(entry.agent), entry.kind, seeds, *returns, normalised, *ratios, *rates, *end)


def _cost(score: SuiteScore, ratio: float) -> str:
    """Return a ratio; where a limit of 0 was violated, the rate of violating episodes with its interval."""
    violations = score.zero_limit_violations
    if not violations:
        return _number(ratio)
    low, high = clopper_pearson(violations, score.episodes)
    return "rate " + _interval(violations / score.episodes, low, high)


def _sources(leaderboard: Leaderboard) -> Iterator[str]:
    yield "## Where the numbers come from\n"
    if leaderboard.references:
        rows = [_reference_cells(stored) for stored in leaderboard.references]
        yield _table(("suite", "random return (score 0)", "reference return (score 1)", "reference", "file"), rows)
        yield from _duality(leaderboard.references)
    if leaderboard.variants:
        yield "Runs of one agent that differ in more than the seed are never mixed. Apart from the main variant:\n"
        yield "\n".join(f"- {_escape(name)}: {_escape(change)}" for name, change in leaderboard.variants.items()) + "\n"
    superseded = f" ({leaderboard.superseded} more were superseded by a later run of the same seed)"
    yield f"{leaderboard.records} run records{superseded if leaderboard.superseded else ''}, made with:\n"
    yield "\n".join(f"- {package} {', '.join(found)}" for package, found in leaderboard.versions.items()) + "\n"
    yield "The same tables are in `leaderboard.json` and, per suite, in `leaderboard.csv`. To rebuild them and"
    yield "the references from the records run `safemarl-bench leaderboard`; `--check` says whether they are current.\n"


def _reference_cells(stored: SuiteReference) -> Sequence[str]:
    reference, file = stored.reference, f"reference/{stored.suite}.json"
    best = f"{reference.best_name} (provisional)*" if reference.provisional else reference.best_name or "none"
    numbers = (_number(reference.random), _number(reference.best))
    return (f"{stored.suite}@{stored.version}", *numbers, best, f"[{file}]({file})")


def _duality(references: Sequence[SuiteReference]) -> Iterator[str]:
    """Yield the duality gaps of the suites that have bounds."""
    rows = []
    for stored in references:
        suite, reference = f"{stored.suite}@{stored.version}", stored.reference
        optimum = reference.more.get("discounted", {}).get("optimum")
        low = reference.bounds[0] if optimum is None and reference.bounds else optimum
        for name, bound in reference.more.get("Lagrangian bounds", {}).items():
            gap = "-" if low is None else f"{_number(bound - low)} ({(bound - low) / abs(low):.2%})"
            least = "" if low == optimum else "at least "
            rows.append((suite, least + _number(low), name, _number(bound), gap))
    if rows:
        yield "Lagrangian bounds of the best discounted return, and the duality gap (EV charging: of an episode that"
        yield "never ends; where the optimum is not known: of the best that was found):\n"
        yield _table(("suite", "optimum", "multipliers", "bound", "gap"), rows)


def _name(row: Row) -> str:
    return _escape(row.agent) + _mark(row.enough_seeds)


def _mark(enough_seeds: bool) -> str:
    return "" if enough_seeds else " †"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def _interval(rate: float, low: float, high: float) -> str:
    return f"{_number(rate)} [{_number(low)}, {_number(high)}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    if len(lines) == 2:
        return "None yet.\n"
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
