"""Building blocks of learners: replay memories, network ensembles, schedules, joint-action Q learning."""

from safemarl_bench.learning.agent import Batch, OffPolicyAgent, OffPolicyConfig
from safemarl_bench.learning.boxes import JointBoxes
from safemarl_bench.learning.constrained import ConstrainedQAgent, ConstrainedQConfig
from safemarl_bench.learning.critics import (
    squared_losses,
    squared_losses_gradient,
    td_errors,
    td_targets,
)
from safemarl_bench.learning.ensemble import Adam, Ensemble, TrainedEnsemble, soft_update
from safemarl_bench.learning.joint import JointActions, discounted_limits, draw_cells, respect_done
from safemarl_bench.learning.joint_q import Decision, JointQAgent
from safemarl_bench.learning.replay import PrioritizedReplay, ReplayBuffer
from safemarl_bench.learning.schedules import linear

__all__ = [
    "Adam",
    "Batch",
    "ConstrainedQAgent",
    "ConstrainedQConfig",
    "Decision",
    "Ensemble",
    "JointActions",
    "JointBoxes",
    "JointQAgent",
    "OffPolicyAgent",
    "OffPolicyConfig",
    "PrioritizedReplay",
    "ReplayBuffer",
    "TrainedEnsemble",
    "discounted_limits",
    "draw_cells",
    "linear",
    "respect_done",
    "soft_update",
    "squared_losses",
    "squared_losses_gradient",
    "td_errors",
    "td_targets",
]
