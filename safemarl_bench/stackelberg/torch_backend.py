"""Enumeration over a batch of tables with torch, on any device and without host synchronisation.

A chain of filters along the follower's axis, then along the leader's: what ties on one key goes on to the
next. At a feasible state the first key is 0, so that the fallback costs nothing extra. Q is finite, hence
-inf and inf are free as marks for what is out; violations may be infinite and are compared, never marked.
"""

from __future__ import annotations

import math

import torch

from safemarl_bench.stackelberg.selection import Constraint, Problem, Selection


def solve_states(problem: Problem) -> Selection:
    """Solve every state of the batch; see `safemarl_bench.stackelberg.solve`."""
    q_leader, q_follower = problem.q_leader, problem.q_follower
    over_leader = excess(problem.leader_constraints, problem.scale[0])
    over_follower = excess(problem.follower_constraints, problem.scale[1])
    violation = over_leader + over_follower
    joint = problem.semantics == "mip13"

    over = violation if joint else over_follower
    row_over = over.amin(-1, keepdim=True)
    replies = torch.where(over == row_over, q_follower, -math.inf)
    row_reply = replies.amax(-1, keepdim=True)
    kept = replies == row_reply
    if not joint:
        kept = _narrow(over_leader, kept, problem.tie)
    if problem.tie == "optimistic":
        row_value, columns = torch.where(kept, q_leader, -math.inf).max(-1)
    else:
        row_value, columns = torch.where(kept, q_leader, math.inf).min(-1)

    columns = columns.unsqueeze(-1)
    row_violation = (row_over if joint else violation.gather(-1, columns)).squeeze(-1)
    least = row_violation.amin(-1, keepdim=True)
    rows = torch.where(row_violation == least, row_value, -math.inf)
    value_leader, leader = rows.max(-1)

    # br_gap and runner_up: the best of what is left once the choice itself is struck out.
    at = leader.unsqueeze(-1)
    column = columns.squeeze(-1).gather(-1, at)
    value_follower = row_reply.squeeze(-1).gather(-1, at).squeeze(-1)
    row = at.unsqueeze(-1).expand(*at.shape, replies.shape[-1])
    others = replies.gather(-2, row).squeeze(-2).scatter_(-1, column, -math.inf).amax(-1)
    least = least.squeeze(-1)
    selection = Selection(
        leader=leader,
        follower=column.squeeze(-1),
        feasible=least == 0,
        value_leader=value_leader,
        value_follower=value_follower,
        violation=least,
        n_safe=(violation == 0).sum(-1),
        br_gap=value_follower - others,
        runner_up=value_leader - rows.scatter(-1, at, -math.inf).amax(-1),
        backend="torch",
        **problem.options,
    )
    if problem.fallback in ("least_violation", "raise"):
        return selection
    return _fall_back(selection, q_leader, q_follower, violation)


def excess(constraints: tuple[Constraint, ...], weight: float) -> torch.Tensor:
    """Return one agent's weighted violation, (..., m1, m2): exactly 0 where all its constraints hold, else positive."""
    table, limit = constraints[0]
    if len(constraints) == 1 and weight == 1.0 and isinstance(limit, float) and math.isfinite(limit):
        return torch.relu_(table - limit)  # a difference of unequal numbers is never 0
    over = torch.zeros_like(table)
    for table, limit in constraints:
        over += torch.where(table <= limit, 0.0, table - limit)  # inf - inf is not taken
    if weight != 1.0:  # a product may underflow: a violation stays positive
        weighted = (over * weight).clamp_min_(torch.finfo(over.dtype).tiny)
        over = torch.where(over == 0, over, weighted)
    return over


def _narrow(over_leader: torch.Tensor, kept: torch.Tensor, tie: str) -> torch.Tensor:
    """Keep, of the follower's tied replies in each row, those with the least (pessimistic: largest) G1 violation."""
    if tie == "optimistic":
        edge = torch.where(kept, over_leader, math.inf).amin(-1, keepdim=True)
    else:
        edge = torch.where(kept, over_leader, -1.0).amax(-1, keepdim=True)
    return (over_leader == edge).logical_and_(kept)


def _fall_back(
    selection: Selection, q_leader: torch.Tensor, q_follower: torch.Tensor, violation: torch.Tensor
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
        violation=at_best(violation, selection.violation),
        br_gap=nothing["br_gap"],
        runner_up=nothing["runner_up"],
    )
