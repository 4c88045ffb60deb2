"""The quality figures against closed forms and independent computations."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

from siamese_diffusion.evaluation.metrics import distances as quality
from siamese_diffusion.evaluation.metrics.panel import merge, panel

Array = NDArray[np.float64]


def two_sets(n: int = 60, m: int = 45, width: int = 8, shift: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)), random.normal(shift, 1.3, (m, width))


def by_matrix_root(real: Array, synthetic: Array) -> float:
    covariances = [np.cov(rows, rowvar=False) for rows in (real, synthetic)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    mean = np.square(real.mean(0) - synthetic.mean(0)).sum()
    return float(mean + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize(("n", "m", "width"), [(60, 45, 8), (300, 200, 5), (30, 200, 40), (20, 15, 64)])
def test_frechet_is_that_of_the_matrix_root(n: int, m: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MOST_COMPARED", 100)  # covariances are summed over blocks
    real, synthetic = two_sets(n, m, width)
    found = quality.frechet(real, synthetic, resamples=2)
    # The matrix root of a singular product is itself only good to about 1e-4.
    assert found.value == pytest.approx(by_matrix_root(real, synthetic), rel=1e-6 if min(n, m) > width else 2e-3)


def test_frechet_of_known_gaussians() -> None:
    random = np.random.default_rng(0)
    scales = np.array([1.0, 2.0, 0.5])
    real, synthetic = random.normal(size=(200_000, 3)), random.normal(size=(200_000, 3)) * scales + (1, 0, -2)
    # |m|² + sum (1 - s)² for commuting covariances
    assert quality.frechet(real, synthetic, resamples=2).value == pytest.approx(5 + 0 + 1 + 0.25, rel=0.01)
    assert quality.frechet(real, real, resamples=2).value == pytest.approx(0, abs=1e-8)


def test_kernel_distance_is_the_unbiased_sum_over_pairs() -> None:
    real, synthetic = two_sets(6, 6)

    def kernel(x: Array, y: Array) -> float:
        return float((x @ y / 8 + 1) ** 3)

    within = [
        np.mean([kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j]) for s in (real, synthetic)
    ]
    across = np.mean([kernel(a, b) for a in real for b in synthetic])
    found = quality.kernel_distance(real, synthetic, subsets=1, subset_size=6)
    assert found.estimate.value == pytest.approx(within[0] + within[1] - 2 * across)


def test_two_halves_are_as_far_apart_as_explicit_halves_are() -> None:
    random = np.random.default_rng(3)
    real = random.normal(size=(40, 6))

    def kernel(x: Array, y: Array) -> Array:
        return np.asarray((x @ y.T / 6 + 1) ** 3)

    def distance(a: Array, b: Array) -> float:
        own = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (20 * 19) for x in (a, b))
        return float(own - 2 * kernel(a, b).mean())

    orders = (random.permutation(40) for _ in range(400))
    found = [distance(real[order[:20]], real[order[20:]]) for order in orders]
    assert quality.halves_distance(real, splits=400) == pytest.approx(np.quantile(found, 0.95), rel=0.3)
    assert quality.halves_distance(np.ones((8, 3))) > 0
    assert quality.kernel_distance(real, real + 3).estimate.value > 5 * quality.halves_distance(real)


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    import torch
    from torchmetrics.image.kid import poly_mmd

    real, synthetic = two_sets(80, 80, 16)
    expected = poly_mmd(torch.from_numpy(real), torch.from_numpy(synthetic))
    found = quality.kernel_distance(real, synthetic, subsets=1, subset_size=80)
    assert found.estimate.value == pytest.approx(float(expected))


def test_kernel_distance_of_one_distribution_is_around_zero_and_its_interval_says_so() -> None:
    inside = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        found = quality.kernel_distance(random.normal(size=(80, 8)), random.normal(size=(60, 8)), seed=seed)
        inside += found.estimate.low <= 0 <= found.estimate.high
        assert found.deviation > 0
        assert found.subset_size == 30
    assert inside >= 16
    apart = quality.kernel_distance(*two_sets(shift=1.0))
    assert apart.estimate.low > 0


def test_cmmd_of_points_in_closed_form() -> None:
    # All real embeddings one direction, all synthetic ones the opposite: |x - y|² is 0 within and 4 across.
    real, synthetic = np.tile([[3.0, 0.0]], (5, 1)), np.tile([[-2.0, 0.0]], (4, 1))
    expected = 1000 * (2 - 2 * np.exp(-4 / (2 * 10**2)))
    assert quality.cmmd(real, synthetic).value == pytest.approx(expected)
    assert quality.cmmd(real, real).value == pytest.approx(0)


def test_cmmd_is_the_mean_of_the_kernel_over_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "MOST_COMPARED", 17)
    real, synthetic = two_sets(40, 30)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (real, synthetic))

    def mean(x: Array, y: Array) -> float:
        return float(np.exp(-(cdist(x, y) ** 2) / 200).mean())

    assert quality.cmmd(real, synthetic).value == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)))


def test_similarity_and_diversity_are_means_over_pairs() -> None:
    real, synthetic = two_sets(12, 9)
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (real, synthetic))
    assert quality.similarity(real, synthetic).value == pytest.approx((a @ b.T).mean())
    pairs = [1 - a[i] @ a[j] for i in range(12) for j in range(12) if i != j]
    assert quality.diversity(real).value == pytest.approx(np.mean(pairs))
    assert quality.diversity(np.tile(real[:1], (5, 1))).value == pytest.approx(0, abs=1e-9)


def test_precision_recall_density_coverage_by_their_definitions() -> None:
    real, synthetic = two_sets(70, 50, 3, shift=0.8)
    apart = cdist(synthetic, real)
    reach = {k: np.sort(cdist(rows, rows), 1)[:, k] for k, rows in ((3, real), (5, real))}
    reach_synthetic = np.sort(cdist(synthetic, synthetic), 1)[:, 3]
    found = quality.precision_recall(real, synthetic) | quality.density_coverage(real, synthetic)
    assert found["precision"].value == pytest.approx((apart <= reach[3]).any(1).mean())
    assert found["recall"].value == pytest.approx((apart.T - reach_synthetic <= 0).any(1).mean())
    assert found["density"].value == pytest.approx((apart <= reach[5]).sum() / 5 / 50)
    assert found["coverage"].value == pytest.approx((apart.min(0) <= reach[5]).mean())
    assert 0 < found["precision"].value < 1


def test_the_interval_of_a_share_stays_one() -> None:
    real, synthetic = two_sets(12, 12, 3, shift=0.1)
    found = quality.precision_recall(real, synthetic) | quality.density_coverage(real, synthetic)
    shares = [found[name] for name in ("precision", "recall", "coverage")]
    assert all(0 <= share.low <= share.value <= share.high <= 1 for share in shares)
    assert any(share.value > 0.9 for share in shares)  # where the interval around it would reach beyond 1


def test_collapse_costs_recall_and_coverage_and_noise_costs_precision() -> None:
    random = np.random.default_rng(0)
    real = random.normal(size=(300, 4))
    same = real[:1] + random.normal(0, 0.01, (300, 4))
    far = random.normal(0, 20, (300, 4))
    collapsed = quality.precision_recall(real, same) | quality.density_coverage(real, same)
    noisy = quality.precision_recall(real, far)
    fine = quality.precision_recall(real, random.normal(size=(300, 4)))
    assert collapsed["precision"].value > 0.9
    assert collapsed["recall"].value < 0.05
    assert collapsed["coverage"].value < 0.1
    assert noisy["precision"].value < 0.1
    assert min(fine["precision"].value, fine["recall"].value) > 0.8


def test_intervals_cover_the_value_of_the_population() -> None:
    """The mean cosine similarity of two distributions is that of their mean directions."""
    covered = 0
    random = np.random.default_rng(0)
    big = [random.normal((1, 0), 0.5, (100_000, 2)), random.normal((1, 1), 0.5, (100_000, 2))]
    truth = quality.similarity(big[0], big[1]).value
    for seed in range(40):
        part = slice(seed * 60, seed * 60 + 60)
        found = quality.similarity(big[0][part], big[1][part], seed=seed)
        covered += found.low <= truth <= found.high
    assert covered >= 34


def test_the_interval_of_large_sets_shrinks_with_their_root(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    real, synthetic = random.normal(1, 1, (4000, 3)), random.normal(1, 1, (4000, 3))
    whole = quality.similarity(real, synthetic)
    monkeypatch.setattr(quality, "MOST_COMPARED", 200)
    reduced = quality.similarity(real, synthetic)
    assert reduced.value == pytest.approx(whole.value)
    assert reduced.high - reduced.low == pytest.approx(whole.high - whole.low, rel=0.5)


def test_names_say_which_features_they_are_of() -> None:
    real, synthetic = two_sets(20, 20)
    inception = panel("inception", "inception", real, synthetic, real[:5])
    clip = panel("clip:some folder", "clip", real, synthetic, None)
    other = panel("judge", "other", real, synthetic, None)
    assert list(inception)[:2] == ["kid", "fid"]
    assert not {"kid", "fid", "clip_i", "cmmd"} & set(other)
    assert {"clip_i", "cmmd"} <= set(clip)
    assert inception["kid"]["std"] > 0
    assert inception["kid"]["real"] is not None
    assert other["kd"]["real"] is None
    both = merge(inception, clip, "clip:some folder")
    assert both["precision"]["extractor"] == "inception"
    assert both["clip_some_folder_precision"]["extractor"] == "clip:some folder"
    assert both["cmmd"]["extractor"] == "clip:some folder"


def test_shapes_and_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="expected features"):
        quality.frechet(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="at least 4"):
        quality.kernel_distance(np.zeros((3, 2)), np.zeros((9, 2)))


@pytest.mark.filterwarnings("error")
def test_intervals_of_two_images_are_finite() -> None:
    """A resample that holds one image twice has no pair of different images."""
    features = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    found = quality.diversity(features)
    assert np.isfinite([found.value, found.low, found.high]).all()
