"""Rules of ad matching that know the model."""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse

from safemarl_bench.contract import Observation
from safemarl_bench.weakly_coupled.ads import ADS, GAMMA, HORIZON, N_TYPES, AdModel, allocations, greedy
from safemarl_bench.weakly_coupled.operator_agent import Rule
from safemarl_bench.weakly_coupled.time_multipliers import FiniteProgram, joint_actions, least_bound, worth

FIRST_CELLS = np.concatenate(([0], np.cumsum(np.array(ADS) + 1)[:-1]))
"""(6,) int64, the cell of each advertiser without ads left; the next ones are those with 1, 2, ... left."""


def program(model: AdModel, *, gamma: float = GAMMA) -> FiniteProgram:
    """Return the advertisers one by one as a finite program; its cells are (advertiser, remaining ads)."""
    remaining = np.concatenate([np.arange(x + 1) for x in ADS])
    advertiser = np.repeat(np.arange(len(ADS)), np.array(ADS) + 1)
    cells, rewards = len(remaining), np.zeros((N_TYPES, 2, len(remaining)))
    rewards[:, 1] = model.payments[advertiser].T * (remaining > 0)
    after = np.stack((np.arange(cells), np.arange(cells) - (remaining > 0)))
    columns = np.arange(N_TYPES)[:, None, None] * cells + after
    entries = (np.ones(columns.size), (np.arange(columns.size), columns.ravel()))
    moves = scipy.sparse.csr_matrix(entries, shape=(columns.size, N_TYPES * cells))
    first = np.zeros((N_TYPES, cells))
    first[:, FIRST_CELLS + ADS] = 1.0 / N_TYPES
    return FiniteProgram(rewards, moves, model.moves, first, np.ones(N_TYPES), gamma, HORIZON)


def rules(model: AdModel) -> dict[str, Rule]:
    """Return the rules by name.

    greedy: who pays most now. lagrangian_greedy: the best payment now with what the advertisers are worth next, each by
    itself, at the prices of the least bound; it looks at how many decisions were taken.
    """

    table = allocations()
    feasible = np.ones((1, len(table)), bool)

    def play_greedy(observation: Observation) -> np.ndarray:
        where = observation.sub_problems
        assert where is not None
        return greedy(model, where.exogenous, where.states)

    @functools.cache
    def ahead() -> np.ndarray:
        finite = program(model)
        return worth(finite, least_bound(finite).lam)

    def play_ahead(observation: Observation) -> np.ndarray:
        where = observation.sub_problems
        assert where is not None
        step = np.minimum(observation.step, HORIZON - 1)[:, None]  # after the last decision nothing counts
        values = ahead()[step, where.exogenous[:, None], :, FIRST_CELLS + where.states]
        return joint_actions(values, table, feasible)

    return {"greedy": Rule(play_greedy, stationary=True), "lagrangian_greedy": Rule(play_ahead, stationary=False)}
