"""Building blocks of learners: replay memories, network ensembles, schedules, joint-action Q learning,
on-policy learning."""

from safemarl_bench.learning.advantages import gae, mean_over, standardised
from safemarl_bench.learning.agent import Batch, OffPolicyAgent, OffPolicyConfig, Update
from safemarl_bench.learning.boxes import JointBoxes
from safemarl_bench.learning.conjugate_gradients import conjugate_gradients
from safemarl_bench.learning.constrained import ConstrainedQAgent, ConstrainedQConfig
from safemarl_bench.learning.critics import (
    squared_losses,
    squared_losses_gradient,
    td_errors,
)
from safemarl_bench.learning.encoding import Encoding
from safemarl_bench.learning.ensemble import Activations, Adam, Ensemble, TrainedEnsemble, soft_update
from safemarl_bench.learning.joint import JointActions, discounted_limits, respect_done
from safemarl_bench.learning.joint_q import Decision, JointQAgent
from safemarl_bench.learning.layer_norm import LayerNormEnsemble, clip_norm
from safemarl_bench.learning.normaliser import ValueNormaliser
from safemarl_bench.learning.on_policy import (
    GRADIENT_LIMIT,
    Experience,
    OnPolicyAgent,
    OnPolicyConfig,
    loss_and_gradient,
    updated_m,
    value_losses,
)
from safemarl_bench.learning.policies import Categorical, Gaussian, Policy, policy_of
from safemarl_bench.learning.replay import PrioritizedReplay, ReplayBuffer
from safemarl_bench.learning.rollouts import Rollout, RolloutMemory
from safemarl_bench.learning.schedules import linear
from safemarl_bench.rng import draw_cells

__all__ = [
    "GRADIENT_LIMIT",
    "Activations",
    "Adam",
    "Batch",
    "Categorical",
    "ConstrainedQAgent",
    "ConstrainedQConfig",
    "Decision",
    "Encoding",
    "Ensemble",
    "Experience",
    "Gaussian",
    "JointActions",
    "JointBoxes",
    "JointQAgent",
    "LayerNormEnsemble",
    "OffPolicyAgent",
    "OffPolicyConfig",
    "OnPolicyAgent",
    "OnPolicyConfig",
    "Policy",
    "PrioritizedReplay",
    "ReplayBuffer",
    "Rollout",
    "RolloutMemory",
    "TrainedEnsemble",
    "Update",
    "ValueNormaliser",
    "clip_norm",
    "conjugate_gradients",
    "discounted_limits",
    "draw_cells",
    "gae",
    "linear",
    "loss_and_gradient",
    "mean_over",
    "policy_of",
    "respect_done",
    "soft_update",
    "squared_losses",
    "squared_losses_gradient",
    "standardised",
    "td_errors",
    "updated_m",
    "value_losses",
]
