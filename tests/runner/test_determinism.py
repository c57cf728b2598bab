"""Real suites and learners: the same cell gives the same digest alone, beside others, and after kill -9."""

import os
import signal
import subprocess
import sys
import time

import pytest

from safemarl_bench.record import load_records

RUN = """
import sys
import safemarl_bench as smb
from safemarl_bench import training
training.CHECKPOINT_SECONDS = 0.0
smb.run(sys.argv[1], sys.argv[2], budget="smoke", episodes=2, results_dir=sys.argv[3], backend=sys.argv[4],
        config={"learning_starts": 64, "num_envs": int(sys.argv[5])}, progress=False)
"""


def start(suite, agent, results, backend, num_envs):
    command = [sys.executable, "-c", RUN, suite, agent, str(results), backend, str(num_envs)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def wait_for_checkpoint(results):
    while not list(results.glob("in_progress/*/step-*/trainer.json")):
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "agent", "backend", "num_envs"),
    [
        ("merge", "mip_pcsq", "kernel", 1),
        ("roundabout", "csq", "kernel", 4),
        ("merge", "bi_ac", "kernel", 1),
        ("merge", "csq", "highway", 2),
    ],
)
def test_a_run_killed_again_and_again_ends_in_the_same_digest(tmp_path, suite, agent, backend, num_envs):
    whole = start(suite, agent, tmp_path / "whole", backend, num_envs)
    parts = tmp_path / "parts"
    for seconds in (0.2, 0.7, 0.4):
        process = start(suite, agent, parts, backend, num_envs)
        wait_for_checkpoint(parts)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not load_records(parts), "the run ended before it could be killed"
    assert start(suite, agent, parts, backend, num_envs).wait() == 0
    assert whole.wait() == 0
    (one,), (other,) = load_records(tmp_path / "whole"), load_records(parts)
    assert one.digest == other.digest
