"""Where and with what a run was made."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "torch", "scipy", "cvxpy", "highway-env", "gymnasium")


def package_versions() -> dict[str, str | None]:
    """Return the versions that a record's digest covers; None for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def distribution_of(agent_class: type) -> str:
    """Return "name version" of the installed distribution that an agent class comes from, or its module's name."""
    top = agent_class.__module__.partition(".")[0]
    names = ["safemarl-bench"] if top == "safemarl_bench" else importlib.metadata.packages_distributions().get(top, [])
    return f"{names[0]} {importlib.metadata.version(names[0])}" if names else agent_class.__module__


def code_state() -> dict[str, Any]:
    """Return {"git_sha", "dirty"} of this package's own checkout; both None when it is installed without one."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # inside another project's checkout the sha would mislead
        sources = [str(package.parent / name) for name in ("safemarl_bench", "suites", "baselines", "pyproject.toml")]
        return {"git_sha": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", *sources))}
    except (OSError, subprocess.SubprocessError):
        return {"git_sha": None, "dirty": None}


def machine() -> dict[str, Any]:
    """Return platform, machine type, CPU model, and torch threads (0 when torch is not in use)."""
    torch = sys.modules.get("torch")
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads() if torch else 0,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    keys = ("model name", "cpu family", "model\t")  # the name alone does not tell generations apart on some hosts
    described = [line.partition(":")[2].strip() for line in lines if line.startswith(keys)]
    return " / ".join(dict.fromkeys(described)) or platform.processor()
