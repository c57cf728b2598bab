"""Estimators and intervals. Each is a pure function of arrays and knows nothing of records.

Seeds are the replication unit. Scores of an agent on several suites form an array of shape (runs, tasks), one
run per seed and one task per suite; where suites have different numbers of seeds, their runs are concatenated
into shape (n,).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.stats


def iqm(scores: npt.ArrayLike) -> float:
    """Return the interquartile mean: the mean of what is left once the lowest and the highest 25 % are cut off.

    Args:
        scores: (runs, tasks) or (n,) float, not empty. Of n values, floor(n / 4) are cut at each end.
    """
    return float(scipy.stats.trim_mean(np.asarray(scores, dtype=np.float64), proportiontocut=0.25, axis=None))


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided confidence interval of a binomial rate (Clopper & Pearson 1934).

    Args:
        successes: k in [0, n]. trials: n >= 1. level: confidence in (0, 1).

    Returns:
        (low, high) in [0, 1]; low is exactly 0 at k = 0 and high exactly 1 at k = n.
    """
    tail = (1.0 - level) / 2.0
    failures = trials - successes
    low = float(scipy.stats.beta.ppf(tail, successes, failures + 1)) if successes else 0.0
    high = float(scipy.stats.beta.ppf(1.0 - tail, successes + 1, failures)) if failures else 1.0
    return low, high
