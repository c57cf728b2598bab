"""Registered suites: one TOML data file each, and the pytest modules that run them."""
