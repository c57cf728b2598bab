"""A package as a stranger would write it: a suite, a few agents, and nothing of safemarl_bench changed."""
