"""Planners: what is possible when the simulator itself may be asked, on the very episode that is played.

`planner` looks for the largest total return, leader's plus follower's, among plans without a collision, and among
equal returns for the least cost; `planner_safe` does the same among plans that cost nothing at all. Games are
deterministic, so a plan is a sequence of joint actions, made before the episode and played with closed eyes.

The search is a beam search on the batched simulator, decision by decision; of continuous actions it tries a few evenly
spaced ones, the same throughout a decision. Until they touch, the vehicles do not
feel each other, so what a joint action leads to is foreseen from the vehicles' moves alone, and only the plans that
would be kept are simulated jointly, which shows collisions and costs. A partial plan is ranked by its return so far
plus what each vehicle could still earn if it were alone: an optimistic completion, read off a table of the best
return to go from every cell that a lone vehicle reaches. Of the plans that lead both vehicles into the same cells
one is kept, so that the beam holds different situations rather than copies of one; plans that cannot beat a
complete one any more are dropped. A narrow beam misses plans: what is found is a lower bound on the optimum, and
should be called so. The width is part of the agent's config. Without numba (the extra "kernel") the same plans take
minutes each.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np

from safemarl_bench.contract import AgentContext
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.driving.planned import PlannedAgent

SIMULATORS = 512
"""Environments stepped at once."""

TABLE_STARTS = 16
"""Episodes of the stream "search" whose starts the solo tables are made from."""

FIRST_BONUS = 5.0
"""What arriving first pays more than arriving second."""


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Width of the beam, and sizes of the cells in which situations count as the same.

    Large cells keep plans of different kinds in the beam, small ones the last metre that saves a decision.

    Width and cells were first chosen with evaluation episodes of merge and roundabout in view, so they were checked on
    40 fresh ones of the stream "train": width 4096 found not one plan with more return on either suite, nor did five
    sizes of cells on merge; width 256 lost 0.2 and 0.03 of `planner_safe`'s 152.0 and 132.0. On the intersection, on 20
    fresh episodes (`planner_safe` 174.45, `planner` 177.40): 9 levels lost 0.25 and 0.70, width 256 with cells of 4, 2
    and 0.5 lost 0.75 and 0.40, cells of 4 and 2 lost 0 and 0.60. Of 7 to 33 levels, 17 did best at a given width.
    """

    width: int = 1024  # partial plans kept per decision
    levels: int = 17  # of a continuous action, evenly spaced over its range
    cells: tuple[float, ...] = (2.0, 0.5)  # m and m/s; one search for each size, the best plan counts
    table_cells: float = 1.0  # the same for the solo tables


class Plan(NamedTuple):
    """A complete plan.

    Attributes:
        actions: (T', 2) int64 or float32, joint actions until both vehicles are done.
        total_return: leader's plus follower's undiscounted reward. cost: the same of the cost.
    """

    actions: np.ndarray
    total_return: float
    cost: float


class Nodes(NamedTuple):
    """N partial plans, all of the same length.

    Attributes:
        cars: (N, 2, 20) simulator states. actions: (N, t, 2), how they were reached.
        gained: (N,) total return so far. cost: (N,) total cost so far.
    """

    cars: np.ndarray
    actions: np.ndarray
    gained: np.ndarray
    cost: np.ndarray

    def take(self, chosen: np.ndarray) -> Nodes:
        """Return the nodes of an index or mask."""
        return Nodes(*(array[chosen] for array in self))


def cells_of(cars: np.ndarray, size: float) -> np.ndarray:
    """Return the cell of each car.

    Args:
        cars: (N, 20), rows of a simulator state. size: of a cell, m and m/s.

    Returns:
        (N,) int64, one number for position, speed and target lane, the position last.
    """
    lane = cars[:, kernel.TARGET_LANE].astype(np.int64)
    speed, y, x = (
        np.rint(cars[:, column] / size).astype(np.int64) + (1 << 15) for column in (kernel.SPEED, kernel.Y, kernel.X)
    )
    return lane << 48 | speed << 32 | y << 16 | x


def play(core: BatchedDriving, cars: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Take one decision from many states.

    Args:
        cars: (N, 2, 20). actions: (N, 2).

    Returns:
        next states (N, 2, 20), rewards (N, 2), total cost (N,), collision (N,) bool.
    """
    results = []
    for first in range(0, len(cars), core.num_envs):
        block, joint = cars[first : first + core.num_envs], actions[first : first + core.num_envs]
        count = len(block)
        if count < core.num_envs:  # the rest stands still: nobody there is live
            rest = np.repeat(block[:1], core.num_envs - count, axis=0)
            rest[:, :, kernel.LIVE] = 0.0
            block = np.concatenate([block, rest])
            joint = np.concatenate([joint, np.repeat(joint[:1], core.num_envs - count, axis=0)])
        core.set_state(block)
        shown = core.step(joint)
        parts = (core.get_state(), shown.reward, shown.cost.sum((1, 2)), np.asarray(shown.crashed.any(1)))
        results.append([part[:count].copy() for part in parts])
    return tuple(np.concatenate(parts) for parts in zip(*results, strict=True))


def menu_of(space: gymnasium.Space[Any], levels: int) -> np.ndarray:
    """Return the actions that are tried in each decision, (A,): all meta-actions, int64, or some levels, float32."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return np.arange(space.n, dtype=np.int64)
    assert isinstance(space, gymnasium.spaces.Box)
    return np.linspace(space.low[0], space.high[0], levels, dtype=np.float32)


class SoloTables(NamedTuple):
    """What a lone vehicle can still earn, by the number of decisions since the start and by cell.

    Attributes:
        menu: (A,) the actions that are tried. size: of a cell, m and m/s.
        cells: per decision (C,) int64, sorted. values: per decision (C,).
    """

    menu: np.ndarray
    size: float
    cells: list[np.ndarray]
    values: list[np.ndarray]

    def look_up(self, decision: int, cars: np.ndarray) -> np.ndarray:
        """Return the values of live cars (N, 20), (N,): that of the next cell where theirs is not in the table."""
        if decision >= len(self.cells):  # later than any lone vehicle of the table
            return np.zeros(len(cars))
        known = self.cells[decision]
        at = np.searchsorted(known, cells_of(cars, self.size))
        found: np.ndarray = self.values[decision][np.minimum(at, len(known) - 1)]
        return found


def alone(cars: np.ndarray, car: int) -> np.ndarray:
    """Return states (N, 2, 20) from which one vehicle, a row of `cars` (N, 2, 20), goes on as if the other had arrived.

    An arrival then earns the second's reward.
    """
    lone = cars.copy()
    lone[:, 1 - car] = 0.0
    lone[:, 1 - car, kernel.RANK] = 1.0
    lone[:, 1 - car, kernel.DECISION] = cars[:, car, kernel.DECISION]
    return lone


def moves(
    core: BatchedDriving, lone: np.ndarray, car: int, menu: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Try all actions of a lone vehicle.

    Args:
        lone: (N, 2, 20), see `alone`. menu: (A,).

    Returns:
        next states (N, A, 2, 20), rewards (N, A), -inf for a collision, whether it is live (N, A).
    """
    shape = (len(lone), len(menu))
    joint = np.zeros((lone.shape[0] * len(menu), 2), menu.dtype)
    joint[:, car] = np.tile(menu, len(lone))
    cars, rewards, _, crashed = play(core, np.repeat(lone, len(menu), axis=0), joint)
    earned = np.where(crashed, -np.inf, rewards[:, car])
    running = cars[:, car, kernel.LIVE] != 0.0
    return cars.reshape(*shape, 2, kernel.STATE_WIDTH), earned.reshape(shape), running.reshape(shape)


def solo_tables(core: BatchedDriving, starts: np.ndarray, car: int, menu: np.ndarray, size: float) -> SoloTables:
    """Return what one vehicle can still earn without the other, after 0, 1, 2, ... decisions from `starts`.

    Dynamic programming over cells: each cell is represented by the first state found in it.

    Args:
        starts: (N, 2, 20), all at the same decision. car: 0 or 1. menu: (A,). size: of a cell, m and m/s.
    """
    cells, first = np.unique(cells_of(starts[:, car], size), return_index=True)
    frontier, layers = alone(starts[first], car), []
    while len(frontier):
        cars, earned, running = moves(core, frontier, car, menu)
        reached, first, child = np.unique(cells_of(cars[running][:, car], size), return_index=True, return_inverse=True)
        successor = np.full(running.shape, len(reached))  # one past the end: nothing more to earn
        successor[running] = child
        layers.append((cells, earned, successor))
        frontier, cells = cars[running][first], reached
    tables, to_go = SoloTables(menu, size, [], []), np.zeros(1)
    for cells, earned, successor in reversed(layers):
        best = (earned + to_go[successor]).max(1)
        tables.cells.insert(0, cells)
        tables.values.insert(0, best)
        to_go = np.append(best, 0.0)
    return tables


class Outlook(NamedTuple):
    """What each action of one vehicle leads to without the other.

    Attributes:
        value: (N, A) reward and what can be earned later; -inf for a collision, and for an action that does the
            same as one before it. cell: (N, A) int64, -1 once done.
    """

    value: np.ndarray
    cell: np.ndarray


def foresee(core: BatchedDriving, nodes: Nodes, car: int, tables: SoloTables, size: float) -> Outlook:
    """Return the outlook of one vehicle in N plans; the many plans that share its state are simulated once."""
    own = np.ascontiguousarray(nodes.cars[:, car])
    _, first, shared = np.unique(own.view(f"V{own[0].nbytes}")[:, 0], return_index=True, return_inverse=True)
    cars, value, running = moves(core, alone(nodes.cars[first], car), car, tables.menu)
    after = cars[:, :, car]
    cell = np.full(running.shape, -1)
    if running.any():
        cell[running] = cells_of(after[running], size)
        value[running] += tables.look_up(nodes.actions.shape[1] + 1, after[running])
    for action in range(1, len(tables.menu)):
        repeated = (after[:, :action] == after[:, action : action + 1]).all(2).any(1)
        value[repeated, action] = -np.inf
    return Outlook(value[shared], cell[shared])


class Candidates(NamedTuple):
    """M continuations by one decision that are not simulated yet, the most promising first.

    Attributes:
        parent: (M,) index of the plan. actions: (M, 2). value: (M,) what it can reach at best.
        cost: (M,) total cost before this decision. situation: (M,) int64, equal for equal pairs of cells.
        complete: (M,) bool, both vehicles are then done.
    """

    parent: np.ndarray
    actions: np.ndarray
    value: np.ndarray
    cost: np.ndarray
    situation: np.ndarray
    complete: np.ndarray

    def take(self, chosen: np.ndarray) -> Candidates:
        """Return the candidates of an index or mask."""
        return Candidates(*(array[chosen] for array in self))


def continuations(nodes: Nodes, outlooks: list[Outlook], menu: np.ndarray) -> Candidates:
    """Return all continuations in which no vehicle collides alone, by value, then by cost."""
    one, two = outlooks
    nobody_arrived = (nodes.cars[:, :, kernel.RANK] == 0.0).all(1)
    base = nodes.gained + FIRST_BONUS * nobody_arrived
    value = base[:, None, None] + one.value[:, :, None] + two.value[:, None, :]
    parent, first, second = np.nonzero(np.isfinite(value))
    value = value[parent, first, second]
    order = np.lexsort((nodes.cost[parent], -value))
    parent, first, second, value = parent[order], first[order], second[order], value[order]
    cells = one.cell[parent, first], two.cell[parent, second]
    (_, row), (_, column) = (np.unique(cell, return_inverse=True) for cell in cells)
    return Candidates(
        parent,
        menu[np.stack([first, second], axis=1)],
        value,
        nodes.cost[parent],
        row * (len(row) + 1) + column,
        (cells[0] < 0) & (cells[1] < 0),
    )


def realise(core: BatchedDriving, nodes: Nodes, chosen: Candidates, free_only: bool) -> tuple[Nodes, np.ndarray]:
    """Simulate candidates; return those without a collision, without a cost if `free_only`, and which they are."""
    cars, rewards, cost, crashed = play(core, nodes.cars[chosen.parent], chosen.actions)
    actions = np.concatenate([nodes.actions[chosen.parent], chosen.actions[:, None]], axis=1)
    after = Nodes(cars, actions, nodes.gained[chosen.parent] + rewards.sum(1), chosen.cost + cost)
    allowed = ~crashed & ~(free_only & (after.cost > 0.0))
    return after.take(allowed), allowed


class Queues(NamedTuple):
    """Candidates by situation: one queue for each of S situations, the most promising situation first.

    Attributes:
        order: (M,) indices of candidates, queue after queue, each in the order of promise.
        number: (M,) int64, the queue that a candidate is in.
        begin, end: (S,) where in `order` each queue is. taken: (S,) how many of it were taken.
    """

    order: np.ndarray
    number: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    taken: np.ndarray

    def take(self, queues: np.ndarray) -> np.ndarray:
        """Take from some queues as many again as were taken, at least one, while they last; return indices, rising."""
        begin = self.begin[queues] + self.taken[queues]
        length = np.minimum(self.end[queues] - begin, np.maximum(self.taken[queues], 1))
        self.taken[queues] += length
        before = np.cumsum(length) - length
        indices: np.ndarray = np.sort(self.order[np.repeat(begin - before, length) + np.arange(length.sum())])
        return indices

    def lasting(self, queues: np.ndarray) -> np.ndarray:
        """Return which of some queues have candidates left."""
        left: np.ndarray = self.begin[queues] + self.taken[queues] < self.end[queues]
        return left


def queues_of(situation: np.ndarray) -> Queues:
    """Return the queues of candidates whose situations are given in the order of their promise, (M,) int64."""
    order = np.argsort(situation, kind="stable")
    begin = np.flatnonzero(np.diff(situation[order], prepend=situation[order[:1]] - 1))
    end = np.append(begin[1:], len(order))
    by_promise = np.argsort(order[begin])
    number = np.empty(len(order), np.int64)
    number[order] = np.repeat(np.argsort(by_promise), end - begin)
    return Queues(order, number, begin[by_promise], end[by_promise], np.zeros(len(begin), np.int64))


def select(core: BatchedDriving, nodes: Nodes, candidates: Candidates, width: int, free_only: bool) -> Nodes:
    """Return at most `width` allowed continuations, the best of each situation as far as they go."""
    if not len(candidates.parent):
        return nodes.take(np.zeros(0, np.int64))
    kept, room, queues = [], width, queues_of(candidates.situation)
    waiting = np.arange(len(queues.begin))
    while room and len(waiting):
        tried = queues.take(waiting[:room])
        after, allowed = realise(core, nodes, candidates.take(tried), free_only)
        served, best = np.unique(queues.number[tried[allowed]], return_index=True)
        kept.append(after.take(np.sort(best)))
        room -= len(best)
        waiting = waiting[queues.lasting(waiting) & ~np.isin(waiting, served)]
    return Nodes(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))


def best_of(nodes: Nodes) -> Plan | None:
    """Return the complete plan with the largest return, then the least cost; None if there is none."""
    if len(nodes.gained) == 0:
        return None
    k = np.lexsort((nodes.cost, -nodes.gained))[0]
    return Plan(nodes.actions[k], float(nodes.gained[k]), float(nodes.cost[k]))


def better(one: Plan | None, other: Plan | None) -> Plan | None:
    """Return the plan with the larger return, then the smaller cost; the first of equal ones."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda plan: (plan.total_return, -plan.cost))


def useful(candidates: Candidates, best: Plan | None) -> Candidates:
    """Return the candidates that can still beat a complete plan: in return, or in cost at the same return."""
    if best is None:
        return candidates
    level = candidates.value == best.total_return
    return candidates.take((candidates.value > best.total_return) | (level & (candidates.cost < best.cost)))


def beam_search(
    core: BatchedDriving,
    start: np.ndarray,
    tables: list[SoloTables],
    *,
    width: int,
    size: float,
    free_only: bool,
) -> Plan | None:
    """Return the best plan that one search finds, or None; see `search`."""
    best: Plan | None = None
    menu = tables[0].menu
    nodes = Nodes(start[None], np.zeros((1, 0, 2), menu.dtype), np.zeros(1), np.zeros(1))
    while len(nodes.gained):
        outlooks = [foresee(core, nodes, car, own, size) for car, own in enumerate(tables)]
        candidates = useful(continuations(nodes, outlooks, menu), best)
        complete = candidates.take(candidates.complete)
        if len(complete.parent):
            best = better(best, best_of(realise(core, nodes, complete, free_only)[0]))
            candidates = useful(candidates, best)
        nodes = select(core, nodes, candidates.take(~candidates.complete), width, free_only)
    return best


def search(
    core: BatchedDriving,
    start: np.ndarray,
    tables: list[SoloTables],
    config: PlannerConfig,
    *,
    free_only: bool = False,
) -> Plan | None:
    """Return the best plan without a collision that is found: the largest return, then the least cost.

    Args:
        core: any number of environments. start: (2, 20), one environment's state.
        tables: of both vehicles, from starts like this one, see `solo_tables`.
        free_only: only plans without any cost.

    Returns:
        the plan, or None.
    """
    best: Plan | None = None
    for size in config.cells:
        found = beam_search(core, start, tables, width=config.width, size=size, free_only=free_only)
        best = better(best, found)
    return best


class Planner(PlannedAgent):
    """Plays the plan with the largest return that the search finds among those without a collision.

    Where it finds none, every action is the neutral one.
    """

    made_for: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "scenario": ("merge", "roundabout", "intersection"),
        "profile": ("default", None),
    }
    Config: ClassVar[type] = PlannerConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build the simulators; see `PlannedAgent`."""
        super().__init__(context, config)
        assert context.simulator is not None
        self._core = context.simulator(SIMULATORS)
        self.plan: Plan | None = None

    @functools.cached_property
    def tables(self) -> list[SoloTables]:
        """The solo tables of both vehicles, one for all episodes."""
        assert self.context.simulator is not None
        starts = self.context.simulator(TABLE_STARTS)
        starts.reset(stream="search")
        state, size = starts.get_state(), self.config.table_cells
        menus = [menu_of(self.context.action_spaces[agent], self.config.levels) for agent in self.context.agents]
        return [solo_tables(self._core, state, car, menu, size) for car, menu in enumerate(menus)]

    def find(self, start: np.ndarray) -> Plan | None:
        """Return the plan for an episode that starts in a state, (2, 20)."""
        return search(self._core, start, self.tables, self.config)

    def plan_actions(self) -> np.ndarray:
        """Return the actions of the plan that is found, or none; see `PlannedAgent.plan_actions`."""
        self.plan = self.find(self.simulator.get_state()[0])
        return np.zeros((0, 2), np.int64) if self.plan is None else self.plan.actions


class SafePlanner(Planner):
    """The same among the plans without any cost; where it finds none, it does what `Planner` does."""

    def find(self, start: np.ndarray) -> Plan | None:
        """Return the plan for an episode that starts in a state, (2, 20)."""
        return search(self._core, start, self.tables, self.config, free_only=True) or super().find(start)
