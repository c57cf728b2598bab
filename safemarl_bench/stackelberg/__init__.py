"""Constrained Stackelberg equilibria of bimatrix tables: exact by enumeration, or through MIPs with a certificate."""

from safemarl_bench.stackelberg.certificate import verify
from safemarl_bench.stackelberg.exploration import exploration_pairs
from safemarl_bench.stackelberg.many import (
    LevelSelection,
    MultiCertificate,
    MultiSelection,
    lagrangian_bound,
    solve_levels,
    solve_multi,
    verify_multi,
)
from safemarl_bench.stackelberg.selection import Selection
from safemarl_bench.stackelberg.solver import BACKENDS, solve

__all__ = [
    "BACKENDS",
    "LevelSelection",
    "MultiCertificate",
    "MultiSelection",
    "Selection",
    "exploration_pairs",
    "lagrangian_bound",
    "solve",
    "solve_levels",
    "solve_multi",
    "verify",
    "verify_multi",
]
