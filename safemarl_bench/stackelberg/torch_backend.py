"""Enumeration over a batch of tables with torch, on any device and without host synchronisation.

A chain of filters along the follower's axis, then along the leader's: what ties on one key goes on to the
next. At a feasible state the first key is 0, so that the fallback costs nothing extra.

What is out is -inf, and it gets there by arithmetic: `torch.where` and `masked_fill` branch on every entry, which takes
ten times as long on the CPU where the mask is random. Violations come as slacks, their negatives, so that every filter
keeps the largest. Q is finite; slacks may be -inf, and the difference of two such, NaN, means that they are equal.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection, map_arrays

POOLED_COLUMNS = 32
"""Rows of up to so many entries have their maximum taken by pooling, which is faster on them on the CPU."""


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    *states, m1, m2 = problem.q_leader.shape
    if len(states) != 1:
        return solve_states(map_arrays(problem, _stack)).reshape(tuple(states))
    q_leader, q_follower = problem.q_leader, problem.q_follower
    sign = 1 if problem.tie == "optimistic" else -1
    leaders = slack(problem.leader_constraints, problem.scale[0])
    followers = slack(problem.follower_constraints, problem.scale[1])
    joint = problem.semantics == "mip13"
    both = leaders.add_(followers) if joint else leaders + followers
    heeded = both if joint else followers

    row_slack = row_max(heeded)
    replies = bar(heeded, row_slack).add_(q_follower)
    row_reply = row_max(replies)
    out = bar(replies, row_reply)
    if not joint:
        own = torch.add(out, leaders, alpha=sign).nan_to_num_(-math.inf, math.inf, -math.inf)
        edge = row_max(own)
        out += bar(own, edge)
        row_slack = torch.add(row_slack, edge, alpha=sign)
    wishes = out.add_(q_leader, alpha=sign)
    values, slacks = row_max(wishes).view(-1, m1), row_slack.view(-1, m1)
    most = slacks.amax(-1, keepdim=True)
    rows = bar(slacks, most).add_(values, alpha=sign)
    value_leader, leader = rows.max(-1)

    at = torch.arange(0, len(leader) * m1, m1, device=leader.device) + leader
    follower = wishes.view(-1, m2).index_select(0, at).argmax(-1)
    value_follower = row_reply.view(-1).index_select(0, at)
    # The gaps: the best of what is left once the choice itself is struck out.
    others = replies.view(-1, m2).index_select(0, at).scatter_(-1, follower.unsqueeze(-1), -math.inf).amax(-1)
    other_rows = rows.scatter_(-1, leader.unsqueeze(-1), -math.inf).amax(-1)
    most = most.view(-1)
    selection = Selection(
        leader=leader,
        follower=follower,
        feasible=most == 0,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=0.0 - most,
        n_safe=(row_sum(both.sign()) + m2).long(),
        br_gap=value_follower - others,
        runner_up=value_leader - other_rows,
        backend="torch",
        **problem.options,
    )
    if problem.fallback in ("least_violation", "raise"):
        return selection
    return _fall_back(selection, q_leader, q_follower, both)


def _stack(value: Any) -> Any:
    """Return (S, m1, m2) for (..., m1, m2), a table or limits per state; leave a common limit alone."""
    return value.reshape(-1, *value.shape[-2:]) if isinstance(value, torch.Tensor) and value.ndim else value


def slack(constraints: tuple[Constraint, ...], weight: float) -> torch.Tensor:
    """Return minus the weighted violation of one agent's constraints: 0 exactly where all hold; (..., m1, m2)."""
    total = _slack_of(constraints[0])
    for constraint in constraints[1:]:
        total += _slack_of(constraint)
    if weight != 1.0:  # a product may underflow: a violation stays one
        total = torch.minimum(total * weight, total.sign() * torch.finfo(total.dtype).tiny)
    return total


def _slack_of(constraint: Constraint) -> torch.Tensor:
    """Return ``min(0, d - G)``, 0 also where both are infinite."""
    table, limit = constraint
    slacks: torch.Tensor = (limit - table).clamp_max_(0.0)
    if isinstance(limit, float) and math.isfinite(limit):
        return slacks
    return slacks.nan_to_num_(0.0, math.inf, -math.inf)


def row_max(table: torch.Tensor) -> torch.Tensor:
    """Return the largest entry of each row: (..., m) gives (..., 1)."""
    columns = table.shape[-1]
    if columns > POOLED_COLUMNS or table.numel() == 0:
        return table.amax(-1, keepdim=True)
    flat = table.reshape(1, 1, -1)
    pooled: torch.Tensor = torch.max_pool1d(flat, columns, columns)
    return pooled.reshape(*table.shape[:-1], 1)


def row_sum(table: torch.Tensor) -> torch.Tensor:
    """Return the sum of each row, (..., m) gives (...), as a product: on short rows faster than summing on the CPU."""
    return table @ table.new_ones(table.shape[-1])


def bar(table: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return -0.0, which adds nothing to any number, where an entry is the largest of its row, -inf elsewhere."""
    return (table - largest).mul_(math.inf).nan_to_num_(-0.0, math.inf, -math.inf)


def _fall_back(
    selection: Selection, q_leader: torch.Tensor, q_follower: torch.Tensor, slacks: torch.Tensor
) -> Selection:
    """Replace the least-violation pair at infeasible states by what `fallback` asks for."""
    stuck = ~selection.feasible
    nothing = {
        name: getattr(selection, name).masked_fill(stuck, math.nan)
        for name in ("value_leader", "value_follower", "br_gap", "runner_up")
    }
    if selection.fallback == "none":
        pair = {name: getattr(selection, name).masked_fill(stuck, -1) for name in ("leader", "follower")}
        return selection._replace(**nothing, **pair)
    best = q_leader.flatten(-2).argmax(-1)
    n_columns = q_leader.shape[-1]

    def at_best(table: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
        return torch.where(stuck, table.flatten(-2).gather(-1, best.unsqueeze(-1)).squeeze(-1), otherwise)

    return selection._replace(
        leader=torch.where(stuck, best.div(n_columns, rounding_mode="floor"), selection.leader),
        follower=torch.where(stuck, best % n_columns, selection.follower),
        value_leader=at_best(q_leader, selection.value_leader),
        value_follower=at_best(q_follower, selection.value_follower),
        violation=at_best(0.0 - slacks, selection.violation),
        br_gap=nothing["br_gap"],
        runner_up=nothing["runner_up"],
    )
