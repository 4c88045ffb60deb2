"""How far one set of images is from another: plain functions on features (N, D), each with a bootstrap interval.

The figures compare distributions, not images. Sets of a few hundred mislead the Fréchet distance, which falls as they
grow; the kernel distance is unbiased at any size (Bińkowski et al., arXiv:1801.01401), so read that one first.

Intervals are at 95 %, from resampling the images of both sets with replacement. A resample holds repeated images, which
shifts some of the statistics, so the spread of the resamples is centred on the value. Of sets larger than
`MOST_COMPARED`, so many are resampled and the spread is scaled by the root of the sizes (m out of n bootstrap: Bickel
et al., 1997).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siamese_diffusion.evaluation.metrics.neighbours import nearest, within

Features = NDArray[np.floating[Any]]  # (N, D)
Weights = NDArray[np.float64]  # (N,) how often each row counts

MOST_COMPARED = 2000
RESAMPLES = 200
MANIFOLD = 10_000
"""Precision, recall, density and coverage look at no more images than this of each set."""


class Estimate(NamedTuple):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Kernel(NamedTuple):
    """`kernel_distance`: the estimate, and the standard deviation over subsets."""

    estimate: Estimate
    deviation: float
    subsets: int
    subset_size: int


def frechet(real: Features, synthetic: Features, seed: int = 0, resamples: int | None = None) -> Estimate:
    """Fréchet distance of Gaussians fitted to both sets (Heusel et al., arXiv:1706.08500); 0 or more, lower is nearer.

    |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½), covariances over N - 1. The last trace is the sum of the singular values of
    A B', where A'A = C1 and B'B = C2: no matrix root, and exact for sets smaller than D too.

    Args:
        real: (N, D), N at least 2.
        synthetic: (M, D), M at least 2.
        seed: of the bootstrap.
        resamples: of the bootstrap; default: 200, or 40 where a resample takes seconds.
    """
    _check(real, synthetic)
    value = _frechet(_moments(real, len(synthetic)), _moments(synthetic, len(real)))
    first, second = sample_rows(real, seed), sample_rows(synthetic, seed + 1)
    if resamples is None:
        resamples = RESAMPLES if min(len(first), len(second), first.shape[1]) <= 256 else 40

    def statistic(a: Weights, b: Weights) -> float:
        return _frechet(_moments(first, len(second), a), _moments(second, len(first), b))

    return _bootstrap(statistic, value, len(real), len(synthetic), seed, resamples)


def kernel_distance(
    real: Features, synthetic: Features, subsets: int = 100, subset_size: int | None = None, seed: int = 0
) -> Kernel:
    """Squared MMD with the kernel (x'y / D + 1)³, unbiased: KID where the features are Inception's (arXiv:1801.01401).

    Around 0, and sometimes below, for two samples of one distribution; lower is nearer.

    Args:
        real: (N, D), N at least 4.
        synthetic: (M, D), M at least 4.
        subsets: the value is the mean over so many random subsets of both sets, the deviation their spread.
        subset_size: images of each set in a subset; default: 1000, or half of the smaller set.
        seed: of the subsets and the bootstrap.
    """
    _check(real, synthetic, least=4)
    size = subset_size or min(1000, len(real) // 2, len(synthetic) // 2)
    random = np.random.default_rng(seed)

    def kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    values = []
    for _ in range(subsets):
        a, b = (_rows(x, np.sort(random.choice(len(x), size, replace=False))) for x in (real, synthetic))
        values.append(_mmd(kernel(a, a), kernel(b, b), kernel(a, b), np.ones(size), np.ones(size)))
    first, second = sample_rows(real, seed), sample_rows(synthetic, seed + 1)
    kernels = kernel(first, first), kernel(second, second), kernel(first, second)
    value = float(np.mean(values))
    estimate = _bootstrap(lambda a, b: _mmd(*kernels, a, b), value, len(real), len(synthetic), seed)
    return Kernel(estimate, float(np.std(values)), subsets, size)


def halves_distance(real: Features, seed: int = 0, splits: int = 100) -> float:
    """What the kernel distance of two disjoint halves of `real` (N, D), N at least 8, stays below in 95 % of splits.

    A yardstick for `kernel_distance`: two halves are drawn alike, so what sets them apart is chance. It is never 0 or
    less, for the distance is unbiased and half of the splits lie above it.
    """
    _check(real, real, least=8)
    rows = sample_rows(real, seed)
    kernel = np.asarray((rows @ rows.T / rows.shape[1] + 1) ** 3)
    count, half = len(rows), len(rows) // 2
    random = np.random.default_rng(seed)
    inside = np.zeros((count, splits))
    for split in range(splits):
        inside[random.permutation(count)[:half], split] = 1
    outside = 1 - inside
    sums = kernel @ inside
    own, other = kernel.diagonal() @ inside, kernel.diagonal() @ outside
    first, between = (inside * sums).sum(0), (outside * sums).sum(0)
    second = kernel.sum() - first - 2 * between
    rest = count - half
    values = (first - own) / (half * (half - 1)) + (second - other) / (rest * (rest - 1)) - 2 * between / (half * rest)
    return max(float(np.quantile(values, 0.95)), 1e-6)


def cmmd(real: Features, synthetic: Features, seed: int = 0, sigma: float = 10.0, scale: float = 1000.0) -> Estimate:
    """CLIP Maximum Mean Discrepancy (Jayasumana et al., arXiv:2401.09603); 0 or more, lower is nearer.

    Squared MMD of unit CLIP embeddings with the kernel exp(-|x - y|² / (2 sigma²)), times `scale`. As in the paper's
    code it keeps the terms of an image with itself (the biased estimate), so two small samples of one distribution
    are a little apart.

    Args:
        real: (N, D) CLIP image embeddings; brought to unit length here.
        synthetic: (M, D).
        seed: of the bootstrap.
        sigma: width of the kernel.
        scale: factor that makes the figures readable.
    """
    _check(real, synthetic)

    def mean_kernel(a: Features, b: Features) -> float:
        total = 0.0
        for i in range(0, len(a), MOST_COMPARED):
            block = _unit(_rows(a, slice(i, i + MOST_COMPARED)))
            for j in range(0, len(b), MOST_COMPARED):
                total += float(gauss(block, _unit(_rows(b, slice(j, j + MOST_COMPARED)))).sum())
        return total / len(a) / len(b)

    def gauss(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.exp((a @ b.T - 1) / sigma**2))  # |x - y|² = 2 - 2 x'y

    value = scale * (mean_kernel(real, real) + mean_kernel(synthetic, synthetic) - 2 * mean_kernel(real, synthetic))
    first, second = _unit(sample_rows(real, seed)), _unit(sample_rows(synthetic, seed + 1))
    aa, bb, ab = gauss(first, first), gauss(second, second), gauss(first, second)

    def statistic(a: Weights, b: Weights) -> float:
        a, b = a / a.sum(), b / b.sum()
        return float(scale * (a @ aa @ a + b @ bb @ b - 2 * a @ ab @ b))

    return _bootstrap(statistic, value, len(real), len(synthetic), seed)


def similarity(real: Features, synthetic: Features, seed: int = 0) -> Estimate:
    """Mean cosine similarity over all pairs of a real and a synthetic image, -1 to 1: CLIP-I with CLIP's embeddings.

    (CLIP-I: Gal et al., arXiv:2208.01618; Ruiz et al., arXiv:2208.12242.) It grows when synthetic images flock to the
    average real one, so it rewards sameness; read it beside `diversity`.
    """
    _check(real, synthetic, least=1)
    value = float(_mean_direction(real) @ _mean_direction(synthetic))
    first, second = _unit(sample_rows(real, seed)), _unit(sample_rows(synthetic, seed + 1))
    products = first @ second.T

    def statistic(a: Weights, b: Weights) -> float:
        return float(a @ products @ b / a.sum() / b.sum())

    return _bootstrap(statistic, value, len(real), len(synthetic), seed)


def diversity(features: Features, seed: int = 0) -> Estimate:
    """Mean cosine distance between two different images of one set, 0 to 2: 0 where all images are the same."""
    _check(features, features)
    count = len(features)
    mean = _mean_direction(features)
    value = float(1 - (count**2 * (mean @ mean) - count) / (count * (count - 1)))
    some = _unit(sample_rows(features, seed))
    products = some @ some.T

    def statistic(a: Weights, _: Weights) -> float:
        pairs = a.sum() ** 2 - (a**2).sum()
        return float(1 - (a @ products @ a - (a**2).sum()) / pairs)

    return _bootstrap(statistic, value, count, count, seed)


def precision_recall(real: Features, synthetic: Features, k: int = 3, seed: int = 0) -> dict[str, Estimate]:
    """Improved `precision` and `recall` (Kynkäänniemi et al., arXiv:1904.06991), each 0 to 1.

    Precision: share of the synthetic images within the reach of a real one, that is no farther from it than its k-th
    nearest real neighbour. Recall: share of the real images within the reach of a synthetic one. The intervals
    resample the images that are counted, not those that give the reach.
    """
    _check(real, synthetic)
    first, second = sample_rows(real, seed, MANIFOLD), sample_rows(synthetic, seed + 1, MANIFOLD)
    inside = within(second, first, _reach(first, k)) > 0
    reached = within(first, second, _reach(second, k)) > 0
    return {"precision": _mean(inside, seed), "recall": _mean(reached, seed)}


def density_coverage(real: Features, synthetic: Features, k: int = 5, seed: int = 0) -> dict[str, Estimate]:
    """`density` (0 or more, 1 expected) and `coverage` (0 to 1) of Naeem et al., arXiv:2002.09797.

    Density: in how many real images' reach a synthetic image lies, over k; an outlier among the real images does less
    harm than in precision. Coverage: share of the real images with a synthetic one in their reach.
    """
    _check(real, synthetic)
    first, second = sample_rows(real, seed, MANIFOLD), sample_rows(synthetic, seed + 1, MANIFOLD)
    k = min(k, len(first) - 1)
    reach = _reach(first, k)
    covered = nearest(first, second).distance[:, 0] <= reach
    return {"density": _mean(within(second, first, reach) / k, seed), "coverage": _mean(covered, seed)}


def _check(real: Features, synthetic: Features, least: int = 2) -> None:
    if real.ndim != 2 or synthetic.ndim != 2 or real.shape[1] != synthetic.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {real.shape} and {synthetic.shape}")
    if min(len(real), len(synthetic)) < least:
        raise ValueError(f"expected at least {least} images of each kind, got {len(real)} and {len(synthetic)}")


def _reach(rows: Features, k: int) -> NDArray[np.float64]:
    k = min(k, len(rows) - 1)
    return nearest(rows, rows, k, exclude=np.arange(len(rows))).distance[:, -1]


def _rows(features: Features, which: Any) -> NDArray[np.float64]:
    return np.asarray(features[which], np.float64)


def sample_rows(features: Features, seed: int, most: int | None = None) -> NDArray[np.float64]:
    """At most `most` rows (default: `MOST_COMPARED`), in their order, drawn without replacement."""
    most = most or MOST_COMPARED
    if len(features) <= most:
        return _rows(features, slice(None))
    return _rows(features, np.sort(np.random.default_rng(seed).choice(len(features), most, replace=False)))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def _mean_direction(features: Features) -> NDArray[np.float64]:
    parts = [_unit(_rows(features, slice(i, i + MOST_COMPARED))).sum(0) for i in range(0, len(features), MOST_COMPARED)]
    return np.asarray(np.sum(parts, axis=0) / len(features))


def _moments(
    features: Features, other: int, weights: Weights | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (D,) and some A (N or D, D) with A'A the covariance; `other` is the size of the other set.

    A is the centred rows, or a root of the covariance where that makes the product with the other set's A smaller.
    """
    count, width = features.shape
    weight = np.ones(count) if weights is None else weights
    total = weight.sum()
    blocks = [slice(i, i + MOST_COMPARED) for i in range(0, count, MOST_COMPARED)]
    mean = np.sum([weight[block] @ _rows(features, block) for block in blocks], axis=0) / total
    root = np.sqrt(weight / (total - 1))[:, None]
    if count <= max(width, 0 if other > width else MOST_COMPARED):
        return mean, (_rows(features, slice(None)) - mean) * root
    covariance = np.zeros((width, width))
    for block in blocks:
        centred = (_rows(features, block) - mean) * root[block]
        covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance)
    return mean, np.sqrt(values.clip(0))[:, None] * vectors.T


def _frechet(first: tuple[Any, Any], second: tuple[Any, Any]) -> float:
    (mean, a), (other, b) = first, second
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(max(np.square(mean - other).sum() + np.square(a).sum() + np.square(b).sum() - 2 * cross, 0))


def _mmd(aa: Features, bb: Features, ab: Features, a: Weights, b: Weights) -> float:
    """Unbiased squared MMD from kernel matrices, rows counted `a` and `b` times; an image is never paired with
    itself."""

    def apart(kernel: Features, weights: Weights) -> float:
        own = (weights**2 * kernel.diagonal()).sum()
        return float((weights @ kernel @ weights - own) / (weights.sum() ** 2 - (weights**2).sum()))

    return apart(aa, a) + apart(bb, b) - 2 * float(a @ ab @ b / a.sum() / b.sum())


def _mean(values: NDArray[Any], seed: int) -> Estimate:
    share = values.dtype == np.bool_  # whose interval does not leave [0, 1]
    values = values.astype(np.float64)

    def statistic(a: Weights, _: Weights) -> float:
        return float(a @ some / a.sum())

    some = sample_rows(values[:, None], seed)[:, 0]
    mean = _bootstrap(statistic, float(values.mean()), len(values), len(values), seed, resamples=1000)
    return Estimate(mean.value, max(mean.low, 0.0), min(mean.high, 1.0)) if share else mean


def _bootstrap(
    statistic: Callable[[Weights, Weights], float],
    value: float,
    first: int,
    second: int,
    seed: int,
    resamples: int = RESAMPLES,
) -> Estimate:
    """The interval of `value`; `statistic` takes how often each row of the two (perhaps reduced) sets counts."""
    random = np.random.default_rng(seed)
    sizes = [min(size, MOST_COMPARED) for size in (first, second)]
    found = np.array([statistic(*(_resample(n, random) for n in sizes)) for _ in range(resamples)])
    scale = max(np.sqrt(n / size) for n, size in zip(sizes, (first, second), strict=True))
    low, high = value + scale * (np.quantile(found, [0.025, 0.975]) - found.mean())
    return Estimate(value, float(low), float(high))


def _resample(count: int, random: np.random.Generator) -> Weights:
    """How often each of `count` images is drawn; never one image alone where there are more, for that has no pairs."""
    while True:
        weights = np.bincount(random.integers(count, size=count), minlength=count).astype(float)
        if count == 1 or np.count_nonzero(weights) > 1:
            return weights
