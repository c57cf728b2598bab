"""The benchmark file runs, and its JSON becomes a table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safemarl_bench.suites.perf import report

from safemarl_bench.errors import RecordError

BENCH = Path(report.__file__).with_name("bench_stackelberg.py")


def timing(backend, batch, size, us, ratio):
    info = {"backend": backend, "batch": batch, "size": size, "us_per_state": us, "cvxpy_ratio": ratio}
    return {"extra_info": info}


def test_the_report_shows_time_and_ratio_of_every_case(tmp_path):
    timings = [timing("torch", 64, 5, 2.0, 2500.0), timing("cvxpy", 1, 5, 5000.0, 1.0), timing("cvxpy", 1, 9, 6e3, 1.0)]
    machine = {"cpu": {"brand_raw": "Some CPU"}, "python_version": "3.11.0"}
    source, target = tmp_path / "timings.json", tmp_path / "results" / "perf" / "stackelberg.md"
    source.write_text(json.dumps({"benchmarks": timings, "machine_info": machine}))
    report.main([str(source), str(target)])
    lines = target.read_text().splitlines()
    assert "| cvxpy | 1 | 5,000.00 | 6,000.00 |" in lines
    assert "| torch | 64 | 2.00 |  |" in lines
    assert "| torch | 64 | 2,500.0 |  |" in lines
    assert any("Some CPU" in line for line in lines)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"benchmarks": [], "machine_info": {"cpu": {}}}'])
def test_a_file_without_timings_is_refused(tmp_path, content):
    source = tmp_path / "timings.json"
    source.write_text(content)
    with pytest.raises(RecordError, match=r"timings\.json"):
        report.main([str(source), str(tmp_path / "out.md")])
    assert not (tmp_path / "out.md").exists()


def test_every_backend_is_benchmarked():
    command = [sys.executable, "-m", "pytest", str(BENCH), "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
    done = subprocess.run([*command, "-k", "2x2"], capture_output=True, text=True, timeout=300, cwd=BENCH.parents[2])
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout
