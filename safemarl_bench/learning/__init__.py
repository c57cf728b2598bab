"""Building blocks of learners: replay memories, network ensembles, schedules, joint-action Q learning."""

from safemarl_bench.learning.agent import Batch, Decision, JointQAgent, JointQConfig
from safemarl_bench.learning.constrained import ConstrainedQAgent, ConstrainedQConfig
from safemarl_bench.learning.critics import (
    Critics,
    squared_losses,
    squared_losses_gradient,
    td_errors,
    td_targets,
)
from safemarl_bench.learning.ensemble import Adam, Ensemble, soft_update
from safemarl_bench.learning.joint import JointActions, discounted_limits, draw_cells, respect_done
from safemarl_bench.learning.replay import PrioritizedReplay, ReplayBuffer
from safemarl_bench.learning.schedules import linear

__all__ = [
    "Adam",
    "Batch",
    "ConstrainedQAgent",
    "ConstrainedQConfig",
    "Critics",
    "Decision",
    "Ensemble",
    "JointActions",
    "JointQAgent",
    "JointQConfig",
    "PrioritizedReplay",
    "ReplayBuffer",
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
