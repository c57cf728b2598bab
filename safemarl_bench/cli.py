"""Command line: ``safemarl-bench``. Bad input is one clear line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safemarl_bench.errors import SafeMARLBenchError
from safemarl_bench.runner import DEFAULT_RESULTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (0 done, 1 a check failed, 2 bad input, 130 interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        code = int(options.command(options))
        sys.stdout.flush()
        return code
    except SafeMARLBenchError as error:
        print(f"safemarl-bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"safemarl-bench: interrupted: {stop or 'the same command goes on from here'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="safemarl-bench",
        description="Benchmark suites and leaderboards for safe multi-agent reinforcement learning.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add(commands, "list", _list, "Show all suites and agents, and which pairs do not fit.", "safemarl-bench list")
    _add_run(commands)
    _add_sweep(commands)
    _add_leaderboard(commands)
    text = "Print records: numbers, learning curves, provenance; with --png also draw the curves."
    sub = _add(commands, "show", _show, text, "safemarl-bench show RECORD.json --png curves.png")
    sub.add_argument("record", type=Path, nargs="+", help="path of a record; several are shown one after the other")
    text = "draw the learning curves: of one record all in a figure, of several beside each other (extra `plots`)"
    sub.add_argument("--png", type=Path, metavar="FILE.png", help=text)
    records = commands.add_parser("records", help="Check the records of a results directory.")
    nested = records.add_subparsers(title="commands", required=True, metavar="COMMAND")
    text = "Report altered, malformed or contradicting records, one line each; exit 1 if there are any."
    _add_results(_add(nested, "check", _check, text, "safemarl-bench records check --results-dir results"))
    return parser


def _add(commands: Any, name: str, command: Any, text: str, example: str) -> argparse.ArgumentParser:
    sub: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    sub.set_defaults(command=command)
    return sub


def _add_run(commands: Any) -> None:
    text = "Train and evaluate one agent on one suite and write the record. Repeat an interrupted command to resume it."
    sub = _add(commands, "run", _run, text, "safemarl-bench run merge csq --seed 1 --set epsilon_end=0.02")
    sub.add_argument("suite", help="a registered suite")
    sub.add_argument("agent", help="a registered agent, or package.module:Class")
    sub.add_argument("--seed", type=int, default=0, help="training seed (default 0)")
    sub.add_argument("--budget", default="quick", help="smoke, quick (default) or full")
    sub.add_argument(
        "--episodes",
        type=int,
        help="held-out evaluation episodes (default: the suite's, mostly 100; 20 at budget smoke)",
    )
    text = "simulator to train on (`safemarl-bench list` shows each suite's); default: the suite's first, its fastest"
    sub.add_argument("--backend", default="auto", metavar="NAME", help=text)
    text = "simulator to evaluate on, likewise; 20 episodes are checked on the suite's last one, its reference"
    sub.add_argument("--evaluation-backend", default="auto", metavar="NAME", help=text)
    sub.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a config value; repeatable")
    _add_results(sub)


def _add_sweep(commands: Any) -> None:
    text = (
        "Tune: run several configs of one agent, several seeds each, and rank them by what their policies do on the "
        "validation episodes; the evaluation episodes have no say. Repeat an interrupted command to resume it."
    )
    example = "safemarl-bench sweep merge csq --trial num_envs=4 --trial 'num_envs=16 updates_per_step=4' --seeds 2"
    sub = _add(commands, "sweep", _sweep, text, example)
    sub.add_argument("suite")
    sub.add_argument("agent", help="a registered name, or package.module:Class")
    text = "a config to try, beside the one as it is; repeatable"
    sub.add_argument("--trial", action="append", default=[], metavar="'KEY=VALUE ...'", help=text)
    sub.add_argument("--seeds", type=int, default=2, help="runs per config (default 2)")
    sub.add_argument("--budget", default="quick", help="smoke, quick (default) or full")
    sub.add_argument("--results-dir", default="smb-sweep", help="folder of the trials' records (default ./smb-sweep)")


def _add_leaderboard(commands: Any) -> None:
    text = "Rebuild LEADERBOARD.md, leaderboard.json, leaderboard.csv and reference/ from the records."
    sub = _add(commands, "leaderboard", _leaderboard, text, "safemarl-bench leaderboard --results-dir results --check")
    sub.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff when they are out of date")
    _add_results(sub)


def _add_results(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--results-dir", default=DEFAULT_RESULTS, help=f"folder of the records (default ./{DEFAULT_RESULTS})"
    )


def _list(options: argparse.Namespace) -> int:
    from safemarl_bench.registry import list_agents, list_suites

    print(list_suites().to_string(index=False, justify="left"))
    print()
    print(list_agents().to_string(index=False, justify="left"))
    return 0


def _run(options: argparse.Namespace) -> int:
    from safemarl_bench.runner import run
    from safemarl_bench.summary import results_table

    record = run(
        options.suite,
        options.agent,
        seed=options.seed,
        budget=options.budget,
        episodes=options.episodes,
        config=parse_settings(options.set),
        backend=options.backend,
        evaluation_backend=options.evaluation_backend,
        results_dir=options.results_dir,
    )
    print(results_table([Path(options.results_dir) / record.relative_path]))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from safemarl_bench.summary import format_table
    from safemarl_bench.sweep import sweep, table

    trials = [{}, *(parse_settings(trial.split()) for trial in options.trial)]
    found = sweep(
        options.suite,
        options.agent,
        trials,
        seeds=options.seeds,
        budget=options.budget,
        results_dir=options.results_dir,
    )
    header, *rows = table(found)
    print(format_table(header, rows))
    return 0


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Turn ``["epsilon_end=0.02", "backend=numpy"]`` into config values; what is no Python literal is text.

    Raises:
        SafeMARLBenchError: an item without ``=``.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise SafeMARLBenchError(f"--set takes KEY=VALUE, got {setting!r}")
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            values[key] = text
    return values


def _leaderboard(options: argparse.Namespace) -> int:
    from safemarl_bench.leaderboard import check_leaderboard, write_leaderboard

    if not options.check:
        print(*write_leaderboard(options.results_dir), sep="\n")
        return 0
    difference = check_leaderboard(options.results_dir)
    print(difference or "the leaderboard is up to date", end="" if difference else "\n")
    return 1 if difference else 0


def _show(options: argparse.Namespace) -> int:
    from safemarl_bench.record import read_record
    from safemarl_bench.summary import describe

    records = [read_record(path) for path in options.record]
    if options.png:
        from safemarl_bench.plots import write_curves

        write_curves(records, options.png)
    print("\n\n".join(map(describe, records)))
    if options.png:
        print(f"\nfigure      {options.png}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from safemarl_bench.record import load_records
    from safemarl_bench.record_check import check_records

    problems = check_records(options.results_dir)
    count = len(load_records(options.results_dir)) if not problems else 0
    print("\n".join(problems) or f"{count} records, all sound")
    return 1 if problems or not count else 0


if __name__ == "__main__":
    sys.exit(main())
