"""Differences of figures that belong together, with Student's t interval; and intervals over images."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ttest_rel

RESAMPLES = 2000


def paired(values: Sequence[float], base: Sequence[float], confidence: float = 0.95) -> dict[str, Any]:
    """Mean of the differences of pairs with its t interval.

    Args:
        values, base: two figures of the same seed at the same place.
        confidence: of the interval, 0 to 1.

    Returns:
        `mean`, `sd` (of the differences, n - 1), `low`, `high` (the last three None for one pair), and `n`.
    """
    differences = [a - b for a, b in zip(values, base, strict=True)]
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return {"mean": mean, "sd": None, "low": None, "high": None, "n": n}
    sd = statistics.stdev(differences)
    if sd < 1e-12:  # the t statistic of equal differences is not defined, the interval is
        return {"mean": mean, "sd": sd, "low": mean, "high": mean, "n": n}
    low, high = ttest_rel(values, base).confidence_interval(confidence)
    return {"mean": mean, "sd": sd, "low": float(low), "high": float(high), "n": n}


def over_images(sets: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over sets of the mean over a set's images, (N,) in each."""
    random = np.random.default_rng(0)
    means = [np.mean([one[random.integers(0, len(one), len(one))].mean() for one in sets]) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def shown(difference: dict[str, Any] | None) -> str:
    """A difference times 100 with its interval, as tables print it; nothing for None."""
    if difference is None:
        return ""
    mean = f"{100 * difference['mean']:+.1f}"
    if difference["low"] is None:
        return mean
    return f"{mean} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
