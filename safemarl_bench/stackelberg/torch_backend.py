"""Enumeration over a batch of tables with torch, on any device.

A chain of filters along the follower's axis, then along the leader's: what ties on one key goes on to the next. The
first key is whether constraints hold. Where no pair keeps them, which the host asks once, the states are solved again
with the violation as that key.

What is out is -inf, and it gets there by arithmetic: `torch.where` and `masked_fill` branch on every entry, which takes
ten times as long on the CPU where the mask is random. Violations come as slacks, their negatives, so that every filter
keeps the largest. Q is finite; slacks may be -inf, and the difference of two such, NaN, means that they are equal.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from safemarl_bench.stackelberg.selection import ARRAYS, Constraint, Problem, Selection, map_arrays

POOLED_COLUMNS = 32
"""Rows of up to so many entries have their maximum taken by pooling, which is faster on them on the CPU."""


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    states = problem.q_leader.shape[:-2]
    if len(states) != 1:
        return solve_states(map_arrays(problem, _stack)).reshape(tuple(states))
    selection = _solve_feasible(problem)
    if selection.feasible.all():
        return selection
    stuck = selection.feasible.logical_not().nonzero().view(-1)
    others = _solve_stuck(map_arrays(problem, lambda value: _take(value, stuck)))
    return selection._replace(
        **{name: getattr(selection, name).index_copy_(0, stuck, getattr(others, name)) for name in ARRAYS}
    )


def _solve_feasible(problem: Problem) -> Selection:
    """Solve the states that have a solution; of the others, `feasible` and `n_safe` alone are right."""
    leaders, followers = _slacks(problem)
    joint, sign = problem.semantics == "mip13", 1 if problem.tie == "optimistic" else -1
    both = leaders.add_(followers) if joint else leaders + followers

    replies = _bar_negative(both if joint else followers).add_(problem.q_follower)
    row_reply = row_max(replies).clamp_min_(torch.finfo(replies.dtype).min)  # so that without a reply all stay out
    out = _bar(replies, row_reply)
    if not joint:
        out, edge = _narrow(out, leaders, sign)
    wishes = out.add_(problem.q_leader, alpha=sign)
    rows = row_max(wishes).view(wishes.shape[:-1])
    if sign < 0:
        rows.neg_().nan_to_num_(0.0, -math.inf, -math.inf)
    if not joint:
        rows += _bar_negative(edge.view(rows.shape).abs_().neg_())
    selection = _select(problem, rows, wishes, replies, row_reply, both)
    feasible = selection.value_leader != _scalar(-math.inf, rows.dtype)
    return selection._replace(feasible=feasible, violation=torch.zeros_like(selection.value_leader))


def _solve_stuck(problem: Problem) -> Selection:
    """Solve states of which none has a solution: the least violation decides first, then what `fallback` asks for."""
    leaders, followers = _slacks(problem)
    joint, sign = problem.semantics == "mip13", 1 if problem.tie == "optimistic" else -1
    both = leaders + followers
    heeded = both if joint else followers

    row_slack = row_max(heeded)
    replies = _bar(heeded, row_slack).add_(problem.q_follower)
    row_reply = row_max(replies)
    out = _bar(replies, row_reply)
    if not joint:
        out, edge = _narrow(out, leaders, sign)
        row_slack = torch.add(row_slack, edge, alpha=sign)
    wishes = out.add_(problem.q_leader, alpha=sign)
    values, slacks = (table.view(wishes.shape[:-1]) for table in (row_max(wishes), row_slack))
    most = row_max(slacks)
    rows = _bar(slacks, most).add_(values, alpha=sign)
    violation = most.view(-1).abs()
    selection = _select(problem, rows, wishes, replies, row_reply, both)
    selection = selection._replace(feasible=torch.zeros_like(violation, dtype=torch.bool), violation=violation)
    if problem.fallback in ("least_violation", "raise"):
        return selection
    return _fall_back(selection, problem, both)


def _slacks(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the leader's and the follower's slack, new tables."""
    weights = problem.scale
    return slack(problem.leader_constraints, weights[0]), slack(problem.follower_constraints, weights[1])


def _narrow(out: torch.Tensor, leaders: torch.Tensor, sign: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep, of a row's replies, those with the leader's largest (sign -1: least) slack; return it too, times sign."""
    own = torch.add(out, leaders, alpha=sign).nan_to_num_(-math.inf, math.inf, -math.inf)
    edge = row_max(own)
    return out.add_(_bar(own, edge)), edge


def _select(
    problem: Problem,
    rows: torch.Tensor,
    wishes: torch.Tensor,
    replies: torch.Tensor,
    row_reply: torch.Tensor,
    both: torch.Tensor,
) -> Selection:
    """Return the best row and reply with the gaps; `feasible` and `violation` are left to the caller.

    Args:
        rows: (S, m1), what each row is worth. wishes: (S, m1, m2), what the leader thinks of the follower's best
            replies. replies: the same, what the follower thinks of those that it may give. row_reply: (S, m1, 1).
        both: (S, m1, m2), both agents' slack.
    """
    m1, m2 = wishes.shape[1:]
    value_leader, leader = rows.max(-1)
    at = leader + torch.arange(0, len(leader) * m1, m1, device=leader.device)
    follower = wishes.view(-1, m2).index_select(0, at).argmax(-1)
    value_follower = row_reply.view(-1).index_select(0, at)
    # The gaps: the best of what is left once the choice itself is struck out.
    others = replies.view(-1, m2).index_select(0, at).scatter_(-1, follower.unsqueeze(-1), -math.inf).amax(-1)
    other_rows = rows.scatter_(-1, leader.unsqueeze(-1), -math.inf).amax(-1)
    return Selection(
        leader=leader,
        follower=follower,
        feasible=None,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=None,
        n_safe=_count_zeros(both),
        br_gap=value_follower - others,
        runner_up=value_leader - other_rows,
        backend="torch",
        **problem.options,
    )


def _stack(value: Any) -> Any:
    """Return (S, m1, m2) for (..., m1, m2), a table or limits per state; leave a common limit alone."""
    return value.reshape(-1, *value.shape[-2:]) if isinstance(value, torch.Tensor) and value.ndim else value


def _take(value: Any, states: torch.Tensor) -> Any:
    """Return some states of a table, or of limits per state; leave a common limit alone."""
    return value.index_select(0, states) if isinstance(value, torch.Tensor) and value.ndim else value


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
    if isinstance(limit, float) and math.isfinite(limit):
        return torch.sub(_scalar(limit, table.dtype), table).clamp_max_(0.0)
    slacks: torch.Tensor = (limit - table).clamp_max_(0.0)
    return slacks.nan_to_num_(0.0, math.inf, -math.inf)


def row_max(table: torch.Tensor) -> torch.Tensor:
    """Return the largest entry of each row: (..., m) gives (..., 1)."""
    columns = table.shape[-1]
    if columns > POOLED_COLUMNS or table.numel() == 0:
        return table.amax(-1, keepdim=True)
    flat = table.reshape(1, 1, -1)
    pooled: torch.Tensor = torch.max_pool1d(flat, columns, columns)
    return pooled.reshape(*table.shape[:-1], 1)


def _count_zeros(slacks: torch.Tensor) -> torch.Tensor:
    """Return how many entries of each row are 0, (..., m) gives (...) int64: a product beats sums of short rows."""
    columns = slacks.shape[-1]
    negative: torch.Tensor = slacks.sign() @ slacks.new_ones(columns)
    return negative.add_(columns).long()


@functools.lru_cache
def _scalar(value: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a number as a tensor, which every call would make again of a Python number; it fits all devices."""
    return torch.tensor(value, dtype=dtype)


def _bar(table: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return -0.0, which adds nothing to any number, where an entry is the largest of its row, -inf elsewhere."""
    return (table - largest).mul_(_scalar(math.inf, table.dtype)).nan_to_num_(-0.0, math.inf, -math.inf)


def _bar_negative(table: torch.Tensor) -> torch.Tensor:
    """Return -0.0 where an entry is 0, -inf where it is negative."""
    return (table * _scalar(math.inf, table.dtype)).nan_to_num_(-0.0, math.inf, -math.inf)


def _fall_back(selection: Selection, problem: Problem, slacks: torch.Tensor) -> Selection:
    """Replace the least-violation pairs by what `fallback` asks for: none, or the pair of largest Q1."""
    nothing = torch.full_like(selection.value_leader, math.nan)
    if problem.fallback == "none":
        nobody = torch.full_like(selection.leader, -1)
        return selection._replace(
            leader=nobody,
            follower=nobody,
            value_leader=nothing,
            value_follower=nothing,
            br_gap=nothing,
            runner_up=nothing,
        )
    best = problem.q_leader.flatten(-2).argmax(-1)
    columns = problem.q_leader.shape[-1]

    def at_best(table: torch.Tensor) -> torch.Tensor:
        return table.flatten(-2).gather(-1, best.unsqueeze(-1)).squeeze(-1)

    return selection._replace(
        leader=best.div(columns, rounding_mode="floor"),
        follower=best % columns,
        value_leader=at_best(problem.q_leader),
        value_follower=at_best(problem.q_follower),
        violation=at_best(slacks.abs()),
        br_gap=nothing,
        runner_up=nothing,
    )
