"""Constrained Stackelberg equilibria of bimatrix tables: exact by enumeration, or through MIPs with a certificate."""

from safemarl_bench.stackelberg.certificate import verify
from safemarl_bench.stackelberg.exploration import exploration_pairs
from safemarl_bench.stackelberg.selection import Selection
from safemarl_bench.stackelberg.solver import BACKENDS, solve

__all__ = ["BACKENDS", "Selection", "exploration_pairs", "solve", "verify"]
