"""The rules of the released code of Zheng and Gu, quirks included, to compare with their published curves.

Unlike `safemarl_bench.driving.game`:

- nobody is frozen or leaves the scene: a vehicle that is done is driven on and keeps collecting, until both are
  done or time is over, and both terminate together, a time-out too;
- a crash costs 5, in the reward and in the cost, in every decision in which the vehicle is crashed; there is no
  gap cost, and nothing is paid for the decisions that remain;
- the clock is not observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from safemarl_bench.driving.game import DrivingGame
from safemarl_bench.driving.scenario import BAND_REWARD

ARRIVED_REWARD = 5.0


class OfficialGame(DrivingGame):
    """The intersection's rules, which the other scenarios change in one point each.

    Class attributes:
        CRASH_REWARD, CRASH_COST: in every decision in which the vehicle is crashed.
    """

    CRASH_REWARD: ClassVar[float] = -5.0
    CRASH_COST: ClassVar[float] = 5.0

    def _judge(self, live: list[str], played: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, float], set[str]]:
        """Return rewards, costs, and who is done."""
        crashed = {agent for agent in live if self._vehicle(agent).crashed}
        arrived = self._rank_arrivals([agent for agent in live if agent not in crashed and agent not in self._ranks])
        rewards = {agent: self._driving_reward(agent, played[agent], agent in crashed) for agent in live}
        for agent in live:
            rewards[agent] += self._arrival_reward(agent, agent in arrived)
        costs = {agent: self.CRASH_COST * (agent in crashed) + self._departure_cost(agent) for agent in live}
        return rewards, costs, crashed.union(self._ranks, self._off_road)

    def _endings(self, live: list[str], done: set[str]) -> tuple[dict[str, bool], dict[str, bool]]:
        """Return terminations, the same for both, and no truncation."""
        over = self._decision >= self.spec.horizon or done.issuperset(live)
        return dict.fromkeys(live, over), dict.fromkeys(live, False)

    def _driving_reward(self, agent: str, action: Any, crashed: bool) -> float:
        return self.scene.driving_reward(self._vehicle(agent), action) + self.CRASH_REWARD * crashed

    def _arrival_reward(self, agent: str, arrives: bool) -> float:
        """Once, by the order of arrival."""
        return self.scene.settings.arrival_rewards[self._ranks[agent] - 1] if arrives else 0.0

    def _departure_cost(self, agent: str) -> float:
        """Leaving the road is not noticed."""
        return 0.0

    def _clock(self) -> list[float]:
        return []


class OfficialMerge(OfficialGame):
    """The speed that is rewarded is the commanded one."""

    def _driving_reward(self, agent: str, action: Any, crashed: bool) -> float:
        low, high = self.scene.settings.speed_band
        in_band = low <= self._vehicle(agent).target_speed <= high
        return (BAND_REWARD if in_band else 0.0) + self.CRASH_REWARD * crashed


class OfficialRoundabout(OfficialGame):
    """Arrival is paid again in every decision that ends past the line."""

    def _arrival_reward(self, agent: str, arrives: bool) -> float:
        return ARRIVED_REWARD if self.scene.past_finish(self._vehicle(agent)) >= 0.0 else 0.0


class OfficialRacetrack(OfficialGame):
    """Leaving the road ends an agent's task too, and costs as long as it lasts; off the road nothing is paid."""

    CRASH_REWARD = -0.5
    CRASH_COST = 1.0
    DEPARTURE_COST: ClassVar[float] = 0.5

    def _driving_reward(self, agent: str, action: Any, crashed: bool) -> float:
        on_road = not self.scene.off_road(self._vehicle(agent))
        return super()._driving_reward(agent, action, crashed and on_road)

    def _departure_cost(self, agent: str) -> float:
        if not self.scene.off_road(self._vehicle(agent)):
            return 0.0
        self._off_road.add(agent)
        return self.DEPARTURE_COST


OFFICIAL: dict[str, type[OfficialGame]] = {
    "merge": OfficialMerge,
    "roundabout": OfficialRoundabout,
    "intersection": OfficialGame,
    "racetrack": OfficialRacetrack,
}
