"""MACPO, multi-agent constrained policy optimisation: Gu et al., *Safe multi-robot reinforcement learning*,
AIJ 2023, Algorithm 1. Discrete or continuous actions; all agents act at once, each by its own observation.

Each iteration, on T decisions of E games (collection, advantages, critics, the order of agents and
the weights M: `safemarl_bench.learning.OnPolicyAgent`), for every agent in random order, at theta_old:

    L_R = -mean[ratio M A],  L_C = mean[ratio M A_C];    g, b: their gradients;    c = (J_C - d)(1 - gamma)
    H v = Hessian of mean KL(old || theta) v + damping v;    x_g = H^-1 g,  x_b = H^-1 b  (conjugate gradients)
    theta = theta_old - y,   y = argmin of -g.y  subject to  c - b.y <= 0,  y.H y / 2 <= delta

The program has a dual in two numbers, lam and nu, of q = g.x_g, r = g.x_b, s = b.x_b (`dual`); then
y = (x_g + nu x_b) / lam. Where no step in the trust region meets the constraint, y leads straight
back: y = sqrt(2 delta / s) x_b. A backtracking line search shortens y until KL, L_R and L_C keep
what was promised (`acceptable`), or leaves the policy as it was.

Deviations from the authors' code: J_C is that of the rollout; A_C is centred but not scaled, since c
is in the same units; the Hessian of KL is exact for both kinds of policy (at theta_old it is J' F J,
J the actor's Jacobian and F the Fisher matrix of its outputs); ratios are of whole actions; rewards
and costs have normalisers of their own; the Huber loss is symmetric. One constraint per agent.

Set ``limit_scale`` high for a trust region without constraint.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch

from safemarl_bench.contract import AgentContext
from safemarl_bench.errors import ContractError
from safemarl_bench.learning import (
    Experience,
    LayerNormEnsemble,
    OnPolicyAgent,
    OnPolicyConfig,
    Policy,
    conjugate_gradients,
    loss_and_gradient,
    mean_over,
    standardised,
)

TINY = 1e-8
"""Below it a squared gradient counts as 0."""


@dataclasses.dataclass(frozen=True)
class MACPOConfig(OnPolicyConfig):
    """What MACPO can set beside `OnPolicyConfig`; epochs and minibatches are those of the critics."""

    num_envs: int = 32  # E: fewer games, more iterations
    delta: float = 0.01  # trust region: mean KL of one update, nats
    damping: float = 0.1  # added to the Hessian's diagonal
    cg_steps: int = 10  # conjugate-gradient steps
    max_norm: float = 0.5  # of a step before the line search
    step_fraction: float = 1.0  # of a step that the line search tries first (the authors: 0.27, too slow here)
    backtracks: int = 10  # steps that it tries, each half as long as the last

    def __post_init__(self) -> None:
        """See `OnPolicyConfig`.

        Raises:
            ContractError: a number that is not positive, a negative damping.
        """
        super().__post_init__()
        for name in ("delta", "cg_steps", "max_norm", "step_fraction", "backtracks"):
            if not getattr(self, name) > 0:
                raise ContractError(f"config key {name!r} must be positive, got {getattr(self, name)}")
        if not self.damping >= 0.0:
            raise ContractError(f"config key 'damping' must not be negative, got {self.damping}")


class Dual(NamedTuple):
    """What `dual` found: which case, and the multipliers of trust region and constraint (case 0: none)."""

    case: int
    lam: float
    nu: float


def dual(q: float, r: float, s: float, c: float, delta: float, bb: float) -> Dual:
    """Solve the dual of ``max g.y subject to c - b.y <= 0, y.H y / 2 <= delta``; then y = (x_g + nu x_b) / lam.

    Cases: 4, the constraint has no gradient; 3, all of the trust region meets it; 2, all but a part; 1, only a
    part; 0, none of it.

    Args:
        q, r, s: g.x_g, g.x_b, b.x_b with H x_g = g, H x_b = b.
        c: violation now; positive is too much.
        delta: > 0.
        bb: b.b.
    """
    plain = max(math.sqrt(max(q, 0.0) / (2.0 * delta)), TINY)
    if bb <= TINY:
        return Dual(4, plain, 0.0)
    a0, b0 = max(q - r * r / s, 0.0), 2.0 * delta - c * c / s
    if b0 < 0.0:
        return Dual(3, plain, 0.0) if c < 0.0 else Dual(0, math.inf, 0.0)
    tight, loose = lam_intervals(r, c)
    candidates = []
    if tight[0] <= tight[1]:
        lam = max(_clip(math.sqrt(a0 / max(b0, TINY)), tight), TINY)
        candidates.append((-(a0 / lam + b0 * lam) / 2.0 - r * c / s, lam))
    if loose[0] <= loose[1]:
        lam = max(_clip(plain, loose), TINY)
        candidates.append((-(q / lam + 2.0 * delta * lam) / 2.0, lam))
    _, lam = max(candidates)
    return Dual(2 if c < 0.0 else 1, lam, max(0.0, lam * c - r) / s)


Interval = tuple[float, float]
EMPTY: Interval = (1.0, 0.0)


def lam_intervals(r: float, c: float) -> tuple[Interval, Interval]:
    """Return where lam >= 0 makes ``nu = (lam c - r) / s`` positive (the constraint binds), and where not.

    An interval with its upper end below its lower one is empty.
    """
    everything = (0.0, math.inf)
    if c == 0.0:
        return (everything, EMPTY) if r < 0.0 else (EMPTY, everything)
    below, above = (0.0, r / c), (max(r / c, 0.0), math.inf)
    return (below, above) if c < 0.0 else (above, below)


def _clip(value: float, interval: Interval) -> float:
    return min(max(value, interval[0]), interval[1])


def kl_hessian_product(
    actor: LayerNormEnsemble, policy: Policy, observations: torch.Tensor, weights: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return v -> H v, (P,) each, H the Hessian of mean KL(old || theta) at theta = old.

    At this point KL has no gradient by the actor's outputs, so that H = mean J' F J (Gauss-Newton).

    Args:
        actor: at theta_old. policy: its family.
        observations: (B, n). weights: (B,) of the mean.
    """
    trace = actor.forward(observations)
    share = (weights / weights.sum().clamp(min=TINY)).unsqueeze(1)

    def product(vector: torch.Tensor) -> torch.Tensor:
        moved = actor.tangent(trace, vector)
        return actor.backward(trace, (share * policy.fisher(trace.outputs[0], moved[0]))[None]).clone()

    return product


def acceptable(case: int, c: float, kl: float, loss_change: float, cost_change: float, delta: float) -> bool:
    """Return whether a step keeps what the program promised.

    Args:
        case, c, delta: as in `dual`.
        kl: mean KL(old || new).
        loss_change, cost_change: of L_R and L_C; L_R need not fall while the constraint is violated (cases 0, 1).
    """
    return kl < delta and (case in (0, 1) or loss_change < 0.0) and cost_change <= max(-c, 0.0)


class MACPO(OnPolicyAgent):
    """Multi-agent constrained policy optimisation."""

    Config: ClassVar[type] = MACPOConfig

    def __init__(self, context: AgentContext, config: Any) -> None:
        """See `OnPolicyAgent`.

        Raises:
            ContractError: an agent does not have exactly one constraint.
        """
        super().__init__(context, config)
        for agent in self.agents:
            if len(context.cost_limits[agent]) != 1:
                raise ContractError(
                    f"MACPO's dual is for one constraint per agent, {agent!r} has {len(context.cost_limits[agent])}; "
                    "MAPPO-L takes any number"
                )

    def improve(self, agent: str, experience: Experience, batches: Iterator[torch.Tensor]) -> dict[str, float]:
        """Do one step of the trust region, on all rows at once."""
        actor, policy, config, weights = self.actors[agent], self.policies[agent], self.config, experience.weights
        c = float(experience.excess[0]) * (1.0 - self.context.gamma)
        centred = experience.cost_advantages[0] - mean_over(experience.cost_advantages[0], weights)
        gains = torch.stack((-standardised(experience.advantage, weights), centred)) * experience.m

        def surrogates(outputs: torch.Tensor) -> torch.Tensor:
            """Return (L_R, L_C), for outputs (B, m)."""
            ratio = (policy.log_prob(outputs, experience.drawn) - experience.log_prob).exp()
            return mean_over(ratio * gains, weights)

        trace = actor.forward(experience.observations)
        g, b = (
            actor.backward(trace, loss_and_gradient(loss, trace.outputs[0])[1][None]).clone()
            for loss in (lambda outputs: surrogates(outputs)[0], lambda outputs: surrogates(outputs)[1])
        )
        hessian = kl_hessian_product(actor, policy, experience.observations, weights)
        answer, step = self.step(lambda v: hessian(v) + config.damping * v, g, b, c)
        fraction = self._search(actor, policy, experience, surrogates, answer, step, c)
        return {"case": float(answer.case), "nu": answer.nu, "step": fraction}

    def step(
        self, product: Callable[[torch.Tensor], torch.Tensor], g: torch.Tensor, b: torch.Tensor, c: float
    ) -> tuple[Dual, torch.Tensor]:
        """Return the dual's answer and y, (P,), no longer than `max_norm`.

        Args:
            product: v -> H v.
            g, b: (P,) gradients of L_R and L_C. c: see `dual`.
        """
        config = self.config
        x_g, x_b = (conjugate_gradients(product, vector, config.cg_steps) for vector in (g, b))
        q, r, s, bb = (float(left.dot(right)) for left, right in ((g, x_g), (g, x_b), (b, x_b), (b, b)))
        answer = dual(q, r, s, c, config.delta, bb)
        y = math.sqrt(2.0 * config.delta / s) * x_b if answer.case == 0 else (x_g + answer.nu * x_b) / answer.lam
        return answer, y * min(1.0, config.max_norm / max(float(y.norm()), TINY))

    def _search(
        self,
        actor: LayerNormEnsemble,
        policy: Policy,
        experience: Experience,
        surrogates: Callable[[torch.Tensor], torch.Tensor],
        answer: Dual,
        step: torch.Tensor,
        c: float,
    ) -> float:
        """Move the actor along -step as far as is acceptable; return the share of the step, 0 for no move."""
        config, start = self.config, actor.parameters.clone()
        before = surrogates(experience.outputs)
        for k in range(config.backtracks):
            fraction: float = config.step_fraction * 0.5**k
            torch.add(start, step, alpha=-fraction, out=actor.parameters)
            outputs = actor.outputs(experience.observations)[0]
            loss_change, cost_change = (surrogates(outputs) - before).tolist()
            kl = float(mean_over(policy.kl(experience.outputs, outputs), experience.weights))
            if acceptable(answer.case, c, kl, loss_change, cost_change, config.delta):
                return fraction
        actor.parameters.copy_(start)
        return 0.0
