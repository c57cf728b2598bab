"""What suites of driving show, as one number each: ``python golden_trace.py SUITE ...`` with NumPy pinned."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

import numpy as np

import safemarl_bench as smb
from safemarl_bench.pin import require_pin

PATTERNS = ((3, 3), (1, 1), (3, 4), (3, 0), (1, 3), (0, 2), (4, 3))
"""(leader's, follower's) meta-actions, taken in turn; each episode starts one further on."""
NUMBERS = (0.0, -0.375, 0.125, 0.25, -0.125)
"""What the continuous suites play in place of a meta-action."""


def golden_lines(suite: str) -> list[str]:
    """Return what 14 episodes show, one line per decision, numbers to 6 decimals."""
    game, lines = smb.make(suite, backend="highway"), []
    for episode in range(2 * len(PATTERNS)):
        stream = ("train", "evaluation")[episode % 2]
        game.reset(seed=2024, options={"stream": stream, "episode": episode})
        numbers: list[Any] = game.state().tolist()
        for decision in range(game.spec.horizon + 1):
            lines.append(" ".join(f"{round(float(number), 6) + 0.0:.6f}" for number in numbers))
            if not game.agents:
                break
            pattern = PATTERNS[(episode + decision // 6) % len(PATTERNS)]
            actions: dict[str, Any] = dict(zip(game.possible_agents, pattern, strict=True))
            if game.scene.CONTINUOUS:
                actions = {agent: np.array([NUMBERS[action]], np.float32) for agent, action in actions.items()}
            seen, rewards, terminations, truncations, infos = game.step(
                {agent: actions[agent] for agent in game.agents}
            )
            numbers = game.state().tolist()
            for car in game.scene.controlled_vehicles:
                numbers += [*car.position, car.speed, car.heading]
            for agent, info in infos.items():
                numbers += [*seen[agent], rewards[agent], terminations[agent], truncations[agent], *info["cost"]]
                numbers += [info["crashed"], info["off_road"], info["arrival_rank"], info["gap"]]
    return lines


if __name__ == "__main__":
    require_pin()
    lines = {suite: "\n".join(golden_lines(suite)) for suite in sys.argv[1:]}
    print(json.dumps({suite: hashlib.sha256(text.encode()).hexdigest() for suite, text in lines.items()}))
