"""The page of `bench_weakly_coupled.py`."""

from __future__ import annotations

from safemarl_bench.suites.perf.markdown import Benchmarks, infos, table


def weakly_coupled_page(benchmarks: Benchmarks, machine: str) -> list[str]:
    """Return the page; nothing without timings of updates."""
    updates = infos(benchmarks, "coupled updates")
    if not updates:
        return []
    environment, training = infos(benchmarks, "coupled environment"), infos(benchmarks, "coupled training")
    return [
        "# EV charging: environment, updates, training",
        "",
        f"One core, processor time of the fastest round; {machine}. Made by `suites/perf/bench_weakly_coupled.py` and "
        "`suites/perf/report.py`.",
        "",
        "## The batched environment",
        "",
        *table(
            ["bays", "games", "sub-problem steps/s"],
            [
                [str(row["n_bays"]), f"{row['num_envs']:,}", f"{row['subproblem_steps_per_second']:,.0f}"]
                for row in environment
            ],
            left=0,
        ),
        "## Updates of the tables alone",
        "",
        *table(
            ["agent", "bays", "multipliers", "updates/s"],
            [
                [row["agent"], str(row["n_bays"]), str(row["multipliers"]), f"{row['transitions_per_second']:,.0f}"]
                for row in updates
            ],
        ),
        "## Training steps per second, the harness included, three bays",
        "",
        "E games side by side; deep learners do one update after every 4 steps.",
        "",
        *table(
            ["agent", "E", "steps/s"],
            [[row["agent"], str(row["num_envs"]), f"{row['training_steps_per_second']:,.0f}"] for row in training],
        ),
    ]
