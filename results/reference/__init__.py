"""What the suites' scores are measured against, one JSON file each, written by `safemarl-bench leaderboard`."""
