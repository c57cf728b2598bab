"""The wheel is complete: suites, baselines, references and plugin work from it, outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import safemarl_bench as smb
from safemarl_bench.record import load_records

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_suites_run_from_the_wheel_alone(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def answer(code):
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    found = answer("import safemarl_bench.suites as s, safemarl_bench.baselines as b; print(s.__file__, b.__file__)")
    assert all(Path(path).is_relative_to(site) for path in found.split())
    found = answer(
        "import safemarl_bench.reference_data as r, safemarl_bench as s; print(r.__file__, s.reference('merge'))"
    )
    assert Path(found.split()[0]).is_relative_to(site)
    assert found.partition(" ")[2].strip() == repr(smb.reference("merge"))

    command = [sys.executable, "-m", "pytest", "--pyargs", "safemarl_bench.suites", "-p", "no:cacheprovider"]
    command += ["--agent=idle", "--agent=csq", "--suite=merge", "--budget=smoke", "--results-dir=results"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(record.agent for record in load_records(tmp_path / "results")) == ["csq", "idle"]
