"""Enumeration over a batch of tables with torch, on any device.

A chain of filters along the follower's axis, then along the leader's: what ties on one key goes on to the next. The
first key is whether constraints hold. Where no pair keeps them, which the host asks once, the states are solved again
with the violation as that key.

What is out is -inf: a table of marks, inf there and 0 elsewhere, is subtracted. `torch.where` and `masked_fill` branch
on every entry, which takes ten times as long on the CPU where the mask is random. At the size of a learner's batch most
of the time is that of calling torch, so calls are few. Violations come as slacks, their negatives, so that every filter
keeps the largest. Q is finite; slacks may be -inf, and the difference of two such, NaN, means that they are equal.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from safemarl_bench.stackelberg.selection import ARRAYS, Constraint, Problem, Selection, map_arrays

POOLED_COLUMNS = 32
"""Rows of up to so many entries have their maximum taken by pooling, which is faster on them on the CPU."""

_mark: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] = torch.ops.aten.threshold_backward.default
"""``_mark(value, table, number)``: the value, a tensor (), where an entry is larger than the number or NaN; else 0."""

KNOWN = ("feasible", "n_safe")
"""What the first pass finds out about all states."""


class Constants(NamedTuple):
    """What batches of one shape, dtype and device have in common.

    Attributes:
        inf, minus_inf, one: the numbers, (). ones: (m2,). row_starts: (S,), where each state's rows begin.
    """

    inf: torch.Tensor
    minus_inf: torch.Tensor
    one: torch.Tensor
    ones: torch.Tensor
    row_starts: torch.Tensor


@functools.lru_cache
def _constants(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Constants:
    states, m1, m2 = shape
    inf, minus_inf, one = torch.tensor([math.inf, -math.inf, 1.0], dtype=dtype, device=device)
    return Constants(inf, minus_inf, one, one.repeat(m2), torch.arange(0, states * m1, m1, device=device))


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    if problem.q_leader.ndim != 3:
        return solve_states(map_arrays(problem, _stack)).reshape(tuple(problem.q_leader.shape[:-2]))
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
    q_leader, q_follower, leader_constraints, follower_constraints, semantics, tie, *_ = problem
    _, m1, m2 = q_leader.shape
    joint, optimistic = semantics == "mip13", tie == "optimistic"
    constants = _constants(q_leader.shape, q_leader.dtype, q_leader.device)
    inf = constants.inf
    broken_leader, broken_follower = _broken(leader_constraints, inf), _broken(follower_constraints, inf)
    replies = q_follower - broken_follower
    safe = replies.sub_(broken_leader) if joint else replies - broken_leader
    row_reply = _row_max(replies, -1, m1, 1)
    out = _mark(inf, row_reply - replies, 0.0)  # NaN where a row has no reply, and so out
    if optimistic and not joint:
        out += broken_leader
    wishes = (q_leader if optimistic else -q_leader) - out
    rows = _row_max(wishes, -1, m1)
    if not optimistic:
        rows.neg_().nan_to_num_(0.0, -math.inf, -math.inf)
        if not joint:
            tempted = (broken_leader - out).nan_to_num_(0.0, math.inf, -math.inf)
            rows -= _row_max(tempted, -1, m1).clamp_min_(0.0)
    n_safe = _mark(constants.one, safe, -math.inf).reshape(-1, m2).mv(constants.ones).long().view(-1, m1)
    return _select(problem, constants, rows, wishes, replies, row_reply, n_safe=n_safe)


def _solve_stuck(problem: Problem) -> Selection:
    """Solve states of which none has a solution: the least violation decides first, then what `fallback` asks for."""
    q_leader, q_follower, leader_constraints, follower_constraints, semantics, tie, fallback, weights = problem
    m1, constants = q_leader.shape[1], _constants(q_leader.shape, q_leader.dtype, q_leader.device)
    joint, optimistic, inf = semantics == "mip13", tie == "optimistic", constants.inf
    leaders, followers = slack(leader_constraints, weights[0]), slack(follower_constraints, weights[1])
    both = leaders + followers
    heeded = both if joint else followers

    row_slack = _row_max(heeded, -1, m1, 1)
    replies = q_follower - _short(heeded, row_slack, inf)
    row_reply = _row_max(replies, -1, m1, 1)
    out = _short(replies, row_reply, inf)
    if not joint:  # of a row's replies stay those with the leader's largest slack, least if ties are pessimistic
        own = ((leaders if optimistic else -leaders) - out).nan_to_num_(-math.inf, math.inf, -math.inf)
        edge = _row_max(own, -1, m1, 1)
        out += _short(own, edge, inf)
        row_slack += edge if optimistic else -edge
    wishes = (q_leader if optimistic else -q_leader) - out
    values = _row_max(wishes, -1, m1)
    slacks = row_slack.view(-1, m1)
    most = _row_max(slacks, -1, 1)
    rows = (values if optimistic else -values) - _short(slacks, most, inf)
    selection = _select(problem, constants, rows, wishes, replies, row_reply, violation=most.view(-1).abs())
    return selection if fallback in ("least_violation", "raise") else _fall_back(selection, problem, both)


def _select(
    problem: Problem,
    constants: Constants,
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
        rows: (S, m1), what each row is worth. wishes: (S, m1, m2), what the leader thinks of the follower's best
            replies. replies: the same, what the follower thinks of those that it may give. row_reply: (S, m1, 1).
        violation, n_safe: as in `Selection`; by default no violation and, where that is known, no count.
    """
    m2 = wishes.shape[2]
    value_leader, leader = rows.max(-1)
    at = leader + constants.row_starts
    follower = wishes.reshape(-1, m2).index_select(0, at).argmax(-1)
    value_follower = row_reply.view(-1).index_select(0, at)
    # The gaps: the best of what is left once the choice itself is struck out.
    others = replies.reshape(-1, m2).index_select(0, at).scatter_(-1, follower.unsqueeze(-1), -math.inf)
    other_rows = rows.scatter_(-1, leader.unsqueeze(-1), -math.inf)
    return Selection(
        leader=leader,
        follower=follower,
        feasible=value_leader != constants.minus_inf,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=torch.zeros_like(value_leader) if violation is None else violation,
        n_safe=n_safe,
        br_gap=value_follower - others.amax(-1),
        runner_up=value_leader - other_rows.amax(-1),
        backend="torch",
        **problem.options,
    )


def _stack(value: Any) -> Any:
    """Return (S, m1, m2), for (..., m1, m2), a table or limits per state; leave a common limit alone."""
    if isinstance(value, torch.Tensor) and value.ndim:
        return value.reshape(-1, *value.shape[-2:])
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
    margins: torch.Tensor = limit - table
    if isinstance(limit, float) and math.isfinite(limit):
        return margins
    return margins.nan_to_num_(0.0, math.inf, -math.inf)


def _broken(constraints: tuple[Constraint, ...], inf: torch.Tensor) -> torch.Tensor:
    """Return inf where a constraint is broken, 0 where all hold, a new table (S, m1, m2)."""
    marks = [
        _mark(inf, table, limit) if type(limit) is float else _mark(inf, _margin((table, limit)).neg_(), 0.0)
        for table, limit in constraints
    ]
    return functools.reduce(torch.Tensor.add_, marks)


def _short(table: torch.Tensor, largest: torch.Tensor, inf: torch.Tensor) -> torch.Tensor:
    """Return 0 where an entry is the largest of its row, both perhaps -inf, and inf elsewhere."""
    return _mark(inf, (largest - table).nan_to_num_(0.0, math.inf, -math.inf), 0.0)


def _row_max(table: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return the largest entry of each row of a table (..., m), in the shape given."""
    columns = table.shape[-1]
    if columns > POOLED_COLUMNS or table.numel() == 0:
        return table.amax(-1).view(shape)
    return torch.max_pool1d(table.reshape(1, -1), columns, columns).view(shape)


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
