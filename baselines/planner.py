"""Planners: what is possible when the simulator itself may be asked, on the very episode that is played.

`planner` looks for the largest total return, leader's plus follower's, among plans without a collision, and among
equal returns for the least cost; `planner_safe` does the same among plans that cost nothing at all. Games are
deterministic, so a plan is a sequence of joint actions, made before the episode and played with closed eyes.

The search is a beam search on the batched simulator, decision by decision. Until they touch, the vehicles do not
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
import warnings
from typing import Any, ClassVar, NamedTuple

import numpy as np

from safemarl_bench.contract import Agent, AgentContext, Arrays, Observation
from safemarl_bench.driving import kernel
from safemarl_bench.driving.core import BatchedDriving
from safemarl_bench.errors import ContractError

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
    """

    width: int = 1024  # partial plans kept per decision
    cells: tuple[float, ...] = (2.0, 0.5)  # m and m/s; one search for each size, the best plan counts
    table_cells: float = 1.0  # the same for the solo tables


class Plan(NamedTuple):
    """A complete plan.

    Attributes:
        actions: (T', 2) int64, joint actions until both vehicles are done.
        total_return: leader's plus follower's undiscounted reward. cost: the same of the cost.
    """

    actions: np.ndarray
    total_return: float
    cost: float


class Nodes(NamedTuple):
    """N partial plans, all of the same length.

    Attributes:
        cars: (N, 2, 19) simulator states. actions: (N, t, 2) int64, how they were reached.
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
        cars: (N, 19), rows of a simulator state. size: of a cell, m and m/s.

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
        cars: (N, 2, 19). actions: (N, 2) int64.

    Returns:
        next states (N, 2, 19), rewards (N, 2), total cost (N,), collision (N,) bool.
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


class SoloTables(NamedTuple):
    """What a lone vehicle can still earn, by the number of decisions since the start and by cell.

    Attributes:
        size: of a cell, m and m/s. cells: per decision (C,) int64, sorted. values: per decision (C,).
    """

    size: float
    cells: list[np.ndarray]
    values: list[np.ndarray]

    def look_up(self, decision: int, cars: np.ndarray) -> np.ndarray:
        """Return the values of live cars (N, 19), (N,): that of the next cell where theirs is not in the table."""
        if decision >= len(self.cells):  # later than any lone vehicle of the table
            return np.zeros(len(cars))
        known = self.cells[decision]
        at = np.searchsorted(known, cells_of(cars, self.size))
        found: np.ndarray = self.values[decision][np.minimum(at, len(known) - 1)]
        return found


def alone(cars: np.ndarray, car: int) -> np.ndarray:
    """Return states (N, 2, 19) from which one vehicle, a row of `cars` (N, 2, 19), goes on as if the other had arrived.

    An arrival then earns the second's reward.
    """
    lone = cars.copy()
    lone[:, 1 - car] = 0.0
    lone[:, 1 - car, kernel.RANK] = 1.0
    lone[:, 1 - car, kernel.DECISION] = cars[:, car, kernel.DECISION]
    return lone


def moves(core: BatchedDriving, lone: np.ndarray, car: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Try all five actions of a lone vehicle.

    Args:
        lone: (N, 2, 19), see `alone`.

    Returns:
        next states (N, 5, 2, 19), rewards (N, 5), -inf for a collision, whether it is live (N, 5).
    """
    joint = np.zeros((len(lone) * kernel.ACTIONS, 2), np.int64)
    joint[:, car] = np.tile(np.arange(kernel.ACTIONS), len(lone))
    cars, rewards, _, crashed = play(core, np.repeat(lone, kernel.ACTIONS, axis=0), joint)
    shape = (len(lone), kernel.ACTIONS)
    earned = np.where(crashed, -np.inf, rewards[:, car])
    running = cars[:, car, kernel.LIVE] != 0.0
    return cars.reshape(*shape, 2, kernel.STATE_WIDTH), earned.reshape(shape), running.reshape(shape)


def solo_tables(core: BatchedDriving, starts: np.ndarray, car: int, size: float) -> SoloTables:
    """Return what one vehicle can still earn without the other, after 0, 1, 2, ... decisions from `starts`.

    Dynamic programming over cells: each cell is represented by the first state found in it.

    Args:
        starts: (N, 2, 19), all at the same decision. car: 0 or 1. size: of a cell, m and m/s.
    """
    cells, first = np.unique(cells_of(starts[:, car], size), return_index=True)
    frontier, layers = alone(starts[first], car), []
    while len(frontier):
        cars, earned, running = moves(core, frontier, car)
        reached, first, child = np.unique(cells_of(cars[running][:, car], size), return_index=True, return_inverse=True)
        successor = np.full(running.shape, len(reached))  # one past the end: nothing more to earn
        successor[running] = child
        layers.append((cells, earned, successor))
        frontier, cells = cars[running][first], reached
    tables, to_go = SoloTables(size, [], []), np.zeros(1)
    for cells, earned, successor in reversed(layers):
        best = (earned + to_go[successor]).max(1)
        tables.cells.insert(0, cells)
        tables.values.insert(0, best)
        to_go = np.append(best, 0.0)
    return tables


class Outlook(NamedTuple):
    """What each action of one vehicle leads to without the other.

    Attributes:
        value: (N, 5) reward and what can be earned later; -inf for a collision, and for an action that does the
            same as one before it. cell: (N, 5) int64, -1 once done.
    """

    value: np.ndarray
    cell: np.ndarray


def foresee(core: BatchedDriving, nodes: Nodes, car: int, tables: SoloTables, size: float) -> Outlook:
    """Return the outlook of one vehicle in N plans; the many plans that share its state are simulated once."""
    own = np.ascontiguousarray(nodes.cars[:, car])
    _, first, shared = np.unique(own.view(f"V{own[0].nbytes}")[:, 0], return_index=True, return_inverse=True)
    cars, value, running = moves(core, alone(nodes.cars[first], car), car)
    after = cars[:, :, car]
    cell = np.full(running.shape, -1)
    if running.any():
        cell[running] = cells_of(after[running], size)
        value[running] += tables.look_up(nodes.actions.shape[1] + 1, after[running])
    for action in range(1, kernel.ACTIONS):
        repeated = (after[:, :action] == after[:, action : action + 1]).all(2).any(1)
        value[repeated, action] = -np.inf
    return Outlook(value[shared], cell[shared])


class Candidates(NamedTuple):
    """M continuations by one decision that are not simulated yet, the most promising first.

    Attributes:
        parent: (M,) index of the plan. actions: (M, 2) int64. value: (M,) what it can reach at best.
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


def continuations(nodes: Nodes, outlooks: list[Outlook]) -> Candidates:
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
        np.stack([first, second], axis=1),
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


def select(core: BatchedDriving, nodes: Nodes, candidates: Candidates, width: int, free_only: bool) -> Nodes:
    """Return at most `width` allowed continuations, the best of each situation as far as they go."""
    kept: list[Nodes] = []
    room = width
    while room and len(candidates.parent):
        _, first = np.unique(candidates.situation, return_index=True)
        tried = np.sort(first)[:room]
        after, allowed = realise(core, nodes, candidates.take(tried), free_only)
        kept.append(after)
        room -= len(after.gained)
        left = ~np.isin(candidates.situation, candidates.situation[tried[allowed]])
        left[tried] = False
        candidates = candidates.take(left)
    if not kept:
        return nodes.take(np.zeros(0, np.int64))
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
    nodes = Nodes(start[None], np.zeros((1, 0, 2), np.int64), np.zeros(1), np.zeros(1))
    while len(nodes.gained):
        outlooks = [foresee(core, nodes, car, own, size) for car, own in enumerate(tables)]
        candidates = useful(continuations(nodes, outlooks), best)
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
        core: any number of environments. start: (2, 19), one environment's state.
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


class Planner(Agent):
    """Plays the plan with the largest return that the search finds among those without a collision.

    Where it finds none, every action is the neutral one.
    """

    action_kinds: ClassVar[tuple[str, ...]] = ("discrete",)
    learns: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True
    privileged: ClassVar[str] = "planner"
    needs_backend: ClassVar[str] = "kernel"
    Config: ClassVar[type] = PlannerConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """Build the simulators.

        Raises:
            ContractError: the context has no simulator.
        """
        super().__init__(context, config)
        if context.simulator is None:
            raise ContractError(f"{type(self).__name__} needs the game's simulator, and the context has none")
        if not kernel.COMPILED:
            warnings.warn("planning is slow without numba: pip install 'safemarl-bench[kernel]'", stacklevel=2)
        self._start = context.simulator(1)
        self._core = context.simulator(SIMULATORS)
        self.plan: Plan | None = None

    @functools.cached_property
    def tables(self) -> list[SoloTables]:
        """The solo tables of both vehicles, one for all episodes."""
        assert self.context.simulator is not None
        starts = self.context.simulator(TABLE_STARTS)
        starts.reset(stream="search")
        return [solo_tables(self._core, starts.get_state(), car, self.config.table_cells) for car in range(2)]

    def find(self, start: np.ndarray) -> Plan | None:
        """Return the plan for an episode that starts in a state, (2, 19)."""
        return search(self._core, start, self.tables, self.config)

    def start_episode(self, stream: str, seed: int, episode: int) -> None:
        """Make the plan; see `Agent.start_episode`."""
        self._start.reset(stream=stream, seeds=seed, episodes=episode)
        self.plan = self.find(self._start.get_state()[0])

    def act(self, observation: Observation, *, explore: bool, rng: np.random.Generator) -> Arrays:
        """Return the plan's actions of decision `observation.step`; see `Agent.act`."""
        neutral = np.array([[self.context.neutral_actions[agent] for agent in self.context.agents]], np.int64)
        actions = neutral if self.plan is None else np.concatenate([self.plan.actions, neutral])
        now = actions[np.minimum(observation.step, len(actions) - 1)]
        return {agent: now[:, index] for index, agent in enumerate(self.context.agents)}


class SafePlanner(Planner):
    """The same among the plans without any cost; where it finds none, it does what `Planner` does."""

    def find(self, start: np.ndarray) -> Plan | None:
        """Return the plan for an episode that starts in a state, (2, 19)."""
        return search(self._core, start, self.tables, self.config, free_only=True) or super().find(start)
