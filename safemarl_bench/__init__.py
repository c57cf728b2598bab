"""safemarl_bench: benchmark suites, baselines and leaderboards for safe multi-agent RL."""
