"""Random weakly coupled problems of unequal sub-problems: Proposition 1, and what the tables converge to."""

import dataclasses
import itertools

import gymnasium
import numpy as np
import pytest
from safemarl_bench.baselines.ql import QL
from safemarl_bench.baselines.wcql import WCQL

from safemarl_bench.contract import AgentContext, Features, WeaklyCoupled, build_config
from safemarl_bench.weakly_coupled import tables, tabular

GAMMA = 0.8


@dataclasses.dataclass
class Problem:
    """`rewards[i]`: (W, S_i, M); `moves[i]`: (W, S_i, M, S_i'); `exogenous`: (W, W'); the rest as in the contract."""

    coupled: WeaklyCoupled
    rewards: list[np.ndarray]
    moves: list[np.ndarray]
    exogenous: np.ndarray


def random_problem(seed):
    rng = np.random.default_rng(seed)
    count, exogenous, levels = int(rng.integers(2, 4)), int(rng.integers(1, 4)), 3
    sizes = tuple(rng.integers(2, 4, size=count).tolist())
    allocations = np.array(list(itertools.product(range(levels), repeat=count)))
    capacity = rng.integers(1, levels + 1, size=exogenous)
    feasible = allocations.sum(axis=1) <= capacity[:, None]
    shape = [(exogenous, size, levels) for size in sizes]
    return Problem(
        WeaklyCoupled(allocations, feasible, capacity, sizes),
        [rng.uniform(-1, 1, size=one) for one in shape],
        [rng.dirichlet(np.ones(one[1]), size=one) for one in shape],
        rng.dirichlet(np.ones(exogenous), size=exogenous),
    )


def joint_states(problem):
    return list(itertools.product(*map(range, problem.coupled.sub_states)))


def solve_joint(problem):
    """Return Q*, (W, states, A), by value iteration over joint states one by one; -inf where infeasible."""
    states, coupled = joint_states(problem), problem.coupled
    rewards = np.zeros((coupled.n_exogenous, len(states), coupled.n_actions))
    moves = np.zeros((*rewards.shape, len(states)))
    for (w, n, a), _ in np.ndenumerate(rewards):
        use = coupled.allocations[a]
        rewards[w, n, a] = sum(r[w, s, u] for r, s, u in zip(problem.rewards, states[n], use, strict=True))
        for m, after in enumerate(states):
            moves[w, n, a, m] = np.prod(
                [p[w, s, u, t] for p, s, u, t in zip(problem.moves, states[n], use, after, strict=True)]
            )
    mask = np.where(coupled.feasible, 0.0, -np.inf)[:, None, :]
    values = np.zeros(rewards.shape[:2])
    for _ in range(200):
        q = rewards + GAMMA * np.einsum("wnam,wv,vm->wna", moves, problem.exogenous, values) + mask
        values = q.max(axis=2)
    return q


def solve_relaxed(problem, lam):
    """Return Q_i^lam, (W, S_i, M) each, and what the resource earns at lam = 1, (W,)."""
    found = []
    for rewards, moves in zip(problem.rewards, problem.moves, strict=True):
        values, paying = np.zeros(rewards.shape[:2]), rewards - lam * np.arange(3)
        for _ in range(200):
            q = paying + GAMMA * np.einsum("wsat,wv,vt->wsa", moves, problem.exogenous, values)
            values = q.max(axis=2)
        found.append(q)
    earned = np.linalg.solve(np.eye(len(problem.exogenous)) - GAMMA * problem.exogenous, problem.coupled.capacity)
    return found, earned


def make_agent(agent_class, problem, **config):
    box = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    features = Features(("",), (0.0,), (1.0,))
    context = AgentContext(
        observation_spaces={"operator": box},
        action_spaces={"operator": gymnasium.spaces.Discrete(problem.coupled.n_actions)},
        state_space=box,
        leader=("operator",),
        followers=(),
        cost_limits={"operator": ()},
        gamma=GAMMA,
        horizon=10,
        neutral_actions={"operator": 0},
        observation_features={"operator": features},
        state_features=features,
        num_envs=1,
        training_steps=2**20,
        seed=0,
        weakly_coupled=problem.coupled,
    )
    return agent_class(context, build_config(agent_class, config))


def every_state(problem):
    """Return (exogenous, states) of all joint states, the exogenous state changing most slowly."""
    states, count = np.array(joint_states(problem)), problem.coupled.n_exogenous
    return np.repeat(np.arange(count), len(states)), np.tile(states, (count, 1))


@pytest.mark.parametrize("seed", range(12))
def test_for_every_multiplier_the_sum_of_relaxed_values_is_an_upper_bound(seed):
    problem = random_problem(seed)
    exact, agent = solve_joint(problem), make_agent(WCQL, problem, lam_count=5, lam_max=2.0)
    for number, lam in enumerate(agent.tables.multipliers[:, 0]):
        relaxed, earned = solve_relaxed(problem, lam)
        agent.tables.earned[:, 0] = earned
        for i, q in enumerate(relaxed):
            agent.tables.values[i, :, : q.shape[1], :, number] = q
        for n, state in enumerate(joint_states(problem)):
            for a, use in enumerate(problem.coupled.allocations):
                bound = lam * earned + sum(q[:, s, u] for q, s, u in zip(relaxed, state, use, strict=True))
                assert (bound >= exact[:, n, a] - 1e-9).all()
    bounds = agent.bounds(*every_state(problem)).reshape(exact.shape)
    feasible = np.isfinite(exact)
    assert (bounds[feasible] >= exact[feasible] - 1e-9).all()
    assert np.isinf(bounds[~feasible]).all()


def samples(problem, count, rng):
    """Return transitions from uniform states and feasible actions."""
    coupled = problem.coupled
    now = rng.integers(coupled.n_exogenous, size=count)
    states = np.stack([rng.integers(size, size=count) for size in coupled.sub_states], axis=1)
    actions = coupled.draw(now, rng)
    use = coupled.allocations[actions]
    rewards = np.stack([r[now, states[:, i], use[:, i]] for i, r in enumerate(problem.rewards)], axis=1)
    draws = [p[now, states[:, i], use[:, i]].cumsum(axis=1) for i, p in enumerate(problem.moves)]
    after = np.stack([(rng.random((count, 1)) > law[:, :-1]).sum(axis=1) for law in draws], axis=1)
    later = (rng.random((count, 1)) > problem.exogenous[now].cumsum(axis=1)[:, :-1]).sum(axis=1)
    return tables.Moves(now, states, actions, rewards, later, after, np.ones(count, bool))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("agent_class", [QL, WCQL])
def test_the_joint_table_converges_to_the_optimal_values(agent_class, seed):
    problem, rng = random_problem(seed), np.random.default_rng(seed)
    agent = make_agent(agent_class, problem, alpha_exponent=0.8, **({"lam_count": 9} if agent_class is WCQL else {}))
    for _ in range(10):
        agent._moves = samples(problem, 100_000, rng)
        agent.learn()
    exact, learned = solve_joint(problem), np.full((len(every_state(problem)[0]), problem.coupled.n_actions), np.nan)
    for k, (w, states) in enumerate(zip(*every_state(problem), strict=True)):
        tabular._read(agent.table, tabular.state_number(agent.coupling.radix, w, states), learned[k])
    feasible = np.isfinite(exact)
    assert np.abs(learned.reshape(exact.shape)[feasible] - exact[feasible]).max() < 0.1
