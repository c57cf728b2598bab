"""Baseline agents: one readable file each, built on the public API alone."""
