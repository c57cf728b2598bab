"""Driving suites on highway-env: two vehicles, a leader and a follower."""

from safemarl_bench.driving.entry import make
from safemarl_bench.driving.game import DrivingGame

__all__ = ["DrivingGame", "make"]
