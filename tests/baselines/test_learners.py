"""The joint-action Q learners on a small constrained Markov game whose exact solution is computed here, independently.

Four states. In state 0 the pair decides where play goes on: states 1 and 2, or state 3, on the way
to which the follower finishes. State 1 ends the game, state 3 is the leader alone, and in state 2
the clock runs out on the way to state 1: values go on from there. State 1 is a game in which the
follower of MIP (13), that of equation (10) and an unconstrained one give three different answers.
"""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from safemarl_bench.baselines.bi_ac import BiAC, actor_gradient, bilevel_pairs, with_leader_actions
from safemarl_bench.baselines.csq import CSQ
from safemarl_bench.baselines.csq import equilibrium as csq_equilibrium
from safemarl_bench.baselines.mip_pcsq import MIPPCSQ, priorities
from safemarl_bench.baselines.mip_pcsq import equilibrium as mip_equilibrium

from safemarl_bench.contract import AgentContext, Features, Observation, Transition, build_config
from safemarl_bench.errors import CheckpointError, ContractError, RegistryError
from safemarl_bench.learning import Batch
from safemarl_bench.rng import generator

GAMMA = 0.9
D = 1.0  # discounted limit of both agents; (1 - 0.9^2) / (0.1 * 2) = 0.95
NEUTRAL = (1, 0)
REWARDS = np.array(
    [
        [[[0, 0], [2, 3]], [[5, 3], [4, 2]], [[1, 2], [0, 4]], [[1, 8], [2, 8]]],
        [[[2, 0], [0, 4]], [[9, 1], [6, 7]], [[1, 2], [3, 0]], [[0, 0], [0, 0]]],
    ]
)  # (agent, state, a1, a2)
COSTS = np.array(
    [
        [[[0, 0], [0, 0]], [[9, 0], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [3, 0]]],
        [[[0, 0], [0, 0.5]], [[0, 0], [0, 0]], [[0, 2], [0, 0]], [[0, 0], [0, 0]]],
    ]
)
NEXT = np.array([[1, 2], [2, 3]])  # from state 0
PAYOFFS = np.concatenate([REWARDS, COSTS])  # Q1, Q2, G1, G2
PAIRS = [(i, j) for i in range(2) for j in range(2)]

BOX = gymnasium.spaces.Box(0.0, 1.0, (4,), np.float32)
ONE_HOT = Features(("0", "1", "2", "3"), (0.0,) * 4, (1.0,) * 4)
CONTEXT = AgentContext(
    observation_spaces={"l": BOX, "f": BOX},
    action_spaces={"l": gymnasium.spaces.Discrete(2), "f": gymnasium.spaces.Discrete(2)},
    state_space=BOX,
    leader=("l",),
    followers=("f",),
    cost_limits={"l": (D / 0.95,), "f": (D / 0.95,)},
    gamma=GAMMA,
    horizon=2,
    neutral_actions={"l": NEUTRAL[0], "f": NEUTRAL[1]},
    observation_features={"l": ONE_HOT, "f": ONE_HOT},
    state_features=ONE_HOT,
    num_envs=8,
    training_steps=1200,
    seed=3,
)
CONFIG = {
    "hidden": [32],
    "learning_rate": 0.004,
    "reward_scale": 0.5,
    "batch_size": 32,
    "learning_starts": 64,
    "updates_per_step": 2,
    "rho": 0.5,
    "epsilon_start": 1.0,
    "epsilon_end": 0.3,
}
LEARNERS = {"csq": CSQ, "mip_pcsq": MIPPCSQ, "bi_ac": BiAC}


def solve_mip13(q1, q2, g1, g2, columns):
    best = {}
    for i in range(2):
        safe = [j for j in columns if g1[i, j] <= D and g2[i, j] <= D]
        if safe:
            best[i] = max(safe, key=lambda j, i=i: q2[i, j])
    return max(best.items(), key=lambda pair: q1[pair])


def solve_csq10(q1, q2, g1, g2, columns):
    best = {}
    for i in range(2):
        safe = [j for j in columns if g2[i, j] <= D]
        answer = max(safe, key=lambda j, i=i: q2[i, j]) if safe else None
        if answer is not None and g1[i, answer] <= D:
            best[i] = answer
    return max(best.items(), key=lambda pair: q1[pair])


def solve_bilevel(q1, q2, g1, g2, columns):
    best = {i: max(columns, key=lambda j, i=i: q2[i, j]) for i in range(2)}
    return max(best.items(), key=lambda pair: q1[pair])


SOLUTIONS = {"csq": solve_csq10, "mip_pcsq": solve_mip13, "bi_ac": solve_bilevel}


def exact(solve):
    """Return (tables (4, states, a1, a2), greedy pair by state) by dynamic programming from the end."""
    tables, chosen, values = PAYOFFS.astype(float), {}, {}
    for state in (1, 3, 2, 0):
        if state == 2:
            tables[:, 2] += GAMMA * values[1][:, None, None]
        if state == 0:
            for i, j in PAIRS:
                tables[:, 0, i, j] += GAMMA * values[NEXT[i, j]]
        alone = state == 3
        chosen[state] = solve(*tables[:, state], [NEUTRAL[1]] if alone else [0, 1])
        values[state] = tables[:, state][:, *chosen[state]] * ([1, 0, 1, 0] if alone else 1)
    return tables, chosen


class Games:
    """E games side by side; a finished one starts again in a state drawn by (episode step, game)."""

    def __init__(self, num_envs=8):
        self.state = np.arange(num_envs) % 3
        self.step = 0

    def observe(self, state=None, over=None):
        state = self.state if state is None else state
        over = np.zeros(len(state), bool) if over is None else over
        one_hot = np.eye(4, dtype=np.float32)[state]
        alive = {"l": ~over, "f": ~over & (state != 3)}
        return Observation({"l": one_hot, "f": one_hot}, one_hot, alive, np.zeros(len(state), np.int64))

    def play(self, agent):
        before, state = self.observe(), self.state
        actions = agent.act(before, explore=True, rng=generator("explore", 0, self.step))
        i, j = actions["l"], actions["f"]
        alone = state == 3
        assert (j[alone] == NEUTRAL[1]).all()
        following = np.where(state == 0, NEXT[i, j], 1)
        over = state != 0
        truncated = state == 2
        never = np.zeros(len(state), bool)
        paid = PAYOFFS[:, state, i, j]
        agent.observe(
            Transition(
                before,
                actions,
                {"l": paid[0], "f": np.where(alone, 0, paid[1])},
                {"l": paid[2][:, None], "f": np.where(alone, 0, paid[3])[:, None]},
                {"l": over & ~truncated, "f": ((state == 1) | (following == 3)) & ~truncated},
                {"l": truncated, "f": truncated if truncated.any() else never},
                self.observe(following, over),
                over,
            )
        )
        self.step += 1
        self.state = np.where(over, generator("train", 0, self.step).integers(3, size=len(state)), following)


def build(name, **changes):
    return LEARNERS[name](CONTEXT, build_config(LEARNERS[name], {**CONFIG, **changes}))


def train(agent, games, decisions):
    for _ in range(decisions):
        games.play(agent)
        agent.learn()
    return agent


@pytest.fixture(scope="module", params=sorted(LEARNERS))
def trained(request):
    return request.param, train(build(request.param), Games(), CONTEXT.training_steps)


def test_a_learners_tables_are_the_exact_ones(trained):
    name, agent = trained
    tables, _ = exact(SOLUTIONS[name])
    scale = np.array([0.5, 0.5, 1, 1]).reshape(4, 1, 1, 1)[: len(agent.owner)]
    learned = agent.critics.online.outputs(torch.eye(4)).view(-1, 4, 2, 2).numpy() / scale
    compared = np.ones_like(learned, bool)
    compared[:, 3, :, 1] = False  # never played: the follower is done
    compared[[k for k, owner in enumerate(agent.owner.tolist()) if owner], 3] = False
    difference = np.abs(learned - tables[: len(learned)])[compared]
    assert difference.max() < 0.05


def test_a_learners_greedy_policy_is_the_exact_one(trained):
    name, agent = trained
    _, chosen = exact(SOLUTIONS[name])
    actions = agent.act(Games().observe(np.arange(4)), explore=False, rng=np.random.default_rng(0))
    assert list(zip(actions["l"].tolist(), actions["f"].tolist(), strict=True)) == [chosen[k] for k in range(4)]


def test_the_three_equilibria_of_state_1_differ():
    assert [exact(SOLUTIONS[name])[1][1] for name in ("mip_pcsq", "csq", "bi_ac")] == [(0, 1), (1, 1), (0, 0)]


def test_the_two_constrained_equilibria_are_those_of_the_example():
    tables = PAYOFFS[:, 1:2].astype(np.float32)
    d = np.array([D], np.float32)
    assert csq_equilibrium(tables, d, d).tolist() == [3]
    assert mip_equilibrium(tables, d, d, "torch").tolist() == [1]
    assert mip_equilibrium(tables, d, d, "python").tolist() == [1]


def test_acting_in_many_games_is_acting_in_each_of_them(trained):
    _, agent = trained
    rng = np.random.default_rng(0)
    together = agent.act(Games().observe(np.arange(4)), explore=False, rng=rng)
    for state in range(4):
        alone = agent.act(Games().observe(np.array([state])), explore=False, rng=rng)
        assert [together[role][state] for role in ("l", "f")] == [alone[role][0] for role in ("l", "f")]


def test_greedy_actions_do_not_depend_on_the_generator_and_exploring_ones_do(trained):
    _, agent = trained
    observation = Games().observe(np.zeros(400, np.int64))
    greedy = [agent.act(observation, explore=False, rng=np.random.default_rng(k))["f"].tolist() for k in (0, 1)]
    curious = [agent.act(observation, explore=True, rng=np.random.default_rng(k))["f"].tolist() for k in (0, 1)]
    assert greedy[0] == greedy[1]
    assert curious[0] != curious[1]


def test_epsilon_falls_over_the_first_half_of_training():
    agent = build("csq", epsilon_start=0.1, epsilon_end=0.05)
    seen = []
    for decisions in (0, 300, 600, 1200):
        agent.decisions = decisions
        seen.append(agent.epsilon)
    assert seen == pytest.approx([0.1, 0.075, 0.05, 0.05])


def test_mip_pcsq_explores_safe_pairs_only_and_csq_all():
    # Costs of state 1: only (0, 0) is unsafe.
    for name, expected in (("mip_pcsq", {1, 2, 3}), ("csq", {0, 1, 2, 3})):
        agent = build(name, hidden=[])
        agent.critics.online.parameters.zero_()
        agent.critics.online.parameters[: 4 * 4 * 4].view(4, 4, 4)[:, 1] = torch.tensor(PAYOFFS[:, 1]).view(4, 4)
        drawn = agent.act(Games().observe(np.ones(400, np.int64)), explore=True, rng=np.random.default_rng(0))
        pairs = agent.joint.pairs(drawn)
        assert set(pairs.tolist()) == expected
        agent.decisions = CONTEXT.training_steps  # epsilon 0.3
        drawn = agent.act(Games().observe(np.ones(2000, np.int64)), explore=True, rng=np.random.default_rng(0))
        greedy = {"mip_pcsq": 1, "csq": 3}[name]
        share = (agent.joint.pairs(drawn) == greedy).mean()
        assert abs(share - (0.7 + 0.3 / len(expected))) < 0.05


def test_where_no_pair_is_safe_mip_pcsq_explores_the_least_violation():
    agent = build("mip_pcsq", hidden=[])
    agent.critics.online.parameters.zero_()
    biases = agent.critics.online.parameters[-16:].view(4, 4)
    biases[2] = torch.tensor([5.0, 3.0, 4.0, 3.0])
    drawn = agent.act(Games().observe(np.ones(100, np.int64)), explore=True, rng=np.random.default_rng(0))
    assert set(agent.joint.pairs(drawn).tolist()) == {1, 3}


def test_priorities_by_hand():
    errors = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    lam = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert priorities(errors, lam, eps_p=1.0, alpha=0.5).tolist() == pytest.approx([8**0.5, 1.0])


def test_mip_pcsq_writes_back_the_priorities_of_its_batch():
    agent = train(build("mip_pcsq"), Games(), 8)
    agent.replay.priorities.ravel()[: agent.replay.size] = 50.0
    agent.replay.block_sums = agent.replay.priorities.sum(axis=1)
    agent.learn()
    changed = agent.replay.priorities.ravel()[: agent.replay.size] != 50.0
    assert 16 < changed.sum() <= 64
    largest = (np.abs(agent._last.errors).sum(0).max() + 50) ** 0.6
    assert agent.replay.priorities.ravel()[: agent.replay.size][changed].max() < largest


def test_bilevel_pairs_maximise_over_all_actions_even_where_all_values_are_negative():
    q_leader = torch.tensor([[[-5.0, -1.0], [-3.0, -9.0]]])
    logits = torch.tensor([[[2.0, 1.0], [0.5, 0.1]]])  # the follower answers 0 everywhere
    assert bilevel_pairs(q_leader, logits).tolist() == [2]


def test_the_actor_sees_every_leader_action_beside_the_observation():
    inputs = with_leader_actions(torch.tensor([[7.0], [8.0]]), 2)
    assert inputs.tolist() == [[7, 1, 0], [7, 0, 1], [8, 1, 0], [8, 0, 1]]


def test_the_actors_gradient_equals_autograd():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, generator=rng, requires_grad=True)
    q_follower = torch.randn(3, 2, 4, generator=rng)
    policy = torch.distributions.Categorical(logits=logits)
    (-((policy.probs * q_follower).sum(2) + 0.3 * policy.entropy()).mean()).backward()
    torch.testing.assert_close(actor_gradient(logits.detach(), q_follower, 0.3), logits.grad)


def test_the_actor_comes_to_rest_at_the_softmax_of_values_over_tau_from_wherever_it_starts():
    q_follower = torch.tensor([[[1.0, 0.6, 0.9]]])
    for start in ([0.0, 0.0, 0.0], [0.0, 5.0, 0.0]):
        logits = torch.tensor([[start]])
        for _ in range(4000):
            logits -= 5.0 * actor_gradient(logits, q_follower, 0.1)
        torch.testing.assert_close(logits.softmax(2), (q_follower / 0.1).softmax(2), rtol=1e-3, atol=1e-3)


def bi_ac_with_answers(rows):
    """A Bi-AC whose actor's logits are rows[a1] and whose leader prefers action 0 everywhere."""
    agent = build("bi_ac", hidden=[], actor_rate=0.1)
    for network in (agent.actor, agent.critics.online):
        network.parameters.zero_()
    agent.actor.parameters[:12].view(6, 2)[4:] = torch.tensor(rows)
    agent.critics.online.parameters[-8:-4] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    return agent


def test_where_the_leader_is_done_bi_acs_follower_answers_the_neutral_action():
    agent = bi_ac_with_answers([[1.0, 0.0], [0.0, 1.0]])
    observation = Games().observe(np.zeros(2, np.int64))
    observation.alive["l"][0] = False
    actions = agent.act(observation, explore=False, rng=np.random.default_rng(0))
    assert actions["l"].tolist() == [NEUTRAL[0], 0]
    assert actions["f"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("alive", "expected"),
    [
        ((True, True), [1, 0]),
        ((False, True), [0, 0]),  # every row learns what is best against the neutral action
        ((True, False), None),  # nothing to learn
    ],
)
def test_the_actor_learns_the_best_answers_and_nothing_from_done_agents(alive, expected):
    agent = bi_ac_with_answers([[0.0, 0.0], [0.0, 0.0]])
    before = agent.actor.parameters.clone()
    nothing = np.zeros((1, 8), np.float32)
    batch = Batch(nothing, nothing, np.array([0]), np.zeros((2, 1)), np.array([[alive[0]], [alive[1]]]), None)
    outputs = np.array([[[0.0, 0, 0, 0]], [[1.0, 2, 4, 3]]], np.float32)
    for _ in range(5):
        agent.after_update(np.array([0]), batch, outputs, np.zeros((2, 1)))
    if expected is None:
        assert torch.equal(agent.actor.parameters, before)
    else:
        assert agent.actor_activations(nothing).outputs.view(2, 2).argmax(dim=1).tolist() == expected


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(trained, tmp_path):
    name, _ = trained
    whole, games = build(name), Games()
    train(whole, games, 120)
    first, games = build(name), Games()
    train(first, games, 50).save(tmp_path, training=True)
    second = build(name)
    second.load(tmp_path)
    train(second, games, 70)
    for tensor_name, tensor in whole.tensors(training=True).items():
        assert torch.equal(tensor, second.tensors(training=True)[tensor_name]), tensor_name
    assert whole.counters() == second.counters()
    assert whole.counters()["updates"] == 2 * (120 - 7)
    arrays, counters = whole.replay.state()
    assert counters == second.replay.state()[1]
    for array_name, array in arrays.items():
        assert np.array_equal(array, second.replay.state()[0][array_name]), array_name


def test_a_checkpoint_for_acting_is_small_and_acts_the_same(trained, tmp_path):
    name, agent = trained
    agent.save(tmp_path / "act", training=False)
    agent.save(tmp_path / "train", training=True)
    sizes = {kind: (tmp_path / kind / "agent.safetensors").stat().st_size for kind in ("act", "train")}
    assert sizes["act"] < sizes["train"] / 3
    loaded = LEARNERS[name](dataclasses.replace(CONTEXT, seed=99), build_config(LEARNERS[name], CONFIG))
    loaded.load(tmp_path / "act")
    observation = Games().observe(np.arange(4))
    actions = [each.act(observation, explore=False, rng=np.random.default_rng(0)) for each in (agent, loaded)]
    for role in ("l", "f"):
        assert np.array_equal(actions[0][role], actions[1][role])


def test_a_checkpoint_of_another_agent_or_width_is_refused(tmp_path):
    build("csq").save(tmp_path, training=False)
    with pytest.raises(CheckpointError, match="is of agent 'CSQ', not 'BiAC'"):
        build("bi_ac").load(tmp_path)
    with pytest.raises(CheckpointError, match="'critics' must have shape"):
        build("csq", hidden=[16]).load(tmp_path)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_divergence_is_named_when_learning_acting_and_saving(name, tmp_path):
    agent = train(build(name), Games(), 10)
    agent.critics.online.parameters[-1] = float("nan")  # an output bias of the last critic
    culprit = agent.critics.names[-1]
    with pytest.raises(ContractError, match=f"of {culprit} must be finite"):
        agent.save(tmp_path, training=True)
    with pytest.raises(ContractError, match=culprit):
        train(agent, Games(), 60)


@pytest.mark.parametrize("name", ["mip_pcsq", "csq", "bi_ac"])
def test_metrics_are_reported_by_name_every_hundred_updates(name):
    agent, games = build(name), Games()
    reports = []
    for _ in range(7 + 50):
        games.play(agent)
        reports.append(agent.learn())
    assert [bool(report) for report in reports] == [False] * 56 + [True]
    of_critics = [f"{kind}_{critic}" for kind in ("loss", "value") for critic in agent.critics.names]
    own = "entropy_follower" if name == "bi_ac" else "infeasible"
    assert sorted(reports[-1]) == sorted([*of_critics, "epsilon", own])


@pytest.mark.parametrize("name", ["mip_pcsq", "csq"])
def test_the_share_of_states_without_a_pair_within_the_limits_is_reported(name):
    agent = train(build(name), Games(), 60)
    for limit, share in ((1e9, 0.0), (-1e9, 1.0)):
        agent.d_leader.fill(limit)
        assert agent.metrics(agent._last)["infeasible"] == share


def test_an_unknown_backend_is_refused_with_the_nearest_name():
    with pytest.raises(RegistryError, match="unknown backend 'numpi' of MIPPCSQ: did you mean 'numpy'"):
        build("mip_pcsq", backend="numpi")


def test_another_exact_backend_trains_the_same_networks():
    agents = [train(build("mip_pcsq", backend=backend), Games(), 20) for backend in ("torch", "numpy")]
    assert agents[0].critics.updates == 26
    assert torch.equal(agents[0].critics.online.parameters, agents[1].critics.online.parameters)
