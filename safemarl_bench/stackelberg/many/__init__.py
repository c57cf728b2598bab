"""One leader and many followers who share budgets, and players on many levels.

Where payoffs and safe actions are each follower's own and nothing couples the followers, each answers for itself. What
makes the problem one is a budget that they share: road space, energy, a bound on a summed cost-to-go. Tables stay
factored, one (m1, m) table per follower, so that N followers with m actions need N m1 m numbers and not m1 m**N.

`solve_multi` finds the leader's best action when the followers form a coalition (a multiple-choice knapsack) or play a
generalised Nash equilibrium; `verify_multi` certifies the answer in exact arithmetic; `lagrangian_bound` bounds
the leader's value at each of its actions; `solve_levels` is for players one above the other on an explicit table.
``safemarl_bench/stackelberg/MANY_FOLLOWERS.md`` shows how, results/perf/many_followers.md how fast.

problem -> one of enumeration, dynamic_program, branch_and_bound, highs -> selection -> certificate
"""

from safemarl_bench.stackelberg.many.certificate import MultiCertificate, verify_multi
from safemarl_bench.stackelberg.many.lagrangian import lagrangian_bound
from safemarl_bench.stackelberg.many.levels import LevelSelection, solve_levels
from safemarl_bench.stackelberg.many.selection import MultiSelection
from safemarl_bench.stackelberg.many.solver import METHODS, solve_multi

__all__ = [
    "METHODS",
    "LevelSelection",
    "MultiCertificate",
    "MultiSelection",
    "lagrangian_bound",
    "solve_levels",
    "solve_multi",
    "verify_multi",
]
