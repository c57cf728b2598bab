"""Driving suites on highway-env: two vehicles, a leader and a follower."""

from safemarl_bench.driving.game import DrivingGame, make

__all__ = ["DrivingGame", "make"]
