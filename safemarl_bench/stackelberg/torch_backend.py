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

KNOWN = ("feasible", "n_safe")
"""What the first pass finds out about all states."""


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    states = problem.q_leader.shape[:-2]
    if len(states) != 1 or not _are_contiguous(*problem[:4]):
        return solve_states(map_arrays(problem, _stack)).reshape(tuple(states))
    selection = _solve_feasible(problem)
    if selection.feasible.all():
        return selection
    stuck = selection.feasible.logical_not().nonzero().view(-1)
    others = _solve_stuck(map_arrays(problem, lambda value: _take(value, stuck)))
    names = (name for name in ARRAYS if name not in KNOWN)
    return selection._replace(
        **{name: getattr(selection, name).index_copy_(0, stuck, getattr(others, name)) for name in names}
    )


def _solve_feasible(problem: Problem) -> Selection:
    """Solve the states that have a solution; of the others, what is `KNOWN` alone is right."""
    m1, m2 = problem.q_leader.shape[1:]
    joint, sign = problem.semantics == "mip13", 1 if problem.tie == "optimistic" else -1
    unsafe = _broken(problem.leader_constraints + problem.follower_constraints)
    n_safe = _count_zeros(unsafe).view(-1, m1)
    barred = unsafe if joint else _broken(problem.follower_constraints)
    replies = problem.q_follower.view(-1, m2) - torch.threshold_(barred, -0.5, math.inf)
    row_reply = row_max(replies).clamp_min_(torch.finfo(replies.dtype).min)  # so that without a reply all stay out
    out = _bar(replies, row_reply)
    if not joint:
        leaders = slack(problem.leader_constraints, problem.scale[0]).view(-1, m2)
        out, edge = _narrow(out, leaders, sign)
    wishes = out.add_(problem.q_leader.view(-1, m2), alpha=sign)
    rows = row_max(wishes).view(-1, m1)
    if sign < 0:
        rows.neg_().nan_to_num_(0.0, -math.inf, -math.inf)
    if not joint:
        rows += _bar(edge.view(-1, m1).abs_().neg_(), _scalar(0.0, edge.dtype))
    return _select(problem, rows, wishes, replies, row_reply, n_safe=n_safe)


def _solve_stuck(problem: Problem) -> Selection:
    """Solve states of which none has a solution: the least violation decides first, then what `fallback` asks for."""
    m1, m2 = problem.q_leader.shape[1:]
    leaders, followers = _slacks(problem)
    joint, sign = problem.semantics == "mip13", 1 if problem.tie == "optimistic" else -1
    both = leaders + followers
    heeded = both if joint else followers

    row_slack = row_max(heeded)
    replies = _bar(heeded, row_slack).add_(problem.q_follower.view(-1, m2))
    row_reply = row_max(replies)
    out = _bar(replies, row_reply)
    if not joint:
        out, edge = _narrow(out, leaders, sign)
        row_slack = torch.add(row_slack, edge, alpha=sign)
    wishes = out.add_(problem.q_leader.view(-1, m2), alpha=sign)
    values, slacks = row_max(wishes).view(-1, m1), row_slack.view(-1, m1)
    most = row_max(slacks)
    rows = _bar(slacks, most).add_(values, alpha=sign)
    selection = _select(problem, rows, wishes, replies, row_reply, violation=most.view(-1).abs())
    if problem.fallback in ("least_violation", "raise"):
        return selection
    return _fall_back(selection, problem, both.view(problem.q_leader.shape))


def _slacks(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the leader's and the follower's slack, new tables whose rows are in one line, (S * m1, m2)."""
    weights, columns = problem.scale, problem.q_leader.shape[-1]
    leaders, followers = slack(problem.leader_constraints, weights[0]), slack(problem.follower_constraints, weights[1])
    return leaders.view(-1, columns), followers.view(-1, columns)


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
    *,
    violation: torch.Tensor | None = None,
    n_safe: torch.Tensor | None = None,
) -> Selection:
    """Return the best row and reply with the gaps; a state is feasible if any row is worth more than -inf.

    Args:
        rows: (S, m1), what each row is worth. wishes: (S * m1, m2), what the leader thinks of the follower's best
            replies. replies: the same, what the follower thinks of those that it may give. row_reply: (S * m1, 1).
        violation, n_safe: as in `Selection`; by default no violation and, where that is known, no count.
    """
    m1 = rows.shape[1]
    value_leader, leader = rows.max(-1)
    at = leader + _row_starts(len(leader), m1, leader.device)
    follower = wishes.index_select(0, at).argmax(-1)
    value_follower = row_reply.view(-1).index_select(0, at)
    # The gaps: the best of what is left once the choice itself is struck out.
    others = replies.index_select(0, at).scatter_(-1, follower.unsqueeze(-1), -math.inf)
    other_rows = rows.scatter_(-1, leader.unsqueeze(-1), -math.inf)
    return Selection(
        leader=leader,
        follower=follower,
        feasible=value_leader != _scalar(-math.inf, rows.dtype),
        value_leader=value_leader,
        value_follower=value_follower,
        violation=torch.zeros_like(value_leader) if violation is None else violation,
        n_safe=n_safe,
        br_gap=value_follower - row_max(others).view(-1),
        runner_up=value_leader - row_max(other_rows).view(-1),
        backend="torch",
        **problem.options,
    )


def _are_contiguous(q_leader: Any, q_follower: Any, leaders: Any, followers: Any) -> bool:
    """Return whether the entries of every table are in order; several constraints are slices of one table."""
    g_leader, g_follower = leaders[0][0], followers[0][0]
    contiguous: bool = q_leader.is_contiguous() and q_follower.is_contiguous()
    return contiguous and g_leader.is_contiguous() and g_follower.is_contiguous()


def _stack(value: Any) -> Any:
    """Return (S, m1, m2), contiguous, for (..., m1, m2), a table or limits per state; leave a common limit alone."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return value.reshape(-1, *value.shape[-2:]).contiguous()
    return value


def _take(value: Any, states: torch.Tensor) -> Any:
    """Return some states of a table, or of limits per state; leave a common limit alone."""
    return value.index_select(0, states) if isinstance(value, torch.Tensor) and value.ndim else value


def slack(constraints: tuple[Constraint, ...], weight: float) -> torch.Tensor:
    """Return minus the weighted violation of one agent's constraints: 0 exactly where all hold; (..., m1, m2)."""
    total = _margin(constraints[0]).clamp_max_(0.0)
    for constraint in constraints[1:]:
        total += _margin(constraint).clamp_max_(0.0)
    if weight != 1.0:  # a product may underflow: a violation stays one
        total = torch.minimum(total * weight, total.sign() * torch.finfo(total.dtype).tiny)
    return total


def _margin(constraint: Constraint) -> torch.Tensor:
    """Return ``d - G``, 0 also where both are infinite."""
    table, limit = constraint
    if isinstance(limit, float) and math.isfinite(limit):
        return torch.sub(_scalar(limit, table.dtype), table)
    margins: torch.Tensor = limit - table
    return margins.nan_to_num_(0.0, math.inf, -math.inf)


def _broken(constraints: tuple[Constraint, ...]) -> torch.Tensor:
    """Return -1 where a constraint is broken, 0 where all hold, a new table (S * m1, m2)."""
    least = _margin(constraints[0])
    for constraint in constraints[1:]:
        least = torch.minimum(least, _margin(constraint))
    return least.clamp_max_(0.0).sign_().view(-1, least.shape[-1])


def row_max(table: torch.Tensor) -> torch.Tensor:
    """Return the largest entry of each row: (n, m) gives (n, 1)."""
    columns = table.shape[1]
    if columns > POOLED_COLUMNS or table.numel() == 0:
        return table.amax(-1, keepdim=True)
    return torch.max_pool1d(table.view(1, 1, -1), columns, columns).view(-1, 1)


def _count_zeros(table: torch.Tensor) -> torch.Tensor:
    """Return how many entries, 0 or -1, of each row are 0, (n, m) gives (n,) int64: a product beats short sums."""
    columns = table.shape[1]
    return table.mv(table.new_ones(columns)).add_(columns).long()


@functools.lru_cache
def _scalar(value: float, dtype: torch.dtype) -> torch.Tensor:
    """Return a number as a tensor, which every call would make again of a Python number; it fits all devices."""
    return torch.tensor(value, dtype=dtype)


@functools.lru_cache
def _row_starts(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Return where each row begins in a flat table."""
    return torch.arange(0, rows * columns, columns, device=device)


def _bar(table: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return -0.0, which adds nothing to any number, where an entry is the largest of its row, -inf elsewhere."""
    return (table - largest).mul_(_scalar(math.inf, table.dtype)).nan_to_num_(-0.0, math.inf, -math.inf)


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
