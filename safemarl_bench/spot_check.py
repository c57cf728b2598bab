"""Does a fast backend tell the truth? Evaluated episodes are played again on the suite's reference backend.

The actions that were executed are repeated there in a process of its own, ``python -m safemarl_bench.spot_check JOB
ANSWER``, in which NumPy is pinned (see `safemarl_bench.pin`). What the reference shows must be what the evaluation
saw: every event in every decision, returns and costs of the episode to 1e-6. Observations too, since on other ones
the policy might have acted otherwise.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safemarl_bench import pin
from safemarl_bench.contract import Observation, Transition
from safemarl_bench.errors import ContractError, SafeMARLBenchError
from safemarl_bench.record_content import SPOT_CHECK_TOLERANCE
from safemarl_bench.registry import SuiteSpec, get_suite, make, register_suite, suite_names, suite_path
from safemarl_bench.rollout import Infos, Rollout

NUMBERS = ("return", "cost", "observation")


@dataclasses.dataclass
class Trace:
    """What one episode showed, in plain values.

    Attributes:
        episode: index into the held-out episodes.
        actions: decision -> agent -> the executed action, one game's (a list of one).
        events: decision -> agent -> name -> value.
        observations: decision -> "state" and "observation of <agent>" -> numbers; one more than decisions.
        rewards: decision -> agent -> reward. costs: decision -> agent -> K costs.
    """

    episode: int
    actions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    events: list[dict[str, dict[str, int]]] = dataclasses.field(default_factory=list)
    observations: list[dict[str, list[float]]] = dataclasses.field(default_factory=list)
    rewards: list[dict[str, float]] = dataclasses.field(default_factory=list)
    costs: list[dict[str, list[float]]] = dataclasses.field(default_factory=list)

    def see(self, observation: Observation) -> None:
        """Take in what was seen (E = 1)."""
        seen = {f"observation of {agent!r}": array[0].tolist() for agent, array in observation.by_agent.items()}
        self.observations.append({"state": observation.state[0].tolist(), **seen})

    def add(self, transition: Transition, infos: Infos) -> None:
        """Take in what one decision led to (E = 1)."""
        self.actions.append({agent: action.tolist() for agent, action in transition.actions.items()})
        self.rewards.append({agent: float(reward[0]) for agent, reward in transition.rewards.items()})
        self.costs.append({agent: cost[0].tolist() for agent, cost in transition.costs.items()})
        events = {}
        for agent, alive in transition.next_observation.alive.items():
            info = infos.get(agent, {})
            events[agent] = {
                "terminated": int(transition.terminations[agent][0]),
                "truncated": int(transition.truncations[agent][0]),
                "alive": int(alive[0]),
                "crashed": int(info.get("crashed", False)),
                "off_road": int(info.get("off_road", False)),
                "arrival_rank": int(info.get("arrival_rank", 0)),
            }
        self.events.append(events)
        self.see(transition.next_observation)

    def readings(self) -> Iterator[tuple[str, str, float]]:
        """Yield all that must be equal, as (kind, where, value); the kind is "event" or one of `NUMBERS`."""
        for decision, seen in enumerate(self.observations):
            for agent, events in self.events[decision - 1].items() if decision else ():
                for name, happened in events.items():
                    yield "event", f"decision {decision}, agent {agent!r}: {name}", happened
            for name, numbers in seen.items():
                for column, number in enumerate(numbers):
                    yield "observation", f"decision {decision}, {name}: number {column}", number
        for agent in self.rewards[0] if self.rewards else ():
            yield "return", f"agent {agent!r}: return", math.fsum(rewards[agent] for rewards in self.rewards)
            for constraint, paid in enumerate(zip(*(costs[agent] for costs in self.costs), strict=True)):
                yield "cost", f"agent {agent!r}: cost {constraint}", math.fsum(paid)


def require_pin(spec: SuiteSpec) -> None:
    """Raise unless a suite's spot check can be made on this machine: cheap, to be called before hours of training.

    Raises:
        SafeMARLBenchError: NumPy cannot be pinned, why, and what to do.
    """
    fault = pin_fault()
    if fault:
        reference = spec.reference_backend
        raise SafeMARLBenchError(
            f"suite {spec.name}: an evaluation is checked on backend {reference} with NumPy pinned, which cannot be "
            f"done on this machine ({fault}); evaluate on it instead: --evaluation-backend={reference}"
        )


@functools.cache
def pin_fault() -> str:
    """Return why NumPy cannot be pinned in a new process on this machine, or ""."""
    done = _pinned_process("safemarl_bench.pin")
    return "" if done.returncode == 0 else _last_line(done)


def spot_check(spec: SuiteSpec, traces: Sequence[Trace], *, stream: str, seed: int, backend: str) -> dict[str, Any]:
    """Play traced episodes again on the reference backend and compare.

    Args:
        spec: a registered suite.
        traces: what was seen of the episodes. stream, seed: they name the episodes, with their indices.
        backend: where they were played, for messages.

    Returns:
        the ``eval.spot_check`` section of a run record: backend, episodes, decisions, and the largest difference of
        a return, a cost, and an observation (relative above 1).

    Raises:
        ContractError: the backends differ: the first event, or number by more than 1e-6.
        SafeMARLBenchError: the reference could not be played.
    """
    reference = spec.reference_backend
    job = {"suite": spec.name, "file": str(suite_path(spec.name)), "backend": reference, "stream": stream, "seed": seed}
    job["played"] = [{"episode": trace.episode, "actions": trace.actions} for trace in traces]
    largest = dict.fromkeys(NUMBERS, 0.0)
    for trace, again in zip(traces, _replay_pinned(spec, job), strict=True):
        for kind, where, ours, theirs in _pairs(trace.readings(), again.readings()):
            gap = _difference(kind, ours, theirs)
            if gap > (0.0 if kind == "event" else SPOT_CHECK_TOLERANCE):
                raise ContractError(
                    f"suite {spec.name}: its backends differ in episode {trace.episode}, {where} is {ours} on "
                    f"{backend}, {theirs} on {reference}; no record was written (another evaluation: "
                    f"--evaluation-backend={reference})"
                )
            if kind != "event":
                largest[kind] = max(largest[kind], gap)
    return {
        "backend": reference,
        "episodes": len(traces),
        "decisions": sum(len(trace.actions) for trace in traces),
        **{f"largest_{kind}_difference": gap for kind, gap in largest.items()},
    }


def _pairs(ours: Iterable[tuple[str, str, float]], theirs: Iterable[tuple[str, str, float]]) -> Iterator[Any]:
    """Yield (kind, where, our value, their value), None for what only the other one shows."""
    other = {(kind, where): value for kind, where, value in theirs}
    for kind, where, value in ours:
        yield kind, where, value, other.pop((kind, where), None)
    for (kind, where), value in other.items():
        yield kind, where, None, value


def _difference(kind: str, ours: float | None, theirs: float | None) -> float:
    """Return |ours - theirs|, of observations relative above 1; inf where there is none to speak of."""
    if ours == theirs:
        return 0.0
    if ours is None or theirs is None or not math.isfinite(ours - theirs):
        return math.inf
    return abs(ours - theirs) / (max(1.0, abs(theirs)) if kind == "observation" else 1.0)


def _replay_pinned(spec: SuiteSpec, job: dict[str, Any]) -> list[Trace]:
    """Have `replay` done by a pinned process. Files, since a game may print."""
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        question.write_text(json.dumps(job), encoding="utf-8")
        done = _pinned_process("safemarl_bench.spot_check", str(question), str(answer))
        if done.returncode:
            raise SafeMARLBenchError(
                f"suite {spec.name}: spot check on backend {spec.reference_backend} failed: {_last_line(done)}"
            )
        return [Trace(**trace) for trace in json.loads(answer.read_text(encoding="utf-8"))]


def _pinned_process(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module in a new process that imports from where this one does, NumPy pinned."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        env={**os.environ, **pin.PIN, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def replay(rollout: Rollout, played: Trace, stream: str, seed: int) -> Trace:
    """Return what an episode shows when the actions of another trace of it are repeated."""
    trace = Trace(played.episode)
    trace.see(rollout.reset(stream=stream, seed=seed, episode=played.episode))
    for actions in played.actions:
        transition, infos = rollout.step(actions, by=f"spot check (episode {played.episode})")
        trace.add(transition, infos)
        if transition.episode_over[0]:
            break
    return trace


def main(question: str, answer: str) -> int:
    """Play what the file `question` asks for and write the traces to the file `answer`; return the exit code."""
    try:
        job = json.loads(Path(question).read_text(encoding="utf-8"))
        pin.require_pin()
        if job["suite"] not in suite_names():
            register_suite(job["file"])
        game = make(job["suite"], backend=job["backend"])
        rollout = Rollout(get_suite(job["suite"]), game)
        traces = [replay(rollout, Trace(**played), job["stream"], job["seed"]) for played in job["played"]]
        game.close()
        Path(answer).write_text(json.dumps([dataclasses.asdict(trace) for trace in traces]), encoding="utf-8")
    except Exception as error:
        kind = "" if isinstance(error, SafeMARLBenchError) else f"{type(error).__name__}: "
        print(kind + " ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
