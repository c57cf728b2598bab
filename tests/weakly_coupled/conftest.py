"""EV charging as one operator's game, played here from the model's laws alone, and any agent's training on it."""

from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest

from safemarl_bench.contract import (
    Agent,
    AgentContext,
    Features,
    Observation,
    SubProblems,
    Transition,
    WeaklyCoupled,
    build_config,
)
from safemarl_bench.rng import generator
from safemarl_bench.weakly_coupled.charging import (
    BAY_STATES,
    PERIODS,
    PRICE_MOVES,
    PRICES,
    UNITS,
    ChargingModel,
    bay_moves,
    bay_rewards,
    first_bays,
)


def charging_context(model: ChargingModel, **changes) -> AgentContext:
    width = 1 + 2 * model.n_bays
    features = Features(("",) * width, (0.5, *[2.0, 1.0] * model.n_bays), (0.3, *[2.0, 1.0] * model.n_bays))
    box = gymnasium.spaces.Box(0.0, 4.0, (width,), np.float32)
    context = AgentContext(
        observation_spaces={"operator": box},
        action_spaces={"operator": gymnasium.spaces.Discrete(2**model.n_bays)},
        state_space=box,
        leader=("operator",),
        followers=(),
        cost_limits={"operator": ()},
        gamma=0.9,
        horizon=50,
        neutral_actions={"operator": 0},
        observation_features={"operator": features},
        state_features=features,
        num_envs=6,
        training_steps=200,
        seed=4,
        weakly_coupled=WeaklyCoupled(
            model.actions, model.feasible, np.array(model.rules.capacity), (len(BAY_STATES),) * model.n_bays
        ),
    )
    return dataclasses.replace(context, **changes)


class ChargingPlay:
    """E games side by side; unlagged timing, because agents only see transitions."""

    def __init__(self, model: ChargingModel, num_envs: int, seed: int, horizon: int = 50) -> None:
        self.model, self.num_envs, self.seed, self.horizon = model, num_envs, seed, horizon
        self.decisions = 0
        self._start(generator("train", seed, 0))

    def _start(self, rng: np.random.Generator) -> None:
        self.prices = rng.integers(3, size=self.num_envs)
        self.bays = rng.choice(12, size=(self.num_envs, self.model.n_bays), p=first_bays())
        self.clock = 0

    def look(self) -> Observation:
        seen = [PRICES[self.prices][:, None]]
        for bay in self.bays.T:
            seen += [PERIODS[bay][:, None], UNITS[bay][:, None]]
        state = np.concatenate(seen, axis=1).astype(np.float32)
        return Observation(
            {"operator": state},
            state,
            {"operator": np.ones(self.num_envs, bool)},
            np.full(self.num_envs, self.clock),
            SubProblems(self.prices.copy(), self.bays.copy()),
        )

    def step(self, agent: Agent, *, explore: bool = True) -> Transition:
        before, rng = self.look(), generator("train", self.seed, 1, self.decisions)
        actions = agent.act(before, explore=explore, rng=generator("explore", self.seed, self.decisions))["operator"]
        assert self.model.feasible[self.prices, actions].all()
        charged = self.model.actions[actions]
        rewards = bay_rewards()[self.prices[:, None], charged, self.bays]
        moves = bay_moves()[charged, self.bays].cumsum(axis=-1)
        self.bays = np.minimum((rng.random((*self.bays.shape, 1)) >= moves).sum(axis=-1), 11)
        self.prices = np.minimum((rng.random((self.num_envs, 1)) >= PRICE_MOVES.cumsum(1)[self.prices]).sum(1), 2)
        self.clock += 1
        self.decisions += 1
        over = np.full(self.num_envs, self.clock == self.horizon)
        transition = Transition(
            observation=before,
            actions={"operator": actions},
            rewards={"operator": rewards.sum(axis=1)},
            costs={"operator": np.zeros((self.num_envs, 0))},
            terminations={"operator": np.zeros(self.num_envs, bool)},
            truncations={"operator": over},
            next_observation=self.look(),
            episode_over=over,
            sub_rewards=rewards,
        )
        if over[0]:
            self._start(generator("train", self.seed, 2, self.decisions))
        return transition

    def train(self, agent: Agent, decisions: int) -> list[Transition]:
        seen = []
        for _ in range(decisions):
            seen.append(self.step(agent))
            agent.observe(seen[-1])
            self.metrics = agent.learn()
        return seen


@pytest.fixture
def make_agent():
    def make(agent_class: type[Agent], model: ChargingModel, changes: dict | None = None, **config) -> Agent:
        context = charging_context(model, **(changes or {}))
        return agent_class(context, build_config(agent_class, config))

    return make


@pytest.fixture
def play():
    return ChargingPlay
