"""Statistics of a reader study: several readers judge the same images."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Ratings = NDArray[np.float64]  # (readers, images), NaN where a reader gave none

RESAMPLES = 2000


def wilson(hits: int, total: int) -> dict[str, float]:
    """A share with its 95 % score interval (Wilson, 1927; without continuity correction): `value`, `low`, `high`.

    It takes the answers as independent.

    Raises:
        ValueError: `total` is not positive, or `hits` is not in 0..total.
    """
    if total < 1 or not 0 <= hits <= total:
        raise ValueError(f"{hits} of {total} is not a share")
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return {"value": hits / total, "low": float(interval.low), "high": float(interval.high)}


def crossed_means(ratings: Ratings, images_seed: int = 0, readers_seed: int = 0) -> NDArray[np.float64]:
    """Means of bootstrap samples that draw readers and images, each with replacement (the pigeonhole bootstrap: Owen,
    Annals of Applied Statistics 2007).

    Args:
        ratings: (readers, images), every one given. With one reader only images are drawn.
        images_seed: of the images drawn: another one for every set of images.
        readers_seed: of the readers drawn: the same one for sets that are compared, since the same readers rated both.

    Returns:
        (RESAMPLES,) means.
    """
    readers, images = ratings.shape
    panels, draws = np.random.default_rng((0, readers_seed)), np.random.default_rng((1, images_seed))
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        panel = panels.integers(readers, size=readers)
        means[i] = ratings[panel][:, draws.integers(images, size=images)].mean()
    return means


def percentiles(means: NDArray[np.float64]) -> dict[str, float]:
    """The 95 % percentile interval, `low` and `high`."""
    low, high = np.quantile(means, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def krippendorff_alpha(ratings: Ratings, ordinal: bool = True) -> float | None:
    """Krippendorff's alpha of (readers, images) ratings: 1 full agreement, 0 chance, below 0 worse than chance.

    Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011. NaN is a missing rating; an image that fewer than
    two readers rated does not count.

    Args:
        ordinal: ratings are ranks, and their distance counts the ratings between them; else any two values are equally
            far apart.

    Returns:
        None where it is undefined: nothing to compare, or all ratings are the same.
    """
    tables, values = _pairings(ratings)
    return _alpha(tables.sum(0), values, ordinal)


def alpha_interval(ratings: Ratings, ordinal: bool = True, seed: int = 0) -> dict[str, float | None]:
    """`krippendorff_alpha` as `value` with its 95 % percentile interval over images, `low` and `high`.

    All None where the value is undefined; samples in which it is undefined are left out of the interval.
    """
    tables, values = _pairings(ratings)
    value = _alpha(tables.sum(0), values, ordinal)
    if value is None:
        return {"value": None, "low": None, "high": None}
    generator = np.random.default_rng(seed)
    drawn = [tables[generator.integers(len(tables), size=len(tables))].sum(0) for _ in range(RESAMPLES)]
    alphas = [alpha for table in drawn if (alpha := _alpha(table, values, ordinal)) is not None]
    return {"value": value, **percentiles(np.array(alphas))}


def _pairings(ratings: Ratings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coincidences (images, values, values) of every image with two or more ratings, and the values that occur."""
    given = ~np.isnan(ratings)
    counted = ratings[:, given.sum(0) > 1]
    values = np.unique(counted[~np.isnan(counted)])
    counts = (counted[..., None] == values).sum(0).astype(float)  # (images, values)
    both = counts[:, :, None] * counts[:, None, :] - np.eye(len(values)) * counts[:, None, :]
    return both / np.maximum(counts.sum(1) - 1, 1)[:, None, None], values


def _alpha(table: NDArray[np.float64], values: NDArray[np.float64], ordinal: bool) -> float | None:
    """From coincidences (values, values): 1 - (n - 1) sum o_ck d_ck / sum n_c n_k d_ck."""
    counts = table.sum(1)
    if ordinal:
        upto = counts.cumsum()
        between = upto[None, :] - upto[:, None] + (counts[:, None] - counts[None, :]) / 2
        distance = between**2
    else:
        distance = 1 - np.eye(len(values))
    expected = (np.outer(counts, counts) * distance).sum()
    if expected == 0:
        return None
    return float(1 - (counts.sum() - 1) * (table * distance).sum() / expected)
