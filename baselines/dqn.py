"""DQN (Mnih et al., 2015) and Double DQN (van Hasselt et al., 2016) over the joint actions of a weakly coupled game, as
*Weakly Coupled Deep Q-Networks* (NeurIPS 2023) compares with; settings of its appendix D.4.

One network Q with an output per joint action, and its slow copy Q-, on a uniform batch; A(w) are the feasible actions:

    DQN         y = r + gamma (1 - done) max over a' in A(w') of Q-(s', a')
    Double DQN  y = r + gamma (1 - done) Q-(s', argmax over a' in A(w') of Q(s', a'))

    loss (Q(s, a) - y)^2,   Q- <- Q every 32 steps

Where only the clock ends an episode it is not done.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import torch

from safemarl_bench.weakly_coupled.deep_q import Batch, DeepQAgent, DeepQConfig, action_gradient, masked, td_targets


@dataclasses.dataclass(frozen=True)
class DQNConfig(DeepQConfig):
    """DQN adds nothing to what every deep Q learner can set."""


class DQN(DeepQAgent):
    """Deep Q-learning."""

    Config: ClassVar[type] = DQNConfig

    def later_values(self, batch: Batch) -> torch.Tensor:
        """Return what the states after the decisions are worth, (B,)."""
        values = self.network.target.outputs(batch.next_features)[0]
        return masked(values, self.feasible[batch.next_exogenous]).amax(1)

    def update(self, slots: np.ndarray, batch: Batch) -> dict[str, torch.Tensor]:
        """Move the network towards the targets of a batch."""
        targets = td_targets(batch.rewards, self.later_values(batch), batch.continues, self.context.gamma)
        activations = self.network.online.forward(batch.features)
        values = activations.outputs[0].gather(1, batch.actions[:, None])[:, 0]
        errors = values - self.corrected(targets, values, slots)
        gradient = action_gradient(errors, batch.actions, self.problem.n_actions)
        self.network.descend(self.network.online.backward(activations, gradient[None]))
        return {"loss": errors.square().mean(), "value": values.mean()}

    def corrected(self, targets: torch.Tensor, values: torch.Tensor, slots: np.ndarray) -> torch.Tensor:
        """Return what the values, (B,), of the rows `slots` are to become, given their targets, (B,): those."""
        return targets


class DoubleDQN(DQN):
    """Deep Q-learning whose next action is chosen by the online network and valued by the target."""

    def later_values(self, batch: Batch) -> torch.Tensor:
        """Return what the states after the decisions are worth, (B,)."""
        online = self.network.online.outputs(batch.next_features)[0]
        best = masked(online, self.feasible[batch.next_exogenous]).argmax(1, keepdim=True)
        return self.network.target.outputs(batch.next_features)[0].gather(1, best)[:, 0]
