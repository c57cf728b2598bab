"""The benchmark of many followers runs, and its JSON becomes a page and a figure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safemarl_bench.suites.perf import report

FOLDER = Path(report.__file__).parent


def timing(model, budgets, followers, ms, **more):
    info = {"model": model, "budgets": budgets, "followers": followers, "ms": ms}
    info |= {"bound_right": 0.25, "bound_rules_out": 0.125, **more}
    return {"group": "many_followers", "extra_info": info}


TIMINGS = [
    timing("coalition", 1, 10, {"enumeration": 234.56, "dynamic_program": 0.1, "lagrangian_bound": 1.0})
    | {"params": None},
    timing("coalition", 1, 20, {"dynamic_program": 0.25, "highs": 1234.5, "lagrangian_bound": 2.0}),
    timing("gne", 3, 2, {"branch_and_bound": 3.0, "lagrangian_bound": 0.5}),
]
TIMINGS[0]["extra_info"]["enumeration_ratio"] = {"enumeration": 1.0, "dynamic_program": 2345.6, "lagrangian_bound": 9.0}


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "timings.json"
    machine = {"cpu": {"brand_raw": "Some CPU"}, "python_version": "3.11.0"}
    path.write_text(json.dumps({"benchmarks": TIMINGS, "machine_info": machine}))
    return path


def test_the_page_shows_times_ratios_and_what_the_bounds_say(source, tmp_path):
    report.main([str(source), str(tmp_path / "out")])
    lines = (tmp_path / "out" / "many_followers.md").read_text().splitlines()
    assert "|  | N = 10 | N = 20 |" in lines
    assert "| enumeration | 235 |  |" in lines
    assert "| highs |  | 1,234 |" in lines
    assert "| dynamic_program | 0.1 | 0.25 |" in lines
    assert "| enumeration / dynamic_program | 2,346 |  |" in lines
    assert "| largest bound at the best action, % | 25 | 25 |" in lines
    assert "| ruled out, % | 12 | 12 |" in lines
    assert not any(line.startswith("| branch_and_bound |  |") for line in lines)
    text = " ".join(lines)
    assert "## Generalised Nash equilibrium, three budgets" in lines
    assert "three budgets" not in text.partition("## Generalised Nash equilibrium, three")[0].partition("##")[2]
    assert "Some CPU" in text


def test_the_figure_is_drawn(source, tmp_path):
    pytest.importorskip("matplotlib")
    report.main([str(source), str(tmp_path / "out")])
    assert (tmp_path / "out" / "many_followers.png").read_bytes().startswith(b"\x89PNG")


def test_every_model_and_method_is_benchmarked():
    command = [sys.executable, "-m", "pytest", str(FOLDER / "bench_many_followers.py"), "-q", "-p", "no:cacheprovider"]
    command += ["--benchmark-disable", "-n0", "-k", "N002"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=FOLDER.parents[1])
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
