"""safemarl_bench: benchmark suites, baselines and leaderboards for safe multi-agent RL.

suite (data) -> game -> agent -> runner -> record -> score -> leaderboard
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safemarl_bench import stackelberg, testing
    from safemarl_bench.contract import Agent, AgentContext, Observation, Transition, discounted_limit
    from safemarl_bench.errors import SafeMARLBenchError
    from safemarl_bench.leaderboard import Leaderboard, build_leaderboard
    from safemarl_bench.record import RunRecord, load_records
    from safemarl_bench.references import Reference, reference
    from safemarl_bench.registry import (
        get_suite,
        list_agents,
        list_suites,
        make,
        register_agent,
        register_suite,
    )
    from safemarl_bench.runner import load_agent, run
    from safemarl_bench.vector import make_vec

# Resolved on first use: the pytest plugin is imported in every pytest session, and must cost nothing there.
_HOMES = {
    "Agent": "contract",
    "AgentContext": "contract",
    "Leaderboard": "leaderboard",
    "Observation": "contract",
    "Reference": "references",
    "RunRecord": "record",
    "SafeMARLBenchError": "errors",
    "Transition": "contract",
    "build_leaderboard": "leaderboard",
    "discounted_limit": "contract",
    "get_suite": "registry",
    "list_agents": "registry",
    "list_suites": "registry",
    "load_agent": "runner",
    "load_records": "record",
    "make": "registry",
    "make_vec": "vector",
    "reference": "references",
    "register_agent": "registry",
    "register_suite": "registry",
    "run": "runner",
    "stackelberg": "",
    "testing": "",
}

__all__ = [
    "Agent",
    "AgentContext",
    "Leaderboard",
    "Observation",
    "Reference",
    "RunRecord",
    "SafeMARLBenchError",
    "Transition",
    "build_leaderboard",
    "discounted_limit",
    "get_suite",
    "list_agents",
    "list_suites",
    "load_agent",
    "load_records",
    "make",
    "make_vec",
    "reference",
    "register_agent",
    "register_suite",
    "run",
    "stackelberg",
    "testing",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not _HOMES[name]:
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
