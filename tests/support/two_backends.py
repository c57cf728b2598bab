"""The toy game on two backends; the data file may make one of them wrong, once, in one number."""

from __future__ import annotations

import os

import numpy as np
from toy_suite.game import ToyGame

EPISODE, DECISION = 3, 2


def make(spec, *, backend):
    """Build the game; ``[env]`` has `spread`, and `fault` = "what" on the backend `faulty`."""
    if backend == "exact" and "EXACT_IS_MISSING" in os.environ:
        raise RuntimeError("the exact simulator\nis not installed")
    print("welcome to the", backend, "simulator")
    return TwoBackends(spec, spec.env["fault"] if backend == spec.env["faulty"] else "")


class TwoBackends(ToyGame):
    """Spoils decision 2 of evaluation episode 3."""

    def __init__(self, spec, fault):
        super().__init__(spec, spec.env["spread"])
        self.metadata = {**self.metadata, "name": spec.name}
        self.fault = fault

    def reset(self, seed=None, options=None):
        self.stream = (options or {}).get("stream")
        return super().reset(seed, options)

    def step(self, actions):
        shown = super().step(actions)
        if (self.stream, self.episode, self.time) == ("evaluation", EPISODE, DECISION):
            self._spoil(*shown)
        return shown

    def _spoil(self, seen, rewards, ended, cut, infos):
        if self.fault in ("crashed", "off_road", "arrival_rank"):
            infos["leader"][self.fault] = 1 - infos["leader"].get(self.fault, 0)
        elif self.fault in ("terminated", "truncated"):
            (ended if self.fault == "terminated" else cut)["leader"] = True
            self.agents.remove("leader")
        elif self.fault == "over":
            ended.update(dict.fromkeys(ended, True))
            self.agents.clear()
        elif self.fault == "reward":
            rewards["follower"] += 2e-6
        elif self.fault == "rounding":
            rewards["follower"] += 5e-7
        elif self.fault == "cost":
            infos["follower"]["cost"] += 0.001
        elif self.fault == "observation":
            seen["leader"] = seen["leader"] + 0.001
        elif self.fault == "width":
            seen["leader"] = np.append(seen["leader"], np.float32(7.0))
