"""Differences of figures that belong together, with Student's t interval."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy.stats import t as student


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
    half = float(student.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def shown(difference: dict[str, Any] | None) -> str:
    """A difference times 100 with its interval, as tables print it; nothing for None."""
    if difference is None:
        return ""
    mean = f"{100 * difference['mean']:+.1f}"
    if difference["low"] is None:
        return mean
    return f"{mean} [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
